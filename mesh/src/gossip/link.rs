//! chitchat's socket, made of the mesh's gossip lane.
//!
//! ```text
//! message: | version 1 u8 | cell: bits u8, prefix u64 (255 and zeros: the city-wide cell) | chitchat's own |
//! ```
//! chitchat names its peers by socket address. Ours are made of node ids, one to one, and are never
//! dialed: a node keeps its gossip address when its real one changes.

use std::{
    collections::BTreeMap,
    net::{Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard},
};

use async_trait::async_trait;
use bytes::Bytes;
use chitchat::{
    ChitchatMessage, Deserializable, Serializable,
    transport::{Socket, Transport as ChitchatTransport},
};
use scp_model::NodeId;
use tokio::sync::mpsc;

use super::cell::CellId;
use crate::{lane::Lane, transport::Transport};

const VERSION: u8 = 1;
const CITY_WIDE: u8 = 255;
const HEADER_BYTES: usize = 10;
/// Messages of one cell that wait for chitchat; three partners a round, each with two messages.
const QUEUE_MAX: usize = 256;

/// A circle of gossip.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Circle {
    Cell(CellId),
    CityWide,
}

impl Circle {
    fn to_bytes(self) -> [u8; 9] {
        match self {
            Self::Cell(cell) => cell.to_bytes(),
            Self::CityWide => [CITY_WIDE, 0, 0, 0, 0, 0, 0, 0, 0],
        }
    }
}

impl std::fmt::Display for Circle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Cell(cell) => cell.fmt(f),
            Self::CityWide => f.write_str("city-wide"),
        }
    }
}

/// A unique local prefix (RFC 4193), then the id.
const PREFIX: [u16; 4] = [0xfd53, 0x4350, 0, 0];
const PORT: u16 = 1;

pub(super) fn address_of(node: NodeId) -> SocketAddr {
    let [a, b, c, d] = PREFIX;
    let part = |shift: u32| u16::try_from((node.0 >> shift) & 0xffff).expect("16 bits were masked");
    (Ipv6Addr::new(a, b, c, d, part(48), part(32), part(16), part(0)), PORT).into()
}

pub(super) fn node_at(address: SocketAddr) -> Option<NodeId> {
    let SocketAddr::V6(address) = address else { return None };
    let [a, b, c, d, rest @ ..] = address.ip().segments();
    let id = rest.iter().fold(0u64, |id, part| (id << 16) | u64::from(*part));
    ([a, b, c, d] == PREFIX && address.port() == PORT).then_some(NodeId(id))
}

type Queue = mpsc::Sender<(SocketAddr, ChitchatMessage)>;

/// Hands what arrives on the gossip lane to the circle that it is for.
pub(super) struct Router {
    transport: Arc<dyn Transport>,
    queues: Mutex<BTreeMap<[u8; 9], Queue>>,
}

impl Router {
    pub(super) fn new(transport: Arc<dyn Transport>) -> Arc<Self> {
        Arc::new(Self { transport, queues: Mutex::default() })
    }

    fn queues(&self) -> MutexGuard<'_, BTreeMap<[u8; 9], Queue>> {
        self.queues.lock().expect("nothing panics while it holds this lock")
    }

    /// Runs until the mesh ends.
    pub(super) async fn run(&self) {
        let mut inbox = self.transport.inbox(Lane::Gossip);
        while let Some((from, message)) = inbox.recv().await {
            if let Some((circle, message)) = decode(&message) {
                let queue = self.queues().get(&circle).cloned();
                // Full, or a circle that we are not in (yet): lost, and told again in the next round.
                let _ = queue.map(|queue| queue.try_send((address_of(from), message)));
            }
        }
    }
}

fn encode(circle: Circle, message: &ChitchatMessage) -> Bytes {
    let mut bytes = Vec::with_capacity(HEADER_BYTES + message.serialized_len());
    bytes.push(VERSION);
    bytes.extend_from_slice(&circle.to_bytes());
    message.serialize(&mut bytes);
    bytes.into()
}

pub(super) fn decode(bytes: &[u8]) -> Option<([u8; 9], ChitchatMessage)> {
    let (header, mut rest) = bytes.split_first_chunk::<HEADER_BYTES>()?;
    let [version, circle @ ..] = *header;
    if version != VERSION {
        return None;
    }
    let message = ChitchatMessage::deserialize(&mut rest).ok()?;
    rest.is_empty().then_some((circle, message))
}

/// One circle's way to the mesh.
pub(super) struct CircleTransport {
    pub(super) router: Arc<Router>,
    pub(super) circle: Circle,
}

#[async_trait]
impl ChitchatTransport for CircleTransport {
    async fn open(&self, _listen: SocketAddr) -> anyhow::Result<Box<dyn Socket>> {
        let (sender, queue) = mpsc::channel(QUEUE_MAX);
        self.router.queues().insert(self.circle.to_bytes(), sender);
        Ok(Box::new(CircleSocket { router: self.router.clone(), circle: self.circle, queue }))
    }
}

struct CircleSocket {
    router: Arc<Router>,
    circle: Circle,
    queue: mpsc::Receiver<(SocketAddr, ChitchatMessage)>,
}

#[async_trait]
impl Socket for CircleSocket {
    async fn send(&mut self, to: SocketAddr, message: ChitchatMessage) -> anyhow::Result<()> {
        if let Some(node) = node_at(to) {
            // Nobody there at the moment is what gossip is made for.
            let _ = self.router.transport.send(node, Lane::Gossip, encode(self.circle, &message));
        }
        Ok(())
    }

    async fn recv(&mut self) -> anyhow::Result<(SocketAddr, ChitchatMessage)> {
        self.queue.recv().await.ok_or_else(|| anyhow::anyhow!("the circle was left"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_node_has_its_own_address(id: u64) {
            prop_assert_eq!(node_at(address_of(NodeId(id))), Some(NodeId(id)));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
            let _ = decode(&bytes);
            let _ = decode(&[&[VERSION; 1][..], &[0; 9], &bytes].concat());
        }
    }

    #[test]
    fn other_addresses_are_nobody() {
        assert_eq!(node_at(([127, 0, 0, 1], 1).into()), None);
        assert_eq!(node_at((Ipv6Addr::LOCALHOST, PORT).into()), None);
    }

    #[test]
    fn a_message_is_read_as_it_was_written_and_cut_it_is_not() {
        let bytes = encode(Circle::CityWide, &ChitchatMessage::BadCluster);
        assert_eq!(decode(&bytes), Some((Circle::CityWide.to_bytes(), ChitchatMessage::BadCluster)));
        assert!((0..bytes.len()).all(|at| decode(&bytes[..at]).is_none()));
    }
}
