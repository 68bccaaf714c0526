//! A VM is asked for: validated, counted, pending.

use std::sync::Arc;

use scp_model::{
    EventKind, Rejection, Resources, Subject,
    command::CreateVm,
    rejection::QuotaResource,
    tenancy::Quota,
    vm::{SSH_KEYS_MAX, USER_DATA_BYTES_MAX, Vm, VmPhase, VmSpec, VmStatus},
};

use super::{
    Change, Effect, Verdict,
    check::{QuotaRow, invalid, line_within, resources_within_bounds, room_for},
};
use crate::{
    NameScope, State, Usage,
    limits::{SSH_KEY_BYTES_MAX, VMS_MAX},
};

impl Effect for CreateVm {
    fn apply(&self, change: &mut Change<'_>) -> Verdict {
        let (id, spec) = (self.id, &self.spec);
        let subject = Subject::Vm(id);
        if let Some(vm) = change.state.vms.get(&id) {
            return if same(&vm.spec, spec) { Ok(()) } else { Err(Rejection::IdTaken { subject }) };
        }
        if change.state.evictions_of(id).next().is_some() {
            // A node that is down still holds one of this id.
            return Err(Rejection::IdTaken { subject });
        }
        spec_is_acceptable(spec)?;
        image_fits(change.state, spec)?;
        change.state.name_is_free(NameScope::Vms(spec.project), &spec.name, "vm")?;
        if change.state.macs.contains_key(&spec.mac) {
            return Err(invalid("mac", "another VM has this hardware address"));
        }
        room_for("VMs", change.state.vms.len(), VMS_MAX)?;
        let quota = change.state.known_project(spec.project)?.quota;
        if !scp_mutant::on("quota-ignored") {
            quota_suffices(quota, change.state.usage_of(spec.project), spec.resources)?;
        }

        insert(change, self);
        let kind = EventKind::VmCreated { name: spec.name.clone() };
        change.event(subject, Some(spec.project), kind);
        Ok(())
    }
}

/// Whether a repeated request asks for what was created. What changes later (power, reboots) and what
/// the API drew at random (the hardware address) does not count.
fn same(existing: &VmSpec, asked: &VmSpec) -> bool {
    let VmSpec { power, reboots, mac, .. } = *existing;
    VmSpec { power, reboots, mac, ..asked.clone() } == *existing
}

fn spec_is_acceptable(spec: &VmSpec) -> Verdict {
    resources_within_bounds(spec.resources)?;
    if spec.user_data.len() > USER_DATA_BYTES_MAX {
        let why = format!("has {} bytes, at most {USER_DATA_BYTES_MAX} fit", spec.user_data.len());
        return Err(invalid("user_data", why));
    }
    if spec.ssh_keys.len() > SSH_KEYS_MAX {
        return Err(invalid("ssh_keys", format!("{} keys, at most {SSH_KEYS_MAX} fit", spec.ssh_keys.len())));
    }
    spec.ssh_keys.iter().try_for_each(|key| line_within("ssh_keys", key, SSH_KEY_BYTES_MAX))?;
    // Bit 0 of the first byte: a group, not one card. Bit 1: given by us, not by the card's maker.
    if spec.mac[0] & 0b11 != 0b10 {
        return Err(invalid("mac", "a VM's hardware address is locally administered and unicast"));
    }
    match spec.reboots {
        0 => Ok(()),
        _ => Err(invalid("reboots", "nothing was rebooted yet")),
    }
}

/// That the image can be seen from the project, and that its disk fits the VM's.
fn image_fits(state: &State, spec: &VmSpec) -> Verdict {
    state.known_project(spec.project)?;
    let image = state.images.get(&spec.image).filter(|image| state.image_is_visible(image, spec.project));
    let image = image.ok_or(Rejection::NotFound { subject: Subject::Image(spec.image) })?;
    let needs = image.content.virtual_size_bytes.div_ceil(1 << 20);
    if needs > spec.resources.disk_mib {
        let has = spec.resources.disk_mib;
        let why =
            format!("{has} MiB are less than the {needs} MiB of image {}; take a larger flavor", image.name);
        return Err(invalid("disk_mib", why));
    }
    Ok(())
}

fn quota_suffices(quota: Quota, usage: Usage, asked: Resources) -> Verdict {
    let Usage { vms, resources: used, images: _, keypairs: _ } = usage;
    let rows = [
        (QuotaResource::Vms, quota.vms, vms, 1),
        (QuotaResource::Vcpus, quota.vcpus, used.vcpus, asked.vcpus),
        (QuotaResource::MemoryMib, quota.memory_mib, used.memory_mib, asked.memory_mib),
        (QuotaResource::DiskMib, quota.disk_mib, used.disk_mib, asked.disk_mib),
    ];
    let mut rows = rows.into_iter();
    rows.try_for_each(|(resource, limit, used, asked)| QuotaRow { resource, limit, used, asked }.check())
}

fn insert(change: &mut Change<'_>, create: &CreateVm) {
    let (id, spec, now) = (create.id, &create.spec, change.now());
    let status =
        VmStatus { phase: VmPhase::Pending, since: now, observed_generation: 0, message: None, failures: 0 };
    let state = &mut *change.state;
    state.names.insert((NameScope::Vms(spec.project), spec.name.clone()), Subject::Vm(id));
    state.macs.insert(spec.mac, id);
    *state.image_users.entry(spec.image).or_default() += 1;
    let usage = state.usage.get_mut(&spec.project).expect("a project has its usage");
    usage.vms += 1;
    usage.resources = usage.resources.plus(spec.resources);
    let spec = Arc::new(spec.clone());
    let vm = Vm { id, spec, generation: 1, placement: None, status, created_at: now };
    state.pending.insert((now, id));
    state.vms.insert(id, vm);
}
