//! Why a VM is where it is, or nowhere: one line a node.

use serde::{Deserialize, Serialize};

use crate::{Name, NodeId, VmId};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    pub vm: VmId,
    /// One sentence: placed where and since when, or what it waits for.
    pub summary: String,
    pub nodes: Vec<NodeVerdict>,
    /// The cheapest thing that an operator can do about it, as a sentence with the command in it.
    pub remedy: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeVerdict {
    pub node: NodeId,
    pub name: Name,
    /// The first check that failed; none: the node is feasible.
    pub obstacle: Option<Obstacle>,
}

/// A check that a node did not pass, with its numbers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Obstacle {
    #[error("is down")]
    Down,
    #[error("is cordoned")]
    Cordoned,
    #[error("is draining")]
    Draining,
    #[error("runs no VMs: {reason}")]
    NoCompute { reason: String },
    #[error("is in zone {has}, the VM asks for {wants}")]
    Zone { wants: Name, has: Name },
    #[error("holds {vm} of the same anti-affinity group {group}")]
    AntiAffinity { group: Name, vm: Name },
    #[error("has {free} vCPUs free of {total}, {needs} needed")]
    Vcpus { needs: u64, free: u64, total: u64 },
    #[error("has {free} MiB of memory free of {total}, {needs} needed")]
    Memory { needs: u64, free: u64, total: u64 },
    #[error("has {free} MiB of disk free of {total}, {needs} needed")]
    Disk { needs: u64, free: u64, total: u64 },
}
