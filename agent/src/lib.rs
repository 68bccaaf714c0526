//! A node's mind: desired - observed -> ordered ops, and reports of what was seen. Pure: no clock, no
//! I/O, no randomness.
//!
//! ```text
//!   State (own copy) ─────────────▶┌───────┐─▶ ops      to the drivers; each answered by `finished`
//!   Driver::observe ─▶ observed ──▶│ Agent │─▶ reports  proposed as one ReportBatch
//!   Driver::events  ─▶ noticed ───▶└───────┘─▶ wake_at  plan again then, at the latest
//! ```
//!
//! The node calls [`Agent::plan`] when the state changed, something was observed, noticed or finished,
//! and at `wake_at`.

use scp_model::{Fact, NodeId, Op, Report, Timestamp};
use scp_state::State;

/// One node's agent. All that it remembers can be rebuilt: a new one converges to the same.
#[derive(Debug, Clone)]
pub struct Agent {
    me: NodeId,
}

/// How much the node's copy of the state is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Since this process started, and within the last few seconds, the copy was known to hold
    /// everything committed (the leader confirmed it).
    CaughtUp,
    /// It may be old. Nothing is started, since another node may own it by now; what any state ever
    /// ordered to be removed still is.
    Behind,
}

/// What to do now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Carried out side by side; there is never more than one at a time on one subject. Each must be
    /// answered by [`Agent::finished`].
    pub ops: Vec<Op>,
    /// At most [`REPORTS_MAX`](scp_model::fact::REPORTS_MAX). Propose batches in order, one at a time; no answer is needed: what
    /// the state does not show after a while is given again.
    pub reports: Vec<Report>,
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
        Self { me }
    }

    /// Everything that is here now (`Driver::observe`). Until the first call nothing is planned:
    /// not knowing is not the same as nothing being there.
    pub fn observed(&mut self, facts: Vec<Fact>) {
        let _ = (self.me, facts);
    }

    /// Something that the engine told of itself (`Driver::events`).
    pub fn noticed(&mut self, fact: Fact) {
        let _ = fact;
    }

    /// The outcome of an op that [`Agent::plan`] gave.
    pub fn finished(&mut self, op: &Op, outcome: Result<Vec<Fact>, Failure>, now: Timestamp) {
        let _ = (op, outcome, now);
    }

    pub fn plan(&mut self, state: &State, standing: Standing, now: Timestamp) -> Plan {
        let _ = (state, standing, now);
        Plan::default()
    }
}
