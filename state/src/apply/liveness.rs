//! Who is down, who is back.
//!
//! Whether to act on silence (the brake) is the scheduler's decision. Here the evidence itself must be
//! sound, whoever proposes it: silence at the leader, and at a majority of the observers that answered.

use std::collections::BTreeSet;

use scp_model::{
    Actor, EventKind, NodeId, Rejection, Subject, VmId,
    command::{MarkNodeDown, MarkNodeUp},
    node::{Evidence, Liveness, SILENCE_MS_MIN},
};

use super::{
    Change, Effect, Verdict,
    check::{at_most, invalid, stale},
};
use crate::{State, limits::OBSERVERS_MAX};

impl Effect for MarkNodeDown {
    /// Placements stay until they are evacuated; deletions that waited for this node are over.
    fn apply(&self, change: &mut Change<'_>) -> Verdict {
        let node = change.state.known_node(self.node)?;
        if !node.is_up() {
            return Err(stale(format!("node {} is down already", node.profile.name)));
        }
        if change.actor == Actor::Leader(self.node) {
            return Err(Rejection::Forbidden { why: "a leader does not declare itself dead".into() });
        }
        evidence_is_sound(change, self.node, &self.evidence)?;

        let since = change.now();
        let evidence = self.evidence.clone();
        let node = change.state.nodes.get_mut(&self.node).expect("the node was found above");
        node.liveness = Liveness::Down { since, evidence: evidence.clone() };
        change.event(Subject::Node(self.node), None, EventKind::NodeDown { evidence });
        let evicted: Vec<VmId> = change.state.evictions_on(self.node).map(|eviction| eviction.vm).collect();
        evicted.into_iter().for_each(|vm| change.settle_deletion(vm));
        Ok(())
    }
}

impl Effect for MarkNodeUp {
    fn apply(&self, change: &mut Change<'_>) -> Verdict {
        let node = change.state.known_node(self.node)?;
        if node.is_up() {
            return Err(stale(format!("node {} is up already", node.profile.name)));
        }
        let node = change.state.nodes.get_mut(&self.node).expect("the node was found above");
        node.liveness = Liveness::Up;
        change.event(Subject::Node(self.node), None, EventKind::NodeUp);
        Ok(())
    }
}

fn evidence_is_sound(change: &Change<'_>, node: NodeId, evidence: &Evidence) -> Verdict {
    if scp_mutant::on("evidence-not-required") {
        return Ok(());
    }
    at_most("observers", evidence.observers.len(), OBSERVERS_MAX)?;
    let observers: BTreeSet<NodeId> = evidence.observers.iter().map(|(observer, _)| *observer).collect();
    if observers.len() != evidence.observers.len() || observers.contains(&node) {
        return Err(invalid("evidence.observers", "each observer counts once, and the node itself never"));
    }
    if evidence.leader_silence_ms < SILENCE_MS_MIN {
        let why = format!("{} ms are too short, {SILENCE_MS_MIN} are needed", evidence.leader_silence_ms);
        return Err(invalid("evidence.leader_silence_ms", why));
    }
    let counts = |observer: &NodeId| change.state.nodes.get(observer).is_some_and(|node| node.is_up());
    let answers = evidence.observers.iter().filter(|(observer, _)| counts(observer));
    let answers: Vec<u64> = answers.filter_map(|(_, silence)| *silence).collect();
    let silent = answers.iter().filter(|silence| **silence >= SILENCE_MS_MIN).count();
    let alone = answers.is_empty() && !has_witness(change.state, change.actor, node);
    if alone || 2 * silent > answers.len() {
        return Ok(());
    }
    let why = format!("{silent} of {} observers that answered have not heard of it", answers.len());
    Err(invalid("evidence.observers", format!("{why}; a majority is needed")))
}

/// Whether there is a node beside the leader that could have been asked.
fn has_witness(state: &State, actor: Actor, gone: NodeId) -> bool {
    let leader = match actor {
        Actor::Leader(leader) | Actor::Local(leader) | Actor::Node(leader) => Some(leader),
        Actor::User(_) => None,
    };
    state.nodes_up().any(|node| node.id != gone && Some(node.id) != leader)
}
