//! Virtual machines.
//!
//! ```text
//! CreateVm            BindVm                 Report               Report
//! ────────▶ Pending ─────────▶ Bound ───────────────▶ Starting ───────────▶ Running
//!             ▲                  │                                           │  │
//!             │                  │ placement lost: evacuation, drain         │  │ SetVmPower(Stopped)
//!             └──────────────────┴───────────────────────────────────────────┘  ▼
//!                                                                  Stopping ─▶ Stopped
//!  Running ─(ended by itself)▶ Crashed ─(restart policy, backoff)▶ Starting
//!  any ─DeleteVm▶ Deleting ─(the node reports it gone, or is down)▶ no longer there
//! ```
//!
//! A VM's root disk is an overlay on its image, local to the node: after an evacuation the VM begins
//! again from its image. What must survive belongs on a volume.
//!
//! Whenever a placement ends while its node may still hold the VM, an [`Eviction`] stays behind: the
//! node's order to remove it, fulfilled before the node does anything else.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{
    Epoch, ImageId, Name, NodeId, ProjectId, Resources, Timestamp, VmId,
    sandbox::{Placement, Power, RestartPolicy},
};

/// The largest cloud-init user data, as in OpenStack and EC2 (before base64).
pub const USER_DATA_BYTES_MAX: usize = 64 << 10;
/// The most keys in one VM's `authorized_keys`.
pub const SSH_KEYS_MAX: usize = 20;

/// What was asked for; only `power`, `reboots` and `generation` change after creation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmSpec {
    pub name: Name,
    pub project: ProjectId,
    /// Name of the flavor at creation; its numbers are copied, so a later change of it changes nothing.
    pub flavor: Name,
    pub resources: Resources,
    pub image: ImageId,
    /// Lines for `authorized_keys`, copied from the keypairs.
    pub ssh_keys: Vec<String>,
    /// cloud-init user data, at most [`USER_DATA_BYTES_MAX`].
    pub user_data: Vec<u8>,
    /// Hardware address of its network card; locally administered, unique in the city.
    pub mac: [u8; 6],
    /// Only in this zone.
    pub zone: Option<Name>,
    /// No two VMs of one project and group share a node.
    pub anti_affinity: Option<Name>,
    pub restart: RestartPolicy,
    pub power: Power,
    /// How many reboots were asked for so far.
    pub reboots: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum VmPhase {
    Pending,
    Bound,
    Starting,
    Running,
    Stopping,
    Stopped,
    Crashed,
    Deleting,
}

/// What was seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmStatus {
    pub phase: VmPhase,
    /// When the phase began.
    pub since: Timestamp,
    /// Generation of the spec that the node had carried out when it last reported.
    pub observed_generation: u64,
    /// What stands in the way, for people.
    pub message: Option<String>,
    /// Crashes and failed starts since it last ran for a while.
    pub failures: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vm {
    pub id: VmId,
    /// Shared: the state's maps copy whole leaves of VMs while a reader holds a snapshot, and a spec may
    /// carry 64 KiB of user data.
    #[serde(with = "shared")]
    pub spec: Arc<VmSpec>,
    /// Raised by every change of the spec.
    pub generation: u64,
    pub placement: Option<Placement>,
    pub status: VmStatus,
    pub created_at: Timestamp,
}

/// An `Arc` is written as what it holds. serde's own `rc` feature would do the same, but turning it on
/// here and not elsewhere builds serde twice.
mod shared {
    use std::sync::Arc;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub fn serialize<T: Serialize, S: Serializer>(value: &Arc<T>, to: S) -> Result<S::Ok, S::Error> {
        value.as_ref().serialize(to)
    }

    pub fn deserialize<'de, T: Deserialize<'de>, D: Deserializer<'de>>(from: D) -> Result<Arc<T>, D::Error> {
        T::deserialize(from).map(Arc::new)
    }
}

impl Vm {
    pub fn is_deleting(&self) -> bool {
        self.status.phase == VmPhase::Deleting
    }

    pub fn node(&self) -> Option<NodeId> {
        self.placement.map(|placement| placement.node)
    }
}

/// A node's standing order to remove a VM that it no longer owns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Eviction {
    pub vm: VmId,
    pub node: NodeId,
    /// Everything up to and including this epoch is to go.
    pub epoch: Epoch,
    /// Still taken on the node until it confirms.
    pub resources: Resources,
    pub since: Timestamp,
}
