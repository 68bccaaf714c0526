//! Links in memory whose bytes are counted, and that lose some.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use scp_mesh::{
    JoinRefusal, JoinReply, JoinRequest, Lane, MeshError, Observer, Refusal, RefusalKind, Service, Stranger,
    StreamHandler, Transport, memory::MemoryTransport, transport::Duplex,
};
use scp_model::NodeId;
use tokio::sync::mpsc;

use crate::entropy::SplitMix;

/// Of a thousand one-way messages so many are lost.
const LOSS_PERMILLE: u64 = 5;

/// What passed one member's transport port.
#[derive(Debug, Default)]
pub(super) struct Tally {
    sent: AtomicU64,
    received: AtomicU64,
    is_stalled: AtomicBool,
}

pub(super) type Tallies = Arc<BTreeMap<NodeId, Arc<Tally>>>;

impl Tally {
    pub(super) fn reset(&self) {
        self.sent.store(0, Relaxed);
        self.received.store(0, Relaxed);
    }

    pub(super) fn sent(&self) -> u64 {
        self.sent.load(Relaxed)
    }

    pub(super) fn received(&self) -> u64 {
        self.received.load(Relaxed)
    }

    // Set where it begins and where it ends, by name.
    pub(super) fn stall(&self, stalled: bool) {
        self.is_stalled.store(stalled, Relaxed);
    }
}

/// One member's end.
pub(super) struct Link {
    inner: Arc<MemoryTransport>,
    tallies: Tallies,
    rng: Mutex<SplitMix>,
}

impl Link {
    pub(super) fn new(inner: Arc<MemoryTransport>, tallies: Tallies, rng: SplitMix) -> Self {
        Self { inner, tallies, rng: Mutex::new(rng) }
    }

    fn passes(&self, peer: NodeId) -> bool {
        let stalled = |node: NodeId| self.tallies[&node].is_stalled.load(Relaxed);
        !stalled(self.node()) && !stalled(peer)
    }

    fn count(&self, from: NodeId, to: NodeId, bytes: usize) {
        self.tallies[&from].sent.fetch_add(bytes as u64, Relaxed);
        self.tallies[&to].received.fetch_add(bytes as u64, Relaxed);
    }
}

// async_trait's expansion carries the lint to the trait.
#[allow(clippy::too_many_arguments)]
#[async_trait]
impl Transport for Link {
    fn node(&self) -> NodeId {
        self.inner.node()
    }

    async fn request(
        &self,
        peer: NodeId,
        lane: Lane,
        request: Bytes,
        limit: Duration,
    ) -> Result<Bytes, MeshError> {
        self.count(self.node(), peer, request.len());
        if !self.passes(peer) {
            tokio::time::sleep(limit).await;
            let timeout_ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
            return Err(MeshError::Timeout { peer, timeout_ms });
        }
        let answer = self.inner.request(peer, lane, request, limit).await?;
        self.count(peer, self.node(), answer.len());
        Ok(answer)
    }

    async fn open(&self, peer: NodeId, opening: Bytes, limit: Duration) -> Result<Duplex, MeshError> {
        self.inner.open(peer, opening, limit).await
    }

    fn send(&self, peer: NodeId, lane: Lane, message: Bytes) -> Result<(), MeshError> {
        self.count(self.node(), peer, message.len());
        let is_lost = self.rng.lock().expect("nothing panics while it holds this lock").chance(LOSS_PERMILLE);
        if is_lost || !self.passes(peer) { Ok(()) } else { self.inner.send(peer, lane, message) }
    }

    fn inbox(&self, lane: Lane) -> mpsc::Receiver<(NodeId, Bytes)> {
        self.inner.inbox(lane)
    }
}

/// Answers the leader's questions about silence, and nothing else.
#[derive(Default)]
pub(super) struct Ears {
    observer: Mutex<Option<Observer>>,
}

impl Ears {
    pub(super) fn open(&self, observer: Observer) {
        *self.observer.lock().expect("nothing panics while it holds this lock") = Some(observer);
    }
}

#[async_trait]
impl Service for Ears {
    async fn answer(&self, _: NodeId, lane: Lane, request: Bytes) -> Result<Bytes, Refusal> {
        let observer = self.observer.lock().expect("nothing panics while it holds this lock").clone();
        match (lane, observer) {
            (Lane::Probe, Some(observer)) => observer.answer(&request),
            (_, _) => Err(Refusal::new(RefusalKind::NotHere, "only silence is told here")),
        }
    }

    async fn stream(&self, _: NodeId, _: Bytes) -> Result<StreamHandler, Refusal> {
        Err(Refusal::new(RefusalKind::NotHere, "only silence is told here"))
    }

    async fn join(&self, _: Stranger, _: JoinRequest) -> Result<JoinReply, JoinRefusal> {
        Err(JoinRefusal::TokenUnknown)
    }
}
