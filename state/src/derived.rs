//! What follows from the tables: indices and sums. Kept up to date by `apply`, counted anew by a
//! restored snapshot and by [`crate::invariants`].

use imbl::OrdSet;
use scp_model::{
    ImageId, Name, NodeId, Resources, Subject, VmId,
    image::ReplicaStatus,
    vm::{Vm, VmPhase, VmSpec},
};

use crate::{NameScope, State};

/// Entries of the large indices, gathered first: put in in their order each falls beside the one before, where the
/// order of the tables would lead all over the index.
#[derive(Default)]
struct Gathered {
    names: Vec<((NameScope, Name), Subject)>,
    macs: Vec<([u8; 6], VmId)>,
    seats: Vec<(NodeId, VmId)>,
}

impl Gathered {
    fn name(&mut self, scope: NameScope, name: &Name, subject: Subject) {
        self.names.push(((scope, name.clone()), subject));
    }

    fn put_in(mut self, state: &mut State) -> Result<(), String> {
        self.names.sort_unstable();
        for ((scope, name), subject) in self.names {
            if let Some(other) = state.names.insert((scope, name.clone()), subject) {
                return Err(format!("{other} and {subject} are both named {name}"));
            }
        }
        self.macs.sort_unstable();
        for (mac, vm) in self.macs {
            if let Some(other) = state.macs.insert(mac, vm) {
                return Err(format!("vms {other} and {vm} have the same hardware address"));
            }
        }
        self.seats.sort_unstable();
        state.vms_by_node.extend(self.seats);
        Ok(())
    }
}

/// Forgets everything derived and counts it anew from the tables.
pub(crate) fn rebuild(state: &mut State) -> Result<(), String> {
    state.usage = state.projects.keys().map(|id| (*id, Default::default())).collect();
    state.allocated = state.nodes.keys().map(|id| (*id, Resources::default())).collect();
    state.vms_by_node.clear();
    state.pending.clear();
    state.groups.clear();
    state.evictions_by_vm.clear();
    state.names.clear();
    state.macs.clear();
    state.image_users.clear();
    state.image_users_on.clear();
    state.copies_missing.clear();
    state.copies_idle.clear();
    let mut gathered = Gathered::default();
    tenancy(state, &mut gathered)?;
    machines(state, &mut gathered)?;
    vms(state, &mut gathered)?;
    gathered.put_in(state)
}

fn tenancy(state: &mut State, gathered: &mut Gathered) -> Result<(), String> {
    for department in state.departments.clone().values() {
        gathered.name(NameScope::Departments, &department.name, Subject::Department(department.id));
    }
    for project in state.projects.clone().values() {
        gathered.name(NameScope::Projects(project.department), &project.name, Subject::Project(project.id));
    }
    for user in state.users.clone().values() {
        gathered.name(NameScope::Users, &user.name, Subject::User(user.id));
    }
    for keypair in state.keypairs.clone().values() {
        let scope = NameScope::Keypairs(keypair.project);
        gathered.name(scope, &keypair.name, Subject::Keypair(keypair.id));
        let usage = state.usage.get_mut(&keypair.project);
        usage.ok_or_else(|| format!("keypair {} is of no project", keypair.id))?.keypairs += 1;
    }
    Ok(())
}

fn machines(state: &mut State, gathered: &mut Gathered) -> Result<(), String> {
    for node in state.nodes.clone().values() {
        gathered.name(NameScope::Nodes, &node.profile.name, Subject::Node(node.id));
    }
    for flavor in state.flavors.clone().values() {
        gathered.name(NameScope::Flavors, &flavor.name, Subject::Flavor(flavor.id));
    }
    for image in state.images.clone().values() {
        gathered.name(NameScope::Images(image.project), &image.name, Subject::Image(image.id));
        let usage = state.usage.get_mut(&image.project);
        usage.ok_or_else(|| format!("image {} is of no project", image.id))?.images += 1;
        image.replicas.keys().for_each(|node| settle_copy(state, image.id, *node));
    }
    for ((node, vm), eviction) in &state.evictions.clone() {
        allocate(state, *node, *vm, eviction.resources)?;
        state.evictions_by_vm.insert((*vm, *node));
    }
    Ok(())
}

fn vms(state: &mut State, gathered: &mut Gathered) -> Result<(), String> {
    for vm in state.vms.clone().values() {
        gathered.name(NameScope::Vms(vm.spec.project), &vm.spec.name, Subject::Vm(vm.id));
        let usage = state.usage.get_mut(&vm.spec.project);
        let usage = usage.ok_or_else(|| format!("vm {} is of no project", vm.id))?;
        usage.vms += 1;
        usage.resources = usage.resources.plus(vm.spec.resources);
        *state.image_users.entry(vm.spec.image).or_default() += 1;
        gathered.macs.push((vm.spec.mac, vm.id));
        if let Some(node) = vm.node() {
            allocate(state, node, vm.id, vm.spec.resources)?;
            gathered.seats.push((node, vm.id));
            seat_beside(state, vm.id, &vm.spec, node);
        }
        if let Some(waits) = wait_of(vm) {
            state.pending.insert(waits);
        }
    }
    Ok(())
}

fn allocate(state: &mut State, node: NodeId, vm: VmId, resources: Resources) -> Result<(), String> {
    let allocated = state.allocated.get_mut(&node);
    let allocated = allocated.ok_or_else(|| format!("vm {vm} is on node {node}, which is not known"))?;
    *allocated = allocated.plus(resources);
    Ok(())
}

/// A VM's place among those that wait, if it waits.
pub(crate) fn wait_of(vm: &Vm) -> Option<(scp_model::Timestamp, VmId)> {
    let waits = vm.placement.is_none() && vm.status.phase == VmPhase::Pending;
    waits.then_some((vm.status.since, vm.id))
}

/// The VM is on the node: by node, by group, by image.
pub(crate) fn seat(state: &mut State, id: VmId, spec: &VmSpec, node: NodeId) {
    state.vms_by_node.insert((node, id));
    seat_beside(state, id, spec, node);
}

fn seat_beside(state: &mut State, id: VmId, spec: &VmSpec, node: NodeId) {
    if let Some(group) = &spec.anti_affinity {
        state.groups.insert((spec.project, group.clone(), node, id));
    }
    let users = state.image_users_on.entry((spec.image, node)).or_default();
    *users += 1;
    if *users == 1 {
        settle_copy(state, spec.image, node);
    }
}

/// The VM is on the node no more.
pub(crate) fn unseat(state: &mut State, id: VmId, spec: &VmSpec, node: NodeId) {
    state.vms_by_node.remove(&(node, id));
    if let Some(group) = &spec.anti_affinity {
        state.groups.remove(&(spec.project, group.clone(), node, id));
    }
    let users = state.image_users_on.get_mut(&(spec.image, node)).expect("an image in use has its count");
    *users -= 1;
    if *users == 0 {
        state.image_users_on.remove(&(spec.image, node));
        settle_copy(state, spec.image, node);
    }
}

/// To be called whenever a copy, or whether a VM uses it, changed.
pub(crate) fn settle_copy(state: &mut State, image: ImageId, node: NodeId) {
    let status = state.images.get(&image).and_then(|image| image.replicas.get(&node));
    let used = state.image_users_on.contains_key(&(image, node));
    let (missing, idle) = match status {
        Some(ReplicaStatus::Held) => (false, !used),
        Some(ReplicaStatus::Assigned) => (false, false),
        Some(ReplicaStatus::Failed { .. }) | None => (used, false),
    };
    keep(&mut state.copies_missing, (image, node), missing);
    keep(&mut state.copies_idle, (image, node), idle);
}

fn keep(set: &mut OrdSet<(ImageId, NodeId)>, member: (ImageId, NodeId), belongs: bool) {
    match belongs {
        true => set.insert(member),
        false => set.remove(&member),
    };
}
