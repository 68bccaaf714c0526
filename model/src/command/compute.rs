//! Flavors and VMs.

use serde::{Deserialize, Serialize};

use crate::{Epoch, FlavorId, Name, NodeId, Resources, VmId, sandbox::Power, vm::VmSpec};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreateFlavor {
    pub id: FlavorId,
    pub name: Name,
    pub resources: Resources,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeleteFlavor {
    pub id: FlavorId,
}

/// Names are unique within a project.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreateVm {
    pub id: VmId,
    pub spec: VmSpec,
}

/// The scheduler's decision. Refused as stale when the VM changed since `basis`, is placed already, or
/// no longer fits the node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BindVm {
    pub vm: VmId,
    pub node: NodeId,
    /// The VM's generation that the decision was made for.
    pub basis: u64,
}

/// Ends the placement with this epoch; the VM is pending again. Allowed when its node is down or
/// draining. Leaves an eviction behind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EvacuateVm {
    pub vm: VmId,
    pub epoch: Epoch,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetVmPower {
    pub vm: VmId,
    pub power: Power,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RebootVm {
    pub vm: VmId,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeleteVm {
    pub vm: VmId,
}
