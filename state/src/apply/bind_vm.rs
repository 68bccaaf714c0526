//! The scheduler's decision is verified against the state as it is now, and granted.
//!
//! # Guarantees
//! - Two plans for one VM, or for the last room on a node, cannot both be carried out: the second is
//!   stale.
//! - The epoch is this command's index, so it is above every epoch granted before.
//! - Nothing runs twice: while a node that is up may still run the VM, it is not granted anew.

use scp_model::{Subject, command::BindVm, vm::VmPhase};

use super::{Change, Effect, Verdict, check::stale};

impl Effect for BindVm {
    fn apply(&self, change: &mut Change<'_>) -> Verdict {
        let state = &*change.state;
        let Some(vm) = state.vms.get(&self.vm) else {
            return Err(stale(format!("{} is gone", Subject::Vm(self.vm))));
        };
        let Some(node) = state.nodes.get(&self.node) else {
            return Err(stale(format!("{} is gone", Subject::Node(self.node))));
        };
        if vm.status.phase != VmPhase::Pending {
            return Err(stale(format!("vm {} is not pending but {:?}", vm.spec.name, vm.status.phase)));
        }
        if vm.generation != self.basis {
            return Err(stale(format!(
                "it was made for generation {}, this is {}",
                self.basis, vm.generation
            )));
        }
        if let Some(holdout) = state.holdout(vm.id) {
            let (vm, node) = (&vm.spec.name, &holdout.profile.name);
            return Err(stale(format!("node {node} has not yet removed vm {vm}")));
        }
        if let Some(obstacle) = state.obstacle(vm, node) {
            return Err(stale(format!("node {} {obstacle}", node.profile.name)));
        }
        change.grant(self.vm, self.node);
        Ok(())
    }
}
