//! Virtual machines.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{Consistency, Reference, Resources, Time};

/// The end of the console log that is given when nothing else is asked.
pub const CONSOLE_LOG_BYTES_DEFAULT: u64 = 64 << 10;
/// The most that is given of it.
pub const CONSOLE_LOG_BYTES_MAX: u64 = 1 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum VmPhase {
    /// Waits for a node.
    Pending,
    /// Has a node.
    Bound,
    Starting,
    Running,
    Stopping,
    Stopped,
    Crashed,
    Deleting,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Power {
    #[default]
    Running,
    Stopped,
}

/// What happens when the guest ends without having been asked to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RestartPolicy {
    /// Started again however it ended.
    Always,
    /// Started again after a crash; a shutdown from inside is respected.
    #[default]
    OnFailure,
    /// Left as it is.
    Never,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Vm {
    pub id: String,
    pub name: String,
    pub project: Reference,
    pub phase: VmPhase,
    /// When the phase began.
    pub since: Time,
    /// What stands in the way, for people.
    pub message: Option<String>,
    /// Crashes and failed starts since it last ran for a while.
    pub failures: u32,
    /// What was asked for.
    pub power: Power,
    /// Where it is placed.
    pub node: Option<Reference>,
    /// The grant of the placement: raised whenever it is placed anew.
    pub epoch: Option<u64>,
    pub placed_at: Option<Time>,
    /// Name of the flavor at creation.
    pub flavor: String,
    pub resources: Resources,
    pub image: Reference,
    pub ssh_keys: Vec<String>,
    pub user_data_bytes: u64,
    /// Hardware address of its network card.
    pub mac: String,
    pub zone: Option<String>,
    pub anti_affinity: Option<String>,
    pub restart: RestartPolicy,
    pub reboots: u64,
    /// Raised by every change of what was asked for.
    pub generation: u64,
    /// Generation that the node had carried out when it last reported.
    pub observed_generation: u64,
    pub created_at: Time,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VmCreate {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    pub name: String,
    /// Id, name or department/name; the user's only project when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<String>,
    /// Id or name.
    pub flavor: String,
    /// Id or name.
    pub image: String,
    /// Ids or names; at most 20.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keypairs: Vec<String>,
    /// cloud-init user data in base64, at most 64 KiB before encoding.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_data_base64: Option<String>,
    /// Only in this zone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// No two VMs of one project and group share a node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub anti_affinity: Option<String>,
    #[serde(default)]
    pub restart: RestartPolicy,
    #[serde(default)]
    pub power: Power,
}

/// Why a VM is where it is, or nowhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Explanation {
    pub vm: String,
    pub summary: String,
    pub nodes: Vec<NodeVerdict>,
    /// The cheapest thing that an operator can do about it.
    pub remedy: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NodeVerdict {
    pub node: Reference,
    pub feasible: bool,
    /// The first check that failed: `down`, `cordoned`, `draining`, `no_compute`, `zone`,
    /// `anti_affinity`, `vcpus`, `memory` or `disk`.
    pub obstacle: Option<String>,
    /// The same as a clause, with its numbers.
    pub why: Option<String>,
}

/// A VM's usage, from its hypervisor.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VmStats {
    pub cpu_time_ms: u64,
    pub memory_rss_kib: u64,
    pub disk_read_bytes: u64,
    pub disk_write_bytes: u64,
    pub net_rx_bytes: u64,
    pub net_tx_bytes: u64,
}

/// How much of a console log.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ConsoleLogQuery {
    /// At most this many bytes from its end, up to 1 MiB; 64 KiB when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(inline)]
    pub consistency: Option<Consistency>,
}
