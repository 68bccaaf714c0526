//! Copies of images -> `AssignImage`.
//!
//! Each image is to be on [`IMAGE_REPLICAS`] nodes, spread over zones, and beside those on every node
//! that a VM using it is bound to (its overlay reads from it all its life).
//!
//! - A copy on a node that is down is still counted for [`DOWN_GRACE_MS`], as long as two others are
//!   there: a restart of a server moves no gigabytes.
//! - A copy that failed is tried again there after [`RETRY_MS`] if it is needed there; for the count
//!   another node is taken at once.
//! - A copy that is neither needed nor missing from the count is given up, one an image and round, and
//!   only while [`IMAGE_REPLICAS`] others are whole. Copies on nodes that are leaving go first.

use std::{cmp::Reverse, collections::BTreeMap};

use scp_model::{
    Command, Name, NodeId,
    command::AssignImage,
    image::{IMAGE_REPLICAS, Image, ReplicaStatus},
    node::{Liveness, Node},
};

use crate::Round;

/// After which time a failed copy is tried again on the same node, in milliseconds. A full disk or a
/// broken path is rarely mended sooner.
pub const RETRY_MS: u64 = 5 * 60_000;

/// For how long a node that is down still counts as holder, in milliseconds: servers restart in this.
pub const DOWN_GRACE_MS: u64 = 10 * 60_000;

/// Whole copies on nodes that are up, below which nobody waits for a node that is down.
const HELD_MIN: usize = 2;

/// At most `room` assignments, images in the order of their ids.
pub(crate) fn images(round: &Round<'_>, room: usize) -> Vec<Command> {
    let orders = round.state.images.values().flat_map(|image| {
        let copies = Copies { round, image };
        let order = |(node, wanted)| Command::AssignImage(AssignImage { image: image.id, node, wanted });
        let wanted = copies.missing().into_iter().map(|node| (node, true));
        wanted.chain(copies.surplus().map(|node| (node, false))).map(order).collect::<Vec<_>>()
    });
    orders.take(room).collect()
}

struct Copies<'a> {
    round: &'a Round<'a>,
    image: &'a Image,
}

impl<'a> Copies<'a> {
    /// Nodes that are to fetch a copy.
    fn missing(&self) -> Vec<NodeId> {
        let answers = |node: &NodeId| self.is_up(*node) && !self.round.is_suspected(*node);
        let used = self
            .round
            .state
            .copies_missing(self.image.id)
            .filter(|node| answers(node) && self.may_ask(*node));
        let mut ask: Vec<NodeId> = used.collect();
        let counted = self.counted();
        let mut chosen: Vec<NodeId> = counted.iter().chain(&ask).copied().collect();
        while chosen.len() < IMAGE_REPLICAS {
            let Some(next) = self.best_beside(&chosen) else { break };
            chosen.push(next);
            ask.push(next);
        }
        ask
    }

    /// A whole copy that nobody misses.
    fn surplus(&self) -> Option<NodeId> {
        let lasting = |node: &NodeId| self.is_up(*node) && !self.is_draining(*node);
        let spare = self.round.state.copies_idle(self.image.id).filter(|node| self.is_up(*node));
        let spare: Vec<NodeId> = spare.collect();
        if spare.is_empty() {
            return None;
        }
        let held: Vec<NodeId> = self.image.holders().filter(|node| self.is_up(*node)).collect();
        let last = held.iter().filter(|node| lasting(node)).count();
        let left_without = |node: &NodeId| last - usize::from(lasting(node));
        let mut by_zone: BTreeMap<&Name, usize> = BTreeMap::new();
        held.iter()
            .filter_map(|node| self.zone(*node))
            .for_each(|zone| *by_zone.entry(zone).or_default() += 1);
        let in_zone = |node: NodeId| self.zone(node).and_then(|zone| by_zone.get(zone));
        let least = if scp_mutant::on("only-copy-dropped") { 0 } else { IMAGE_REPLICAS };
        let spare = spare.into_iter().filter(|node| left_without(node) >= least);
        spare.max_by_key(|node| (self.is_draining(*node), in_zone(*node), *node))
    }

    /// Copies that count towards [`IMAGE_REPLICAS`]: there or on their way, on a node that stays. No more
    /// than suffice: images that run everywhere have thousands.
    fn counted(&self) -> Vec<NodeId> {
        let held_up = self.image.holders().filter(|node| self.is_up(*node)).take(HELD_MIN).count();
        let counts = |node: &Node| match &node.liveness {
            Liveness::Up => !node.draining,
            Liveness::Down { since, .. } => {
                held_up >= HELD_MIN && !node.draining && self.round.view.now.since_ms(*since) < DOWN_GRACE_MS
            }
        };
        let good = self.image.replicas.iter().filter(|(_, status)| match status {
            ReplicaStatus::Held | ReplicaStatus::Assigned => true,
            ReplicaStatus::Failed { .. } => false,
        });
        let good = good.filter(|(node, _)| self.round.state.nodes.get(*node).is_some_and(counts));
        good.map(|(node, _)| *node).take(IMAGE_REPLICAS).collect()
    }

    /// The node that a copy beside those chosen is best on: in a zone with the fewest of them, running
    /// VMs (they may need it), with the most disk free.
    fn best_beside(&self, chosen: &[NodeId]) -> Option<NodeId> {
        let up = self.round.state.nodes.values().filter(|node| node.is_up() && !node.draining);
        let able =
            up.filter(|node| !chosen.contains(&node.id) && !self.image.replicas.contains_key(&node.id));
        let retried = self.round.state.nodes.values().filter(|node| {
            let failed = matches!(self.image.replicas.get(&node.id), Some(ReplicaStatus::Failed { .. }));
            let fit = self.takes_copies(node) && !chosen.contains(&node.id);
            fit && failed && self.may_ask(node.id)
        });
        let best = able.chain(retried).min_by_key(|node| {
            let runs_none = !node.profile.compute.runs_vms() || !node.schedulable;
            let failed = self.image.replicas.contains_key(&node.id);
            let free = Reverse(self.round.state.free(node).disk_mib);
            (failed, self.zone_mates(node.id, chosen), runs_none, free, node.id)
        });
        best.map(|node| node.id)
    }

    /// Whether a copy can be ordered there: it has not been, or it failed long enough ago.
    fn may_ask(&self, node: NodeId) -> bool {
        match self.image.replicas.get(&node) {
            None => true,
            Some(ReplicaStatus::Held | ReplicaStatus::Assigned) => false,
            Some(ReplicaStatus::Failed { at, .. }) => self.round.view.now.since_ms(*at) >= RETRY_MS,
        }
    }

    fn zone_mates(&self, node: NodeId, among: &[NodeId]) -> usize {
        among.iter().filter(|other| **other != node && self.zone(**other) == self.zone(node)).count()
    }

    fn zone(&self, node: NodeId) -> Option<&'a Name> {
        self.round.state.nodes.get(&node).map(|node| &node.profile.zone)
    }

    fn takes_copies(&self, node: &Node) -> bool {
        node.is_up() && !node.draining && !self.round.is_suspected(node.id)
    }

    fn is_up(&self, node: NodeId) -> bool {
        self.round.state.nodes.get(&node).is_some_and(Node::is_up)
    }

    fn is_draining(&self, node: NodeId) -> bool {
        self.round.state.nodes.get(&node).is_some_and(|node| node.draining)
    }
}
