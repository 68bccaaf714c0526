//! One pass over the VMs for a whole round: what each concern would otherwise look for by itself.

use std::collections::{BTreeMap, BTreeSet};

use scp_model::{
    ImageId, Name, NodeId, ProjectId,
    vm::{Vm, VmPhase},
};
use scp_state::State;

/// An anti-affinity group: its name means something within its project only.
pub(crate) type Group<'a> = (ProjectId, &'a Name);

#[derive(Debug, Default)]
pub(crate) struct Survey<'a> {
    /// VMs without a placement that are to have one, those that wait longest first.
    pub(crate) pending: Vec<&'a Vm>,
    /// Placed members of each anti-affinity group.
    pub(crate) groups: BTreeMap<Group<'a>, Vec<&'a Vm>>,
    /// On which nodes VMs need an image.
    pub(crate) images_used: BTreeMap<ImageId, BTreeSet<NodeId>>,
}

impl<'a> Survey<'a> {
    pub(crate) fn of(state: &'a State) -> Self {
        let mut survey = Self::default();
        for vm in state.vms.values() {
            let Some(node) = vm.node() else {
                if vm.status.phase == VmPhase::Pending {
                    survey.pending.push(vm);
                }
                continue;
            };
            survey.images_used.entry(vm.spec.image).or_default().insert(node);
            if let Some(group) = group_of(vm) {
                survey.groups.entry(group).or_default().push(vm);
            }
        }
        survey.pending.sort_by_key(|vm| (vm.status.since, vm.id));
        survey
    }
}

pub(crate) fn group_of(vm: &Vm) -> Option<Group<'_>> {
    vm.spec.anti_affinity.as_ref().map(|group| (vm.spec.project, group))
}
