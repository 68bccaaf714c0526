//! chitchat's socket, made of the mesh's gossip lane.
//!
//! ```text
//! message: | version 3 u8 | cell: bits u8, prefix u64 (255 and zeros: the city-wide cell) | zstd: chitchat's own |
//!          | version 3 u8 | 254 and zeros                                                 | news             |
//! ```
//! chitchat names every member in every message: kilobytes at 200. So there is a budget: a member
//! begins an exchange only when what it sent so far, answers included, is paid for. The larger the circle,
//! the rarer the exchanges, and the traffic stays the same; what must be known soon travels as news.
//!
//! With whom is not chitchat's choice, which would be anyone, and thus in time a connection to everyone: a
//! member exchanges with its neighbours (see `ring`), each in turn, and seldom with one that counts as
//! down. What begins an exchange says who we are and what we know, and is the same for everyone.
//!
//! chitchat names its peers by socket address. Ours are made of node ids, one to one, and are never
//! dialed: a node keeps its gossip address when its real one changes.

use std::{
    collections::BTreeMap,
    net::{Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use chitchat::{
    ChitchatMessage, Deserializable, Serializable,
    transport::{Socket, Transport as ChitchatTransport},
};
use scp_model::NodeId;
use tokio::{sync::mpsc, time::Instant};

use super::{
    cell::{CellId, Roster},
    news::News,
    ring,
};
use crate::{lane::Lane, transport::Transport};

const VERSION: u8 = 3;
const CITY_WIDE: u8 = 255;
/// No prefix has so many bits.
const NEWS: [u8; 9] = [254, 0, 0, 0, 0, 0, 0, 0, 0];
const HEADER_BYTES: usize = 10;
/// Messages of one cell that wait for chitchat; three partners a round, each with two messages.
const QUEUE_MAX: usize = 256;
/// chitchat's own limit of a message.
const MESSAGE_BYTES_MAX: usize = 65_507;
/// The fastest level: messages are small and every round makes some.
const ZSTD_LEVEL: i32 = 1;
/// What a member may send in its cell, in bytes a second: with packets' headers and heartbeats it stays
/// below the 1.5 kB/s that a member may send.
const CELL_BUDGET: u64 = 550;
/// And in the city-wide cell, of which two in a hundred or so are members and where thousands are told of.
const CITY_WIDE_BUDGET: u64 = 16_000;
/// What a member may send ahead when it begins, in seconds of the budget: it knows nobody, and everyone
/// wants to know of it.
const CREDIT_SECONDS: u64 = 60;
/// Debts beyond this are let off, in seconds of the budget: who told a newcomer everything is not silent
/// for minutes.
const DEBT_SECONDS_MAX: u64 = 20;

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
    news: mpsc::Sender<News>,
    queues: Mutex<BTreeMap<[u8; 9], Queue>>,
    partners: Mutex<BTreeMap<Circle, Partners>>,
}

impl Router {
    /// News arrive at the receiver.
    pub(super) fn new(transport: Arc<dyn Transport>) -> (Arc<Self>, mpsc::Receiver<News>) {
        let (news, arriving) = mpsc::channel(QUEUE_MAX);
        (Arc::new(Self { transport, news, queues: Mutex::default(), partners: Mutex::default() }), arriving)
    }

    pub(super) fn tell(&self, to: NodeId, news: &News) {
        let bytes = [&[VERSION][..], &NEWS, &news.encode()].concat();
        // Whoever cannot be reached is told by an exchange later.
        let _ = self.transport.send(to, Lane::Gossip, bytes.into());
    }

    fn partners(&self) -> MutexGuard<'_, BTreeMap<Circle, Partners>> {
        self.partners.lock().expect("nothing panics while it holds this lock")
    }

    /// Exchanges of this circle are with these from now on.
    pub(super) fn meet(&self, circle: Circle, partners: Partners) {
        let mut all = self.partners();
        let turn = all.get(&circle).map_or(0, |before| before.turn);
        all.insert(circle, Partners { turn, ..partners });
    }

    fn next_partner(&self, circle: Circle) -> Option<NodeId> {
        self.partners().get_mut(&circle)?.next()
    }

    fn queues(&self) -> MutexGuard<'_, BTreeMap<[u8; 9], Queue>> {
        self.queues.lock().expect("nothing panics while it holds this lock")
    }

    /// Runs until the mesh ends.
    pub(super) async fn run(&self) {
        let mut inbox = self.transport.inbox(Lane::Gossip);
        while let Some((from, message)) = inbox.recv().await {
            match decode(&message) {
                // Full: lost, and told again by an exchange.
                Some(Arrived::News(news)) => drop(self.news.try_send(news)),
                Some(Arrived::Exchange(circle, message)) => {
                    let queue = self.queues().get(&circle).cloned();
                    // Full, or a circle that we are not in (yet): lost, and told again in the next round.
                    let _ = queue.map(|queue| queue.try_send((address_of(from), message)));
                }
                None => {}
            }
        }
    }
}

/// What a message of the gossip lane can be.
#[derive(Debug, PartialEq)]
pub(super) enum Arrived {
    News(News),
    Exchange([u8; 9], ChitchatMessage),
}

fn encode(circle: Circle, message: &ChitchatMessage) -> Bytes {
    let mut plain = Vec::with_capacity(message.serialized_len());
    message.serialize(&mut plain);
    let packed = zstd::bulk::compress(&plain, ZSTD_LEVEL).expect("compressing in memory does not fail");
    [&[VERSION][..], &circle.to_bytes(), &packed].concat().into()
}

pub(super) fn decode(bytes: &[u8]) -> Option<Arrived> {
    let (header, rest) = bytes.split_first_chunk::<HEADER_BYTES>()?;
    let [version, circle @ ..] = *header;
    if version != VERSION {
        return None;
    }
    if circle == NEWS {
        return News::decode(rest).map(Arrived::News);
    }
    let plain = zstd::bulk::decompress(rest, MESSAGE_BYTES_MAX).ok()?;
    let mut rest = &plain[..];
    let message = ChitchatMessage::deserialize(&mut rest).ok()?;
    rest.is_empty().then_some(Arrived::Exchange(circle, message))
}

/// What may be sent, in bytes; below nothing is what was sent ahead of it.
struct Budget {
    bytes_per_s: u64,
    /// In thousandths of a byte; nothing is saved up.
    balance: i64,
    counted: Instant,
}

impl Budget {
    fn new(bytes_per_s: u64) -> Self {
        let balance = i64::try_from(bytes_per_s * CREDIT_SECONDS * 1_000).unwrap_or(i64::MAX);
        Self { bytes_per_s, balance, counted: Instant::now() }
    }

    /// Whether all that was sent is paid for.
    fn is_balanced(&mut self) -> bool {
        let now = Instant::now();
        let ms = u64::try_from((now - self.counted).as_millis()).unwrap_or(u64::MAX);
        self.counted += Duration::from_millis(ms);
        let earned = i64::try_from(ms.saturating_mul(self.bytes_per_s)).unwrap_or(i64::MAX);
        if self.balance < 0 {
            self.balance = self.balance.saturating_add(earned).min(0);
        }
        self.balance >= 0
    }

    fn spend(&mut self, bytes: usize) {
        let debt_max = i64::try_from(self.bytes_per_s * DEBT_SECONDS_MAX * 1_000).unwrap_or(i64::MAX);
        let spent = i64::try_from(bytes).unwrap_or(i64::MAX).saturating_mul(1_000);
        self.balance = self.balance.saturating_sub(spent).max(-debt_max);
    }
}

/// One of so many exchanges is begun with a neighbour that counts as down.
const DOWN_EVERY: usize = 8;

/// With whom exchanges are begun.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Partners {
    up: Vec<NodeId>,
    down: Vec<NodeId>,
    turn: usize,
}

impl Partners {
    /// Our neighbours in a circle: those that are up in a ring of their own, so that they stay one circle
    /// however many are down.
    pub(super) fn new(us: NodeId, ring: &[NodeId], roster: &Roster) -> Self {
        let is_up = |node: &NodeId| roster.members.get(node).copied().unwrap_or(false);
        let mut up = ring::neighbours(us, ring);
        let mut down = up.extract_if(.., |node| !is_up(node)).collect::<Vec<_>>();
        down.sort_unstable();
        if !down.is_empty() {
            let living: Vec<_> = ring.iter().copied().filter(|node| *node == us || is_up(node)).collect();
            let ours = living.iter().position(|node| *node == us).unwrap_or(0);
            for at in [ours + 1, ours + living.len() - 1] {
                let next = living[at % living.len()];
                if next != us && !up.contains(&next) {
                    up.push(next);
                }
            }
        }
        Self { up, down, turn: 0 }
    }

    fn next(&mut self) -> Option<NodeId> {
        self.turn = self.turn.wrapping_add(1);
        let is_down = self.turn.is_multiple_of(DOWN_EVERY) || self.up.is_empty();
        let (of, turn) = match (is_down, self.down.is_empty()) {
            (true, false) => (&self.down, self.turn / DOWN_EVERY),
            (_, _) => (&self.up, self.turn),
        };
        of.get(turn.checked_rem(of.len())?).copied()
    }
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
        let budget = Budget::new(match self.circle {
            Circle::Cell(_) => CELL_BUDGET,
            Circle::CityWide => CITY_WIDE_BUDGET,
        });
        let (router, circle) = (self.router.clone(), self.circle);
        Ok(Box::new(CircleSocket { router, circle, queue, budget }))
    }
}

struct CircleSocket {
    router: Arc<Router>,
    circle: Circle,
    queue: mpsc::Receiver<(SocketAddr, ChitchatMessage)>,
    budget: Budget,
}

#[async_trait]
impl Socket for CircleSocket {
    async fn send(&mut self, to: SocketAddr, message: ChitchatMessage) -> anyhow::Result<()> {
        let is_balanced = self.budget.is_balanced();
        let node = match message {
            ChitchatMessage::Syn { .. } if is_balanced => self.router.next_partner(self.circle),
            ChitchatMessage::Syn { .. } => None,
            ChitchatMessage::SynAck { .. } | ChitchatMessage::Ack { .. } | ChitchatMessage::BadCluster => {
                node_at(to)
            }
        };
        let Some(node) = node else { return Ok(()) };
        let bytes = encode(self.circle, &message);
        self.budget.spend(bytes.len());
        // Nobody there at the moment is what gossip is made for.
        let _ = self.router.transport.send(node, Lane::Gossip, bytes);
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
            let _ = decode(&[&[VERSION; 1][..], &NEWS, &bytes].concat());
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
        let read = Arrived::Exchange(Circle::CityWide.to_bytes(), ChitchatMessage::BadCluster);
        assert_eq!(decode(&bytes), Some(read));
        assert!((0..bytes.len()).all(|at| decode(&bytes[..at]).is_none()));
    }

    #[test]
    fn each_neighbour_has_its_turn_and_one_that_is_down_now_and_then() {
        let ring: Vec<_> = (0..64).map(NodeId).collect();
        let members = ring.iter().map(|node| (*node, node.0 != 2)).collect();
        let roster = Roster { members, ..Roster::default() };
        let mut partners = Partners::new(NodeId(0), &ring, &roster);
        let met: Vec<_> = (0..64).filter_map(|_| partners.next()).collect();
        assert_eq!(met.iter().filter(|node| **node == NodeId(2)).count(), 64 / DOWN_EVERY);
        assert!(partners.up.iter().all(|node| met.contains(node)));
        assert_eq!(partners.up.len() + 1, ring::neighbours(NodeId(0), &ring).len());
    }

    #[test]
    fn the_living_are_one_circle_however_many_are_down() {
        let ring: Vec<_> = (0..200).map(NodeId).collect();
        let members = ring.iter().map(|node| (*node, node.0 % 7 == 3)).collect();
        let roster = Roster { members, ..Roster::default() };
        let living: Vec<_> = ring.iter().copied().filter(|node| roster.members[node]).collect();
        let (mut met, mut ahead) = (BTreeMap::new(), vec![living[0]]);
        while let Some(node) = ahead.pop() {
            let partners = Partners::new(node, &ring, &roster);
            ahead.extend(partners.up.iter().copied().filter(|next| !met.contains_key(next)));
            met.insert(node, partners);
        }
        assert!(met.keys().copied().eq(living));
    }

    #[test]
    fn whoever_is_alone_meets_nobody() {
        assert_eq!(Partners::new(NodeId(1), &[NodeId(1)], &Roster::default()).next(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn who_begins_has_credit_once() {
        let mut budget = Budget::new(1_000);
        budget.spend(59_000);
        assert!(budget.is_balanced());
        tokio::time::advance(Duration::from_secs(3_600)).await;
        assert!(budget.is_balanced());
        budget.spend(2_000);
        assert!(!budget.is_balanced(), "nothing was saved up");
    }

    #[tokio::test(start_paused = true)]
    async fn over_time_no_more_is_sent_than_the_budget_allows() {
        let mut budget = Budget::new(1_000);
        while budget.is_balanced() {
            budget.spend(3_000);
        }
        let mut sent = 0;
        for _ in 0..600 {
            tokio::time::advance(Duration::from_millis(100)).await;
            if budget.is_balanced() {
                budget.spend(3_000);
                sent += 3_000;
            }
        }
        assert!((57_000..=63_000).contains(&sent), "{sent} bytes in a minute");
    }
}
