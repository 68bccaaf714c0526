//! Whose an instance is, by its epoch.

use scp_model::{Epoch, NodeId, fact::VmFact};
use scp_state::State;

/// What the state says of an instance that was found here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Claim {
    /// Placed here, by this very grant.
    Ours,
    /// It was granted once and is not any more: to be removed.
    Ended,
    /// Granted after what our copy of the state knows. Left alone until it is caught up.
    Ahead,
    /// The state knows nothing of it and never ordered it removed. Listed, and left alone.
    Orphan,
}

/// Every grant is an index of the log and is given once: a state that is at or past an epoch and does
/// not show it as granted here will never grant it again.
pub(crate) fn claim(state: &State, me: NodeId, fact: &VmFact) -> Claim {
    if fact.epoch.0 > state.index {
        return Claim::Ahead;
    }
    let evicted =
        |epoch: Epoch| state.evictions.get(&(me, fact.vm)).is_some_and(|order| order.epoch >= epoch);
    let Some(vm) = state.vms.get(&fact.vm) else {
        return if evicted(fact.epoch) { Claim::Ended } else { Claim::Orphan };
    };
    match vm.placement.filter(|placement| placement.node == me) {
        Some(placement) if placement.epoch == fact.epoch => Claim::Ours,
        // Never granted by this log: a city that was begun again under the same ids.
        Some(placement) if placement.epoch < fact.epoch => Claim::Orphan,
        Some(_) | None => Claim::Ended,
    }
}
