//! The seam between the city's parts and the network: two traits and the errors between them.
//!
//! [`Transport`] is what a node says to others, [`Service`] what it answers. Production: [`crate::Mesh`]
//! (QUIC, mutual TLS). Tests and simulation: [`crate::memory`]. Both pass [`crate::suite`].
//!
//! # Guarantees
//! - A request is answered, refused or fails within its timeout; it is delivered at most once.
//! - A message of a one-way lane is delivered at most once, or lost. Sending never waits.
//! - What one peer does or fails to do delays nobody else's calls.
//! - `from` is proven: it follows from the key of the peer's certificate.

use std::{pin::Pin, task, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::BoxFuture;
use scp_model::NodeId;
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::mpsc,
};

use crate::{
    join::{JoinRefusal, JoinReply, JoinRequest, Stranger},
    lane::Lane,
};

/// What a node can say to others.
// async_trait's expansion carries the lint to the trait.
#[allow(clippy::too_many_arguments)]
#[async_trait]
pub trait Transport: Send + Sync + 'static {
    /// Who we are.
    fn node(&self) -> NodeId;

    /// Asks `peer` and waits for its answer, at most `timeout`, connecting included.
    // Four arguments, each of a type of its own: a struct would only be taken apart again.
    #[allow(clippy::too_many_arguments)]
    async fn request(
        &self,
        peer: NodeId,
        lane: Lane,
        request: Bytes,
        timeout: Duration,
    ) -> Result<Bytes, MeshError>;

    /// Opens bytes both ways on the bulk lane. `opening` says what for; the peer's [`Service::stream`]
    /// accepts or refuses it before this returns.
    async fn open(&self, peer: NodeId, opening: Bytes, timeout: Duration) -> Result<Duplex, MeshError>;

    /// Sends a one-way message (lanes gossip and probe), best effort and without waiting for it. Where there
    /// is no connection one is begun, and the message goes out when it is there soon.
    fn send(&self, peer: NodeId, lane: Lane, message: Bytes) -> Result<(), MeshError>;

    /// Where one-way messages of the lane arrive. There is one reader a lane: asking again ends the
    /// earlier receiver.
    fn inbox(&self, lane: Lane) -> mpsc::Receiver<(NodeId, Bytes)>;
}

/// What a node answers to others.
///
/// # Assumptions
/// - Every future may be dropped at any await: a second after the caller's deadline, when the connection
///   or the mesh ends. What must go on regardless belongs into a task of its own.
#[async_trait]
pub trait Service: Send + Sync + 'static {
    /// A request of a member.
    async fn answer(&self, from: NodeId, lane: Lane, request: Bytes) -> Result<Bytes, Refusal>;

    /// A member opens a byte stream: refuse it, or give back what serves it.
    async fn stream(&self, from: NodeId, opening: Bytes) -> Result<StreamHandler, Refusal>;

    /// A user's program connected. Nothing is proven of it but that it holds the key it showed: what it may
    /// is told by what it says first, and is judged by who serves it. The connection ends with this.
    async fn client(&self, duplex: Duplex) {
        drop(duplex);
    }

    /// A stranger with a token wants to become a member. Clock, protocol and address were checked.
    async fn join(&self, from: Stranger, request: JoinRequest) -> Result<JoinReply, JoinRefusal>;
}

/// Serves an accepted byte stream until it is done.
pub type StreamHandler = Box<dyn FnOnce(Duplex) -> BoxFuture<'static, ()> + Send>;

/// Bytes both ways. `shutdown` ends our direction; dropping it ends both.
pub struct Duplex {
    pub reader: Box<dyn AsyncRead + Send + Unpin>,
    pub writer: Box<dyn AsyncWrite + Send + Unpin>,
}

impl AsyncRead for Duplex {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut task::Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> task::Poll<std::io::Result<()>> {
        Pin::new(&mut self.reader).poll_read(cx, buf)
    }
}

impl AsyncWrite for Duplex {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut task::Context<'_>,
        buf: &[u8],
    ) -> task::Poll<std::io::Result<usize>> {
        Pin::new(&mut self.writer).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> task::Poll<std::io::Result<()>> {
        Pin::new(&mut self.writer).poll_flush(cx)
    }

    fn poll_shutdown(
        mut self: Pin<&mut Self>,
        cx: &mut task::Context<'_>,
    ) -> task::Poll<std::io::Result<()>> {
        Pin::new(&mut self.writer).poll_shutdown(cx)
    }
}

impl std::fmt::Debug for Duplex {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Duplex")
    }
}

/// The peer heard us and says no.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{why}")]
pub struct Refusal {
    pub kind: RefusalKind,
    pub why: String,
}

impl Refusal {
    pub fn new(kind: RefusalKind, why: impl Into<String>) -> Self {
        Self { kind, why: why.into() }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum RefusalKind {
    /// Too much under way; the same request may succeed in a moment.
    Busy,
    /// Not at this node, or not now (it is not the leader, for one); another may answer.
    NotHere,
    /// What the request is about does not exist.
    NotFound,
    /// The request makes no sense to this node; repeating it is of no use.
    Invalid,
    /// The caller may not use this lane.
    Forbidden,
    /// The node tried and failed.
    Failed,
}

/// Why a peer gave no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MeshError {
    /// No connection, and why not. Nothing was sent.
    #[error("{peer} cannot be reached: {why}")]
    Unreachable { peer: NodeId, why: String },
    /// The request may have been carried out.
    #[error("{peer} did not answer within {timeout_ms} ms")]
    Timeout { peer: NodeId, timeout_ms: u64 },
    /// The connection broke while the request was under way: it may have been carried out.
    #[error("the connection to {peer} broke: {why}")]
    Broken { peer: NodeId, why: String },
    #[error("{peer} refuses: {refusal}")]
    Refused {
        peer: NodeId,
        #[source]
        refusal: Refusal,
    },
    /// Nothing was sent.
    #[error("{length} bytes exceed the {limit} that one {lane:?} message may have")]
    TooLarge { lane: Lane, length: usize, limit: usize },
    /// One of the two certificates has expired: only the renew lane is open until it is renewed.
    #[error("the certificate between this node and {peer} has expired: it must be renewed first")]
    CertificateExpired { peer: NodeId },
    /// This node or the peer is no member of the city (any more).
    #[error("{peer} and this node are not members of one city: {why}")]
    NotAMember { peer: NodeId, why: String },
    /// As many requests as allowed are under way to this peer. Nothing was sent.
    #[error("too many requests to {peer} are under way")]
    Busy { peer: NodeId },
    /// Our own mesh was shut down.
    #[error("the mesh is shut down")]
    ShutDown,
}

impl MeshError {
    /// Whether the request certainly was not carried out, so that even one without an id may be sent
    /// elsewhere.
    pub fn is_before_delivery(&self) -> bool {
        match self {
            Self::Unreachable { .. }
            | Self::TooLarge { .. }
            | Self::CertificateExpired { .. }
            | Self::NotAMember { .. }
            | Self::Busy { .. }
            | Self::ShutDown => true,
            Self::Refused { refusal, .. } => match refusal.kind {
                RefusalKind::Busy
                | RefusalKind::NotHere
                | RefusalKind::NotFound
                | RefusalKind::Invalid
                | RefusalKind::Forbidden => true,
                RefusalKind::Failed => false,
            },
            Self::Timeout { .. } | Self::Broken { .. } => false,
        }
    }
}
