//! The simulated network between hosts: links with delay, loss and cuts, one way each.
//!
//! It carries what [`Transport`] promises and no more: a request arrives at most once and whole, or not
//! at all; a one-way message may be lost; nothing is promised about order.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use scp_mesh::{Duplex, Lane, MeshError, Refusal, Transport};
use scp_model::NodeId;
use tokio::sync::{mpsc, oneshot};

use crate::{entropy::SplitMix, trace::Trace};

/// One way from one host to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    pub delay_us: u64,
    /// Up to so much more, evenly.
    pub jitter_us: u64,
    pub loss_permille: u64,
}

/// Something on its way.
#[derive(Debug)]
pub struct Packet {
    pub from: NodeId,
    pub to: NodeId,
    pub kind: PacketKind,
}

#[derive(Debug)]
pub enum PacketKind {
    Request { number: u64, lane: Lane, bytes: Bytes },
    Reply { number: u64, answer: Result<Bytes, Refusal> },
    OneWay { lane: Lane, bytes: Bytes },
}

/// All links, and what is under way on them.
pub struct Net {
    now_us: u64,
    rng: SplitMix,
    default: Link,
    links: BTreeMap<(NodeId, NodeId), Link>,
    cuts: BTreeSet<(NodeId, NodeId)>,
    /// Ordered by time of arrival, then by number.
    queue: BinaryHeap<Reverse<(u64, u64)>>,
    packets: BTreeMap<u64, Packet>,
    next: u64,
    pub trace: Trace,
}

/// The network as everyone shares it. One thread simulates: the lock is never waited for.
#[derive(Clone)]
pub struct SharedNet(Arc<Mutex<Net>>);

impl SharedNet {
    pub fn new(rng: SplitMix, default: Link) -> Self {
        Self(Arc::new(Mutex::new(Net {
            now_us: 0,
            rng,
            default,
            links: BTreeMap::new(),
            cuts: BTreeSet::new(),
            queue: BinaryHeap::new(),
            packets: BTreeMap::new(),
            next: 0,
            trace: Trace::default(),
        })))
    }

    pub fn lock(&self) -> MutexGuard<'_, Net> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Net {
    pub fn now_us(&self) -> u64 {
        self.now_us
    }

    pub fn now_ms(&self) -> u64 {
        self.now_us / 1000
    }

    pub fn set_default(&mut self, link: Link) {
        self.default = link;
    }

    pub fn set_link(&mut self, from: NodeId, to: NodeId, link: Link) {
        self.links.insert((from, to), link);
    }

    /// Nothing passes from `from` to `to` any more; the other way is not touched.
    pub fn cut(&mut self, from: NodeId, to: NodeId) {
        self.cuts.insert((from, to));
    }

    /// Every link as at the beginning.
    pub fn heal(&mut self) {
        self.cuts.clear();
        self.links.clear();
    }

    pub fn is_cut(&self, from: NodeId, to: NodeId) -> bool {
        self.cuts.contains(&(from, to))
    }

    /// Puts a packet on its way, or loses it.
    fn send(&mut self, packet: Packet) {
        let way = (packet.from, packet.to);
        let link = self.links.get(&way).copied().unwrap_or(self.default);
        let lost = self.cuts.contains(&way) || self.rng.chance(link.loss_permille);
        let size = match &packet.kind {
            PacketKind::Request { bytes, .. } | PacketKind::OneWay { bytes, .. } => bytes.len(),
            PacketKind::Reply { answer, .. } => answer.as_ref().map_or(0, Bytes::len),
        };
        let numbers = [packet.from.0 ^ packet.to.0, size as u64];
        self.trace.event(self.now_us, if lost { "lost" } else { "sent" }, numbers);
        if lost {
            return;
        }
        let delay_us = link.delay_us + self.rng.below(link.jitter_us + 1);
        let number = self.next;
        self.next += 1;
        self.queue.push(Reverse((self.now_us + delay_us, number)));
        self.packets.insert(number, packet);
    }

    /// Moves time on, and gives what has arrived by then, in order.
    pub fn advance(&mut self, to_us: u64) -> Vec<Packet> {
        self.now_us = to_us;
        let mut arrived = Vec::new();
        while let Some(Reverse((at, number))) = self.queue.peek().copied() {
            if at > to_us {
                break;
            }
            self.queue.pop();
            let packet = self.packets.remove(&number).expect("every queued number has its packet");
            // A cut also stops what is under way, as a pulled cable does.
            if !self.cuts.contains(&(packet.from, packet.to)) {
                arrived.push(packet);
            }
        }
        arrived
    }
}

/// A host's end of the network. A new one is made whenever the host starts: what was under way for the
/// one before finds nobody waiting.
pub struct SimTransport {
    me: NodeId,
    net: SharedNet,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    replies: BTreeMap<u64, oneshot::Sender<Result<Bytes, Refusal>>>,
    inboxes: BTreeMap<Lane, mpsc::Sender<(NodeId, Bytes)>>,
}

/// As in the real mesh: what does not fit is dropped.
const INBOX_MAX: usize = scp_mesh::lane::INBOX_MAX;

impl SimTransport {
    pub fn new(me: NodeId, net: SharedNet) -> Arc<Self> {
        Arc::new(Self { me, net, waiting: Mutex::new(Waiting::default()) })
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends the answer to a request.
    pub fn reply(&self, to: NodeId, number: u64, answer: Result<Bytes, Refusal>) {
        let kind = PacketKind::Reply { number, answer };
        self.net.lock().send(Packet { from: self.me, to, kind });
    }

    /// Takes an answer in.
    pub fn answered(&self, number: u64, answer: Result<Bytes, Refusal>) {
        if let Some(waiter) = self.waiting().replies.remove(&number) {
            let _ = waiter.send(answer);
        }
    }

    /// Takes a one-way message in.
    pub fn arrived(&self, from: NodeId, lane: Lane, bytes: Bytes) {
        if let Some(inbox) = self.waiting().inboxes.get(&lane) {
            let _ = inbox.try_send((from, bytes));
        }
    }
}

#[async_trait]
impl Transport for SimTransport {
    fn node(&self) -> NodeId {
        self.me
    }

    async fn request(
        &self,
        peer: NodeId,
        lane: Lane,
        request: Bytes,
        timeout: Duration,
    ) -> Result<Bytes, MeshError> {
        let limit = lane.limits().bytes_max;
        if request.len() > limit {
            return Err(MeshError::TooLarge { lane, length: request.len(), limit });
        }
        let (sender, receiver) = oneshot::channel();
        let number = {
            let mut net = self.net.lock();
            net.next += 1;
            net.next
        };
        self.waiting().replies.insert(number, sender);
        let kind = PacketKind::Request { number, lane, bytes: request };
        self.net.lock().send(Packet { from: self.me, to: peer, kind });
        let answer = tokio::time::timeout(timeout, receiver).await;
        self.waiting().replies.remove(&number);
        match answer {
            Ok(Ok(Ok(bytes))) => Ok(bytes),
            Ok(Ok(Err(refusal))) => Err(MeshError::Refused { peer, refusal }),
            Ok(Err(_)) | Err(_) => {
                let timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
                Err(MeshError::Timeout { peer, timeout_ms })
            }
        }
    }

    async fn open(&self, peer: NodeId, _opening: Bytes, _timeout: Duration) -> Result<Duplex, MeshError> {
        Err(MeshError::Unreachable { peer, why: "consoles are not simulated".into() })
    }

    fn send(&self, peer: NodeId, lane: Lane, message: Bytes) -> Result<(), MeshError> {
        self.net.lock().send(Packet {
            from: self.me,
            to: peer,
            kind: PacketKind::OneWay { lane, bytes: message },
        });
        Ok(())
    }

    fn inbox(&self, lane: Lane) -> mpsc::Receiver<(NodeId, Bytes)> {
        let (sender, receiver) = mpsc::channel(INBOX_MAX);
        self.waiting().inboxes.insert(lane, sender);
        receiver
    }
}
