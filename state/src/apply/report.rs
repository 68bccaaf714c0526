//! What a node saw. One batch, each report for itself: one that is out of date has no effect and does
//! not spoil the others.
//!
//! # Guarantees
//! - A report about an instance whose epoch is not the placement's changes nothing, whoever sends it.
//! - What is too long is clipped: a fact must not be lost because a message is.

use scp_model::{
    Epoch, EventKind, ImageId, NodeId, Report, Subject, VmId,
    fact::{REPORTS_MAX, ReportBatch},
    image::{Image, ReplicaStatus},
    node::Orphan,
    sandbox::{Power, RestartPolicy},
    vm::{Vm, VmPhase, VmStatus},
};

use super::{
    Change, Effect, Verdict,
    check::{at_most, clipped},
};
use crate::derived;
use crate::limits::{MESSAGE_BYTES_MAX, ORPHAN_NAME_BYTES_MAX, ORPHANS_MAX};

impl Effect for ReportBatch {
    fn apply(&self, change: &mut Change<'_>) -> Verdict {
        change.state.known_node(self.node)?;
        at_most("reports in one batch", self.reports.len(), REPORTS_MAX)?;
        if scp_mutant::on("report-order") {
            let mut reports: Vec<&Report> = self.reports.iter().collect();
            // The order of a hash map differs from process to process.
            let seed = std::hash::RandomState::new();
            reports
                .sort_by_cached_key(|report| std::hash::BuildHasher::hash_one(&seed, format!("{report:?}")));
            reports.into_iter().for_each(|report| take(change, self.node, report));
            return Ok(());
        }
        self.reports.iter().for_each(|report| take(change, self.node, report));
        Ok(())
    }
}

fn take(change: &mut Change<'_>, node: NodeId, report: &Report) {
    match report {
        Report::Vm { vm, epoch, observed_generation, phase, message, failures } => {
            let seen = VmStatus {
                phase: *phase,
                since: change.now(),
                observed_generation: *observed_generation,
                message: message.as_deref().map(|message| clipped(message, MESSAGE_BYTES_MAX)),
                failures: *failures,
            };
            vm_seen(change, Instance { node, vm: *vm, epoch: *epoch }, seen);
        }
        Report::VmGone { vm, epoch } => vm_gone(change, Instance { node, vm: *vm, epoch: *epoch }),
        Report::VmShutdown { vm, epoch } => vm_shutdown(change, Instance { node, vm: *vm, epoch: *epoch }),
        Report::ImageHeld { image } => image_held(change, node, *image),
        Report::ImageGone { image } => image_gone(change, node, *image),
        Report::ImageFailed { image, message } => image_failed(change, (node, *image), message),
        Report::Orphans { orphans } => orphans_found(change, node, orphans),
    }
}

/// Which instance a report is about.
#[derive(Clone, Copy)]
struct Instance {
    node: NodeId,
    vm: VmId,
    epoch: Epoch,
}

impl Instance {
    /// The VM, when this instance is the one that the state grants.
    fn granted<'a>(self, change: &'a Change<'_>) -> Option<&'a Vm> {
        let vm = change.state.vms.get(&self.vm)?;
        let own = |placement: &scp_model::sandbox::Placement| {
            (placement.node == self.node && placement.epoch == self.epoch)
                || scp_mutant::on("report-of-old-epoch")
        };
        vm.placement.as_ref().is_some_and(own).then_some(vm)
    }
}

fn vm_seen(change: &mut Change<'_>, instance: Instance, seen: VmStatus) {
    let seen_phase = seen.phase;
    match seen_phase {
        // Not for a node to say: pending is without a node, and what is to go is an eviction.
        VmPhase::Pending => {}
        VmPhase::Deleting => deletion_delayed(change, instance, seen),
        VmPhase::Bound
        | VmPhase::Starting
        | VmPhase::Running
        | VmPhase::Stopping
        | VmPhase::Stopped
        | VmPhase::Crashed => {
            let Some(vm) = instance.granted(change) else { return };
            let observed_generation = seen.observed_generation.min(vm.generation);
            change.observe(instance.vm, VmStatus { observed_generation, ..seen });
        }
    }
}

/// A node that could not yet remove a VM that is being deleted says why.
fn deletion_delayed(change: &mut Change<'_>, instance: Instance, seen: VmStatus) {
    let Some(eviction) = change.state.evictions.get(&(instance.node, instance.vm)) else { return };
    let current = eviction.epoch == instance.epoch;
    let Some(vm) = change.state.vms.get_mut(&instance.vm) else { return };
    if current && vm.is_deleting() {
        vm.status.message = seen.message;
        vm.status.failures = seen.failures;
    }
}

fn vm_gone(change: &mut Change<'_>, instance: Instance) {
    let Instance { node, vm, epoch } = instance;
    let Some(eviction) = change.state.evictions.get(&(node, vm)) else { return };
    if epoch < eviction.epoch {
        return;
    }
    let project = change.state.vms.get(&vm).map(|vm| vm.spec.project);
    change.drop_eviction(node, vm);
    change.event(Subject::Vm(vm), project, EventKind::EvictionFulfilled { node });
    change.settle_deletion(vm);
}

/// The guest switched itself off. Unless its policy starts it again, that is what is wanted from now on.
fn vm_shutdown(change: &mut Change<'_>, instance: Instance) {
    let Some(vm) = instance.granted(change) else { return };
    let respected = match vm.spec.restart {
        RestartPolicy::Always => false,
        RestartPolicy::OnFailure | RestartPolicy::Never => true,
    };
    if !respected || vm.spec.power == Power::Stopped {
        return;
    }
    let seen = VmStatus {
        phase: VmPhase::Stopped,
        since: change.now(),
        observed_generation: vm.generation + 1,
        message: None,
        failures: 0,
    };
    change.set_power(instance.vm, Power::Stopped);
    change.observe(instance.vm, seen);
}

fn image_mut<'a>(change: &'a mut Change<'_>, image: ImageId) -> &'a mut Image {
    change.state.images.get_mut(&image).expect("the image was found before it is changed")
}

/// Also from a node that was not assigned one: it fetched the image for a VM, and is a source now.
fn image_held(change: &mut Change<'_>, node: NodeId, image: ImageId) {
    let Some(known) = change.state.images.get(&image) else { return };
    if known.replicas.get(&node) == Some(&ReplicaStatus::Held) {
        return;
    }
    let project = known.project;
    image_mut(change, image).replicas.insert(node, ReplicaStatus::Held);
    derived::settle_copy(change.state, image, node);
    change.event(Subject::Image(image), Some(project), EventKind::ImageReplicated { node });
}

/// A copy that is only assigned was never there; it stays assigned.
fn image_gone(change: &mut Change<'_>, node: NodeId, image: ImageId) {
    let Some(known) = change.state.images.get(&image) else { return };
    match known.replicas.get(&node) {
        Some(ReplicaStatus::Held | ReplicaStatus::Failed { .. }) => {}
        Some(ReplicaStatus::Assigned) | None => return,
    }
    let project = known.project;
    image_mut(change, image).replicas.remove(&node);
    derived::settle_copy(change.state, image, node);
    change.event(Subject::Image(image), Some(project), EventKind::ImageReplicaGone { node });
}

/// Only of an assigned copy; a VM that waits for its image says so itself.
fn image_failed(change: &mut Change<'_>, (node, image): (NodeId, ImageId), message: &str) {
    let Some(known) = change.state.images.get(&image) else { return };
    let message = clipped(message, MESSAGE_BYTES_MAX);
    match known.replicas.get(&node) {
        None => return,
        Some(ReplicaStatus::Failed { message: before, .. }) if *before == message => return,
        Some(ReplicaStatus::Assigned | ReplicaStatus::Held | ReplicaStatus::Failed { .. }) => {}
    }
    let (project, at) = (known.project, change.now());
    let status = ReplicaStatus::Failed { message: message.clone(), at };
    image_mut(change, image).replicas.insert(node, status);
    derived::settle_copy(change.state, image, node);
    let kind = EventKind::ImageReplicaFailed { node, message };
    change.event(Subject::Image(image), Some(project), kind);
}

fn orphans_found(change: &mut Change<'_>, node: NodeId, orphans: &[Orphan]) {
    let clip = |orphan: &Orphan| Orphan {
        name: clipped(&orphan.name, ORPHAN_NAME_BYTES_MAX),
        detail: clipped(&orphan.detail, MESSAGE_BYTES_MAX),
    };
    let orphans: Vec<Orphan> = orphans.iter().take(ORPHANS_MAX).map(clip).collect();
    let known = change.state.nodes.get_mut(&node).expect("the batch is of a known node");
    if known.orphans != orphans {
        known.orphans = orphans;
        change.event(Subject::Node(node), None, EventKind::NodeChanged);
    }
}
