//! Real VMs of the city under test, and what the process table says of them.
//!
//! Two processes of one VM at once are counted only while both can run: a server that is frozen has a
//! process that does nothing. When it thaws, its copy runs until its node has looked into the state and
//! removed it: that is measured as `ran_twice`, and judged only when it does not end. What keeps data whole
//! meanwhile is fencing where data is held (root disks are local, so these VMs share none).

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use anyhow::{Context, Result};
use scp_api::{
    client::{Client, Upload},
    v1::{ImageUpload, ListQuery, Visibility, VmCreate, VmPhase},
};
use scp_servers::{VmProcess, pause, vm_processes, wait_until};

use crate::{
    city::{City, SOON},
    history::{Clock, Micros},
};

/// How often the process table is read: a tenth of what starting a VM takes.
const LOOK_EVERY: Duration = Duration::from_millis(50);

const IMAGE: &str = "guest";
const FLAVOR: &str = "tiny";

/// Has the city take in the image and run so many VMs of it: v1, v2, …
pub fn supply(city: &City, guest: &Path, count: usize) -> Result<()> {
    let asked = city.members.keys().next().context("there is no city")?.clone();
    let about = ImageUpload { name: IMAGE.into(), project: None, visibility: Visibility::Public };
    let order = Upload { id: Client::new_image_id(), about, file: guest.to_owned() };
    city.ask(
        &asked,
        |client| async move { client.with_deadline(SOON).upload_image(&order, |_, _| {}).await },
    )?;
    for number in 1..=count {
        let order = VmCreate {
            name: format!("v{number}"),
            flavor: FLAVOR.into(),
            image: IMAGE.into(),
            ..VmCreate::default()
        };
        city.ask(&asked, |client| async move { client.with_deadline(SOON).create_vm(&order).await })?;
    }
    let running = || {
        let vms = places(city, &asked).ok()?;
        vms.values().all(|(phase, _)| *phase == VmPhase::Running).then_some(())
    };
    wait_until(SOON, running).context("the VMs do not run")
}

/// Each VM's phase and the server that the city says it is on, by id.
fn places(city: &City, asked: &str) -> Result<BTreeMap<String, (VmPhase, Option<String>)>> {
    let vms = city.ask(asked, |client| async move { client.list_vms(ListQuery::default()).await })?;
    let place = |vm: scp_api::v1::Vm| (vm.id, (vm.phase, vm.node.map(|node| node.name)));
    Ok(vms.items.into_iter().map(place).collect())
}

/// The server that the first VM is on.
pub fn node(city: &City) -> Option<String> {
    let mut asked = city.members.keys().filter(|name| city.is_alive(name));
    let vm =
        asked.find_map(|name| city.ask(name, |client| async move { client.get_vm("v1", None).await }).ok());
    vm?.node.map(|node| node.name)
}

/// Waits until every VM runs exactly once, where the city says. What is wrong otherwise.
pub fn verdict(city: &City) -> Option<String> {
    let mut trouble = None;
    let well = wait_until(SOON, || {
        trouble = misplaced(city).unwrap_or_else(|error| Some(format!("{error:#}")));
        if trouble.is_some() {
            pause(LOOK_EVERY);
        }
        trouble.is_none().then_some(())
    });
    well.is_none().then_some(trouble).flatten()
}

fn misplaced(city: &City) -> Result<Option<String>> {
    let asked = city.members.keys().next().context("there is no city")?;
    let processes = ours(city, vm_processes()?);
    for (id, (phase, node)) in places(city, asked)? {
        let on: Vec<&String> = processes.iter().filter(|(it, _)| it.uuid == id).map(|(_, on)| on).collect();
        if phase != VmPhase::Running || on.len() != 1 || Some(on[0]) != node.as_ref() {
            return Ok(Some(format!("vm {id} is {phase:?} on {node:?}, and has processes on {on:?}")));
        }
    }
    Ok(None)
}

/// Those on the city's servers, with the server's name.
fn ours(city: &City, processes: Vec<VmProcess>) -> Vec<(VmProcess, String)> {
    let servers = &city.servers.servers;
    let on =
        |process: &VmProcess| servers.iter().find(|server| server.namespace_inode() == process.namespace);
    processes.into_iter().filter_map(|process| Some((process.clone(), on(&process)?.name.clone()))).collect()
}

/// A VM's process on a server, as long as it was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sighting {
    /// Its id.
    pub vm: String,
    pub server: String,
    pub from: Micros,
    pub to: Micros,
}

/// From one moment to another.
type Span = (Micros, Micros);

/// A process that was not seen for so long did not run meanwhile: three looks.
const UNSEEN_MAX: Micros = 150_000;

/// Ids and names of all VMs; none if nobody answers.
pub fn names(city: &City) -> Vec<(String, String)> {
    let ask =
        |name: &String| city.ask(name, |client| async move { client.list_vms(ListQuery::default()).await });
    let vms = city.members.keys().find_map(|name| ask(name).ok());
    vms.into_iter().flat_map(|vms| vms.items).map(|vm| (vm.id, vm.name)).collect()
}

/// What was seen so far.
#[derive(Debug, Default)]
struct Seen {
    /// From when to when each process ran, by pid and namespace, with its VM.
    spans: BTreeMap<(u32, u64), (String, Vec<Span>)>,
    /// When each process was first seen, by pid.
    first: BTreeMap<u32, Micros>,
    /// From when to when a VM had two processes that could run.
    doubles: Vec<(Micros, Micros)>,
}

impl Seen {
    fn look(&mut self, at: Micros, running: &[VmProcess], last: Option<Micros>) -> Option<Micros> {
        for process in running {
            self.first.entry(process.pid).or_insert(at);
            let (_, spans) = self
                .spans
                .entry((process.pid, process.namespace))
                .or_insert_with(|| (process.uuid.clone(), Vec::new()));
            match spans.last_mut().filter(|span| at - span.1 <= UNSEEN_MAX) {
                Some(span) => span.1 = at,
                None => spans.push((at, at)),
            }
        }
        let different: BTreeSet<&str> = running.iter().map(|process| process.uuid.as_str()).collect();
        if different.len() == running.len() {
            return None;
        }
        match (last, self.doubles.last_mut()) {
            (Some(_), Some(span)) => span.1 = at,
            (Some(_), None) | (None, _) => self.doubles.push((at, at)),
        }
        Some(at)
    }
}

/// Looks at the VMs' processes while things happen.
pub struct VmWatch {
    seen: Arc<Mutex<Seen>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// Nothing panics while it holds this lock, so what is inside is whole.
fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl VmWatch {
    pub fn start(city: &City, clock: Clock) -> Self {
        let servers: BTreeSet<u64> =
            city.servers.servers.iter().map(scp_servers::Server::namespace_inode).collect();
        let (seen, stop) = (Arc::<Mutex<Seen>>::default(), Arc::new(AtomicBool::new(false)));
        let (sightings, told) = (seen.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            let mut double = None;
            while !told.load(Ordering::Relaxed) {
                // A look that fails is no look: the next one follows at once.
                let Ok(mut processes) = vm_processes() else { continue };
                processes.retain(|process| servers.contains(&process.namespace) && !process.is_stopped());
                double = lock(&sightings).look(clock.now(), &processes, double);
                pause(LOOK_EVERY);
            }
        });
        Self { seen, stop, thread: Some(thread) }
    }

    /// Everything that ran on these servers, by namespace.
    pub fn sightings(&self, servers: &BTreeMap<u64, String>) -> Vec<Sighting> {
        let seen = lock(&self.seen);
        let spans =
            seen.spans.iter().filter_map(|((_, namespace), ran)| Some((servers.get(namespace)?, ran)));
        let spans = spans.flat_map(|(server, (vm, spans))| spans.iter().map(move |span| (server, vm, span)));
        let sighting = |(server, vm, span): (&String, &String, &Span)| Sighting {
            vm: vm.clone(),
            server: server.clone(),
            from: span.0,
            to: span.1,
        };
        spans.map(sighting).collect()
    }

    /// From a moment to the first process that had not been seen before.
    pub fn restarted(&self, at: Micros) -> Option<Micros> {
        lock(&self.seen).first.values().filter(|first| **first >= at).min().map(|first| first - at)
    }

    /// For how long, between two moments, a VM had two processes that could run.
    pub fn ran_twice(&self, from: Micros, to: Micros) -> Micros {
        let seen = lock(&self.seen);
        let within = seen.doubles.iter().filter(|span| span.0 <= to && span.1 >= from);
        within.map(|span| span.1.min(to) - span.0.max(from)).sum()
    }
}

impl Drop for VmWatch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic there was told by itself.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(pid: u32, uuid: &str) -> VmProcess {
        VmProcess { pid, namespace: u64::from(pid), uuid: uuid.into() }
    }

    #[test]
    fn two_at_once_are_one_span_however_often_they_are_seen() {
        let mut seen = Seen::default();
        let looks: [(Micros, &[u32]); 6] =
            [(0, &[1]), (10, &[1, 2]), (20, &[1, 2]), (30, &[2]), (40, &[2, 3]), (50, &[3])];
        let mut double = None;
        for (at, pids) in looks {
            let alive: Vec<_> = pids.iter().map(|pid| process(*pid, "vm")).collect();
            double = seen.look(at, &alive, double);
        }
        assert_eq!(seen.doubles, [(10, 20), (40, 40)]);
        assert_eq!(seen.first[&2], 10);
        assert_eq!(seen.spans[&(2, 2)], ("vm".to_string(), vec![(10, 40)]));
    }

    #[test]
    fn two_vms_are_not_one_twice() {
        let mut seen = Seen::default();
        assert_eq!(seen.look(0, &[process(1, "a"), process(2, "b")], None), None);
        assert!(seen.doubles.is_empty());
    }
}
