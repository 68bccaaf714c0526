//! Ops: complete orders to a driver. A driver chooses nothing; carrying an op out twice is the same as
//! once; it answers with [`Fact`](crate::Fact)s.

use serde::{Deserialize, Serialize};

use crate::{
    Digest, Epoch, ImageId, Name, NodeId, Resources, VmId,
    image::{ImageContent, ImageFormat},
};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op {
    /// Have the image whole and checked on this node.
    EnsureImage(EnsureImage),
    /// Drop the node's copy of an image.
    RemoveImage { image: ImageId },
    /// Have the VM defined and running as ordered. One that is paused goes on; of one that runs already
    /// only the generation in its record changes.
    EnsureVm(Box<EnsureVm>),
    /// Have the VM defined and not running: ACPI first, force after `grace_ms`.
    StopVm { vm: VmId, epoch: Epoch, generation: u64, grace_ms: u64 },
    /// Restart the guest in place.
    RebootVm { vm: VmId, epoch: Epoch, generation: u64, reboots: u64 },
    /// Have nothing of the VM at or below this epoch: no process, no definition, no disk.
    RemoveVm { vm: VmId, epoch: Epoch },
}

impl Op {
    /// Ops on one subject are carried out one after the other, on different ones side by side.
    pub fn subject(&self) -> OpSubject {
        match self {
            Self::EnsureImage(order) => OpSubject::Image(order.image),
            Self::RemoveImage { image } => OpSubject::Image(*image),
            Self::EnsureVm(order) => OpSubject::Vm(order.vm),
            Self::StopVm { vm, .. } | Self::RebootVm { vm, .. } | Self::RemoveVm { vm, .. } => {
                OpSubject::Vm(*vm)
            }
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum OpSubject {
    Image(ImageId),
    Vm(VmId),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnsureImage {
    pub image: ImageId,
    pub content: ImageContent,
    /// Nodes to fetch from, best first.
    pub sources: Vec<NodeId>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnsureVm {
    pub vm: VmId,
    pub epoch: Epoch,
    pub generation: u64,
    pub name: Name,
    pub resources: Resources,
    pub disk: RootDisk,
    pub seed: Seed,
    pub mac: [u8; 6],
    pub reboots: u64,
}

/// The overlay that a VM writes to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootDisk {
    pub image: ImageId,
    pub format: ImageFormat,
    pub digest: Digest,
    /// Size that the guest sees; never below the image's.
    pub size_bytes: u64,
}

/// The cloud-init NoCloud seed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seed {
    /// Changes when the guest is to run its first-boot steps again.
    pub instance_id: String,
    pub hostname: Name,
    pub ssh_keys: Vec<String>,
    pub user_data: Vec<u8>,
}
