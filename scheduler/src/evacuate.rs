//! VMs off nodes that are down or draining -> `EvacuateVm`, and `BindVm` at once where nothing is to be
//! waited for.
//!
//! # From a node that is down
//! At once, all of them, unless the brake holds ([`health`](crate::health)). Only VMs that are to run:
//! a stopped one loses its local disk by moving and gains nothing; when it is started, it is moved.
//! And only VMs for which there is room now: one that fits nowhere keeps its placement, and comes back
//! with its node, disk and all.
//!
//! # From a node that is draining
//! [`DRAIN_MOVES_MAX`] at a time: the next ones go when the node confirmed that it removed the last
//! ones. All of them, stopped ones too: the node is to become empty. A VM that fits nowhere stays, and
//! `explain` says why. Of an anti-affinity group one member moves at a time, and only while all others
//! that are to run do run: such a group is there so that one of it always answers.

use std::{cell::LazyCell, collections::BTreeSet};

use scp_model::{
    Command, NodeId,
    command::{BindVm, EvacuateVm},
    sandbox::Power,
    vm::{Vm, VmPhase},
};
use scp_state::State;

use crate::{
    Round,
    board::{Board, Group, group_of},
    health,
    view::View,
};

/// VMs on their way off one draining node at once. Their starts elsewhere are what loads the city; two
/// keep one working while the other waits for its image.
pub const DRAIN_MOVES_MAX: usize = 2;

/// At most `room` commands. The place that each is going to find is taken from the board, so
/// that no more are sent away than fit.
pub(crate) fn evacuate<'a>(round: &Round<'a>, board: &mut Board<'a>, room: usize) -> Vec<Command> {
    let Round { state, view, .. } = round;
    // Mostly no node is down and none drains; then neither is needed.
    let braked = LazyCell::new(|| braked_nodes(state, view));
    let waiting = LazyCell::new(|| state.pending_vms().filter_map(group_of).collect());
    let mut commands = Vec::new();
    for node in state.nodes.values() {
        if commands.len() + 2 > room {
            break;
        }
        let mut leaving: Vec<&Vm> = match (node.is_up(), node.draining) {
            (false, _) if braked.contains(&node.id) || round.is_back(node.id) => continue,
            (false, _) => state.vms_on(node.id).filter(|vm| vm.spec.power == Power::Running).collect(),
            (true, true) => drainable(state, &waiting, node.id),
            (true, false) => continue,
        };
        // The large ones first: small ones still fit afterwards, not the other way round.
        leaving.sort_by_key(|vm| (std::cmp::Reverse(vm.spec.resources.memory_mib), vm.id));
        let mut moves = match node.is_up() {
            true => DRAIN_MOVES_MAX.saturating_sub(state.evictions_on(node.id).count()),
            false => room,
        };
        for vm in leaving {
            if moves == 0 || commands.len() + 2 > room {
                break;
            }
            let sent = send_away(round, vm, board);
            moves -= usize::from(!sent.is_empty());
            commands.extend(sent);
        }
    }
    commands
}

/// The evacuation, and from a node that is down also the binding: nothing has to be waited for, and the
/// place that was found is not lost to another. A draining node first confirms the removal.
fn send_away<'a>(round: &Round<'a>, vm: &'a Vm, board: &mut Board<'a>) -> Vec<Command> {
    let Some(placement) = vm.placement else { return Vec::new() };
    let unfit = |node: NodeId| node == placement.node || round.is_suspected(node);
    let Some(node) = board.best(vm, unfit) else { return Vec::new() };
    board.bind(vm, node);
    let evacuation = Command::EvacuateVm(EvacuateVm { vm: vm.id, epoch: placement.epoch });
    let gone = round.state.nodes.get(&placement.node).is_some_and(|node| !node.is_up());
    let binding = Command::BindVm(BindVm { vm: vm.id, node, basis: vm.generation });
    std::iter::once(evacuation).chain(gone.then_some(binding)).collect()
}

fn braked_nodes(state: &State, view: &View) -> BTreeSet<NodeId> {
    let braked = health::vanishings(state, view).into_iter().filter(|vanishing| vanishing.braked);
    braked.flat_map(|vanishing| vanishing.nodes).collect()
}

/// VMs of a draining node whose group can do without them for a moment; of one group only the first.
/// A group of which a member is `waiting` for a place cannot.
fn drainable<'a>(state: &'a State, waiting: &BTreeSet<Group<'a>>, node: NodeId) -> Vec<&'a Vm> {
    let mut groups = BTreeSet::new();
    let can_go = |vm: &&Vm| match group_of(vm) {
        None => true,
        Some(group) => {
            let mut mates = state.group(group.0, group.1).filter(|(_, mate)| mate.id != vm.id);
            !waiting.contains(&group) && mates.all(|(_, mate)| answers(mate))
        }
    };
    let able = state.vms_on(node).filter(can_go);
    able.filter(|vm| group_of(vm).is_none_or(|group| groups.insert(group))).collect()
}

fn answers(vm: &Vm) -> bool {
    vm.spec.power == Power::Stopped || vm.status.phase == VmPhase::Running
}
