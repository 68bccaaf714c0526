//! Grants, evictions and the end of a VM: the steps that commands about placement are made of. Each
//! keeps the tables and everything derived from them in step.
//!
//! ```text
//!            grant                    revoke                     drop_eviction
//! unplaced ─────────▶ placed on N ─────────────▶ evicted from N ───────────────▶ nothing on N
//!                     (epoch e)                  (up to epoch e)  VmGone, or N is removed
//! ```
//! What a placement takes of a node is taken until the node confirms the removal.

use scp_model::{
    EventKind, NodeId, Subject, VmId,
    sandbox::Placement,
    units::Epoch,
    vm::{Eviction, VmPhase, VmStatus},
};

use super::Change;
use crate::{NameScope, State, derived};

impl Change<'_> {
    /// The VM is the node's from now on; this command's index is the epoch.
    pub(super) fn grant(&mut self, id: VmId, node: NodeId) {
        let (epoch, since) = (Epoch(self.index), self.now());
        let vm = self.state.vms.get_mut(&id).expect("a VM that is bound is known");
        let waited = derived::wait_of(vm);
        vm.placement = Some(Placement { node, epoch, since });
        vm.status = VmStatus { phase: VmPhase::Bound, since, ..vm.status.clone() };
        let spec = vm.spec.clone();
        if let Some(waited) = waited {
            self.state.pending.remove(&waited);
        }
        derived::seat(self.state, id, &spec, node);
        let allocated = self.state.allocated.get_mut(&node).expect("a node has its sum");
        *allocated = allocated.plus(spec.resources);
        self.event(Subject::Vm(id), Some(spec.project), EventKind::VmBound { node, epoch });
    }

    /// Ends the placement, if there is one, and leaves an eviction behind; the VM enters `phase`.
    pub(super) fn revoke(&mut self, id: VmId, phase: VmPhase) -> Option<Placement> {
        let since = self.now();
        let vm = self.state.vms.get_mut(&id).expect("a VM whose placement ends is known");
        let waited = derived::wait_of(vm);
        let placement = vm.placement.take();
        // The next node begins anew: what the last one saw is of no meaning there.
        vm.status = VmStatus { phase, since, observed_generation: 0, message: None, failures: 0 };
        let (waits, spec) = (derived::wait_of(vm), vm.spec.clone());
        if let Some(waited) = waited {
            self.state.pending.remove(&waited);
        }
        if let Some(waits) = waits {
            self.state.pending.insert(waits);
        }
        let Placement { node, epoch, since: _ } = placement?;
        let eviction = Eviction { vm: id, node, epoch, resources: spec.resources, since };
        derived::unseat(self.state, id, &spec, node);
        if scp_mutant::on("eviction-not-left") {
            let allocated = self.state.allocated.get_mut(&node).expect("a node has its sum");
            *allocated = allocated.minus(spec.resources);
            return placement;
        }
        self.state.evictions_by_vm.insert((id, node));
        self.state.evictions.insert((node, id), eviction);
        placement
    }

    /// The VM is pending again.
    pub(super) fn evacuate(&mut self, id: VmId) {
        let Some(Placement { node, epoch, since: _ }) = self.revoke(id, VmPhase::Pending) else { return };
        let project = self.state.vms.get(&id).map(|vm| vm.spec.project);
        self.event(Subject::Vm(id), project, EventKind::VmEvacuated { node, epoch });
    }

    /// Nothing of the VM is on the node any more.
    pub(super) fn drop_eviction(&mut self, node: NodeId, id: VmId) {
        let Some(eviction) = self.state.evictions.remove(&(node, id)) else { return };
        self.state.evictions_by_vm.remove(&(id, node));
        let allocated = self.state.allocated.get_mut(&node).expect("a node has its sum");
        *allocated = allocated.minus(eviction.resources);
    }

    /// A VM that is being deleted is gone when no node that is up still has to remove it. Orders to
    /// nodes that are down stay, for when they come back.
    pub(super) fn settle_deletion(&mut self, id: VmId) {
        let Some(vm) = self.state.vms.get(&id) else { return };
        if !vm.is_deleting() || self.state.holdout(id).is_some() {
            return;
        }
        let project = vm.spec.project;
        forget(self.state, id);
        self.event(Subject::Vm(id), Some(project), EventKind::VmDeleted);
    }

    /// What a node saw of its VM.
    pub(super) fn observe(&mut self, id: VmId, seen: VmStatus) {
        let vm = self.state.vms.get_mut(&id).expect("a VM that is observed is known");
        let from = vm.status.phase;
        let since = if from == seen.phase { vm.status.since } else { seen.since };
        vm.status = VmStatus { since, ..seen };
        let (to, message, project) = (vm.status.phase, vm.status.message.clone(), vm.spec.project);
        if from != to {
            let kind = EventKind::VmPhaseChanged { from, to, message };
            self.event(Subject::Vm(id), Some(project), kind);
        }
    }
}

/// The record goes, and with it its name, its address and what it took of the quota.
fn forget(state: &mut State, id: VmId) {
    let vm = state.vms.remove(&id).expect("a VM whose deletion is settled is known");
    let spec = &vm.spec;
    state.names.remove(&(NameScope::Vms(spec.project), spec.name.clone()));
    state.macs.remove(&spec.mac);
    let users = state.image_users.get_mut(&spec.image).expect("an image in use has its count");
    *users -= 1;
    if *users == 0 {
        state.image_users.remove(&spec.image);
    }
    let usage = state.usage.get_mut(&spec.project).expect("a project has its usage");
    usage.vms -= 1;
    if !scp_mutant::on("usage-not-released") {
        usage.resources = usage.resources.minus(spec.resources);
    }
}
