//! A placement ends because its node is down or drains.

use scp_model::{Rejection, Subject, command::EvacuateVm};

use super::{Change, Effect, Verdict, check::stale};

impl Effect for EvacuateVm {
    fn apply(&self, change: &mut Change<'_>) -> Verdict {
        let Some(vm) = change.state.vms.get(&self.vm) else {
            return Err(stale(format!("{} is gone", Subject::Vm(self.vm))));
        };
        let Some(placement) = vm.placement else {
            return Err(stale(format!("vm {} is placed nowhere", vm.spec.name)));
        };
        if placement.epoch != self.epoch {
            return Err(Rejection::StaleEpoch { got: self.epoch.0, granted: placement.epoch.0 });
        }
        let node = change.state.known_node(placement.node)?;
        if node.is_up() && !node.draining {
            return Err(stale(format!("node {} is up and does not drain", node.profile.name)));
        }
        change.evacuate(self.vm);
        Ok(())
    }
}
