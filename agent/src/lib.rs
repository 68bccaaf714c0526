//! A node's mind: desired - observed -> ordered ops, and reports of what was seen. Pure: no clock, no
//! I/O, no randomness.
//!
//! ```text
//!   State (own copy) ─────────────▶┌───────┐─▶ ops      to the drivers; each answered by `finished`
//!   Driver::observe ─▶ observed ──▶│ Agent │─▶ reports  proposed as one ReportBatch
//!   Driver::events  ─▶ noticed ───▶└───────┘─▶ wake_at  plan again then, at the latest
//! ```
//!
//! # Flow
//! The node calls [`Agent::plan`] when the state changed, something was observed, noticed or finished,
//! and at `wake_at`. It observes at the start, every few seconds, and whenever a driver's events may
//! have been lost. There is one path for the first start, a restart of the process, a restart of the
//! server and a failover: look, compare, order what differs.
//!
//! # Order of a round
//! 1. **Removals**: what was evicted from here, and instances whose epoch is not granted here any more.
//!    Until a driver confirmed each, nothing is started or fetched on this node. Should one keep
//!    failing ([`REMOVAL_STRICT_MS`], [`REMOVAL_TRIES_STRICT`]), only its own VM goes on waiting.
//!    An eviction is fulfilled by a confirmed removal alone: that nothing is seen may also mean that
//!    half of it is left.
//! 2. **VMs** placed here: started, stopped, rebooted, restarted by policy. An instance with the
//!    granted epoch is *adopted*: nothing is done to it.
//! 3. **Images**: fetched where assigned or needed by a VM, dropped when neither.
//! 4. **Reports**: where the state shows something else than what is seen. What was told is not told
//!    again for [`RESEND_MS`]; then, if the state still does not show it, it is.
//!
//! # Guarantees
//! - Nothing is removed but what the state ordered removed, or granted once and does not grant now.
//!   What it does not know at all is an *orphan*: listed, never touched, and images are kept for it.
//! - An instance with an epoch beyond the state's index is left alone: our copy of the state is old.
//! - Nothing is started while [`Standing::Behind`] or while the node is marked down: it may be running
//!   elsewhere by now. What runs goes on running.
//! - At most one op a subject is under way, and [`STARTS_MAX`], [`FETCHES_MAX`], [`ENDS_MAX`] in all.
//! - An [`Agent`] that forgot everything converges to the same.
//!
//! # Assumptions
//! - Drivers answer in finite time, and read facts back from the engine.
//! - The state's index never falls below what this node acted on before (its log is durable).
//!
//! # Caveats
//! - A deletion waits for a stop that is under way: up to [`STOP_GRACE_MS`].
//! - A guest that shuts itself down in the moment in which its owner starts it anew may end stopped.

mod backoff;
mod claim;
mod images;
mod memory;
mod report;
mod round;
mod vm;
mod vms;
mod world;

use scp_model::{Fact, NodeId, Op, Report, Timestamp};
use scp_state::State;

pub use crate::{
    backoff::{PAUSE_MS_MAX, PAUSE_MS_MIN},
    images::{FETCH_TRIES, UNKNOWN_IMAGE_MS},
    memory::{RESEND_MS, STABLE_MS},
    round::{ENDS_MAX, FETCHES_MAX, REMOVAL_STRICT_MS, REMOVAL_TRIES_STRICT, STARTS_MAX},
    vm::STOP_GRACE_MS,
};

/// One node's agent. All that it remembers can be rebuilt: a new one converges to the same.
#[derive(Debug, Clone)]
pub struct Agent {
    me: NodeId,
    world: world::World,
    memory: memory::Memory,
}

/// How much the node's copy of the state is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Since this process started, and within the last few seconds, the copy was known to hold
    /// everything committed (the leader confirmed it).
    CaughtUp,
    /// It may be old. Nothing is started, since another node may own it by now, and nothing is told;
    /// what any state ever ordered to be removed still is.
    Behind,
}

/// What to do now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Carried out side by side; there is never more than one at a time on one subject. Each must be
    /// answered by [`Agent::finished`].
    pub ops: Vec<Op>,
    /// At most [`REPORTS_MAX`](scp_model::fact::REPORTS_MAX). Propose batches in order, one at a time;
    /// no answer is needed: what the state does not show after a while is given again.
    pub reports: Vec<Report>,
    /// When to plan again although nothing happened.
    pub wake_at: Option<Timestamp>,
}

/// Why an op failed: the driver's error, reduced to what matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub class: FailureClass,
    /// For people; stable from try to try, or every try is reported.
    pub message: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureClass {
    /// May be better later.
    Retryable,
    /// Waits for a person; tried again at long intervals.
    Terminal,
    /// Something with a higher epoch is here: our copy of the state is old.
    Fenced,
}

impl Agent {
    pub fn new(me: NodeId) -> Self {
        Self { me, world: world::World::default(), memory: memory::Memory::new(me) }
    }

    /// Everything that is here now (`Driver::observe`). Until the first call nothing is planned:
    /// not knowing is not the same as nothing being there.
    pub fn observed(&mut self, facts: Vec<Fact>) {
        self.world.observe(facts);
    }

    /// Something that the engine told of itself (`Driver::events`).
    pub fn noticed(&mut self, fact: Fact) {
        self.world.learn(fact);
    }

    /// The outcome of an op that [`Agent::plan`] gave.
    pub fn finished(&mut self, op: &Op, outcome: Result<Vec<Fact>, Failure>, now: Timestamp) {
        let failure = match outcome {
            Ok(facts) => {
                self.world.carried_out(op, facts);
                None
            }
            Err(Failure { class: FailureClass::Fenced, message }) => match op {
                // What is here is newer, so what was to go is gone.
                Op::RemoveVm { vm, epoch } => {
                    self.world.removed(*vm, *epoch);
                    None
                }
                Op::EnsureVm(_)
                | Op::StopVm { .. }
                | Op::RebootVm { .. }
                | Op::EnsureImage(_)
                | Op::RemoveImage { .. } => Some(Failure { class: FailureClass::Fenced, message }),
            },
            Err(failure) => Some(failure),
        };
        self.memory.doubt(op, failure.as_ref(), self.world.observations);
        self.memory.finished(op, failure, now);
    }

    /// What to do now, given the node's own copy of the state.
    pub fn plan(&mut self, state: &State, standing: Standing, now: Timestamp) -> Plan {
        if !self.world.complete {
            return Plan::default();
        }
        let place = round::Place { me: self.me, state, standing, now };
        let plan = round::Round::plan(&place, &self.world, &mut self.memory);
        self.world.forget_removals(|vm| state.evictions.contains_key(&(self.me, vm)));
        plan
    }
}
