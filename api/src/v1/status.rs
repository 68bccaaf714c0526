//! The city in one answer.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{NodePhase, NodeRole, Overcommit, Resources, Time};

/// How well a city is, in the order of gravity. The sentence begins with the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// `Healthy.` Everything is as it should be.
    Healthy,
    /// `Works, with 1 warning.` Something needs a look that does not hinder anybody yet.
    Warned,
    /// `Running, NOT highly available.` Works, and stops when a server does: fewer than three voters.
    NotHighlyAvailable,
    /// `Degraded:` A node is down, or VMs wait or have crashed.
    Degraded,
    /// `Unavailable:` Cannot agree. What runs goes on, nothing can be changed.
    Unavailable,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Status {
    /// `Healthy. Survives any 1 node. 3 nodes, 3 voters.` For people; programs match on `health`.
    pub sentence: String,
    pub health: Health,
    pub city: String,
    pub country: String,
    /// Node that gave this answer.
    pub answered_by: String,
    pub software: String,
    pub leader: Option<String>,
    pub term: u64,
    pub applied_index: u64,
    pub voters: u64,
    /// Nodes that may be lost, whichever they are, before the city cannot agree any more.
    pub survives: u64,
    pub nodes_total: u64,
    pub nodes_up: u64,
    /// Empty for who may not see nodes.
    pub nodes: Vec<NodeBrief>,
    /// Most important first.
    pub warnings: Vec<Warning>,
    /// Totals; zero for who may not see nodes.
    pub vms: VmCounts,
    pub offered: Resources,
    pub allocated: Resources,
    /// How much more than there is `offered` promises; absent for who may not see nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overcommit: Option<Overcommit>,
    /// Time of the last change.
    pub time: Time,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NodeBrief {
    pub id: String,
    pub name: String,
    pub zone: String,
    pub phase: NodePhase,
    pub role: NodeRole,
    pub vms: u64,
    pub offered: Resources,
    pub allocated: Resources,
    pub api_address: String,
}

/// Something that needs a look.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Warning {
    /// `node_down`, `image_under_replicated`, …
    pub code: String,
    pub message: String,
    /// What to do about it.
    pub remedy: Option<String>,
}

/// VMs by phase, over the whole city.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VmCounts {
    pub pending: u64,
    pub bound: u64,
    pub starting: u64,
    pub running: u64,
    pub stopping: u64,
    pub stopped: u64,
    pub crashed: u64,
    pub deleting: u64,
}
