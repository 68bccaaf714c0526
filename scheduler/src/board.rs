//! The board: what every node has free, less what this round gave away already. Feasibility and rank
//! are decided here, for [`place`](crate::place), [`evacuate`](crate::evacuate), `explain` and
//! `survives` alike, so that they never disagree.
//!
//! It is built once a round, in O(nodes); the state is not copied. Choosing looks at each node once.

use std::collections::BTreeMap;

use scp_model::{
    NodeId, Resources,
    explain::Obstacle,
    node::{Compute, Node},
    vm::Vm,
};
use scp_state::State;

use crate::{
    rank::Rank,
    survey::{Group, Survey, group_of},
};

#[derive(Debug, Clone)]
pub(crate) struct Slot<'a> {
    pub(crate) node: &'a Node,
    /// What may be promised in all.
    pub(crate) offered: Resources,
    /// What is not promised yet.
    pub(crate) free: Resources,
}

/// A group's members by node. More than one a node only when they were there before the group was.
type Members<'a> = BTreeMap<NodeId, Vec<&'a Vm>>;

#[derive(Debug, Clone)]
pub(crate) struct Board<'a> {
    state: &'a State,
    /// In the order of node ids.
    pub(crate) slots: Vec<Slot<'a>>,
    groups: BTreeMap<Group<'a>, Members<'a>>,
}

impl<'a> Board<'a> {
    pub(crate) fn new(state: &'a State, survey: &Survey<'a>) -> Self {
        let slots = state.nodes.values();
        let slots =
            slots.map(|node| Slot { node, offered: state.offered(node), free: state.free(node) }).collect();
        let groups = survey.groups.iter().map(|(group, members)| {
            let mut by_node: Members<'a> = BTreeMap::new();
            for vm in members {
                by_node.entry(vm.node().expect("a surveyed member is placed")).or_default().push(vm);
            }
            (*group, by_node)
        });
        Self { state, slots, groups: groups.collect() }
    }

    /// The best feasible node, less those that `skip` names.
    pub(crate) fn best(&self, vm: &'a Vm, skip: impl Fn(NodeId) -> bool) -> Option<NodeId> {
        let slots = self.slots.iter().filter(|slot| !skip(slot.node.id));
        let feasible = slots.filter(|slot| self.obstacle(vm, slot).is_none());
        feasible.map(|slot| self.rank(vm, slot)).min().map(|rank| rank.node)
    }

    /// The first check that the node does not pass.
    pub(crate) fn obstacle(&self, vm: &'a Vm, slot: &Slot<'_>) -> Option<Obstacle> {
        let barred = standing(slot.node).or_else(|| zone(vm, slot.node));
        barred.or_else(|| self.anti_affinity(vm, slot.node.id)).or_else(|| shortage(vm, slot))
    }

    pub(crate) fn rank(&self, vm: &'a Vm, slot: &Slot<'_>) -> Rank {
        let zone_mates = match self.members(vm) {
            None => 0,
            Some(members) => members
                .iter()
                .filter(|(node, _)| self.zone_is(**node, slot.node))
                .map(|(_, vms)| vms.iter().filter(|mate| mate.id != vm.id).count())
                .sum(),
        };
        Rank::new(zone_mates, self.state.images.get(&vm.spec.image), slot, vm.spec.resources)
    }

    /// Gives the VM's resources on that node away, for the rest of the round.
    pub(crate) fn bind(&mut self, vm: &'a Vm, node: NodeId) {
        if let Ok(at) = self.slots.binary_search_by_key(&node, |slot| slot.node.id) {
            self.slots[at].free = self.slots[at].free.minus(vm.spec.resources);
        }
        if let Some(group) = group_of(vm) {
            self.groups.entry(group).or_default().entry(node).or_default().push(vm);
        }
    }

    /// Takes a placed VM off the board, as if it were not there.
    pub(crate) fn lift(&mut self, vm: &'a Vm) {
        let Some(node) = vm.node() else { return };
        if let Ok(at) = self.slots.binary_search_by_key(&node, |slot| slot.node.id) {
            self.slots[at].free = self.slots[at].free.plus(vm.spec.resources);
        }
        if let Some(members) = group_of(vm).and_then(|group| self.groups.get_mut(&group))
            && let Some(here) = members.get_mut(&node)
        {
            here.retain(|mate| mate.id != vm.id);
        }
    }

    fn members(&self, vm: &'a Vm) -> Option<&Members<'a>> {
        self.groups.get(&group_of(vm)?)
    }

    fn zone_is(&self, id: NodeId, like: &Node) -> bool {
        self.state.nodes.get(&id).is_some_and(|node| node.profile.zone == like.profile.zone)
    }

    fn anti_affinity(&self, vm: &'a Vm, node: NodeId) -> Option<Obstacle> {
        let mate = self.members(vm)?.get(&node)?.iter().find(|mate| mate.id != vm.id)?;
        let group = vm.spec.anti_affinity.clone()?;
        Some(Obstacle::AntiAffinity { group, vm: mate.spec.name.clone() })
    }
}

/// Whether the node takes new VMs at all. A draining node is cordoned too; the drain is the reason.
fn standing(node: &Node) -> Option<Obstacle> {
    if !node.is_up() {
        return Some(Obstacle::Down);
    }
    if node.draining {
        return Some(Obstacle::Draining);
    }
    if !node.schedulable {
        return Some(Obstacle::Cordoned);
    }
    match &node.profile.compute {
        Compute::Kvm | Compute::Tcg => None,
        Compute::None { reason } => Some(Obstacle::NoCompute { reason: reason.clone() }),
    }
}

fn zone(vm: &Vm, node: &Node) -> Option<Obstacle> {
    let wants = vm.spec.zone.as_ref()?;
    let has = &node.profile.zone;
    (wants != has).then(|| Obstacle::Zone { wants: wants.clone(), has: has.clone() })
}

fn shortage(vm: &Vm, slot: &Slot<'_>) -> Option<Obstacle> {
    let (needs, free, total) = (vm.spec.resources, slot.free, slot.offered);
    if needs.vcpus > free.vcpus {
        return Some(Obstacle::Vcpus { needs: needs.vcpus, free: free.vcpus, total: total.vcpus });
    }
    if needs.memory_mib > free.memory_mib {
        let (needs, free, total) = (needs.memory_mib, free.memory_mib, total.memory_mib);
        return Some(Obstacle::Memory { needs, free, total });
    }
    let (needs, free, total) = (needs.disk_mib, free.disk_mib, total.disk_mib);
    (needs > free).then_some(Obstacle::Disk { needs, free, total })
}
