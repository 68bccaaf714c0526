//! Images: disks that VMs start from.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{Reference, Time};

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Visibility {
    /// Seen by its project.
    #[default]
    Private,
    /// Seen by every project of the city.
    Public,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ImageFormat {
    Raw,
    Qcow2,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ReplicaState {
    /// Being fetched.
    Assigned,
    /// Whole and checked.
    Held,
    Failed,
}

/// One node's copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Replica {
    pub node: Reference,
    pub state: ReplicaState,
    /// Why it failed, and when.
    pub message: Option<String>,
    pub at: Option<Time>,
}

/// How far replication is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ImagePhase {
    /// Usable; on fewer nodes than it should be.
    Replicating,
    /// On as many nodes as it should be.
    Ready,
    /// No node has it whole.
    Unavailable,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Image {
    pub id: String,
    pub name: String,
    pub project: Reference,
    pub visibility: Visibility,
    pub format: ImageFormat,
    /// Bytes of the file.
    pub size_bytes: u64,
    /// Bytes of the disk that a guest sees.
    pub virtual_size_bytes: u64,
    /// SHA-256 of the file, in hex.
    pub digest: String,
    pub phase: ImagePhase,
    /// How many nodes have it whole.
    pub replicas_held: u64,
    /// How many should have it.
    pub replicas_wanted: u64,
    pub replicas: Vec<Replica>,
    pub created_at: Time,
}

/// What goes with the bytes of `PUT /v1/images/{id}`, in the query.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ImageUpload {
    pub name: String,
    /// Id, name or department/name; the user's only project when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<String>,
    /// `private` (default) or `public`.
    #[serde(default)]
    #[param(inline)]
    pub visibility: Visibility,
}
