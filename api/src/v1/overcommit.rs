//! How much more than it has the city promises to VMs.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// In percent of what a node has after its reserve: 100 promises what is there and no more. From 100 to
/// 3200. One setting for all nodes of the city.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Overcommit {
    pub vcpus_percent: u32,
    /// A guest that is short of real memory is killed: leave it at 100 unless the nodes have swap for it.
    pub memory_percent: u32,
    /// A root disk takes its space as the guest writes it; a full disk of the node stops all its guests.
    pub disk_percent: u32,
}
