//! When each watched node was last heard of. A synchronous core: time comes in as milliseconds.
//!
//! An observer that was late itself must not blame others (Lifeguard): whatever time its own loop lost is
//! taken off everyone's silence, and while it is late it gives no judgement at all.

use std::collections::{BTreeMap, BTreeSet};

use scp_model::NodeId;

use super::HEARTBEAT_MS;

/// A tick later than this is our own stall. Below it, scheduling noise of a busy machine would slow every
/// verdict down; up to it, a node that stalls for 2,000 ms is silent for 2,000 + 150 + 200 ms at most,
/// which is still no death.
pub(super) const LATE_MS: u64 = 200;

#[derive(Debug, Clone, Copy)]
struct Heard {
    /// Silence counts from here: the last heartbeat, or the beginning of the watch, less lost time.
    since: u64,
    /// The last heartbeat.
    last: Option<u64>,
}

#[derive(Debug)]
pub(super) struct Hearing {
    watched: BTreeMap<NodeId, Heard>,
    last_tick: u64,
}

impl Hearing {
    pub(super) fn new(now: u64) -> Self {
        Self { watched: BTreeMap::new(), last_tick: now }
    }

    /// Watches exactly these from now on.
    pub(super) fn watch(&mut self, subjects: &BTreeSet<NodeId>, now: u64) {
        self.watched.retain(|node, _| subjects.contains(node));
        for node in subjects {
            self.watched.entry(*node).or_insert(Heard { since: now, last: None });
        }
    }

    /// A heartbeat came in.
    pub(super) fn heard(&mut self, node: NodeId, now: u64) {
        if let Some(heard) = self.watched.get_mut(&node) {
            *heard = Heard { since: now.max(heard.since), last: Some(now) };
        }
    }

    /// Our loop turns; called every [`HEARTBEAT_MS`]. A gap between two calls was our own.
    pub(super) fn tick(&mut self, now: u64) {
        let lost = self.lateness(now);
        if lost > 0 {
            for heard in self.watched.values_mut() {
                heard.since = (heard.since + lost).min(now);
            }
        }
        self.last_tick = now;
    }

    /// Milliseconds that our loop is behind; 0 within [`LATE_MS`].
    fn lateness(&self, now: u64) -> u64 {
        let behind = now.saturating_sub(self.last_tick).saturating_sub(HEARTBEAT_MS);
        if behind > LATE_MS { behind } else { 0 }
    }

    /// How long the node has been silent; `None`: not watched, or we are late ourselves.
    pub(super) fn silence(&self, node: NodeId, now: u64) -> Option<u64> {
        if self.lateness(now) > 0 {
            return None;
        }
        self.watched.get(&node).map(|heard| now.saturating_sub(heard.since))
    }

    /// How long ago a heartbeat came in; `None`: none since the watch began.
    pub(super) fn last_heard(&self, node: NodeId, now: u64) -> Option<u64> {
        self.watched.get(&node)?.last.map(|last| now.saturating_sub(last))
    }

    pub(super) fn silences(&self, now: u64) -> Vec<(NodeId, u64)> {
        let watched = self.watched.keys();
        watched.filter_map(|node| Some((*node, self.silence(*node, now)?))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: NodeId = NodeId(1);

    fn watching() -> Hearing {
        let mut hearing = Hearing::new(0);
        hearing.watch(&BTreeSet::from([A]), 0);
        hearing
    }

    fn tick_until(hearing: &mut Hearing, from: u64, to: u64) {
        (from..=to).step_by(HEARTBEAT_MS as usize).for_each(|now| hearing.tick(now));
    }

    #[test]
    fn silence_counts_from_the_last_heartbeat() {
        let mut hearing = watching();
        assert_eq!(hearing.last_heard(A, 0), None);
        hearing.tick(150);
        hearing.heard(A, 160);
        tick_until(&mut hearing, 300, 900);
        assert_eq!(hearing.silence(A, 960), Some(800));
        assert_eq!(hearing.last_heard(A, 960), Some(800));
        assert_eq!(hearing.silence(NodeId(2), 960), None, "not watched");
    }

    #[test]
    fn an_observer_that_is_late_gives_no_judgement_and_takes_its_own_time_off() {
        let mut hearing = watching();
        hearing.heard(A, 0);
        tick_until(&mut hearing, 150, 600);
        assert_eq!(hearing.silence(A, 5_600), None, "our loop has not turned for 5 s");
        hearing.tick(5_600);
        assert_eq!(hearing.silence(A, 5_600), Some(750), "the stall of 4,850 ms was ours");
        hearing.heard(A, 5_601);
        assert_eq!(hearing.silence(A, 5_611), Some(10));
    }

    #[test]
    fn a_node_that_was_just_added_is_not_silent_yet() {
        let mut hearing = watching();
        tick_until(&mut hearing, 150, 3_000);
        hearing.watch(&BTreeSet::from([A, NodeId(2)]), 3_000);
        assert_eq!(hearing.silences(3_000), vec![(A, 3_000), (NodeId(2), 0)]);
    }
}
