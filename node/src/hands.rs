//! The agent's loop: hands the agent what is wanted and what is seen, carries out what it plans.
//!
//! ```text
//!   state changed ─┐                       ┌─▶ ops ─▶ drivers ─▶ finished ─┐
//!   observed ──────┼─▶ agent.plan(...) ────┼─▶ reports ─▶ proposer         │
//!   noticed ───────┤                       └─▶ wake_at                     │
//!   finished ──────┴◀──────────────────────────────────────────────────────┘
//! ```
//!
//! The agent chooses, this loop does. Everything that takes time runs beside the loop, so that a slow
//! image never delays a stop.

use std::{sync::Arc, time::Duration};

use scp_agent::{Agent, Failure, FailureClass, Standing};
use scp_drivers::{Driver, DriverError};
use scp_model::{Actor, Command, Fact, Op, Report, Timestamp, fact::ReportBatch};
use tokio::{sync::watch, task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::proposer::Proposer;

/// Everything is looked at again so often even if nothing was told: lost events cost no more than this.
const OBSERVE_INTERVAL: Duration = Duration::from_secs(10);
/// How long a confirmation that we are up to date is worth. A node that was cut off longer than this
/// may have lost its VMs to another, and starts nothing until it knows better.
const CAUGHT_UP_FOR: Duration = Duration::from_secs(3);

/// What came out of something that ran beside the loop.
enum Done {
    Op(Op, Result<Vec<Fact>, DriverError>),
    Observed(Result<Vec<Fact>, DriverError>),
    Reported,
}

/// Runs the agent of this node until cancelled.
pub struct Hands {
    pub proposer: Proposer,
    pub driver: Arc<dyn Driver>,
    /// When this node last knew itself up to date.
    pub fresh: watch::Receiver<Option<Instant>>,
}

impl Hands {
    pub async fn run(self, stop: CancellationToken) {
        let mut agent = Agent::new(self.proposer.me());
        let mut events = self.driver.events();
        let mut applied = self.proposer.published.applied();
        let mut fresh = self.fresh.clone();
        let mut running = JoinSet::new();
        let mut reporting = false;
        let mut observing = true;
        self.observe(&mut running);
        let mut observe_at = Instant::now() + OBSERVE_INTERVAL;
        let mut wake_at: Option<Timestamp> = None;
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                Ok(()) = applied.changed() => {}
                // Only a change between knowing and not knowing matters; the rest are refreshes.
                Ok(()) = fresh.changed() => {}
                Some(fact) = next_event(&mut events) => agent.noticed(fact),
                () = tokio::time::sleep_until(observe_at), if !observing => {
                    self.observe(&mut running);
                    observing = true;
                    observe_at = Instant::now() + OBSERVE_INTERVAL;
                }
                () = self.until(wake_at) => {}
                Some(done) = running.join_next() => match done {
                    Ok(Done::Op(op, outcome)) => self.finished(&mut agent, &op, outcome),
                    Ok(Done::Observed(Ok(facts))) => { observing = false; agent.observed(facts); }
                    Ok(Done::Observed(Err(error))) => {
                        observing = false;
                        observe_at = Instant::now() + Duration::from_secs(1);
                        tracing::warn!(%error, "cannot see what runs here");
                    }
                    Ok(Done::Reported) => reporting = false,
                    Err(error) => panic!("a driver panicked: {error}"),
                },
            }
            let plan = agent.plan(&self.proposer.published.state(), self.standing(), self.now());
            plan.ops.into_iter().for_each(|op| self.carry_out(&mut running, op));
            if !plan.reports.is_empty() && !reporting {
                reporting = true;
                self.report(&mut running, plan.reports);
            }
            wake_at = plan.wake_at;
        }
    }

    fn now(&self) -> Timestamp {
        self.proposer.clock.now()
    }

    fn standing(&self) -> Standing {
        if scp_mutant::on("lagging-agent") {
            return Standing::CaughtUp;
        }
        match *self.fresh.borrow() {
            Some(at) if at.elapsed() <= CAUGHT_UP_FOR => Standing::CaughtUp,
            Some(_) | None => Standing::Behind,
        }
    }

    async fn until(&self, wake_at: Option<Timestamp>) {
        match wake_at {
            Some(at) => tokio::time::sleep(Duration::from_millis(at.since_ms(self.now()).max(1))).await,
            None => std::future::pending().await,
        }
    }

    fn observe(&self, running: &mut JoinSet<Done>) {
        let driver = self.driver.clone();
        running.spawn(async move { Done::Observed(driver.observe().await) });
    }

    fn carry_out(&self, running: &mut JoinSet<Done>, op: Op) {
        tracing::info!(op = %summary(&op), "carrying out");
        let driver = self.driver.clone();
        running.spawn(async move {
            let outcome = driver.carry_out(&op).await;
            Done::Op(op, outcome)
        });
    }

    fn finished(&self, agent: &mut Agent, op: &Op, outcome: Result<Vec<Fact>, DriverError>) {
        match &outcome {
            Ok(_) => tracing::info!(op = %summary(op), "carried out"),
            Err(error) => tracing::warn!(op = %summary(op), %error, "not carried out"),
        }
        agent.finished(op, outcome.map_err(|error| failure(&error)), self.now());
    }

    fn report(&self, running: &mut JoinSet<Done>, reports: Vec<Report>) {
        let proposer = self.proposer.clone();
        running.spawn(async move {
            let node = proposer.me();
            let command = Command::Report(ReportBatch { node, reports });
            match proposer.command(Actor::Node(node), command).await {
                Ok(answer) => {
                    if let Err(rejection) = answer.result {
                        tracing::warn!(%rejection, "a report was rejected");
                    }
                }
                Err(error) => tracing::debug!(%error, "a report has to wait"),
            }
            Done::Reported
        });
    }
}

async fn next_event(events: &mut Option<tokio::sync::mpsc::Receiver<Fact>>) -> Option<Fact> {
    match events {
        Some(receiver) => match receiver.recv().await {
            Some(fact) => Some(fact),
            None => {
                *events = None;
                std::future::pending().await
            }
        },
        None => std::future::pending().await,
    }
}

fn failure(error: &DriverError) -> Failure {
    let class = match error {
        DriverError::Retryable { .. } | DriverError::DiskFull { .. } => FailureClass::Retryable,
        DriverError::Terminal { .. } => FailureClass::Terminal,
        DriverError::Fenced { .. } => FailureClass::Fenced,
    };
    Failure { class, message: error.to_string() }
}

/// An op in one line: its seed and keys are nobody's business in a log.
fn summary(op: &Op) -> String {
    match op {
        Op::EnsureImage(order) => format!("ensure image {}", order.image),
        Op::RemoveImage { image } => format!("remove image {image}"),
        Op::EnsureVm(order) => format!("ensure vm {} epoch {}", order.vm, order.epoch.0),
        Op::StopVm { vm, epoch, .. } => format!("stop vm {vm} epoch {}", epoch.0),
        Op::RebootVm { vm, epoch, .. } => format!("reboot vm {vm} epoch {}", epoch.0),
        Op::RemoveVm { vm, epoch } => format!("remove vm {vm} epoch {}", epoch.0),
    }
}
