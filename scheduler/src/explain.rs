//! Why a VM is where it is, or nowhere: a sentence, each node's first failing check with its numbers,
//! and the cheapest remedy.
//!
//! The checks are the placer's own ([`Board::obstacle`]), against what is free now. For a VM that is
//! placed its own share is given back first, so its node is feasible unless something changed.

use scp_model::{
    Timestamp, VmId,
    explain::{Explanation, NodeVerdict},
    vm::{Vm, VmPhase},
};
use scp_state::State;

use crate::{board::Board, remedy::remedy};

/// Why a VM is where it is, or nowhere. None when there is no such VM.
pub fn explain(state: &State, vm: VmId, now: Timestamp) -> Option<Explanation> {
    let vm = state.vms.get(&vm)?;
    let mut board = Board::new(state);
    board.lift(vm);
    let nodes: Vec<NodeVerdict> = board
        .slots
        .iter()
        .map(|slot| NodeVerdict {
            node: slot.node.id,
            name: slot.node.profile.name.clone(),
            obstacle: board.obstacle(vm, slot),
        })
        .collect();
    let feasible = nodes.iter().filter(|verdict| verdict.obstacle.is_none()).count();
    let helpless = feasible == 0 && is_waiting(state, vm);
    Some(Explanation {
        vm: vm.id,
        summary: summary(state, vm, feasible, now),
        remedy: helpless.then(|| remedy(state, &board, vm)),
        nodes,
    })
}

/// Whether a node is what it lacks: it has none, or its node is down and it is to run.
fn is_waiting(state: &State, vm: &Vm) -> bool {
    let node = vm.node().and_then(|id| state.nodes.get(&id));
    !vm.is_deleting() && node.is_none_or(|node| !node.is_up())
}

fn summary(state: &State, vm: &Vm, feasible: usize, now: Timestamp) -> String {
    let name = &vm.spec.name;
    let for_long = lasting(now.since_ms(vm.status.since));
    if vm.is_deleting() {
        return format!("{name} is being deleted since {for_long}.");
    }
    if let Some(placement) = vm.placement {
        let node = state.nodes.get(&placement.node);
        let on = node.map_or_else(|| placement.node.to_string(), |node| node.profile.name.to_string());
        let since = lasting(now.since_ms(placement.since));
        let phase = phase_word(vm.status.phase);
        let why = vm.status.message.as_deref().map_or_else(String::new, |why| format!(": {why}"));
        return match node.is_some_and(|node| node.is_up()) {
            true => format!("{name} is placed on {on} since {since} and is {phase}{why}."),
            false if feasible == 0 => {
                format!("{name} is placed on {on}, which is down, and no other node is feasible.")
            }
            false => format!("{name} is placed on {on}, which is down; {feasible} other nodes are feasible."),
        };
    }
    if let Some(node) = state.holdout(vm.id) {
        let node = &node.profile.name;
        return format!("{name} waits since {for_long} until {node} confirms that it removed it.");
    }
    let nodes = state.nodes.len();
    match feasible {
        0 => format!("{name} waits since {for_long} for a node: none of {nodes} is feasible."),
        _ => format!("{name} is about to be placed: {feasible} of {nodes} nodes are feasible."),
    }
}

fn phase_word(phase: VmPhase) -> &'static str {
    match phase {
        VmPhase::Pending => "pending",
        VmPhase::Bound => "bound",
        VmPhase::Starting => "starting",
        VmPhase::Running => "running",
        VmPhase::Stopping => "stopping",
        VmPhase::Stopped => "stopped",
        VmPhase::Crashed => "crashed",
        VmPhase::Deleting => "being deleted",
    }
}

/// A duration as people say it, in its largest unit.
fn lasting(ms: u64) -> String {
    match ms / 1000 {
        s @ 0..120 => format!("{s} s"),
        s @ 120..7_200 => format!("{} min", s / 60),
        s @ 7_200..172_800 => format!("{} h", s / 3_600),
        s => format!("{} days", s / 86_400),
    }
}
