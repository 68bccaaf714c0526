//! The city in one answer: a sentence, what it rests on, and what needs a look.

use scp_model::{
    NodeId, Resources, Timestamp,
    image::Image,
    node::{Compute, Liveness, Node},
    vm::{Vm, VmPhase},
};
use scp_state::State;

use super::{node, overcommit, resources};
use crate::{
    cluster::Agreement,
    health::{self, Facts, NodeFacts},
    v1,
};

/// A VM that has waited this long for a node is worth a warning.
const PENDING_MS_MAX: u64 = 30_000;
/// Before that it is just being placed.
const WAITING_MS_MIN: u64 = 2_000;
/// Warnings of one kind are summed up beyond this many.
const WARNINGS_EACH: usize = 20;

/// Whether the answering node could agree with the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Quorum {
    Reached,
    Missed,
}

/// By whom, when and how the city is seen.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seen {
    /// The node that answers.
    pub by: NodeId,
    /// Its clock.
    pub at: Timestamp,
    /// Whether the asker may see nodes.
    pub nodes_shown: bool,
}

pub(crate) fn status(state: &State, agreement: &Agreement, quorum: Quorum, seen: Seen) -> v1::Status {
    let up = |id: &&NodeId| state.nodes.get(*id).is_some_and(Node::is_up);
    let voters = agreement.voters.len() as u64;
    let voters_up = agreement.voters.iter().filter(up).count() as u64;
    let survives = voters_up.saturating_sub(voters / 2 + 1);
    let warnings = warnings(state, agreement, quorum);
    let facts = facts(state, (agreement, quorum), seen, warnings.len());
    let sum = |of: &dyn Fn(&Node) -> Resources| {
        state.nodes.values().map(of).fold(Resources::default(), Resources::plus)
    };
    let city = state.city.as_ref();
    v1::Status {
        sentence: health::sentence(&facts),
        health: facts.health(),
        city: city.map(|city| city.name.to_string()).unwrap_or_default(),
        country: city.map(|city| city.country.to_string()).unwrap_or_default(),
        answered_by: seen.by.to_string(),
        software: env!("CARGO_PKG_VERSION").to_owned(),
        leader: agreement.leader.map(|leader| leader.to_string()),
        term: agreement.term,
        applied_index: state.index,
        voters,
        survives,
        nodes_total: state.nodes.len() as u64,
        nodes_up: state.nodes_up().count() as u64,
        nodes: state.nodes.values().map(|node| brief(state, agreement, node)).collect(),
        warnings,
        vms: counts(state),
        offered: resources(sum(&|node| {
            if node.profile.compute.runs_vms() { state.offered(node) } else { Resources::default() }
        })),
        allocated: resources(sum(&|node| state.allocated.get(&node.id).copied().unwrap_or_default())),
        overcommit: Some(overcommit(state.overcommit)),
        time: state.time.into(),
    }
}

fn plural(count: u64, word: &str) -> String {
    format!("{count} {word}{}", if count == 1 { "" } else { "s" })
}

/// What the sentence is made of.
fn facts(state: &State, (agreement, quorum): (&Agreement, Quorum), seen: Seen, warnings: usize) -> Facts {
    let fact = |node: &Node| NodeFacts {
        name: node.profile.name.to_string(),
        voter: agreement.voters.contains(&node.id),
        down_ms: match &node.liveness {
            Liveness::Up => None,
            Liveness::Down { since, .. } => Some(seen.at.since_ms(*since)),
        },
    };
    let waits =
        |vm: &&Vm| vm.status.phase == VmPhase::Pending && seen.at.since_ms(vm.status.since) >= WAITING_MS_MIN;
    Facts {
        nodes: state.nodes.values().map(fact).collect(),
        has_leader: quorum == Quorum::Reached,
        vms_waiting: state.vms.values().filter(waits).count(),
        vms_crashed: state.vms.values().filter(|vm| vm.status.phase == VmPhase::Crashed).count(),
        warnings,
        names_shown: seen.nodes_shown,
    }
}

fn brief(state: &State, agreement: &Agreement, node: &Node) -> v1::NodeBrief {
    v1::NodeBrief {
        id: node.id.to_string(),
        name: node.profile.name.to_string(),
        zone: node.profile.zone.to_string(),
        phase: node::phase(node),
        role: node::role(agreement, node.id),
        vms: state.vms_on(node.id).count() as u64,
        offered: resources(state.offered(node)),
        allocated: resources(state.allocated.get(&node.id).copied().unwrap_or_default()),
        api_address: node.profile.api_address.to_string(),
    }
}

pub(crate) fn counts(state: &State) -> v1::VmCounts {
    let mut counts = v1::VmCounts::default();
    for vm in state.vms.values() {
        let count = match vm.status.phase {
            VmPhase::Pending => &mut counts.pending,
            VmPhase::Bound => &mut counts.bound,
            VmPhase::Starting => &mut counts.starting,
            VmPhase::Running => &mut counts.running,
            VmPhase::Stopping => &mut counts.stopping,
            VmPhase::Stopped => &mut counts.stopped,
            VmPhase::Crashed => &mut counts.crashed,
            VmPhase::Deleting => &mut counts.deleting,
        };
        *count += 1;
    }
    counts
}

struct Warnings(Vec<v1::Warning>);

impl Warnings {
    fn add(&mut self, code: &str, message: String, remedy: impl Into<String>) {
        self.0.push(v1::Warning { code: code.to_owned(), message, remedy: Some(remedy.into()) });
    }
}

/// What needs a look, the most important first.
fn warnings(state: &State, agreement: &Agreement, quorum: Quorum) -> Vec<v1::Warning> {
    let mut out = Warnings(Vec::new());
    if quorum == Quorum::Missed {
        let message = "the voters do not reach a majority".to_owned();
        out.add("no_quorum", message, "Bring back a majority of the voters: scpctl node list --stale");
    }
    node_warnings(state, agreement, &mut out);
    let lost: Vec<&Image> = state.images.values().filter(|image| image.holders().count() == 0).collect();
    if !lost.is_empty() {
        let message = format!("{} on no node", plural(lost.len() as u64, "image"));
        out.add(
            "image_unavailable",
            message,
            "Bring back a node that has them, or upload them again: scpctl image list",
        );
    }
    let alone = |image: &&Image| state.nodes.len() > 1 && image.holders().count() == 1;
    let alone = state.images.values().filter(alone).count() as u64;
    if alone > 0 {
        let message = format!("{} on one node only", plural(alone, "image"));
        out.add(
            "image_under_replicated",
            message,
            "Wait: they are being copied. If it stays: scpctl image list",
        );
    }
    let counts = |phase: VmPhase, ms: u64| {
        let late = |vm: &&Vm| vm.status.phase == phase && state.time.since_ms(vm.status.since) >= ms;
        state.vms.values().filter(late).count() as u64
    };
    let pending = counts(VmPhase::Pending, PENDING_MS_MAX);
    if pending > 0 {
        let message = format!("{} without a node", plural(pending, "VM"));
        out.add("vm_pending", message, "See why: scpctl explain VM");
    }
    let crashed = counts(VmPhase::Crashed, 0);
    if crashed > 0 {
        out.add(
            "vm_crashed",
            format!("{} crashed", plural(crashed, "VM")),
            "See them: scpctl vm list --phase crashed",
        );
    }
    out.0
}

fn node_warnings(state: &State, agreement: &Agreement, out: &mut Warnings) {
    for node in state.nodes.values().filter(|node| !node.is_up()).take(WARNINGS_EACH) {
        let name = &node.profile.name;
        let remedy = format!("Bring it back, or remove it for good: scpctl node remove {name} --force");
        out.add("node_down", format!("node {name} is down"), remedy);
    }
    let up = state.nodes_up().count();
    if up >= 3 && agreement.voters.len() < 3 {
        let message = format!("only {} among {up} nodes", plural(agreement.voters.len() as u64, "voter"));
        out.add("few_voters", message, "Wait a minute: voters are chosen by themselves.");
    }
    // Where compute is switched off, somebody wanted it so: nothing to look at.
    let failed = |node: &&Node| matches!(node.profile.compute, Compute::None { .. });
    for node in state.nodes_up().filter(failed).take(WARNINGS_EACH) {
        let name = &node.profile.name;
        out.add(
            "no_compute",
            format!("node {name} runs no VMs"),
            format!("See why: scpctl node show {name}"),
        );
    }
    for node in state.nodes.values().filter(|node| !node.orphans.is_empty()).take(WARNINGS_EACH) {
        let name = &node.profile.name;
        let message = format!(
            "node {name} has {} that nobody asked for",
            plural(node.orphans.len() as u64, "instance")
        );
        out.add("orphans", message, format!("See them: scpctl node show {name}"));
    }
    let mut releases: Vec<_> = state.nodes.values().map(|node| node.profile.software.as_str()).collect();
    releases.sort_unstable();
    releases.dedup();
    if releases.len() > 1 {
        let message = format!("nodes run different releases: {}", releases.join(", "));
        out.add("mixed_releases", message, "Finish the upgrade.");
    }
}
