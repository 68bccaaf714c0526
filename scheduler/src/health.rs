//! Who is down, who is back, and the brake.
//!
//! # When a node is declared down
//! The leader's questions to it have had no answer for [`SILENCE_LEADER_MS`], **and** more than half of the observers
//! that answered have not either, for [`SILENCE_MS_MIN`]. An observer that does not answer, or is down
//! itself, does not count. When none answered, the leader's word suffices only if there is no third
//! node that is up. (`apply` demands the same of the evidence, whoever proposes it.) A node that was stalled for 2 s is
//! therefore not declared down; one that was killed is, within 3 s.
//!
//! Declaring a node down is never braked. It is true (nobody reaches it), it moves nothing by itself,
//! and it is taken back as soon as the node is heard.
//!
//! # The brake
//! Moving VMs is what cannot be taken back: their disks are local. Losses that came together (each
//! within [`VANISHING_MS`] of the next) are one *vanishing*. It is **braked**, and nothing is evacuated
//! from its nodes, if it took more than one node and more than [`BRAKE_PERCENT`] of those there were,
//! until both hold:
//! - the nodes that are left are more than half of those there were. The leader that proposes the
//!   evacuation needs a majority of the voters to commit it, but three voters in one room do not prove
//!   that the other rooms are gone: that is what the count of nodes is for;
//! - the last of them has been silent for [`BRAKE_HOLD_MS`]: a switch that restarts takes nodes away
//!   and brings them back.
//!
//! | city | vanished at once | what happens |
//! |---|---|---|
//! | 2 nodes | 1 | one node is never braked: evacuated at once |
//! | 3 nodes | 1 | evacuated at once |
//! | 5 nodes | 2 | 40 %: declared down at once; 3 of 5 are left, so evacuated when silent for 15 s |
//! | 4 nodes | 2 | half is not more than half: nothing moves until one is back or is removed by force |
//! | 10 nodes | 6, the leader keeps its voters | nothing moves: it may be we who are cut off |
//!
//! `scpctl node remove --force` is the operator's word that a node is gone; it is never braked.

use std::collections::BTreeMap;

use scp_model::{
    Command, NodeId, Timestamp,
    command::{MarkNodeDown, MarkNodeUp},
    node::{Liveness, Node, SILENCE_MS_MIN},
};
use scp_state::State;

use crate::view::{Suspicion, View};

/// Silence at the leader before a node may be declared down, in milliseconds: that of its own questions,
/// which begin when an observer has missed the node for a fifth of a second or more. A node that stands
/// still for 2 s finds them when it goes on, and this leaves it some 300 ms to answer.
pub const SILENCE_LEADER_MS: u64 = 2_100;

/// Losses closer to each other than this, in milliseconds, are one vanishing: racks and switches fail
/// within seconds, two independent servers hardly ever within a minute.
pub const VANISHING_MS: u64 = 60_000;

/// A vanishing that took more of the nodes than this, in percent, is braked.
pub const BRAKE_PERCENT: usize = 30;

/// How long the last node of a braked vanishing must have been silent, in milliseconds. Above the
/// time in which a switch port forwards again after a link flap (RSTP some seconds).
pub const BRAKE_HOLD_MS: u64 = 15_000;

/// A new leader declares nobody down for this long, in milliseconds: peers that sent to the old leader
/// get the chance to be heard by the new one.
pub const LEADER_SETTLE_MS: u64 = 500;

/// Declarations for at most `room` nodes, in the order of ids.
pub(crate) fn health(state: &State, view: &View, room: usize) -> Vec<Command> {
    let settled = view.now.since_ms(view.leader_since) >= LEADER_SETTLE_MS;
    let suspicions = by_node(view);
    let declare = |known: &Node| {
        let node = known.id;
        match suspicions.get(&node) {
            Some(suspicion) if settled && known.is_up() && node != view.me => {
                let (enough, evidence) = (is_enough(state, view, suspicion), &suspicion.evidence);
                enough.then(|| Command::MarkNodeDown(MarkNodeDown { node, evidence: evidence.clone() }))
            }
            Some(_) => None,
            None => {
                let back = !known.is_up() && (view.heard.contains(&node) || node == view.me);
                back.then_some(Command::MarkNodeUp(MarkNodeUp { node }))
            }
        }
    };
    state.nodes.values().filter_map(declare).take(room).collect()
}

fn by_node(view: &View) -> BTreeMap<NodeId, &Suspicion> {
    view.suspicions.iter().map(|suspicion| (suspicion.node, suspicion)).collect()
}

/// Whether the evidence suffices to declare a node down.
fn is_enough(state: &State, view: &View, Suspicion { node: gone, evidence }: &Suspicion) -> bool {
    let gone = *gone;
    if scp_mutant::on("evidence-not-required") {
        return true;
    }
    if evidence.leader_silence_ms < SILENCE_LEADER_MS {
        return false;
    }
    let counts = |observer: &NodeId| state.nodes.get(observer).is_some_and(Node::is_up);
    let answers = evidence.observers.iter().filter(|(observer, _)| counts(observer));
    let answers: Vec<u64> = answers.filter_map(|(_, silence)| *silence).collect();
    if answers.is_empty() {
        return !state.nodes_up().any(|node| node.id != view.me && node.id != gone);
    }
    let silent = answers.iter().filter(|silence| **silence >= SILENCE_MS_MIN).count();
    silent * 2 > answers.len()
}

/// Nodes that were lost together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vanishing {
    /// In the order in which they were heard last.
    pub nodes: Vec<NodeId>,
    /// Nodes of the city before, without those lost in earlier vanishings.
    pub nodes_before: usize,
    /// Whether nothing may be evacuated from them for now.
    pub braked: bool,
}

/// All nodes that are down or silent, by vanishing, the earliest first.
pub fn vanishings(state: &State, view: &View) -> Vec<Vanishing> {
    let suspicions = by_node(view);
    let lost = state.nodes.values().filter_map(|node| lost_at(node, view, &suspicions));
    let mut lost: Vec<(Timestamp, NodeId)> = lost.collect();
    lost.sort_unstable();
    let present = state.nodes.len() - lost.len();
    let mut nodes_before = state.nodes.len();
    let mut vanishings = Vec::new();
    for group in lost.chunk_by(|(a, _), (b, _)| b.since_ms(*a) <= VANISHING_MS) {
        let (last, _) = group.last().expect("chunk_by gives no empty chunks");
        let large = group.len() > 1 && group.len() * 100 > nodes_before * BRAKE_PERCENT;
        let explained = present * 2 > nodes_before && view.now.since_ms(*last) >= BRAKE_HOLD_MS;
        let nodes = group.iter().map(|(_, node)| *node).collect();
        let braked = large && !explained && !scp_mutant::on("brake-removed");
        vanishings.push(Vanishing { nodes, nodes_before, braked });
        nodes_before -= group.len();
    }
    vanishings
}

/// When a node that is down or silent was last heard of.
fn lost_at(
    node: &Node,
    view: &View,
    suspicions: &BTreeMap<NodeId, &Suspicion>,
) -> Option<(Timestamp, NodeId)> {
    let id = node.id;
    let before = |at: Timestamp, silence_ms: u64| Timestamp(at.0.saturating_sub(silence_ms));
    match &node.liveness {
        Liveness::Down { since, evidence } => Some((before(*since, evidence.leader_silence_ms), id)),
        Liveness::Up => {
            let suspicion = suspicions.get(&id)?;
            Some((before(view.now, suspicion.evidence.leader_silence_ms), id))
        }
    }
}
