//! The simulated network between hosts: links with delay, loss and cuts, one way each.
//!
//! It carries what [`Transport`] promises and no more: a request arrives at most once and whole, or not
//! at all; a one-way message may be lost; nothing is promised about order. Or it carries datagrams, with the
//! production mesh above them: see [`crate::quic`].

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use scp_mesh::{Duplex, Lane, MeshError, Refusal, Transport};
use scp_model::NodeId;
use tokio::sync::{mpsc, oneshot};

use crate::{
    clock::HostTime,
    entropy::SplitMix,
    quic::{Datagram, Path},
    trace::Trace,
};

/// One way from one host to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    pub delay_us: u64,
    /// Up to so much more, evenly.
    pub jitter_us: u64,
    pub loss_permille: u64,
}

/// Something on its way.
#[derive(Debug, Clone)]
pub struct Packet {
    pub from: NodeId,
    pub to: NodeId,
    pub kind: PacketKind,
}

#[derive(Debug, Clone)]
pub enum PacketKind {
    Request { number: u64, lane: Lane, bytes: Bytes },
    Reply { number: u64, answer: Result<Bytes, Refusal> },
    OneWay { lane: Lane, bytes: Bytes },
    Datagram(Datagram),
}

/// All links, and what is under way on them.
pub struct Net {
    rng: SplitMix,
    default: Link,
    links: BTreeMap<(NodeId, NodeId), Link>,
    cuts: BTreeSet<(NodeId, NodeId)>,
    /// Cut off from all others, whatever else is cut and healed.
    apart: BTreeSet<NodeId>,
    /// What is under way to each host, by time of arrival, then by number.
    ways: BTreeMap<NodeId, BTreeMap<(u64, u64), Packet>>,
    next: u64,
    /// The host that lives now has sent something since [`Net::hush`].
    spoke: bool,
    listener: Option<Waker>,
    /// Where datagrams to an address go.
    pub homes: BTreeMap<SocketAddr, NodeId>,
    pub path: Path,
    pub trace: Trace,
}

/// The network as everyone shares it. One thread simulates: the lock is never waited for.
#[derive(Clone)]
pub struct SharedNet(Arc<Mutex<Net>>);

impl SharedNet {
    pub fn new(rng: SplitMix, default: Link) -> Self {
        Self(Arc::new(Mutex::new(Net {
            rng,
            default,
            links: BTreeMap::new(),
            cuts: BTreeSet::new(),
            apart: BTreeSet::new(),
            ways: BTreeMap::new(),
            next: 0,
            spoke: false,
            listener: None,
            homes: BTreeMap::new(),
            path: Path::default(),
            trace: Trace::default(),
        })))
    }

    pub fn lock(&self) -> MutexGuard<'_, Net> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ready once something was sent since [`Net::hush`].
    pub fn poll_spoke(&self, context: &Context<'_>) -> Poll<()> {
        let mut net = self.lock();
        if net.spoke {
            return Poll::Ready(());
        }
        if net.listener.as_ref().is_none_or(|known| !known.will_wake(context.waker())) {
            net.listener = Some(context.waker().clone());
        }
        Poll::Pending
    }
}

impl Net {
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

    /// Nothing reaches it or comes from it until it rejoins.
    pub fn set_apart(&mut self, node: NodeId) {
        self.apart.insert(node);
    }

    pub fn rejoin(&mut self, node: NodeId) {
        self.apart.remove(&node);
    }

    /// Every link as at the beginning.
    pub fn heal(&mut self) {
        self.cuts.clear();
        self.links.clear();
    }

    pub fn is_cut(&self, from: NodeId, to: NodeId) -> bool {
        self.cuts.contains(&(from, to)) || self.apart.contains(&from) || self.apart.contains(&to)
    }

    /// Another host begins to live.
    pub fn hush(&mut self) {
        self.spoke = false;
    }

    /// Puts a packet on its way, or loses it.
    fn send(&mut self, now_us: u64, packet: Packet) {
        let way = (packet.from, packet.to);
        let link = self.links.get(&way).copied().unwrap_or(self.default);
        let lost = self.is_cut(way.0, way.1) || self.rng.chance(link.loss_permille);
        let size = match &packet.kind {
            PacketKind::Request { bytes, .. } | PacketKind::OneWay { bytes, .. } => bytes.len(),
            PacketKind::Reply { answer, .. } => answer.as_ref().map_or(0, Bytes::len),
            PacketKind::Datagram(datagram) => datagram.bytes.len(),
        };
        self.trace.event(now_us, u64::from(lost), [packet.from.0 ^ packet.to.0.rotate_left(1), size as u64]);
        if lost {
            return;
        }
        let due_us = now_us + link.delay_us + self.rng.below(link.jitter_us + 1);
        let number = self.next;
        self.next += 1;
        self.ways.entry(packet.to).or_default().insert((due_us, number), packet);
        self.spoke = true;
        if let Some(listener) = &self.listener {
            listener.wake_by_ref();
        }
    }

    /// Puts a datagram on its way, perhaps twice.
    pub fn send_datagram(&mut self, now_us: u64, (from, to): (NodeId, SocketAddr), datagram: Datagram) {
        let Some(&to) = self.homes.get(&to) else { return };
        if datagram.bytes.len() > self.path.payload_bytes_max {
            return;
        }
        let packet = Packet { from, to, kind: PacketKind::Datagram(datagram) };
        if self.rng.chance(self.path.duplicate_permille) {
            self.send(now_us, packet.clone());
        }
        self.send(now_us, packet);
    }

    /// When the next packet arrives at a host.
    pub fn next_due(&self, to: NodeId) -> Option<u64> {
        self.ways.get(&to)?.first_key_value().map(|((due_us, _), _)| *due_us)
    }

    /// A host that stands still takes in so many packets; what arrives by then beyond them is lost.
    pub fn overflow(&mut self, to: NodeId, by_us: u64, most: usize) {
        let Some(way) = self.ways.get_mut(&to) else { return };
        let lost: Vec<_> = way.keys().take_while(|key| key.0 <= by_us).skip(most).copied().collect();
        lost.iter().for_each(|key| drop(way.remove(key)));
    }

    /// What has arrived at a host by then, in order.
    pub fn arrived(&mut self, to: NodeId, by_us: u64) -> Vec<Packet> {
        let Some(way) = self.ways.get_mut(&to) else { return Vec::new() };
        let mut arrived = Vec::new();
        while let Some(first) = way.first_entry().filter(|first| first.key().0 <= by_us) {
            let packet = first.remove();
            // A cut also stops what is under way, as a pulled cable does.
            let apart = self.apart.contains(&packet.from) || self.apart.contains(&packet.to);
            if !apart && !self.cuts.contains(&(packet.from, packet.to)) {
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
    time: Arc<HostTime>,
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
    pub fn new(me: NodeId, net: SharedNet, time: Arc<HostTime>) -> Arc<Self> {
        Arc::new(Self { me, net, time, waiting: Mutex::new(Waiting::default()) })
    }

    fn put(&self, to: NodeId, kind: PacketKind) {
        self.net.lock().send(self.time.city_us(), Packet { from: self.me, to, kind });
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends the answer to a request.
    pub fn reply(&self, to: NodeId, number: u64, answer: Result<Bytes, Refusal>) {
        self.put(to, PacketKind::Reply { number, answer });
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
        self.put(peer, PacketKind::Request { number, lane, bytes: request });
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
        self.put(peer, PacketKind::OneWay { lane, bytes: message });
        Ok(())
    }

    fn inbox(&self, lane: Lane) -> mpsc::Receiver<(NodeId, Bytes)> {
        let (sender, receiver) = mpsc::channel(INBOX_MAX);
        self.waiting().inboxes.insert(lane, sender);
        receiver
    }
}
