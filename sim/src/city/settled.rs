//! Whether a healed city has come to rest, and what still moves if it has not.

use scp_model::{
    NodeId,
    node::Node,
    sandbox::{Power, RestartPolicy},
    vm::{Vm, VmPhase},
};
use scp_state::State;

use super::City;

impl City {
    /// Everything that was asked for is so, everywhere.
    pub(super) fn is_settled(&mut self) -> bool {
        let Some(states) = self.states() else { return false };
        let (_, first) = &states[0];
        // After a restart a process only knows what its snapshot holds, until it hears what is committed.
        let same = states.iter().all(|(_, state)| state.index == first.index);
        let whole = first.index >= self.laws.index();
        let up = first.nodes.values().all(Node::is_up);
        let vms = first.vms.values().all(|vm| self.vm_is_as_wanted(vm));
        same && whole && up && vms && first.evictions.is_empty() && self.stray(first).is_none()
    }

    /// Something on a host that the state does not grant, or nothing where the state believes something.
    fn stray(&self, state: &State) -> Option<String> {
        for host in &self.hosts {
            for (id, epoch) in host.world.running() {
                let placement = state.vms.get(&id).and_then(|vm| vm.placement);
                if placement.is_none_or(|placement| (placement.node, placement.epoch) != (host.id, epoch)) {
                    return Some(format!(
                        "{} runs VM {id} of epoch {}, which is not its",
                        host.name, epoch.0
                    ));
                }
            }
            for image in state.images.values() {
                let held = image.holders().any(|holder| holder == host.id);
                if held && !host.world.holds_image(image.id) {
                    return Some(format!(
                        "{} does not have image {}, which it is to hold",
                        host.name, image.name
                    ));
                }
            }
        }
        self.papers.as_ref()?.overdue(&self.hosts)
    }

    fn vm_is_as_wanted(&self, vm: &Vm) -> bool {
        let runs = |node: NodeId| {
            let host = self.hosts.iter().find(|host| host.id == node);
            host.is_some_and(|host| host.world.running().iter().any(|(id, _)| *id == vm.id))
        };
        match (vm.spec.power, vm.status.phase) {
            (_, VmPhase::Deleting) => false,
            (Power::Running, VmPhase::Running) => vm.node().is_some_and(runs),
            (Power::Running, VmPhase::Crashed) => vm.spec.restart == RestartPolicy::Never,
            // It fits nowhere: the workload asks for more than there is, now and then.
            (_, VmPhase::Pending) => true,
            (Power::Stopped, VmPhase::Stopped) => !vm.node().is_some_and(runs),
            (Power::Running | Power::Stopped, _) => false,
        }
    }

    /// For the message of a city that does not settle.
    pub(super) fn standing(&self) -> String {
        let Some(states) = self.states() else { return "a process is not up".into() };
        let indices: Vec<u64> = states.iter().map(|(_, state)| state.index).collect();
        let (_, first) = &states[0];
        let down = first.nodes.values().filter(|node| !node.is_up()).count();
        let odd: Vec<String> = first
            .vms
            .values()
            .filter(|vm| !self.vm_is_as_wanted(vm))
            .map(|vm| format!("{} {:?}/{:?} on {:?}", vm.spec.name, vm.spec.power, vm.status, vm.node()))
            .take(5)
            .collect();
        let images: Vec<_> = first.images.values().map(|image| &image.replicas).collect();
        let evictions = first.evictions.len();
        let stray = self.stray(first).unwrap_or_else(|| "nothing astray".into());
        format!(
            "{stray}; indices {indices:?}, {down} down, {evictions} evictions, images {images:?}, VMs: {odd:?}"
        )
    }
}
