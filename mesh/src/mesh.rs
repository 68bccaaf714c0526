//! The node's one QUIC endpoint, as the rest of the node sees it.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use scp_model::{NodeId, PublicKey};
use tokio::sync::{mpsc, watch};

use crate::{
    clock::Clock,
    identity::Identity,
    lane::Lane,
    transport::{Duplex, MeshError, Service, Transport},
};

/// The keys of the city's members, as the state has them.
pub type Members = BTreeMap<NodeId, PublicKey>;

/// Where to listen.
#[derive(Debug, Clone)]
pub struct MeshConfig {
    /// Port 0 takes a free one; see [`Mesh::local_address`].
    pub listen: SocketAddr,
}

/// What the mesh needs from the node.
#[derive(Clone)]
pub struct Ports {
    pub service: Arc<dyn Service>,
    pub clock: Arc<dyn Clock>,
    /// `None`: not known yet (before the first snapshot of the state), then every certificate of the
    /// city's authority that is valid now is a member's.
    pub members: watch::Receiver<Option<Arc<Members>>>,
}

/// The endpoint could not be started.
#[derive(Debug, thiserror::Error)]
pub enum MeshStartError {
    #[error("cannot listen on {address}: {source}")]
    Listen { address: SocketAddr, source: std::io::Error },
    #[error("TLS cannot be set up: {why}")]
    Tls { why: String },
}

/// A handle; clones are the same mesh.
#[derive(Clone)]
pub struct Mesh {}

impl Mesh {
    /// Listens, and serves members and strangers from now on.
    pub async fn start(
        _config: MeshConfig,
        _identity: Identity,
        _ports: Ports,
    ) -> Result<Self, MeshStartError> {
        unimplemented!()
    }

    pub fn local_address(&self) -> SocketAddr {
        unimplemented!()
    }

    /// Where a peer listens now; `None` forgets it. A new address is tried at once.
    pub fn set_address(&self, _peer: NodeId, _address: Option<SocketAddr>) {
        unimplemented!()
    }

    /// Takes a renewed certificate into use for new connections; those that are open stay.
    pub fn reload(&self, _identity: Identity) -> Result<(), MeshStartError> {
        unimplemented!()
    }

    /// Peers with an open connection.
    pub fn connected(&self) -> Vec<NodeId> {
        unimplemented!()
    }

    /// Says goodbye to all peers and stops. Requests under way fail.
    pub async fn shutdown(&self) {
        unimplemented!()
    }
}

#[async_trait]
impl Transport for Mesh {
    fn node(&self) -> NodeId {
        unimplemented!()
    }

    async fn request(
        &self,
        _peer: NodeId,
        _lane: Lane,
        _request: Bytes,
        _timeout: Duration,
    ) -> Result<Bytes, MeshError> {
        unimplemented!()
    }

    async fn open(&self, _peer: NodeId, _opening: Bytes, _timeout: Duration) -> Result<Duplex, MeshError> {
        unimplemented!()
    }

    fn send(&self, _peer: NodeId, _lane: Lane, _message: Bytes) -> Result<(), MeshError> {
        unimplemented!()
    }

    fn inbox(&self, _lane: Lane) -> mpsc::Receiver<(NodeId, Bytes)> {
        unimplemented!()
    }
}
