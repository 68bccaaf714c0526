//! One VM that is placed here: what to do about it, and what to say of it.
//!
//! ```text
//!  owner wants   seen here            then
//!  running       nothing              start it
//!                running              nothing; reboot it if a reboot was asked for since
//!                paused               resume it (an EnsureVm), with growing pauses
//!                stopped              start it
//!                crashed              by its restart policy, with growing pauses
//!                shut down by itself  policy Always: as crashed; otherwise tell the state, which then
//!                                     wants it stopped
//!                either of the last two, but its owner changed it since: start it
//!  stopped       running, paused      stop it
//!                anything else        nothing, unless a start of it is under way or failed without its
//!                                     effect being known: then stop it, too
//! ```
//! A VM of which nothing is here is started whatever its restart policy says: it did not end, it was
//! never begun (or its server lost its disk). After a power cut the driver finds guests that ended
//! otherwise than by themselves, and they follow their policy.

use scp_model::{
    Epoch, Op, VmId,
    fact::{RunState, VmFact},
    image::Image,
    op::{EnsureVm, RootDisk, Seed},
    sandbox::{Power, RestartPolicy},
    vm::Vm,
};

/// How long a guest has to shut down by itself before it is stopped by force, in milliseconds.
pub const STOP_GRACE_MS: u64 = 30_000;

/// What is to be done about a VM that is placed here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Intent {
    /// It is as its owner wants it.
    Rest,
    /// Have it running, at once.
    Start,
    /// It ended by itself: start it again after a pause.
    Restart,
    /// The hypervisor stopped it: try to go on.
    Resume,
    /// It runs; only its record is older than the spec.
    Refresh,
    Reboot,
    Stop,
    /// It ended and stays so.
    Leave,
    /// It shut itself down, and its policy respects that.
    TellShutdown,
}

pub(crate) fn intent(vm: &Vm, fact: Option<&VmFact>) -> Intent {
    let Some(fact) = fact else {
        return match vm.spec.power {
            Power::Running => Intent::Start,
            Power::Stopped => Intent::Rest,
        };
    };
    match vm.spec.power {
        Power::Stopped => match fact.run {
            RunState::Running | RunState::Paused => Intent::Stop,
            RunState::Stopped | RunState::Shutdown | RunState::Crashed => Intent::Rest,
        },
        Power::Running => intent_running(vm, fact),
    }
}

fn intent_running(vm: &Vm, fact: &VmFact) -> Intent {
    let changed = fact.generation < vm.generation || fact.reboots < vm.spec.reboots;
    match (fact.run, vm.spec.restart) {
        (RunState::Running, _) if fact.reboots < vm.spec.reboots => Intent::Reboot,
        (RunState::Running, _) if changed => Intent::Refresh,
        (RunState::Running, _) => Intent::Rest,
        (RunState::Paused, _) => Intent::Resume,
        (RunState::Stopped, _) => Intent::Start,
        (RunState::Shutdown | RunState::Crashed, _) if changed => Intent::Start,
        (RunState::Crashed, RestartPolicy::Always | RestartPolicy::OnFailure) => Intent::Restart,
        (RunState::Shutdown, RestartPolicy::Always) => Intent::Restart,
        (RunState::Crashed, RestartPolicy::Never) => Intent::Leave,
        (RunState::Shutdown, RestartPolicy::OnFailure | RestartPolicy::Never) => Intent::TellShutdown,
    }
}

/// The order to have the VM running.
pub(crate) fn ensure(vm: &Vm, epoch: Epoch, image: &Image) -> Op {
    let spec = &vm.spec;
    let content = &image.content;
    Op::EnsureVm(Box::new(EnsureVm {
        vm: vm.id,
        epoch,
        generation: vm.generation,
        name: spec.name.clone(),
        resources: spec.resources,
        disk: RootDisk {
            image: image.id,
            format: content.format,
            digest: content.digest,
            size_bytes: content.virtual_size_bytes.max(spec.resources.disk_mib.saturating_mul(1 << 20)),
        },
        seed: Seed {
            instance_id: instance_id(vm.id, epoch),
            hostname: spec.name.clone(),
            ssh_keys: spec.ssh_keys.clone(),
            user_data: spec.user_data.clone(),
        },
        mac: spec.mac,
        reboots: spec.reboots,
    }))
}

/// A new placement has a new disk, so its guest runs its first-boot steps again.
fn instance_id(vm: VmId, epoch: Epoch) -> String {
    format!("{vm}-{}", epoch.0)
}

pub(crate) fn stop(vm: &Vm, epoch: Epoch) -> Op {
    Op::StopVm { vm: vm.id, epoch, generation: vm.generation, grace_ms: STOP_GRACE_MS }
}

pub(crate) fn reboot(vm: &Vm, epoch: Epoch) -> Op {
    Op::RebootVm { vm: vm.id, epoch, generation: vm.generation, reboots: vm.spec.reboots }
}
