//! The joining server's side.

use std::{net::SocketAddr, sync::Arc};

use scp_model::node::NodeProfile;

use super::{JoinError, JoinReply};
use crate::{
    clock::Clock,
    identity::{Identity, NodeKey},
    token::JoinToken,
};

/// What a join needs.
#[derive(Clone)]
pub struct JoinConfig {
    /// Mesh address of any node of the city.
    pub address: SocketAddr,
    pub token: JoinToken,
    pub key: NodeKey,
    pub profile: NodeProfile,
    pub clock: Arc<dyn Clock>,
}

/// What came of it. The caller stores the identity, then starts its mesh.
#[derive(Debug)]
pub struct Joined {
    pub identity: Identity,
    pub reply: JoinReply,
    /// What the network check noticed and that did not stand in the way.
    pub warnings: Vec<String>,
}

/// Joins the city at the address. Stores nothing.
pub async fn join(_config: JoinConfig) -> Result<Joined, JoinError> {
    unimplemented!()
}
