//! One command at a time.

use scp_model::{Answer, Event, Proposal, Rejection};

use crate::State;

/// What applying one command gave.
#[derive(Debug, Clone, PartialEq)]
pub struct Applied {
    pub answer: Answer,
    /// Also appended to [`State::events`].
    pub events: Vec<Event>,
}

impl State {
    /// Applies the command committed at `index`. Indices rise; they need not be consecutive (Raft's own
    /// entries have some).
    pub fn apply(&mut self, index: u64, proposal: &Proposal) -> Applied {
        self.index = index;
        self.time = self.time.max(proposal.time);
        Applied { answer: Answer { index, result: Err(Rejection::NotInitialised) }, events: Vec::new() }
    }
}
