//! `--wait`: until it is really done. Level-triggered: an event, or a moment without one, only means to
//! look again; so a lost event costs a second and nothing else.

use std::time::Duration;

use indicatif::ProgressBar;
use scp_api::{
    client::{Client, Watch},
    v1::{self, VmPhase},
};
use tokio::time::{Instant, timeout_at};

use crate::{
    app::App,
    commands::{explain, vm::phase},
    error::{CliError, Exit, Result},
};

/// The longest time between two looks.
const LOOK: Duration = Duration::from_secs(1);

/// What a VM is waited for to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Goal {
    Running,
    Stopped,
    /// Running again, after the reboot that was asked for last.
    Rebooted,
    Gone,
}

/// What one look at a VM says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Reached,
    /// Not yet; in words.
    Waiting(String),
    /// It will not get there by itself; why.
    Hopeless(String),
}

/// Judges a VM (`None`: it does not exist).
pub fn judge(vm: Option<&v1::Vm>, goal: Goal) -> Verdict {
    let Some(vm) = vm else {
        return match goal {
            Goal::Gone => Verdict::Reached,
            Goal::Running | Goal::Stopped | Goal::Rebooted => {
                Verdict::Hopeless("it does not exist any more".into())
            }
        };
    };
    let carried_out = vm.observed_generation >= vm.generation;
    let reached = match goal {
        Goal::Running | Goal::Rebooted => vm.phase == VmPhase::Running && carried_out,
        Goal::Stopped => vm.phase == VmPhase::Stopped,
        Goal::Gone => false,
    };
    if reached {
        return Verdict::Reached;
    }
    if let Some(why) = hopeless(vm, goal) {
        return Verdict::Hopeless(why);
    }
    let place = vm.node.as_ref().map(|node| format!(" on {}", node.name)).unwrap_or_default();
    let message = vm.message.as_ref().map(|message| format!(": {message}")).unwrap_or_default();
    Verdict::Waiting(format!("{}{place}{message}", phase(vm.phase)))
}

fn hopeless(vm: &v1::Vm, goal: Goal) -> Option<String> {
    if goal == Goal::Gone {
        return None;
    }
    if vm.phase == VmPhase::Deleting {
        return Some("it is being deleted".into());
    }
    let crashed_for_good = vm.phase == VmPhase::Crashed && vm.restart == v1::RestartPolicy::Never;
    if crashed_for_good && goal != Goal::Stopped {
        let message = vm.message.as_deref().unwrap_or("no message");
        return Some(format!("it crashed and its restart policy is never: {message}"));
    }
    match (goal, vm.power) {
        (Goal::Running | Goal::Rebooted, v1::Power::Stopped) => {
            Some("it was stopped meanwhile, by somebody or from inside".into())
        }
        (Goal::Stopped, v1::Power::Running) => Some("somebody started it meanwhile".into()),
        _ => None,
    }
}

/// Waits for a VM; gives its last state, `None` when it is gone. On failure its explanation is told.
pub async fn vm(app: &App, client: &Client, id: &str, goal: Goal) -> Result<Option<v1::Vm>> {
    // Whatever --stale says: an answer from before the order would be taken for its end.
    let client = &client.clone().with_consistency(v1::Consistency::Linearizable);
    let deadline = Instant::now() + Duration::from_secs(app.global.timeout);
    let mut watch = client.watch(v1::EventQuery {
        subject_kind: Some("vm".into()),
        subject_id: Some(id.to_owned()),
        ..v1::EventQuery::default()
    });
    let mut progress = Progress::new(app, format!("VM {id}"));
    let mut named = id.to_owned();
    loop {
        let vm = look(client, id, &mut progress).await?;
        if let Some(Some(vm)) = &vm {
            progress.name = format!("VM {}", vm.name);
            named.clone_from(&vm.name);
        }
        match vm.as_ref().map(|vm| judge(vm.as_ref(), goal)) {
            Some(Verdict::Reached) => {
                progress.done();
                return Ok(vm.flatten());
            }
            Some(Verdict::Hopeless(why)) => {
                progress.done();
                let error = CliError::failed(format!("{} cannot get there: {why}", progress.name));
                return Err(told(app, client, (id, &named), error).await);
            }
            Some(Verdict::Waiting(what)) => progress.say(&what),
            // Nobody answers at the moment; what was said last still stands.
            None => {}
        }
        if Instant::now() >= deadline {
            progress.done();
            let error = timeout(app, &format!("{} is {}", progress.name, progress.last));
            return Err(told(app, client, (id, &named), error).await);
        }
        pause(&mut watch, deadline).await;
    }
}

/// One look; `None` when the city cannot be asked at the moment (a leader is being elected).
async fn look(client: &Client, id: &str, progress: &mut Progress<'_>) -> Result<Option<Option<v1::Vm>>> {
    match client.get_vm(id, None).await {
        Ok(vm) => Ok(Some(Some(vm))),
        Err(error) => {
            let error = CliError::from(error);
            match error.exit {
                Exit::NotFound => Ok(Some(None)),
                Exit::Unavailable => {
                    progress.say(&error.what);
                    Ok(None)
                }
                _ => Err(error),
            }
        }
    }
}

/// Until something happened, or for a second.
async fn pause(watch: &mut Watch, deadline: Instant) {
    let limit = deadline.min(Instant::now() + LOOK);
    if let Ok(Err(_)) = timeout_at(limit, watch.next()).await {
        // No watch at the moment: look by the clock.
        tokio::time::sleep_until(limit).await;
    }
}

fn timeout(app: &App, what: &str) -> CliError {
    let seconds = app.global.timeout;
    CliError::new(Exit::Timeout, "timeout", format!("not done after {seconds} s: {what}"))
        .because("it goes on by itself; only the waiting has ended")
}

/// The error, after the VM's explanation on stderr.
async fn told(app: &App, client: &Client, (id, named): (&str, &str), error: CliError) -> CliError {
    match client.explain_vm(id, None).await {
        Ok(explanation) => app.out.talk(explain::render(&explanation).trim_end()),
        Err(_) => app.out.detail("there is no explanation of it"),
    }
    error.remedy(format!("see why: scpctl explain {named}; what it said: scpctl vm log {named}"))
}

/// Waits until nothing is placed on a node any more.
pub async fn drained(app: &App, client: &Client, id: &str) -> Result<()> {
    until(app, &format!("node {id}"), "scpctl vm list --all-projects shows what is still there", async || {
        let node = client.get_node(id).await?;
        let what = format!("{} still has {}", node.name, crate::output::count(to_usize(node.vms), "VM"));
        Ok((node.vms == 0).then_some(()).ok_or(what))
    })
    .await
}

/// Waits until an image is on as many nodes as it should be.
pub async fn replicated(app: &App, client: &Client, id: &str) -> Result<v1::Image> {
    until(app, &format!("image {id}"), &format!("scpctl image show {id}"), async || {
        let image = client.get_image(id, None).await?;
        let failed = image.replicas.iter().find_map(|it| Some((&it.node.name, it.message.as_ref()?)));
        let failed = failed.map(|(node, message)| format!("; {node}: {message}")).unwrap_or_default();
        let what = format!("on {} of {} nodes{failed}", image.replicas_held, image.replicas_wanted);
        Ok(if image.phase == v1::ImagePhase::Ready { Ok(image) } else { Err(what) })
    })
    .await
}

fn to_usize(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// Looks once a second until the look gives what is waited for.
async fn until<T>(
    app: &App,
    name: &str,
    remedy: &str,
    look: impl AsyncFn() -> std::result::Result<std::result::Result<T, String>, scp_api::client::ClientError>,
) -> Result<T> {
    let deadline = Instant::now() + Duration::from_secs(app.global.timeout);
    let mut progress = Progress::new(app, name.to_owned());
    loop {
        match look().await {
            Ok(Ok(found)) => {
                progress.done();
                return Ok(found);
            }
            Ok(Err(what)) => progress.say(&what),
            Err(error) => {
                let error = CliError::from(error);
                if error.exit != Exit::Unavailable {
                    progress.done();
                    return Err(error);
                }
                progress.say(&error.what);
            }
        }
        if Instant::now() >= deadline {
            progress.done();
            return Err(timeout(app, &format!("{name} is {}", progress.last)).remedy(remedy));
        }
        tokio::time::sleep_until(deadline.min(Instant::now() + LOOK)).await;
    }
}

/// A spinner where somebody watches; otherwise a line whenever something changes.
struct Progress<'a> {
    app: &'a App,
    name: String,
    last: String,
    bar: Option<ProgressBar>,
}

impl<'a> Progress<'a> {
    fn new(app: &'a App, name: String) -> Self {
        let bar = app.out.animated().then(|| {
            let bar = ProgressBar::new_spinner();
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        });
        Self { app, name, last: String::new(), bar }
    }

    fn say(&mut self, what: &str) {
        if self.last == what {
            return;
        }
        what.clone_into(&mut self.last);
        let line = crate::output::clean(&format!("{}: {what}", self.name));
        match &self.bar {
            Some(bar) => bar.set_message(line),
            None => self.app.out.talk(line),
        }
    }

    fn done(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::vm as example;

    #[test]
    fn running_is_reached_only_when_the_order_was_carried_out() {
        let mut vm = example("web", VmPhase::Running);
        assert_eq!(judge(Some(&vm), Goal::Running), Verdict::Reached);
        vm.generation = 5;
        vm.observed_generation = 4;
        assert!(matches!(judge(Some(&vm), Goal::Rebooted), Verdict::Waiting(_)));
    }

    #[test]
    fn gone_is_reached_when_it_is_not_found_and_only_then() {
        assert_eq!(judge(None, Goal::Gone), Verdict::Reached);
        let vm = example("web", VmPhase::Deleting);
        assert_eq!(judge(Some(&vm), Goal::Gone), Verdict::Waiting("deleting on n1".into()));
        assert!(matches!(judge(None, Goal::Running), Verdict::Hopeless(_)));
    }

    #[test]
    fn what_stands_in_the_way_is_told_while_waiting() {
        let mut vm = example("web", VmPhase::Pending);
        vm.node = None;
        vm.message = Some("no node has 4 vCPUs free".into());
        assert_eq!(
            judge(Some(&vm), Goal::Running),
            Verdict::Waiting("pending: no node has 4 vCPUs free".into())
        );
    }

    #[test]
    fn a_crash_is_waited_out_unless_nothing_restarts_it() {
        let mut vm = example("web", VmPhase::Crashed);
        assert!(matches!(judge(Some(&vm), Goal::Running), Verdict::Waiting(_)));
        vm.restart = v1::RestartPolicy::Never;
        assert!(matches!(judge(Some(&vm), Goal::Running), Verdict::Hopeless(_)));
    }

    #[test]
    fn a_contrary_order_ends_the_waiting() {
        let mut vm = example("web", VmPhase::Stopping);
        vm.power = v1::Power::Stopped;
        assert!(matches!(judge(Some(&vm), Goal::Running), Verdict::Hopeless(_)));
        assert!(matches!(judge(Some(&vm), Goal::Stopped), Verdict::Waiting(_)));
        vm.power = v1::Power::Running;
        assert!(matches!(judge(Some(&vm), Goal::Stopped), Verdict::Hopeless(_)));
    }
}
