//! Nodes and the tokens they join with.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{Consistency, Overcommit, Resources, Time};

/// How long a join token is good for when nothing else is asked.
pub const JOIN_TOKEN_LIFETIME_S_DEFAULT: u64 = 3600;
/// The longest a join token may be good for.
pub const JOIN_TOKEN_LIFETIME_S_MAX: u64 = 7 * 24 * 3600;

/// One word for a node's condition, the gravest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum NodePhase {
    Down,
    Draining,
    Cordoned,
    Up,
}

/// How a node runs VMs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ComputeKind {
    /// Hardware virtualisation.
    Kvm,
    /// Emulation.
    Tcg,
    /// Not at all, though it should.
    None,
    /// Not at all: switched off by its configuration.
    Off,
}

/// A node's part in agreement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum NodeRole {
    Leader,
    Voter,
    Learner,
    /// Follows the log without being known to the group (yet).
    Subscriber,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Node {
    pub id: String,
    pub name: String,
    pub zone: String,
    pub country: String,
    pub phase: NodePhase,
    pub role: NodeRole,
    pub schedulable: bool,
    pub draining: bool,
    /// Why it was declared down; absent while it is up.
    pub down: Option<NodeDown>,
    pub mesh_address: String,
    pub api_address: String,
    pub software: String,
    pub protocol: u32,
    pub compute: ComputeKind,
    /// Why it runs no VMs.
    pub compute_reason: Option<String>,
    /// What the server has.
    pub capacity: Resources,
    /// Kept for the server and the platform.
    pub reserved: Resources,
    /// How much more than it has is promised; the same on every node.
    pub overcommit: Overcommit,
    /// What may be promised in all, after reserve and overcommit.
    pub offered: Resources,
    pub allocated: Resources,
    pub free: Resources,
    /// Number of VMs placed here.
    pub vms: u64,
    /// Instances that carry our mark but that nobody asked for. Never deleted by the platform.
    pub orphans: Vec<Orphan>,
    pub public_key: String,
    pub joined_at: Time,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NodeDown {
    pub since: Time,
    /// How long the leader had not heard of it.
    pub leader_silence_ms: u64,
    pub observers: Vec<Observer>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Observer {
    pub node: String,
    /// How long it had not heard of the node; absent: it did not answer itself.
    pub silence_ms: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Orphan {
    pub name: String,
    pub detail: String,
}

/// How to remove a node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct NodeRemoveQuery {
    /// The node is down and will not come back: what was placed on it is placed elsewhere.
    #[serde(default)]
    pub force: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(inline)]
    pub consistency: Option<Consistency>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct JoinToken {
    pub id: String,
    pub expires_at: Time,
    /// The node that joined with it.
    pub used_by: Option<String>,
    pub used_at: Option<Time>,
    pub created_at: Time,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct JoinTokenCreate {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Seconds that it is to be good for, at most 7 days; one hour when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lifetime_s: Option<u64>,
}

/// Told once: the secret inside is kept nowhere.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct JoinTokenCreated {
    pub id: String,
    pub token: String,
    /// `host:port` to give to `scpctl join` with it.
    pub join_address: String,
    pub expires_at: Time,
}

impl std::fmt::Debug for JoinTokenCreated {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JoinTokenCreated").field("id", &self.id).finish_non_exhaustive()
    }
}
