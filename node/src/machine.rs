//! The state as Raft's state machine, and its publication to everyone who reads.
//!
//! `apply` runs on Raft's own task, one entry after another. After each it publishes a snapshot, which
//! costs a few pointer copies; readers take whole snapshots and never lock.

use std::sync::Arc;

use arc_swap::ArcSwap;
use scp_codec as codec;
use scp_model::{Answer, Proposal};
use scp_state::State;
use tokio::sync::watch;

/// Frame version of proposals in the log.
pub const PROPOSAL_VERSION: u16 = 1;
/// Frame version of answers.
pub const ANSWER_VERSION: u16 = 1;
/// The largest proposal: a VM with full user data and keys is below 200 KiB, a report batch below 1 MiB.
pub const PROPOSAL_BYTES_MAX: usize = 4 << 20;

/// The latest state, for every reader in this process.
#[derive(Debug, Clone)]
pub struct Published {
    state: Arc<ArcSwap<State>>,
    applied: Arc<watch::Sender<u64>>,
}

impl Default for Published {
    fn default() -> Self {
        Self {
            state: Arc::new(ArcSwap::from_pointee(State::default())),
            applied: Arc::new(watch::Sender::new(0)),
        }
    }
}

impl Published {
    pub fn state(&self) -> Arc<State> {
        self.state.load_full()
    }

    /// Changes whenever something was applied; holds the applied index.
    pub fn applied(&self) -> watch::Receiver<u64> {
        self.applied.subscribe()
    }

    fn publish(&self, state: &State) {
        self.state.store(Arc::new(state.clone()));
        self.applied.send_replace(state.index);
    }
}

/// What Raft applies entries to.
#[derive(Debug)]
pub struct Machine {
    state: State,
    published: Published,
}

impl Machine {
    pub fn new(published: Published) -> Self {
        Self { state: State::default(), published }
    }
}

/// A proposal as an entry of the log.
pub fn to_entry(proposal: &Proposal) -> Result<Vec<u8>, codec::CodecError> {
    codec::encode(PROPOSAL_VERSION, proposal)
}

/// An answer as Raft carries it back.
pub fn from_answer(bytes: &[u8]) -> Result<Answer, codec::CodecError> {
    codec::decode(ANSWER_VERSION, bytes, PROPOSAL_BYTES_MAX)
}
