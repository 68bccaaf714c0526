//! Joining a city: `scpctl join ADDRESS TOKEN`.
//!
//! ```text
//! joining server                                        any node of the city
//!   TLS, the token's fingerprint must be the city's  ▶  (a stranger: the join lane and nothing else)
//!   Examine{protocol, addresses, name}               ▶  protocol, clock, address checked
//!                                                    ◀  Examined{clock, the address we came from}
//!   padded datagrams                                ◀▶  echoed: loss, MTU
//!   JoinRequest{token id, secret, profile, clock}    ▶  Service::join: AdmitNode is proposed, applied
//!                                                    ◀  JoinReply{certificate, members} or JoinRefusal
//! ```
//!
//! # Guarantees
//! - The secret leaves the joining server only towards a city that proved the token's fingerprint.
//! - Until the city's state has admitted the node, nothing has changed on either side. What can go wrong
//!   is looked for before the token is used up.
//! - After a lost answer the same node repeats the same token and gets its answer: the state admits the
//!   same node again, and no other.

mod client;
mod error;
mod network;
pub(crate) mod server;

use std::net::SocketAddr;

use scp_model::{CityId, JoinTokenId, Name, NodeId, PublicKey, Timestamp, node::NodeProfile};
use serde::{Deserialize, Serialize};

pub(crate) use self::client::stranger_config;
pub use self::{
    client::{JoinConfig, Joined, join},
    error::{JoinError, JoinRefusal},
};

/// The most that the clocks of a joining server and the city may differ, in milliseconds.
pub const CLOCK_SKEW_MS_MAX: u64 = 5_000;

/// Someone who is no member; what the handshake proved of them. Can be passed on to the leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stranger {
    /// The stranger has its private half.
    pub public_key: PublicKey,
    pub address: SocketAddr,
}

impl Stranger {
    /// The id that it will have as a member.
    pub fn node(&self) -> NodeId {
        crate::certificate::node_id(&self.public_key)
    }
}

/// Asks to become a member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinRequest {
    pub token: JoinTokenId,
    pub secret: [u8; 16],
    pub profile: NodeProfile,
    /// The joining server's clock when it sent this.
    pub clock: Timestamp,
}

/// A member that the new node can talk to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    pub node: NodeId,
    pub address: SocketAddr,
    pub public_key: PublicKey,
    pub is_voter: bool,
}

/// The new member's papers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinReply {
    pub city: CityId,
    pub city_name: Name,
    /// PEM of the authority's certificate.
    pub authority: String,
    /// PEM of the node's certificate.
    pub certificate: String,
    pub peers: Vec<Peer>,
    pub leader: Option<NodeId>,
    /// Raft index at which the node was admitted.
    pub admitted_at: u64,
}

#[cfg(test)]
mod tests;
