//! From the state's words to the wire's. Pure: a state and a thing in, what is shown out.

mod event;
mod node;
mod status;
mod tenancy;
mod vm;

use scp_model::{NodeId, ProjectId};
use scp_state::State;

pub(crate) use self::{
    event::event,
    node::{join_token, node, phase as node_phase},
    status::{Quorum, Seen, counts, status},
    tenancy::{department, flavor, grants, image, image_phase, keypair, project, quota_usage, user},
    vm::{Names, explanation, stats, vm, vm_phase},
};
use crate::v1;

pub(crate) fn overcommit(from: scp_model::units::Overcommit) -> v1::Overcommit {
    let scp_model::units::Overcommit { vcpus_percent, memory_percent, disk_percent } = from;
    v1::Overcommit { vcpus_percent, memory_percent, disk_percent }
}

pub(crate) fn resources(from: scp_model::Resources) -> v1::Resources {
    let scp_model::Resources { vcpus, memory_mib, disk_mib } = from;
    v1::Resources { vcpus, memory_mib, disk_mib }
}

/// A node by its present name; by its id when it is gone.
pub(crate) fn node_reference(state: &State, id: NodeId) -> v1::Reference {
    let name = state.nodes.get(&id).map_or_else(|| id.to_string(), |node| node.profile.name.to_string());
    v1::Reference { id: id.to_string(), name }
}

pub(crate) fn project_reference(state: &State, id: ProjectId) -> v1::Reference {
    let name = state.projects.get(&id).map_or_else(|| id.to_string(), |project| project.name.to_string());
    v1::Reference { id: id.to_string(), name }
}
