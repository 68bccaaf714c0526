//! What must hold, counted from the records alone: nothing that `apply` or the scheduler derived is used.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

use scp_model::{NodeId, Resources, image::ReplicaStatus, node::Node, vm::Vm};
use scp_state::State;

/// Constraints that a placement violates, over all VMs.
pub fn violations(state: &State) -> u64 {
    let mut taken: BTreeMap<NodeId, Resources> = BTreeMap::new();
    let mut groups = BTreeSet::new();
    let mut found = 0;
    for vm in state.vms.values() {
        let Some(id) = vm.node() else { continue };
        let Some(node) = state.nodes.get(&id) else {
            found += 1;
            continue;
        };
        let sum = taken.entry(id).or_default();
        *sum = sum.plus(vm.spec.resources);
        found += u64::from(!takes_vms(node));
        found += u64::from(vm.spec.zone.as_ref().is_some_and(|zone| *zone != node.profile.zone));
        if let Some(group) = &vm.spec.anti_affinity {
            found += u64::from(!groups.insert((vm.spec.project, group, id)));
        }
    }
    let offered = |id: &NodeId| state.nodes.get(id).map(|node| state.offered(node)).unwrap_or_default();
    found + taken.iter().filter(|(id, sum)| !offered(id).holds(**sum)).count() as u64
}

fn takes_vms(node: &Node) -> bool {
    node.is_up() && node.schedulable && !node.draining && node.profile.compute.runs_vms()
}

/// The policy in words (scheduler/src/rank.rs), by looking at every node.
pub fn best(state: &State, vm: &Vm) -> Option<NodeId> {
    let group = vm.spec.anti_affinity.as_ref();
    let mates = group.into_iter().flat_map(|group| state.group(vm.spec.project, group));
    let mates: Vec<&Node> =
        mates.filter(|(_, mate)| mate.id != vm.id).filter_map(|(node, _)| state.nodes.get(&node)).collect();
    let replicas = state.images.get(&vm.spec.image).map(|image| &image.replicas);
    let feasible = state.nodes.values().filter(|node| state.obstacle(vm, node).is_none());
    let best = feasible.min_by_key(|node| {
        let (after, offered) = (state.free(node).minus(vm.spec.resources), state.offered(node));
        let taken = |free: u64, offered: u64| (offered - free) * 1_000_000 / offered.max(1);
        let memory = taken(after.memory_mib, offered.memory_mib);
        let near = match replicas.and_then(|replicas| replicas.get(&node.id)) {
            Some(ReplicaStatus::Held) => 2,
            Some(ReplicaStatus::Assigned) => 1,
            Some(ReplicaStatus::Failed { .. }) | None => 0,
        };
        let mates = mates.iter().filter(|mate| mate.profile.zone == node.profile.zone).count();
        (mates, memory / 125_000, Reverse(near), memory, taken(after.vcpus, offered.vcpus), node.id)
    });
    best.map(|node| node.id)
}

/// Of the memory that nodes which take VMs offer, the share that is promised, in percent.
pub fn fullness(state: &State) -> f64 {
    let offered: u64 =
        state.nodes.values().filter(|node| takes_vms(node)).map(|node| state.offered(node).memory_mib).sum();
    let placed = state.vms.values().filter(|vm| vm.placement.is_some());
    let promised: u64 = placed.map(|vm| vm.spec.resources.memory_mib).sum();
    promised as f64 * 100.0 / offered as f64
}
