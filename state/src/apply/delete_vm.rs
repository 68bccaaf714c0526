//! The end of a VM.
//!
//! Its placement becomes an eviction. The record stays, `Deleting`, for as long as a node that is up
//! still has to remove it; quota and name are free when it goes. Nodes that are down are not waited
//! for: their orders stay.

use scp_model::{EventKind, Subject, command::DeleteVm, vm::VmPhase};

use super::{Change, Effect, Verdict};

impl Effect for DeleteVm {
    fn apply(&self, change: &mut Change<'_>) -> Verdict {
        let vm = change.state.known_vm(self.vm)?;
        if vm.is_deleting() {
            return Ok(());
        }
        let project = vm.spec.project;
        change.revoke(self.vm, VmPhase::Deleting);
        change.event(Subject::Vm(self.vm), Some(project), EventKind::VmDeletionStarted);
        change.settle_deletion(self.vm);
        Ok(())
    }
}
