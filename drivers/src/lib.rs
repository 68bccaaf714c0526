//! The hands: each driver carries out [`Op`]s on a real engine and answers with [`Fact`]s.
//!
//! A driver receives a complete order and chooses nothing. It never reads the state.
//!
//! ```text
//!                         ┌▶ Images      chunks, manifests, base files; fetches over ChunkSource
//! Op ──▶ Drivers (router) ┤
//!                         └▶ Hypervisor  one of: libvirt::Libvirt    real guests
//! Fact ◀──────────────────                       hypervisor::Absent  no VMs here, and why
//!                                                fake::Fake          tests and simulation only
//! ```
//!
//! Who does what:
//! - [`images`]: takes images in, keeps them checked, fetches them from peers, serves chunks.
//! - [`probe`]: finds out which accelerator really works and what the server has.
//! - [`domain_xml`], [`seed`]: pure builders of what a guest is started from.
//! - [`libvirt`]: carries VM ops out; [`console`]: serial consoles and their logs.
//! - `suite`: the contract that every [`Hypervisor`] passes, fake and real alike.

pub mod console;
pub mod domain_xml;
#[cfg(feature = "fake")]
pub mod fake;
#[cfg(test)]
mod golden;
pub mod hypervisor;
pub mod images;
#[cfg(feature = "libvirt")]
pub mod libvirt;
pub mod probe;
pub mod record;
pub mod router;
pub mod seed;
#[cfg(feature = "fake")]
pub mod suite;

use std::sync::Arc;

use async_trait::async_trait;
use scp_model::{Fact, NodeId, Op, Timestamp};
use tokio::sync::mpsc;

pub use hypervisor::{Hypervisor, HypervisorConfig, VmStats};
pub use images::Images;
pub use router::Drivers;

/// The clock port: what time it is, for what is written down beside an instance.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// A driver: an engine that ops are carried out on.
///
/// # Guarantees
/// - Idempotent: carrying an op out twice is the same as once; a crash between two steps is mended by
///   carrying it out again.
/// - An op with an epoch lower than that of what is there is refused with [`DriverError::Fenced`].
/// - Facts are read back from the engine, never from memory.
#[async_trait]
pub trait Driver: Send + Sync + 'static {
    /// Carries one op out. Ops on one subject come one after the other, on others side by side.
    async fn carry_out(&self, op: &Op) -> Result<Vec<Fact>, DriverError>;

    /// Everything that is here now.
    async fn observe(&self) -> Result<Vec<Fact>, DriverError>;

    /// Taken once: facts that the engine tells of itself (a guest crashed). A hint to observe: losing
    /// one loses time, nothing else.
    fn events(&self) -> Option<mpsc::Receiver<Fact>>;
}

/// Why an op was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DriverError {
    /// The world may be better later: try again with backoff.
    #[error("{doing}: {why}")]
    Retryable { doing: String, why: String },
    /// The node's disk is full: it is tried again like any other, and whoever uploads is told at once.
    #[error("{doing}: {why}")]
    DiskFull { doing: String, why: String },
    /// It will not be better by itself: what a person has to do is in `why`.
    #[error("{doing}: {why}")]
    Terminal { doing: String, why: String },
    /// Something with a higher epoch is here.
    #[error("{doing}: fenced, epoch {granted} is here and the order has {got}")]
    Fenced { doing: String, got: u64, granted: u64 },
}

impl DriverError {
    pub fn retryable(doing: impl Into<String>, why: impl ToString) -> Self {
        Self::Retryable { doing: doing.into(), why: why.to_string() }
    }

    pub fn terminal(doing: impl Into<String>, why: impl ToString) -> Self {
        Self::Terminal { doing: doing.into(), why: why.to_string() }
    }
}

/// Where image chunks come from: the other nodes, over the mesh.
#[async_trait]
pub trait ChunkSource: Send + Sync + 'static {
    /// The content with that digest from that node, at most `bytes_max` long; unverified.
    async fn fetch(
        &self,
        from: NodeId,
        digest: scp_model::Digest,
        bytes_max: u64,
    ) -> Result<bytes::Bytes, DriverError>;
}
