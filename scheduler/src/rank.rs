//! Which of two feasible nodes is better. The order of the fields **is** the policy; the smallest wins.

use scp_model::{
    NodeId, Resources,
    image::{Image, ReplicaStatus},
};

use crate::board::Slot;

/// How well a node suits a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rank {
    /// VMs of its anti-affinity group in the node's zone: a group is spread over what dies together,
    /// not only over nodes. 0 for a VM without a group.
    pub zone_mates: usize,
    /// Eighths of the node's memory that would be promised. Spreading comes before the image, but
    /// coarsely: otherwise either every VM would start where its image happens to be until those nodes
    /// are full, or one MiB more free memory would be worth fetching gigabytes.
    pub memory_taken_eighths: u64,
    /// What the start waits for.
    pub image: ImageDistance,
    /// The same as above, exactly: parts in a million.
    pub memory_taken_ppm: u64,
    /// Parts in a million of the vCPUs that would be promised.
    pub vcpus_taken_ppm: u64,
    /// Makes the order total, so that every leader decides alike.
    pub node: NodeId,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ImageDistance {
    Held,
    /// On its way.
    Assigned,
    Elsewhere,
}

impl ImageDistance {
    pub(crate) fn of(image: Option<&Image>, node: NodeId) -> Self {
        image.and_then(|image| image.replicas.get(&node)).map_or(Self::Elsewhere, Self::from)
    }
}

impl From<&ReplicaStatus> for ImageDistance {
    fn from(status: &ReplicaStatus) -> Self {
        match status {
            ReplicaStatus::Held => Self::Held,
            ReplicaStatus::Assigned => Self::Assigned,
            ReplicaStatus::Failed { .. } => Self::Elsewhere,
        }
    }
}

impl Rank {
    pub(crate) fn new(zone_mates: usize, image: ImageDistance, slot: &Slot<'_>, needs: Resources) -> Self {
        let after = slot.free.minus(needs);
        let memory_taken_ppm = taken_ppm(after.memory_mib, slot.offered.memory_mib);
        Self {
            zone_mates,
            memory_taken_eighths: memory_taken_ppm / 125_000,
            image,
            memory_taken_ppm,
            vcpus_taken_ppm: taken_ppm(after.vcpus, slot.offered.vcpus),
            node: slot.node.id,
        }
    }

    /// No node of its zone with as much memory in all, no more of it free, and the image no nearer, has a
    /// rank that begins smaller.
    pub(crate) fn bound(self) -> (usize, u64, ImageDistance, u64) {
        (self.zone_mates, self.memory_taken_eighths, self.image, self.memory_taken_ppm)
    }
}

/// Shares are counted in parts of this many.
pub(crate) const PARTS: u64 = 1_000_000;

fn taken_ppm(free: u64, offered: u64) -> u64 {
    let (taken, offered) = (offered.saturating_sub(free), offered.max(1));
    match taken.checked_mul(PARTS) {
        Some(parts) => parts / offered,
        None => u64::try_from(u128::from(taken) * u128::from(PARTS) / u128::from(offered))
            .expect("a share of the whole is at most a million"),
    }
}
