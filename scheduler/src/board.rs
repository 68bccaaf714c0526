//! The board: what every node has free, less what this round gave away already. Feasibility and rank
//! are decided here, for [`place`](crate::place), [`evacuate`](crate::evacuate), `explain` and
//! `survives` alike, so that they never disagree.
//!
//! It is built once a round, in O(nodes); the state is not copied. The first choices of a round look at every
//! node; a round with more puts the nodes in [`Order`], and each choice then looks at few of them.

use std::collections::{BTreeMap, BTreeSet};

use scp_model::{
    ImageId, Name, NodeId, ProjectId, Resources, VmId, explain::Obstacle, image::Image, node::Node, vm::Vm,
};
use scp_state::State;

use crate::{
    order::{Order, Walk},
    rank::{ImageDistance, Rank},
};

/// So many times its nodes a round looks at one before it puts them in order, which takes about as long. Most rounds
/// place one VM or none.
const LOOKS_PER_NODE: usize = 4;
/// To see that a node has no room is an eighth of a look.
const GLANCES_PER_LOOK: usize = 8;

/// An anti-affinity group: its name means something within its project only.
pub(crate) type Group<'a> = (ProjectId, &'a Name);

pub(crate) fn group_of(vm: &Vm) -> Option<Group<'_>> {
    vm.spec.anti_affinity.as_ref().map(|group| (vm.spec.project, group))
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Slot<'a> {
    pub(crate) node: &'a Node,
    /// What may be promised in all.
    pub(crate) offered: Resources,
    /// What is not promised yet.
    pub(crate) free: Resources,
    /// Number of its zone: the same number, the same zone.
    pub(crate) zone: usize,
}

impl Slot<'_> {
    /// Whether the node takes any VM at all.
    pub(crate) fn takes_vms(&self) -> bool {
        let node = self.node;
        node.is_up() && !node.draining && node.schedulable && node.profile.compute.runs_vms()
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Board<'a> {
    state: &'a State,
    /// In the order of node ids.
    pub(crate) slots: Vec<Slot<'a>>,
    zones: usize,
    /// Looks at nodes until they are put in order.
    pub(crate) looks_left: usize,
    /// Made when those are used up.
    order: Option<Order>,
    /// Of the nodes with a copy, by image: where it is whole, and where it is on its way.
    copies: BTreeMap<ImageId, [Order; 2]>,
    /// VMs that are counted where they are no more.
    lifted: BTreeSet<VmId>,
    /// Members of groups that this round placed.
    bound: BTreeMap<Group<'a>, Vec<(NodeId, &'a Vm)>>,
}

impl<'a> Board<'a> {
    pub(crate) fn new(state: &'a State) -> Self {
        // By name; there are few of them, and each node asks.
        let mut zones: Vec<(&Name, usize)> = Vec::new();
        // One entry a node: both are in the order of node ids.
        let slots = state.nodes.values().zip(&state.allocated).map(|(node, (id, allocated))| {
            assert_eq!(node.id, *id, "each node has its sum");
            let (name, next) = (&node.profile.zone, zones.len());
            let at = zones.binary_search_by(|(zone, _)| (*zone).cmp(name)).unwrap_or_else(|at| {
                zones.insert(at, (name, next));
                at
            });
            let zone = zones[at].1;
            let offered = state.offered(node);
            Slot { node, offered, free: offered.minus(*allocated), zone }
        });
        let slots: Vec<Slot<'_>> = slots.collect();
        let (lifted, bound) = (BTreeSet::new(), BTreeMap::new());
        let (order, copies) = (None, BTreeMap::new());
        let looks_left = slots.len() * LOOKS_PER_NODE;
        Self { state, slots, zones: zones.len(), looks_left, order, copies, lifted, bound }
    }

    /// The best feasible node, less those that `skip` names.
    pub(crate) fn best(&mut self, vm: &'a Vm, skip: impl Fn(NodeId) -> bool) -> Option<NodeId> {
        if self.looks_left > 0 {
            return self.best_of_all(vm, skip);
        }
        let order = self.order.get_or_insert_with(|| Order::of(&self.slots));
        if !order.has_room(vm.spec.resources) {
            return None;
        }
        self.put_in_order(vm.spec.image);
        let (board, zone_mates) = (&*self, self.zone_mates(vm));
        let mut walk = Walk { board, vm, zone_mates, skip: &skip, best: None };
        if let Some([held, assigned]) = board.copies.get(&vm.spec.image) {
            walk.through(held, ImageDistance::Held);
            walk.through(assigned, ImageDistance::Assigned);
        }
        board.order.iter().for_each(|order| walk.through(order, ImageDistance::Elsewhere));
        walk.best.map(|rank| rank.node)
    }

    /// By looking at each.
    fn best_of_all(&mut self, vm: &'a Vm, skip: impl Fn(NodeId) -> bool) -> Option<NodeId> {
        let (needs, zone_mates, image) = (vm.spec.resources, self.zone_mates(vm), self.image_of(vm));
        let (mut best, mut looks): (Option<Rank>, _) = (None, self.slots.len().div_ceil(GLANCES_PER_LOOK));
        for slot in self.slots.iter().filter(|slot| slot.free.holds(needs)) {
            looks += 1;
            // Whether it has the image is asked where that can decide.
            let at_best = Rank::new(zone_mates[slot.zone], ImageDistance::Held, slot, needs);
            if best.is_some_and(|best| best < at_best) {
                continue;
            }
            let rank = Rank { image: ImageDistance::of(image, slot.node.id), ..at_best };
            let is_better = best.is_none_or(|best| rank < best);
            if is_better && !skip(slot.node.id) && self.obstacle(vm, slot).is_none() {
                best = Some(rank);
            }
        }
        self.looks_left = self.looks_left.saturating_sub(looks);
        best.map(|rank| rank.node)
    }

    fn put_in_order(&mut self, image: ImageId) {
        if self.copies.contains_key(&image) {
            return;
        }
        let Some(replicas) = self.state.images.get(&image).map(|image| &image.replicas) else { return };
        let mut near = vec![ImageDistance::Elsewhere; self.slots.len()];
        // Both are in the order of node ids.
        let mut slots = self.slots.iter().enumerate().peekable();
        for (node, status) in replicas {
            while slots.next_if(|(_, slot)| slot.node.id < *node).is_some() {}
            if let Some((at, _)) = slots.next_if(|(_, slot)| slot.node.id == *node) {
                near[at] = status.into();
            }
        }
        let order = self.order.get_or_insert_with(|| Order::of(&self.slots));
        let part = |distance| order.part(|at| near[at] == distance);
        self.copies.insert(image, [part(ImageDistance::Held), part(ImageDistance::Assigned)]);
    }

    #[cfg(test)]
    pub(crate) fn order(&self) -> Option<&Order> {
        self.order.as_ref()
    }

    pub(crate) fn slot(&self, node: NodeId) -> Option<&Slot<'a>> {
        self.position(node).map(|at| &self.slots[at])
    }

    pub(crate) fn image_of(&self, vm: &Vm) -> Option<&'a Image> {
        self.state.images.get(&vm.spec.image)
    }

    /// The first check that the node does not pass.
    pub(crate) fn obstacle(&self, vm: &'a Vm, slot: &Slot<'_>) -> Option<Obstacle> {
        let barred = standing(slot.node).or_else(|| zone(vm, slot.node));
        barred.or_else(|| self.anti_affinity(vm, slot.node.id)).or_else(|| shortage(vm, slot))
    }

    pub(crate) fn rank(&self, vm: &'a Vm, slot: &Slot<'_>) -> Rank {
        let zone_mates = self.zone_mates(vm)[slot.zone];
        let image = ImageDistance::of(self.image_of(vm), slot.node.id);
        Rank::new(zone_mates, image, slot, vm.spec.resources)
    }

    /// How many others of the VM's group there are in each zone.
    pub(crate) fn zone_mates(&self, vm: &'a Vm) -> Vec<usize> {
        let mut mates = vec![0; self.zones];
        for (node, _) in self.mates(vm) {
            if let Some(slot) = self.slot(node) {
                mates[slot.zone] += 1;
            }
        }
        mates
    }

    /// Gives the VM's resources on that node away, for the rest of the round.
    pub(crate) fn bind(&mut self, vm: &'a Vm, node: NodeId) {
        if !scp_mutant::on("capacity-ignored") {
            self.change(node, |free| free.minus(vm.spec.resources));
        }
        if let Some(group) = group_of(vm) {
            self.bound.entry(group).or_default().push((node, vm));
        }
    }

    /// Takes a placed VM off the board, as if it were not there. On a node that has promised more than it
    /// offers by now, no more becomes free than it offers: shares beyond that could not be told apart.
    pub(crate) fn lift(&mut self, vm: &'a Vm) {
        let Some(node) = vm.node() else { return };
        let Some(offered) = self.slot(node).map(|slot| slot.offered) else { return };
        self.change(node, |free| free.plus(vm.spec.resources).at_most(offered));
        self.lifted.insert(vm.id);
    }

    fn change(&mut self, node: NodeId, free: impl Fn(Resources) -> Resources) {
        let Some(at) = self.position(node) else { return };
        let before = self.slots[at];
        let after = Slot { free: free(before.free), ..before };
        self.slots[at] = after;
        let orders = self.order.iter_mut().chain(self.copies.values_mut().flatten());
        orders.for_each(|order| order.moved(at, &before, &after));
    }

    fn position(&self, node: NodeId) -> Option<usize> {
        self.slots.binary_search_by_key(&node, |slot| slot.node.id).ok()
    }

    /// The others of the VM's group that have a place, and where.
    fn mates(&self, vm: &'a Vm) -> impl Iterator<Item = (NodeId, &'a Vm)> {
        let state = self.state;
        let there = group_of(vm).into_iter().flat_map(move |(project, name)| state.group(project, name));
        self.mates_among(vm, there)
    }

    fn mates_among<'b>(
        &'b self,
        vm: &'b Vm,
        there: impl Iterator<Item = (NodeId, &'a Vm)> + 'b,
    ) -> impl Iterator<Item = (NodeId, &'a Vm)> + 'b {
        let bound = group_of(vm).and_then(|group| self.bound.get(&group));
        let there = there.filter(|(_, mate)| !self.lifted.contains(&mate.id));
        there.chain(bound.into_iter().flatten().copied()).filter(|(_, mate)| mate.id != vm.id)
    }

    fn anti_affinity(&self, vm: &'a Vm, node: NodeId) -> Option<Obstacle> {
        let (project, name) = group_of(vm).filter(|_| !scp_mutant::on("anti-affinity-ignored"))?;
        let there = self.state.group_on(project, name, node).map(|mate| (node, mate));
        let (_, mate) = self.mates_among(vm, there).find(|(at, _)| *at == node)?;
        Some(Obstacle::AntiAffinity { group: name.clone(), vm: mate.spec.name.clone() })
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
    let why_not = node.profile.compute.why_not();
    why_not.map(|reason| Obstacle::NoCompute { reason: reason.into() })
}

fn zone(vm: &Vm, node: &Node) -> Option<Obstacle> {
    let wants = vm.spec.zone.as_ref()?;
    let has = &node.profile.zone;
    (wants != has).then(|| Obstacle::Zone { wants: wants.clone(), has: has.clone() })
}

fn shortage(vm: &Vm, slot: &Slot<'_>) -> Option<Obstacle> {
    if scp_mutant::on("capacity-ignored") {
        return None;
    }
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
