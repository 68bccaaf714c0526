//! What must hold at every instant, whatever the faults.

use std::collections::{BTreeMap, BTreeSet};

use scp_model::{Digest, Epoch, NodeId, VmId};
use scp_raft::Role;
use scp_state::State;

use crate::host::Process;

/// A promise that was broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation(pub String);

/// What has been seen so far, over the whole run.
#[derive(Debug, Default)]
pub struct Checks {
    leaders: BTreeMap<u64, NodeId>,
    /// The audit chain's head after each index: covers every command and its place in the log.
    heads: BTreeMap<u64, Digest>,
    /// Highest index seen applied on each host since it started.
    applied: BTreeMap<NodeId, u64>,
}

impl Checks {
    /// A host's process was ended: what it had applied may be applied again.
    pub fn restarted(&mut self, host: NodeId) {
        self.applied.remove(&host);
    }

    /// Looks at one living process.
    pub fn process(&mut self, host: NodeId, process: &Process) -> Result<(), Violation> {
        let status = process.core.proposer.raft.status().borrow().clone();
        if status.role == Role::Leader {
            let known = *self.leaders.entry(status.term).or_insert(host);
            if known != host {
                return Err(Violation(format!("term {} has two leaders: {known} and {host}", status.term)));
            }
        }
        let state = process.core.proposer.published.state();
        let before = self.applied.insert(host, state.index).unwrap_or_default();
        if state.index < before {
            return Err(Violation(format!("{host} went back from index {before} to {}", state.index)));
        }
        if state.index == before {
            return Ok(());
        }
        let head = *self.heads.entry(state.index).or_insert(state.audit_head);
        if head != state.audit_head {
            return Err(Violation(format!(
                "{host} has another history than others at index {}",
                state.index
            )));
        }
        quotas(&state)
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

/// Quotas are never exceeded but where they were set below what was in use; the workload never does that
/// to what it counts here.
fn quotas(state: &State) -> Result<(), Violation> {
    scp_state::invariants::check(state).map_err(|why| Violation(format!("index {}: {why}", state.index)))
}

/// At the end, all hosts have the same state, and it holds everything that was acknowledged.
pub fn converged(states: &[(NodeId, State)]) -> Result<(), Violation> {
    let digests: BTreeSet<Digest> = states.iter().map(|(_, state)| state.digest()).collect();
    match digests.len() {
        0 | 1 => Ok(()),
        several => Err(Violation(format!("the hosts ended in {several} different states"))),
    }
}
