//! The mesh in memory: for tests and simulation, never for users.
//!
//! Links have a delay each way and can be cut; under tokio's paused time a whole city runs in no time and
//! the same way every time. A cut link swallows: the caller waits for its timeout, as on a real network.
//! A node that left is unreachable at once, as a closed port is.
//!
//! # Caveats
//! - Bytes of an open duplex stream are neither delayed nor cut.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use scp_model::NodeId;
use tokio::{
    sync::{Semaphore, mpsc},
    time::{sleep, timeout},
};

use crate::{
    lane::{INBOX_MAX, Lane, STREAMS_MAX},
    transport::{Duplex, MeshError, Refusal, RefusalKind, Service, Transport},
    wire::bounded_answer,
};

/// What a duplex stream holds between writer and reader.
const PIPE_BYTES: usize = 64 << 10;

/// All nodes and links. Clones are the same network.
#[derive(Clone, Default)]
pub struct MemoryNetwork {
    inner: Arc<Mutex<Network>>,
}

#[derive(Default)]
struct Network {
    nodes: BTreeMap<NodeId, Node>,
    /// One direction each.
    cut: BTreeSet<(NodeId, NodeId)>,
    /// Of every link that has none of its own.
    delay: Duration,
    delays: BTreeMap<(NodeId, NodeId), Duration>,
    asking: BTreeMap<(NodeId, NodeId, Option<Lane>), Arc<Semaphore>>,
}

struct Node {
    service: Arc<dyn Service>,
    inboxes: BTreeMap<Lane, mpsc::Sender<(NodeId, Bytes)>>,
}

impl MemoryNetwork {
    pub fn new() -> Self {
        Self::default()
    }

    /// A node comes up.
    pub fn join(&self, node: NodeId, service: Arc<dyn Service>) -> Arc<MemoryTransport> {
        self.inner().nodes.insert(node, Node { service, inboxes: BTreeMap::new() });
        Arc::new(MemoryTransport { us: node, network: self.clone() })
    }

    /// A node is gone, as if killed.
    pub fn leave(&self, node: NodeId) {
        self.inner().nodes.remove(&node);
    }

    /// Nothing passes from `from` to `to` any more; the other direction is another link.
    pub fn cut(&self, from: NodeId, to: NodeId) {
        self.inner().cut.insert((from, to));
    }

    pub fn heal(&self, from: NodeId, to: NodeId) {
        self.inner().cut.remove(&(from, to));
    }

    /// How long everything from `from` to `to` is under way.
    pub fn set_delay(&self, from: NodeId, to: NodeId, delay: Duration) {
        self.inner().delays.insert((from, to), delay);
    }

    /// How long everything is under way on a link of which nothing else was said.
    pub fn set_delay_everywhere(&self, delay: Duration) {
        self.inner().delay = delay;
    }

    fn inner(&self) -> MutexGuard<'_, Network> {
        self.inner.lock().expect("nothing panics while it holds this lock")
    }

    /// Takes the way from one node to another; never ends on a link that is cut.
    async fn travel(&self, from: NodeId, to: NodeId) {
        let delay = {
            let inner = self.inner();
            inner.delays.get(&(from, to)).copied().unwrap_or(inner.delay)
        };
        if !delay.is_zero() {
            sleep(delay).await;
        }
        if self.inner().cut.contains(&(from, to)) {
            std::future::pending::<()>().await;
        }
    }

    fn service(&self, node: NodeId) -> Result<Arc<dyn Service>, MeshError> {
        let gone = || MeshError::Unreachable { peer: node, why: "nobody listens there".into() };
        self.inner().nodes.get(&node).map(|node| node.service.clone()).ok_or_else(gone)
    }

    fn permits(&self, from: NodeId, to: NodeId, lane: Option<Lane>) -> Arc<Semaphore> {
        let limit = lane.map_or(STREAMS_MAX, |lane| lane.limits().requests_max);
        let mut inner = self.inner();
        inner.asking.entry((from, to, lane)).or_insert_with(|| Arc::new(Semaphore::new(limit))).clone()
    }
}

/// One node's end.
pub struct MemoryTransport {
    us: NodeId,
    network: MemoryNetwork,
}

#[async_trait]
impl Transport for MemoryTransport {
    fn node(&self) -> NodeId {
        self.us
    }

    async fn request(
        &self,
        peer: NodeId,
        lane: Lane,
        request: Bytes,
        limit: Duration,
    ) -> Result<Bytes, MeshError> {
        check_length(lane, &request)?;
        let (us, network) = (self.us, &self.network);
        let asking = async {
            let _permit = network.permits(us, peer, Some(lane)).acquire_owned().await;
            network.service(us)?;
            let service = network.service(peer)?;
            network.travel(us, peer).await;
            let answer = match lane {
                Lane::Raft | Lane::Forward | Lane::Bulk | Lane::Probe | Lane::Renew => {
                    bounded_answer(lane, service.answer(us, lane, request).await)
                }
                Lane::Gossip | Lane::Join => {
                    Err(Refusal::new(RefusalKind::Forbidden, format!("lane {lane:?} takes no requests")))
                }
            };
            network.service(peer).map_err(|_| broken(peer))?;
            network.travel(peer, us).await;
            answer.map_err(|refusal| MeshError::Refused { peer, refusal })
        };
        timeout(limit, asking).await.unwrap_or_else(|_| Err(timed_out(peer, limit)))
    }

    async fn open(&self, peer: NodeId, opening: Bytes, limit: Duration) -> Result<Duplex, MeshError> {
        check_length(Lane::Bulk, &opening)?;
        let (us, network) = (self.us, &self.network);
        let asking = async {
            let permit = network.permits(us, peer, None).acquire_owned().await;
            let service = network.service(peer)?;
            network.travel(us, peer).await;
            let accepted = service.stream(us, opening).await;
            network.travel(peer, us).await;
            let handler = accepted.map_err(|refusal| MeshError::Refused { peer, refusal })?;
            let (ours, theirs) = tokio::io::duplex(PIPE_BYTES);
            tokio::spawn(async move {
                handler(halves(theirs)).await;
                drop(permit);
            });
            Ok(halves(ours))
        };
        timeout(limit, asking).await.unwrap_or_else(|_| Err(timed_out(peer, limit)))
    }

    fn send(&self, peer: NodeId, lane: Lane, message: Bytes) -> Result<(), MeshError> {
        check_length(lane, &message)?;
        if !lane.is_one_way() {
            return Err(MeshError::TooLarge { lane, length: message.len(), limit: 0 });
        }
        self.network.service(self.us)?;
        self.network.service(peer)?;
        let (us, network) = (self.us, self.network.clone());
        let delivery = async move {
            network.travel(us, peer).await;
            let inbox = network.inner().nodes.get(&peer).and_then(|node| node.inboxes.get(&lane).cloned());
            // No reader, or a full inbox: lost, as on the real lanes.
            let _ = inbox.map(|inbox| inbox.try_send((us, message)));
        };
        let swallowed = self.network.inner().cut.contains(&(us, peer));
        if !swallowed {
            tokio::spawn(delivery);
        }
        Ok(())
    }

    fn inbox(&self, lane: Lane) -> mpsc::Receiver<(NodeId, Bytes)> {
        let (sender, receiver) = mpsc::channel(INBOX_MAX);
        if let Some(node) = self.network.inner().nodes.get_mut(&self.us) {
            node.inboxes.insert(lane, sender);
        }
        receiver
    }
}

fn halves(pipe: tokio::io::DuplexStream) -> Duplex {
    let (reader, writer) = tokio::io::split(pipe);
    Duplex { reader: Box::new(reader), writer: Box::new(writer) }
}

fn check_length(lane: Lane, bytes: &Bytes) -> Result<(), MeshError> {
    let limit = lane.limits().bytes_max;
    let length = bytes.len();
    if length > limit { Err(MeshError::TooLarge { lane, length, limit }) } else { Ok(()) }
}

fn broken(peer: NodeId) -> MeshError {
    MeshError::Broken { peer, why: "it went away".into() }
}

fn timed_out(peer: NodeId, limit: Duration) -> MeshError {
    MeshError::Timeout { peer, timeout_ms: u64::try_from(limit.as_millis()).unwrap_or(u64::MAX) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::suite::{self, Echo};

    struct InMemory(MemoryNetwork);

    #[async_trait]
    impl suite::Network for InMemory {
        async fn nodes(&self, services: Vec<Arc<Echo>>) -> Vec<Arc<dyn Transport>> {
            let taken = self.0.inner().nodes.len() as u64;
            let node = |(at, service): (u64, Arc<Echo>)| -> Arc<dyn Transport> {
                self.0.join(NodeId(taken + at), service)
            };
            (1..).zip(services).map(node).collect()
        }

        async fn kill(&self, node: NodeId) {
            self.0.leave(node);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn links_in_memory_pass_the_suite() {
        suite::run(&InMemory(MemoryNetwork::new())).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_cut_link_swallows_one_direction_until_it_heals() {
        let network = MemoryNetwork::new();
        let (a, b) = (network.join(NodeId(1), Echo::new()), network.join(NodeId(2), Echo::new()));
        network.cut(NodeId(2), NodeId(1));
        let ask = || a.request(NodeId(2), Lane::Forward, Bytes::from_static(b"x"), Duration::from_secs(1));
        assert_eq!(ask().await, Err(MeshError::Timeout { peer: NodeId(2), timeout_ms: 1_000 }));
        network.heal(NodeId(2), NodeId(1));
        assert_eq!(ask().await, Ok(Bytes::from_static(b"x")));
        drop(b);
    }

    #[tokio::test(start_paused = true)]
    async fn a_delay_counts_both_ways() {
        let network = MemoryNetwork::new();
        let (a, _b) = (network.join(NodeId(1), Echo::new()), network.join(NodeId(2), Echo::new()));
        network.set_delay(NodeId(1), NodeId(2), Duration::from_millis(300));
        network.set_delay(NodeId(2), NodeId(1), Duration::from_millis(200));
        let began = tokio::time::Instant::now();
        let answer = a.request(NodeId(2), Lane::Raft, Bytes::new(), Duration::from_secs(1)).await;
        assert_eq!((answer, began.elapsed()), (Ok(Bytes::new()), Duration::from_millis(500)));
    }
}
