//! What root on a server asks its own node over the unix socket: begin a city, join one, leave it.
//! The same socket also serves `/v1`, as the city's administrator.
//!
//! ```text
//! GET  /local/status   LocalStatus
//! POST /local/init     LocalInit  -> LocalInitialised
//! POST /local/join     LocalJoin  -> LocalJoined
//! POST /local/leave    {}         -> {}
//! ```

use serde::{Deserialize, Serialize};

/// Where `scpd` listens for its server's root, unless configured otherwise.
pub const SOCKET_PATH: &str = "/run/scp/scpd.sock";

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LocalInit {
    pub city: String,
    /// ISO 3166-1 alpha-2.
    pub country: String,
    /// The first node's name; the server's hostname when absent.
    pub node_name: Option<String>,
    /// Failure domain; `default` when absent.
    pub zone: Option<String>,
    /// Password of the user `admin`; made and told when absent.
    pub admin_password: Option<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LocalInitialised {
    pub city: String,
    pub node: String,
    pub node_name: String,
    pub admin_user: String,
    /// Told once, only when it was made here.
    pub admin_password: Option<String>,
    /// PEM of the city's authority: clients trust it.
    pub ca_certificate: String,
    /// `host:port` of this node's HTTPS.
    pub api_address: String,
    /// A first join token, for the next server.
    pub join_token: String,
    /// `host:port` to give to `scpctl join`.
    pub join_address: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LocalJoin {
    /// Mesh address, `host:port`, of any node of the city.
    pub address: String,
    pub token: String,
    pub node_name: Option<String>,
    pub zone: Option<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LocalJoined {
    pub city: String,
    pub node: String,
    pub node_name: String,
    pub ca_certificate: String,
    pub api_address: String,
    /// What the network check noticed and that did not stand in the way.
    pub warnings: Vec<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LocalStatus {
    /// Absent until `init` or `join`.
    pub city: Option<String>,
    pub node: String,
    pub node_name: Option<String>,
    pub software: String,
    pub api_address: String,
}
