//! Raft's network: the mesh's raft lane.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use scp_mesh::{Lane, Transport};
use scp_model::NodeId;
use scp_raft::Unreachable;

/// Carries Raft's requests over the mesh.
pub struct RaftNetwork(pub Arc<dyn Transport>);

#[async_trait]
impl scp_raft::Network for RaftNetwork {
    async fn call(&self, peer: NodeId, request: Bytes, timeout: Duration) -> Result<Bytes, Unreachable> {
        let answer = self.0.request(peer, Lane::Raft, request, timeout).await;
        answer.map_err(|error| Unreachable { peer, reason: error.to_string() })
    }
}
