//! What must hold after every command.
//!
//! - Everything derived is what a recount gives: usage, allocations, indices, names.
//! - Nothing refers to what is not there; every record is under its own id.
//! - A VM has a placement exactly when its phase says so; each epoch was granted once, at or before
//!   the state's index; a placement's epoch is above those of the VM's evictions, and none of them is
//!   on the placement's node; a VM that is being deleted waits for a node that is up.
//! - No two VMs of one anti-affinity group share a node.
//! - An initialised city has a node and an enabled admin; a node that drains takes nothing new.
//! - The watch ring is without gaps, the request table whole, both within their bounds.

use std::collections::{BTreeMap, BTreeSet};

use scp_model::{
    Epoch, NodeId,
    vm::{Vm, VmPhase},
};

use crate::{State, derived, limits};

type Verdict = Result<(), String>;

/// Checks everything. Linear in the size of the state.
pub fn check(state: &State) -> Verdict {
    tables_are_sound(state)?;
    ring_and_requests_are_whole(state)
}

/// All but the recount: for a state whose derived parts were counted a moment ago.
pub(crate) fn check_recounted(state: &State) -> Verdict {
    records_refer_soundly(state)?;
    ring_and_requests_are_whole(state)
}

fn tables_are_sound(state: &State) -> Verdict {
    derived_is_what_a_recount_gives(state)?;
    records_refer_soundly(state)
}

fn records_refer_soundly(state: &State) -> Verdict {
    records_are_under_their_ids(state)?;
    references_lead_somewhere(state)?;
    placements_are_sound(state)?;
    evictions_are_sound(state)?;
    city_can_be_run(state)
}

/// Up to this many records debug builds check all tables after every command.
const FULL_CHECK_RECORDS_MAX: usize = 200;
/// Up to this many, and with the ring and the request table, at every so manieth command.
const RARE_CHECK_RECORDS_MAX: usize = 10 * FULL_CHECK_RECORDS_MAX;
const RARE_CHECK_EVERY: u64 = 1024;

/// What debug builds check after every command: all tables when they are small, else one node and its
/// VMs, another at each index. A test with a large state is not to spend its time here.
pub fn check_sampled(state: &State) -> Verdict {
    let machines = state.nodes.len() + state.vms.len() + state.evictions.len() + state.images.len();
    let tenancy = state.projects.len() + state.users.len() + state.keypairs.len();
    let lists = state.flavors.len() + state.departments.len() + state.join_tokens.len();
    let records = machines + tenancy + lists;
    if records <= RARE_CHECK_RECORDS_MAX && state.index.is_multiple_of(RARE_CHECK_EVERY) {
        return check(state);
    }
    if records <= FULL_CHECK_RECORDS_MAX {
        return tables_are_sound(state);
    }
    // Node ids are hashes, so the successor of a scrambled index is as good as a random node.
    let from = NodeId(state.index.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let node =
        state.nodes.range(from..).next().or_else(|| state.nodes.get_min().map(|(id, node)| (id, node)));
    let Some((node, _)) = node else { return Ok(()) };
    let placed = state.vms_on(*node).map(|vm| vm.spec.resources);
    let sum = placed.chain(state.evictions_on(*node).map(|eviction| eviction.resources));
    let sum = sum.fold(Default::default(), scp_model::Resources::plus);
    equal(
        &format!("allocated on node {node}"),
        &state.allocated.get(node).copied().unwrap_or_default(),
        &sum,
    )?;
    state.vms_on(*node).try_for_each(|vm| placement_is_sound(state, vm))
}

fn ensure(holds: bool, otherwise: impl FnOnce() -> String) -> Verdict {
    if holds { Ok(()) } else { Err(otherwise()) }
}

fn equal<T: PartialEq + std::fmt::Debug>(what: &str, kept: &T, counted: &T) -> Verdict {
    ensure(kept == counted, || format!("{what}: kept {kept:?}, counted {counted:?}"))
}

fn records_are_under_their_ids(state: &State) -> Verdict {
    let misfiled = state.nodes.iter().any(|(id, node)| *id != node.id)
        || state.join_tokens.iter().any(|(id, token)| *id != token.id)
        || state.departments.iter().any(|(id, department)| *id != department.id)
        || state.projects.iter().any(|(id, project)| *id != project.id)
        || state.users.iter().any(|(id, user)| *id != user.id)
        || state.keypairs.iter().any(|(id, keypair)| *id != keypair.id)
        || state.flavors.iter().any(|(id, flavor)| *id != flavor.id)
        || state.images.iter().any(|(id, image)| *id != image.id)
        || state.vms.iter().any(|(id, vm)| *id != vm.id)
        || state.evictions.iter().any(|(key, eviction)| *key != (eviction.node, eviction.vm));
    ensure(!misfiled, || "a record is filed under another's id".into())
}

fn references_lead_somewhere(state: &State) -> Verdict {
    for project in state.projects.values() {
        let known = state.departments.contains_key(&project.department);
        ensure(known, || format!("project {} is of no department", project.id))?;
    }
    for user in state.users.values() {
        let known = user.grants.keys().all(|project| state.projects.contains_key(project));
        ensure(known, || format!("user {} has a role in a project that is not there", user.id))?;
    }
    for image in state.images.values() {
        let known = image.replicas.keys().all(|node| state.nodes.contains_key(node));
        ensure(known, || format!("image {} has a replica on a node that is not there", image.id))?;
    }
    for vm in state.vms.values() {
        ensure(state.images.contains_key(&vm.spec.image), || format!("vm {} has no image", vm.id))?;
    }
    Ok(())
}

fn derived_is_what_a_recount_gives(state: &State) -> Verdict {
    let mut counted = state.clone();
    derived::rebuild(&mut counted)?;
    equal("usage", &state.usage, &counted.usage)?;
    equal("allocated", &state.allocated, &counted.allocated)?;
    equal("vms_by_node", &state.vms_by_node, &counted.vms_by_node)?;
    equal("pending", &state.pending, &counted.pending)?;
    equal("groups", &state.groups, &counted.groups)?;
    equal("evictions_by_vm", &state.evictions_by_vm, &counted.evictions_by_vm)?;
    equal("names", &state.names, &counted.names)?;
    equal("macs", &state.macs, &counted.macs)?;
    equal("image_users", &state.image_users, &counted.image_users)?;
    equal("image_users_on", &state.image_users_on, &counted.image_users_on)?;
    equal("copies_missing", &state.copies_missing, &counted.copies_missing)?;
    equal("copies_idle", &state.copies_idle, &counted.copies_idle)
}

fn placements_are_sound(state: &State) -> Verdict {
    let mut epochs = BTreeSet::<Epoch>::new();
    let mut groups = BTreeMap::new();
    for vm in state.vms.values() {
        placement_is_sound(state, vm)?;
        let Some(placement) = vm.placement else { continue };
        ensure(epochs.insert(placement.epoch), || format!("{:?} was granted twice", placement.epoch))?;
        let Some(group) = &vm.spec.anti_affinity else { continue };
        if let Some(other) = groups.insert((vm.spec.project, group, placement.node), vm.id) {
            return Err(format!("vms {other} and {} of group {group} share node {}", vm.id, placement.node));
        }
    }
    for eviction in state.evictions.values() {
        // One VM's evictions are of different grants, and so are different VMs'.
        let new = epochs.insert(eviction.epoch);
        ensure(new, || format!("{:?} of evicted vm {} was granted twice", eviction.epoch, eviction.vm))?;
    }
    Ok(())
}

fn placement_is_sound(state: &State, vm: &Vm) -> Verdict {
    let phase = vm.status.phase;
    let has_place = match phase {
        VmPhase::Pending | VmPhase::Deleting => false,
        VmPhase::Bound
        | VmPhase::Starting
        | VmPhase::Running
        | VmPhase::Stopping
        | VmPhase::Stopped
        | VmPhase::Crashed => true,
    };
    ensure(vm.placement.is_some() == has_place, || {
        format!("vm {} is {phase:?} with placement {:?}", vm.id, vm.placement)
    })?;
    ensure(vm.status.observed_generation <= vm.generation, || {
        format!("vm {}: a generation was observed that was never asked for", vm.id)
    })?;
    let waits = phase != VmPhase::Deleting || state.holdout(vm.id).is_some();
    ensure(waits, || format!("vm {} is being deleted and waits for no node", vm.id))?;
    let Some(placement) = vm.placement else { return Ok(()) };
    ensure(placement.epoch.0 <= state.index, || format!("vm {} has an epoch of the future", vm.id))?;
    state.evictions_of(vm.id).try_for_each(|eviction| {
        ensure(eviction.epoch < placement.epoch, || format!("vm {} has an eviction above its epoch", vm.id))?;
        ensure(eviction.node != placement.node, || format!("vm {} is placed where it is evicted", vm.id))
    })
}

fn evictions_are_sound(state: &State) -> Verdict {
    state.evictions.values().try_for_each(|eviction| {
        let past = eviction.epoch.0 < state.index;
        ensure(past, || format!("eviction of {} has an epoch of the future", eviction.vm))
    })
}

fn city_can_be_run(state: &State) -> Verdict {
    if state.city.is_none() {
        let empty = state.nodes.is_empty() && state.users.is_empty() && state.vms.is_empty();
        return ensure(empty, || "there is something without a city".into());
    }
    ensure(!state.nodes.is_empty(), || "the city has no node".into())?;
    ensure(state.admins().next().is_some(), || "the city has no enabled admin".into())?;
    let contradiction = state.nodes.values().find(|node| node.draining && node.schedulable);
    ensure(contradiction.is_none(), || "a node is drained and schedulable at once".into())
}

fn ring_and_requests_are_whole(state: &State) -> Verdict {
    ensure(state.events.len() <= limits::EVENTS_MAX, || "the watch ring is over its bound".into())?;
    let first = state.next_event.checked_sub(state.events.len() as u64);
    let first = first.ok_or("the watch ring has events of the future")?;
    let counted = state.events.iter().map(|event| event.sequence).eq(first..state.next_event);
    ensure(counted, || "the watch ring has a gap".into())?;
    let requests = &state.requests;
    ensure(requests.order.len() <= limits::REQUESTS_MAX, || "the request table is over its bound".into())?;
    ensure(requests.order.len() == requests.answers.len(), || "the request table is not whole".into())?;
    let known = requests.order.iter().all(|request| requests.answers.contains_key(request));
    ensure(known, || "a request has no answer".into())
}
