//! What must hold at every instant, whatever the faults.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    sync::Arc,
};

use scp_model::{Digest, Epoch, NodeId, VmId};
use scp_raft::Role;
use scp_state::State;

use crate::host::News;

/// The state's invariants are recounted at indices that are multiples of this, on one host.
const RECOUNT_EVERY: u64 = 4;
/// Whole states are compared at indices that are multiples of this.
const COMPARE_EVERY: u64 = 16;

/// A promise that was broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation(pub String);

/// What has been seen so far, over the whole run.
#[derive(Debug, Default)]
pub struct Checks {
    /// The highest term in which each host led. Its vote in that term was on its disk by then.
    led: BTreeMap<NodeId, u64>,
    /// The audit chain's head after each index: covers every command and its place in the log.
    heads: BTreeMap<u64, Digest>,
    /// The whole state after some of them. To compare records is cheaper than to write them down for a digest;
    /// of a state that is kept, memory holds what the next ones changed.
    states: BTreeMap<u64, Arc<State>>,
    /// Highest index seen applied on each host since it started.
    applied: BTreeMap<NodeId, u64>,
}

impl Checks {
    /// A host's process was ended: what it had applied may be applied again.
    pub fn restarted(&mut self, host: NodeId) {
        self.applied.remove(&host);
    }

    /// Looks at what is new about a process.
    pub fn process(&mut self, host: NodeId, news: &News) -> Result<(), Violation> {
        let News { status, state } = news;
        let led = self.led.entry(host).or_default();
        if status.role == Role::Leader {
            *led = (*led).max(status.term);
        }
        if status.term < *led {
            return Err(Violation(format!("{host} led in term {led} and is back in term {}", status.term)));
        }
        let before = self.applied.insert(host, state.index).unwrap_or_default();
        if state.index < before {
            return Err(Violation(format!("{host} went back from index {before} to {}", state.index)));
        }
        if state.index == before {
            return Ok(());
        }
        let head = match self.heads.entry(state.index) {
            Entry::Occupied(known) => *known.get(),
            Entry::Vacant(new) => {
                if state.index.is_multiple_of(RECOUNT_EVERY) {
                    scp_state::invariants::check(state)
                        .map_err(|why| Violation(format!("index {}: {why}", state.index)))?;
                }
                *new.insert(state.audit_head)
            }
        };
        if head != state.audit_head {
            return Err(Violation(format!(
                "{host} has another history than others at index {}",
                state.index
            )));
        }
        if state.index.is_multiple_of(COMPARE_EVERY) {
            let known = self.states.entry(state.index).or_insert_with(|| state.clone());
            if known != state {
                return Err(Violation(format!(
                    "{host} has another state than others at index {}",
                    state.index
                )));
            }
        }
        Ok(())
    }

    /// Instances of one VM with one epoch on two servers at once.
    pub fn instances(&self, running: &[(NodeId, VmId, Epoch)]) -> Result<(), Violation> {
        let mut owners: BTreeMap<(VmId, Epoch), NodeId> = BTreeMap::new();
        for (node, vm, epoch) in running {
            match owners.insert((*vm, *epoch), *node) {
                Some(other) if other != *node => {
                    return Err(Violation(format!("VM {vm} epoch {} runs on {other} and {node}", epoch.0)));
                }
                Some(_) | None => {}
            }
        }
        Ok(())
    }
}

/// At the end, all hosts have the same state, and it holds everything that was acknowledged.
pub fn converged(states: &[(NodeId, State)]) -> Result<(), Violation> {
    let digests: BTreeSet<Digest> = states.iter().map(|(_, state)| state.digest()).collect();
    match digests.len() {
        0 | 1 => Ok(()),
        several => Err(Violation(format!("the hosts ended in {several} different states"))),
    }
}
