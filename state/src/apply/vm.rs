//! What an owner changes of a VM: its power, and a reboot.

use std::sync::Arc;

use scp_model::{
    EventKind, Rejection, Subject,
    command::{RebootVm, SetVmPower},
    sandbox::Power,
    vm::{Vm, VmPhase},
};

use super::{Change, Effect, Verdict};

impl Effect for SetVmPower {
    fn apply(&self, change: &mut Change<'_>) -> Verdict {
        let vm = change.state.known_vm(self.vm)?;
        if vm.is_deleting() {
            return Err(wrong_state(vm, "being deleted"));
        }
        if vm.spec.power != self.power {
            change.set_power(self.vm, self.power);
        }
        Ok(())
    }
}

impl Effect for RebootVm {
    fn apply(&self, change: &mut Change<'_>) -> Verdict {
        let vm = change.state.known_vm(self.vm)?;
        match vm.status.phase {
            VmPhase::Deleting => return Err(wrong_state(vm, "being deleted")),
            VmPhase::Pending => return Err(wrong_state(vm, "not placed yet")),
            VmPhase::Bound
            | VmPhase::Starting
            | VmPhase::Running
            | VmPhase::Stopping
            | VmPhase::Stopped
            | VmPhase::Crashed => {}
        }
        if vm.spec.power == Power::Stopped {
            return Err(wrong_state(vm, "stopped"));
        }
        let project = vm.spec.project;
        let vm = change.state.vms.get_mut(&self.vm).expect("the VM was found above");
        Arc::make_mut(&mut vm.spec).reboots += 1;
        vm.generation += 1;
        change.event(Subject::Vm(self.vm), Some(project), EventKind::VmRebootAsked);
        Ok(())
    }
}

impl Change<'_> {
    pub(super) fn set_power(&mut self, id: scp_model::VmId, power: Power) {
        let vm = self.state.vms.get_mut(&id).expect("a VM whose power is set is known");
        Arc::make_mut(&mut vm.spec).power = power;
        vm.generation += 1;
        let project = vm.spec.project;
        self.event(Subject::Vm(id), Some(project), EventKind::VmPowerSet { power });
    }
}

fn wrong_state(vm: &Vm, state: &str) -> Rejection {
    Rejection::WrongState { subject: Subject::Vm(vm.id), state: state.into() }
}
