//! What the city can lose and go on: the proof behind "Survives any 1 node".
//!
//! - **Agreement**: of V voters a majority must be left; those that are down are lost already.
//! - **VMs**: for each node that is up, its running VMs are taken off and placed anew by the
//!   scheduler's own rules, largest first, onto what the others have free.
//!   (A node that is lost within a minute of another one may be held by the brake: see
//!   [`health`](crate::health).)
//! - **Images**: each is whole on at least two nodes that are up, so that what starts anew has
//!   something to start from.

use std::{cmp::Reverse, collections::BTreeSet};

use scp_model::{NodeId, Resources, sandbox::Power, vm::Vm};
use scp_state::State;

use crate::board::{Board, group_of};

/// What the city can lose and go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Survival {
    /// Any so many nodes may be lost at once: agreement goes on and all VMs find a place. More than one
    /// is never claimed: that is what is proven.
    pub nodes: u64,
    /// Any so many more voters may be lost.
    pub voters: u64,
    /// Why not one more, as sentences for people; empty when any one node may be lost.
    pub reasons: Vec<String>,
}

/// Reasons of one kind in [`Survival::reasons`]: enough to act on, short enough to read.
const REASONS_MAX: usize = 3;

/// Proves what the city survives, for the first sentence of `scpctl status`.
pub fn survives(state: &State, voters: &BTreeSet<NodeId>) -> Survival {
    let up = voters.iter().filter(|id| is_up(state, **id)).count();
    let quorum = voters.len() / 2 + 1;
    let spare = up.saturating_sub(quorum);
    let mut reasons = Vec::new();
    if spare == 0 {
        reasons.push(agreement_reason(state, voters.len(), up));
    }
    let board = Board::new(state);
    reasons.extend(state.nodes_up().filter_map(|node| homeless(state, &board, node.id)).take(REASONS_MAX));
    reasons.extend(lone_images(state).take(REASONS_MAX));
    Survival { nodes: u64::from(reasons.is_empty()), voters: spare as u64, reasons }
}

fn is_up(state: &State, node: NodeId) -> bool {
    state.nodes.get(&node).is_some_and(|node| node.is_up())
}

fn agreement_reason(state: &State, voters: usize, up: usize) -> String {
    match (state.nodes.len(), voters) {
        (0..=2, _) => "agreement needs 3 nodes to survive the loss of any one".into(),
        (nodes, 1) => {
            format!("there is 1 voter yet; of {nodes} nodes more become voters once they caught up")
        }
        _ => format!("{up} of {voters} voters are up, and as many are needed to agree"),
    }
}

/// Which VM of the node would find no other place.
fn homeless<'a>(state: &'a State, board: &Board<'a>, node: NodeId) -> Option<String> {
    let mut vms: Vec<&Vm> = state.vms_on(node).filter(|vm| vm.spec.power == Power::Running).collect();
    if vms.is_empty() || fits_whole(board, &vms, node) {
        return None;
    }
    vms.sort_by_key(|vm| (Reverse(vm.spec.resources.memory_mib), vm.id));
    let mut board = board.clone();
    vms.iter().for_each(|vm| board.lift(vm));
    let lost = vms.iter().find(|vm| match board.best(vm, |other| other == node) {
        Some(to) => {
            board.bind(vm, to);
            false
        }
        None => true,
    })?;
    let name = &state.nodes.get(&node)?.profile.name;
    let Resources { vcpus, memory_mib, disk_mib } = lost.spec.resources;
    Some(format!(
        "if {name} is lost, {} ({vcpus} vCPUs, {memory_mib} MiB of memory, {disk_mib} MiB of disk) finds no other place",
        lost.spec.name
    ))
}

/// The quick proof: one other node takes all of them, and none is particular about where.
fn fits_whole<'a>(board: &Board<'a>, vms: &[&'a Vm], node: NodeId) -> bool {
    let picky = |vm: &&Vm| vm.spec.zone.is_some() || group_of(vm).is_some();
    let sum = vms.iter().fold(Resources::default(), |sum, vm| sum.plus(vm.spec.resources));
    let takes = |vm: &'a Vm| {
        board
            .slots
            .iter()
            .any(|slot| slot.node.id != node && slot.free.holds(sum) && board.obstacle(vm, slot).is_none())
    };
    !vms.iter().any(picky) && vms.first().is_some_and(|vm| takes(vm))
}

fn lone_images(state: &State) -> impl Iterator<Item = String> + '_ {
    let up = |id: &NodeId| is_up(state, *id);
    let many = state.nodes.len() > 1;
    let lone = state.images.values().filter(move |image| many && image.holders().filter(up).count() < 2);
    lone.map(|image| format!("image {} is whole on fewer than 2 nodes that are up", image.name))
}
