//! The cheapest thing that makes a VM placeable, computed from the board's numbers.
//!
//! In order of cost: let a node take VMs again; delete VMs where least is missing; bring a node back;
//! add a node. Stopping a VM frees nothing: what is promised to it stays promised, so that starting it
//! again always works. Each is proposed only if it would really suffice.

use std::cmp::Reverse;

use scp_model::{Resources, explain::Obstacle, node::Node, vm::Vm};
use scp_state::State;

use crate::board::{Board, Slot};

/// The most VMs that one remedy asks to delete: beyond that, adding a node is the cheaper advice.
const DELETIONS_MAX: usize = 3;

pub(crate) fn remedy<'a>(state: &State, board: &Board<'a>, vm: &'a Vm) -> String {
    reopen(board, vm)
        .or_else(|| free_up(state, board, vm))
        .or_else(|| bring_back(board, vm))
        .unwrap_or_else(|| add_node(board, vm))
}

/// What a node lacks once the given standing is mended.
fn obstacle_if<'a>(
    board: &Board<'a>,
    vm: &'a Vm,
    slot: &Slot<'_>,
    mend: impl Fn(&mut Node),
) -> Option<Obstacle> {
    let mut node = slot.node.clone();
    mend(&mut node);
    board.obstacle(vm, &Slot { node: &node, ..*slot })
}

fn open(node: &mut Node) {
    node.schedulable = true;
    node.draining = false;
}

fn reopen<'a>(board: &Board<'a>, vm: &'a Vm) -> Option<String> {
    let closed = board.slots.iter().filter(|slot| slot.node.is_up());
    let helps = closed.filter(|slot| obstacle_if(board, vm, slot, open).is_none());
    let best = helps.min_by_key(|slot| (slot.node.draining, board.rank(vm, slot)))?;
    let name = &best.node.profile.name;
    let doing = if best.node.draining { "End the drain of" } else { "Uncordon" };
    Some(format!("{doing} {name}: `scpctl node uncordon {name}`."))
}

/// The node on which the fewest, smallest VMs would have to go.
fn free_up<'a>(state: &State, board: &Board<'a>, vm: &'a Vm) -> Option<String> {
    let offers = board.slots.iter().filter_map(|slot| {
        let obstacle = board.obstacle(vm, slot)?;
        let victims = match obstacle {
            Obstacle::Vcpus { .. } | Obstacle::Memory { .. } | Obstacle::Disk { .. } => {
                victims(state, slot, vm.spec.resources)?
            }
            Obstacle::Down
            | Obstacle::Cordoned
            | Obstacle::Draining
            | Obstacle::NoCompute { .. }
            | Obstacle::Zone { .. }
            | Obstacle::AntiAffinity { .. } => return None,
        };
        let memory_mib: u64 = victims.iter().map(|victim| victim.spec.resources.memory_mib).sum();
        Some(((victims.len(), memory_mib, slot.node.id), slot, victims))
    });
    let (_, slot, victims) = offers.min_by_key(|(cost, ..)| *cost)?;
    let missing = missing_text(vm.spec.resources.minus(slot.free));
    let commands: Vec<String> =
        victims.iter().map(|victim| format!("`scpctl vm delete {}`", victim.spec.name)).collect();
    let node = &slot.node.profile.name;
    Some(format!("Free {missing} on {node}; the least that suffices: {}.", commands.join(", ")))
}

/// VMs of the node whose deletion makes room: the smallest single one that suffices, or else the
/// largest ones together.
fn victims<'a>(state: &'a State, slot: &Slot<'_>, needs: Resources) -> Option<Vec<&'a Vm>> {
    let mut here: Vec<&Vm> = state.vms_on(slot.node.id).filter(|vm| !vm.is_deleting()).collect();
    here.sort_by_key(|vm| (Reverse(vm.spec.resources.memory_mib), vm.id));
    let enough =
        |vms: &[&Vm]| vms.iter().fold(slot.free, |free, vm| free.plus(vm.spec.resources)).holds(needs);
    if let Some(one) = here.iter().rev().find(|vm| enough(&[vm])) {
        return Some(vec![one]);
    }
    (2..=DELETIONS_MAX.min(here.len())).map(|count| here[..count].to_vec()).find(|vms| enough(vms))
}

fn missing_text(missing: Resources) -> String {
    let parts =
        [(missing.vcpus, "vCPUs"), (missing.memory_mib, "MiB of memory"), (missing.disk_mib, "MiB of disk")];
    let parts = parts.iter().filter(|(amount, _)| *amount > 0);
    parts.map(|(amount, unit)| format!("{amount} {unit}")).collect::<Vec<_>>().join(" and ")
}

fn bring_back<'a>(board: &Board<'a>, vm: &'a Vm) -> Option<String> {
    let revive = |node: &mut Node| {
        open(node);
        node.liveness = scp_model::node::Liveness::Up;
    };
    let helps = board.slots.iter().filter(|slot| obstacle_if(board, vm, slot, revive).is_none());
    let best = helps.min_by_key(|slot| (slot.node.is_up(), board.rank(vm, slot)))?;
    let name = &best.node.profile.name;
    Some(format!("Bring {name} back: start the server, then see `scpctl node show {name}`."))
}

fn add_node<'a>(board: &Board<'a>, vm: &'a Vm) -> String {
    let needs = vm.spec.resources;
    let size = format!(
        "{} vCPUs, {} MiB of memory and {} MiB of disk to give",
        needs.vcpus, needs.memory_mib, needs.disk_mib
    );
    let zone = vm.spec.zone.as_ref().map_or_else(String::new, |zone| format!(" in zone {zone}"));
    let join = "`scpctl token create` here, `scpctl join ADDRESS TOKEN` there";
    let largest = board.slots.iter().filter(|slot| slot.node.profile.compute.runs_vms());
    let too_large = !largest.clone().any(|slot| slot.offered.holds(needs));
    match largest.max_by_key(|slot| (slot.offered.memory_mib, slot.offered.vcpus)) {
        Some(slot) if too_large => {
            let (name, offered) = (&slot.node.profile.name, slot.offered);
            format!(
                "No node is that large: {name} has {} vCPUs, {} MiB of memory and {} MiB of disk in all. \
                 Choose a smaller flavor, or add a node{zone} with {size}: {join}.",
                offered.vcpus, offered.memory_mib, offered.disk_mib
            )
        }
        Some(_) | None => format!("Add a node{zone} with {size}: {join}."),
    }
}
