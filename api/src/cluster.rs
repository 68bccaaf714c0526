//! The API's door into a node. Production: the node's handle; simulation: a workload's target.

use std::{pin::Pin, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{Stream, future::join_all};
use scp_model::{
    Answer, ImageId, JoinTokenId, NodeId, Proposal, Timestamp, VmId, explain::Explanation,
    image::ImageContent,
};
use scp_state::State;
use tokio::sync::watch;

/// How fresh a read must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Consistency {
    /// Reflects every write acknowledged before the read began, by any node.
    Linearizable,
    /// What this node has, without asking anyone.
    Stale,
}

/// A consistent view of the state.
#[derive(Debug, Clone)]
pub struct Snapshot {
    pub state: Arc<State>,
    /// How long ago this node last knew itself up to date, in milliseconds; 0 for linearizable reads.
    pub age_ms: u64,
}

/// Agreement as this node sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agreement {
    pub leader: Option<NodeId>,
    pub term: u64,
    pub applied: u64,
    pub voters: Vec<NodeId>,
    pub learners: Vec<NodeId>,
}

/// A VM's usage, from its hypervisor.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct VmStats {
    pub cpu_time_ms: u64,
    pub memory_rss_kib: u64,
    pub disk_read_bytes: u64,
    pub disk_write_bytes: u64,
    pub net_rx_bytes: u64,
    pub net_tx_bytes: u64,
}

/// Why the cluster could not answer. The API turns it into problem details.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// No leader, or no answer in time. The write may or may not have happened: repeat it with the
    /// same request id.
    #[error("the city cannot agree at the moment: {why}")]
    NoQuorum { why: String },
    /// The local disk is full or failing; reads go on.
    #[error("this node is read-only: {why}")]
    ReadOnly { why: String },
    /// There is no room for what was sent; nothing of it is kept.
    #[error("{why}")]
    DiskFull { why: String },
    #[error("{node} cannot be reached: {why}")]
    NodeUnreachable { node: NodeId, why: String },
    #[error("too many requests are under way")]
    Overloaded,
    /// The bytes are not what they should be (an image that lies).
    #[error("{why}")]
    BadContent { code: &'static str, why: String },
    #[error("{why}")]
    NotFound { why: String },
    #[error("{why}")]
    Internal { why: String },
}

/// Bytes that arrive.
pub type ByteStream = Pin<Box<dyn Stream<Item = std::io::Result<Bytes>> + Send>>;

/// A serial console: bytes both ways.
pub trait Duplex: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin {}
impl<T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin> Duplex for T {}

#[async_trait]
pub trait Cluster: Send + Sync + 'static {
    fn node(&self) -> NodeId;
    fn now(&self) -> Timestamp;
    /// Has it committed and applied, wherever the leader is; retried by request id within its deadline.
    async fn propose(&self, proposal: Proposal) -> Result<Answer, ClusterError>;
    /// The same for many at once, each answered by its place. Nothing is promised about all of them
    /// together.
    async fn propose_many(&self, proposals: Vec<Proposal>) -> Vec<Result<Answer, ClusterError>> {
        join_all(proposals.into_iter().map(|proposal| self.propose(proposal))).await
    }
    async fn read(&self, consistency: Consistency) -> Result<Snapshot, ClusterError>;
    /// Changes whenever something was applied here; holds the applied index.
    fn applied(&self) -> watch::Receiver<u64>;
    fn agreement(&self) -> Agreement;
    /// Who leads, as far as this node knows.
    fn leader(&self) -> Option<NodeId> {
        self.agreement().leader
    }
    /// An ed25519 signature with this node's identity key.
    fn sign(&self, message: &[u8]) -> [u8; 64];
    async fn explain(&self, vm: VmId) -> Result<Explanation, ClusterError>;
    /// Takes an image's bytes in on this node: checked, chunked, on disk.
    async fn take_image(&self, image: ImageId, body: ByteStream) -> Result<ImageContent, ClusterError>;
    /// Opens the serial console of a VM, wherever it runs.
    async fn console(&self, vm: VmId) -> Result<Box<dyn Duplex>, ClusterError>;
    /// The end of the VM's console log, at most `bytes_max`; survives the guest's crash.
    async fn console_log(&self, vm: VmId, bytes_max: u64) -> Result<Bytes, ClusterError>;
    async fn vm_stats(&self, vm: VmId) -> Result<VmStats, ClusterError>;
    /// Fingerprint of the city's authority and address to join at, for join tokens.
    fn join_hint(&self) -> JoinHint;
    /// The join token as text. Its format is the mesh's, so the API does not make it itself; the state
    /// holds the SHA-256 of the 16 bytes.
    fn join_token_text(&self, id: JoinTokenId, secret: &[u8; 16]) -> String;
}

/// What a join token carries beside its secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinHint {
    /// SHA-256 of the authority's certificate (DER).
    pub ca_fingerprint: [u8; 32],
    pub mesh_address: std::net::SocketAddr,
}
