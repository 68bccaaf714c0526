//! Nodes: servers with our binary.
//!
//! ```text
//!            AdmitNode                MarkNodeDown(evidence)
//!  (token) ───────────▶ Up ─────────────────────────────────▶ Down
//!                       ▲                                       │
//!                       └───────────────────────────────────────┘
//!                              MarkNodeUp (heard of again)
//!  SetNodeSchedulable toggles `schedulable`; DrainNode sets it to false and moves VMs away;
//!  RemoveNode ends it; refused while anything is there, unless it is forced for a node that is down.
//! ```

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::{Country, Name, NodeId, PublicKey, Resources, Timestamp};

/// Whether and how a node runs VMs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Compute {
    /// Hardware virtualisation, proven by a probe guest.
    Kvm,
    /// Emulation; works everywhere, slowly.
    Tcg,
    /// VMs are not possible here, and why: somebody should look.
    None { reason: String },
    /// Nobody wants VMs here: the server's configuration says so.
    Off,
}

impl Compute {
    pub fn runs_vms(&self) -> bool {
        self.why_not().is_none()
    }

    /// Why there are no VMs here; `None`: there are.
    pub fn why_not(&self) -> Option<&str> {
        match self {
            Self::Kvm | Self::Tcg => None,
            Self::None { reason } => Some(reason),
            Self::Off => Some("switched off by this server's configuration"),
        }
    }
}

/// What a node says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeProfile {
    pub name: Name,
    /// Failure domain: what dies together (a rack, a room, a site).
    pub zone: Name,
    pub country: Country,
    /// QUIC endpoint of the mesh.
    pub mesh_address: SocketAddr,
    /// HTTPS endpoint.
    pub api_address: SocketAddr,
    /// Release of the software, `MAJOR.MINOR.PATCH`.
    pub software: String,
    pub protocol: u32,
    /// What the server physically has.
    pub capacity: Resources,
    /// Kept for the server itself and the platform.
    pub reserved: Resources,
    pub compute: Compute,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Liveness {
    Up,
    Down { since: Timestamp, evidence: Evidence },
}

/// Silence shorter than this is no evidence: a node that is stalled for 2 s is not dead. The state
/// refuses a `MarkNodeDown` that rests on less, whoever proposes it.
pub const SILENCE_MS_MIN: u64 = 2_000;

/// Why a node was declared dead.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// How long the leader has not heard of it, in milliseconds.
    pub leader_silence_ms: u64,
    /// The observers that were asked, and how long each has not heard of it; `None`: the observer
    /// itself did not answer and does not count.
    pub observers: Vec<(NodeId, Option<u64>)>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    pub id: NodeId,
    pub public_key: PublicKey,
    pub profile: NodeProfile,
    pub liveness: Liveness,
    /// New placements may go here.
    pub schedulable: bool,
    /// What is here is to be moved away.
    pub draining: bool,
    pub joined_at: Timestamp,
    /// Instances on the server that carry our mark but that the state does not know. Listed for a
    /// person to decide; never deleted by the platform.
    pub orphans: Vec<Orphan>,
}

impl Node {
    pub fn is_up(&self) -> bool {
        match self.liveness {
            Liveness::Up => true,
            Liveness::Down { .. } => false,
        }
    }
}

/// Something that runs on a node and that nobody asked for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Orphan {
    /// The driver's name for it.
    pub name: String,
    pub detail: String,
}
