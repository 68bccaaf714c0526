//! The port to the other nodes: one question, one answer.
//!
//! # Contract
//! - A call to one peer never waits for a call to another, however slow or partitioned that one is; nor
//!   for another call to the same peer: a heartbeat overtakes a large append.
//! - A call returns within `timeout`; what was sent may still arrive afterwards, late or twice.
//! - Requests are at most [`REQUEST_BYTES_MAX`] and are delivered whole or not at all, to
//!   [`Raft::answer`](crate::Raft::answer) of the peer, with the caller's authenticated id.
//! - No order is promised between calls.

pub mod suite;

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use scp_model::NodeId;

/// The largest request or answer: an append batch, or a chunk of a snapshot. A quarter of the codec's
/// limit, so that a mesh lane can bound its buffers.
pub const REQUEST_BYTES_MAX: usize = 16 << 20;

/// The peer did not answer. Whether it received the request is unknown.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("node {peer} is unreachable: {reason}")]
pub struct Unreachable {
    pub peer: NodeId,
    pub reason: String,
}

/// Carries requests to peers.
#[async_trait::async_trait]
pub trait Network: Send + Sync + 'static {
    async fn call(&self, peer: NodeId, request: Bytes, timeout: Duration) -> Result<Bytes, Unreachable>;
}

/// What answers on a node: [`Raft::answer`](crate::Raft::answer), or a test.
pub type Answerer = Arc<dyn Fn(NodeId, Bytes) -> Pin<Box<dyn Future<Output = Bytes> + Send>> + Send + Sync>;
