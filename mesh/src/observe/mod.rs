//! Who has been silent for how long: each node is watched by a few others, and who is late is asked.
//!
//! ```text
//!   every node ──heartbeat, every 200 ms, in turns──▶ its 3 to 5 observers
//!   observer:  x is late ──question──▶ x          no answer ──alarm──▶ the leader
//!   leader:    ──question, every 100 ms──▶ x      no answer for a second ──SilenceAsk──▶ x's observers
//!              ◀──SilenceReport── evidence for the scheduler
//!   x, when it learns that it counts as down ──heartbeat──▶ the leader
//! ```
//!
//! Gossip would need 4 to 7 s at 200 members. Heartbeats are pushed and go round: whenever a node dies,
//! one of its observers misses it some 200 ms later, and no node sends more than five small packets a second,
//! however many observe it. Any word of a node answers a question: a heartbeat will do.
//!
//! # Guarantees
//! - Facts only: what silence means is the scheduler's to say, from the leader's and the observers' together.
//! - Silence at the leader is that of its own questions (see `inquiry`), at an observer that since the last
//!   word.
//! - Who was late itself discounts its own time (see `hearing`).
//! - At rest the leader hears nothing: what it does follows from the number of the silent, not of the members.
//!
//! # Caveats
//! - A new leader begins to ask when the first alarm comes in, unless it has asked as an observer.
//! - Of a node whose observers all die with it, nobody tells: it is found by the roll call that the
//!   others' silence leads to, and declared when new observers have listened for it.

mod choose;
mod hearing;
mod inquiry;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use bytes::Bytes;
use futures::future::join_all;
use scp_codec::CodecError;
use scp_model::NodeId;
use serde::{Deserialize, Serialize};
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior},
};
use tokio_util::sync::CancellationToken;

pub use self::choose::{LARGE_CITY, OBSERVERS_LARGE, OBSERVERS_SMALL, Seat, observers_of};
use self::{
    hearing::{Hearing, Late, OwnTime},
    inquiry::Inquiry,
};
use crate::{
    lane::Lane,
    transport::{Refusal, RefusalKind, Transport},
    wire::VERSION,
};

/// A node tells one of its observers, each in turn, that it lives, this often: a death is older than its last
/// heartbeat by no more than this.
pub const HEARTBEAT_MS: u64 = 200;

/// Our loop turns this often: so often the late are asked.
const TICK_MS: u64 = 100;
const TICKS_A_HEARTBEAT: usize = (HEARTBEAT_MS / TICK_MS) as usize;

/// The most subjects of one question.
pub const SUBJECTS_MAX: usize = 1_000;

/// The most subjects of one alarm: it fits into the smallest datagram that QUIC knows. The others are told of
/// at the next tick.
const ALARMS_MAX: usize = 100;

/// A one-way message of the probe lane; its sender is proven by the connection.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Word {
    /// I live.
    Heartbeat,
    /// Say that you live.
    Question,
    /// These do not answer me.
    Alarm(Vec<NodeId>),
}

impl Word {
    const HEARTBEAT: u8 = 1;
    const QUESTION: u8 = 2;
    const ALARM: u8 = 3;

    fn encode(&self) -> Bytes {
        match self {
            Self::Heartbeat => Bytes::from_static(&[Self::HEARTBEAT]),
            Self::Question => Bytes::from_static(&[Self::QUESTION]),
            Self::Alarm(nodes) => {
                let ids = nodes.iter().take(ALARMS_MAX).flat_map(|node| node.0.to_le_bytes());
                std::iter::once(Self::ALARM).chain(ids).collect()
            }
        }
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        match bytes.split_first()? {
            (&Self::HEARTBEAT, []) => Some(Self::Heartbeat),
            (&Self::QUESTION, []) => Some(Self::Question),
            (&Self::ALARM, ids) => {
                let (ids, []) = ids.as_chunks::<8>() else { return None };
                let nodes = ids.iter().take(ALARMS_MAX).map(|id| NodeId(u64::from_le_bytes(*id)));
                Some(Self::Alarm(nodes.collect()))
            }
            (_, _) => None,
        }
    }
}

/// Who is in the city, where, and who leads.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Watchlist {
    pub seats: Vec<Seat>,
    pub leader: Option<NodeId>,
}

impl Watchlist {
    /// Whether a node is up from now on.
    pub fn mark(&mut self, node: NodeId, is_up: bool) {
        self.seats.iter_mut().filter(|seat| seat.node == node).for_each(|seat| seat.is_up = is_up);
    }
}

/// How long has each of these been silent? (Probe lane, leader to observer.)
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SilenceAsk {
    pub subjects: Vec<NodeId>,
}

/// In the order asked. `None`: this observer does not watch it, or was itself late and does not judge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SilenceReport {
    pub silences_ms: Vec<Option<u64>>,
}

/// Sends this node's heartbeats and listens to others'. A handle; clones are the same observer.
#[derive(Clone)]
pub struct Observer {
    shared: Arc<Shared>,
}

struct Shared {
    transport: Arc<dyn Transport>,
    watchlist: watch::Receiver<Arc<Watchlist>>,
    senses: Mutex<Senses>,
    began: Instant,
    cancel: CancellationToken,
}

struct Senses {
    own: OwnTime,
    hearing: Hearing,
    inquiry: Inquiry,
    /// When members last spoke to us.
    spoke: BTreeMap<NodeId, u64>,
    members: BTreeSet<NodeId>,
}

impl Senses {
    fn new() -> Self {
        let (hearing, inquiry) = (Hearing::default(), Inquiry::default());
        Self { own: OwnTime::new(0), hearing, inquiry, spoke: BTreeMap::new(), members: BTreeSet::new() }
    }

    fn take(&mut self, duties: &Duties, now: u64) {
        self.hearing.watch(&duties.watches, now);
        self.inquiry.of(duties.asks.clone());
        self.members.clone_from(&duties.members);
        self.spoke.retain(|node, _| duties.members.contains(node));
    }

    fn heard(&mut self, node: NodeId, now: u64) {
        self.hearing.heard(node, now);
        self.inquiry.heard(node);
        if self.members.contains(&node) {
            self.spoke.insert(node, now);
        }
    }

    /// As the leader; whether the question is new. What we asked as an observer counts.
    fn question(&mut self, node: NodeId, now: u64) -> bool {
        self.inquiry.open(node, self.hearing.asked(node).unwrap_or(now))
    }

    /// As an observer: how long the subject has been silent; no judgement while we are late ourselves.
    fn judge(&self, subject: NodeId, now: u64) -> Option<u64> {
        self.hearing.silence(subject, now).filter(|_| self.own.lateness(now) == 0)
    }

    /// Whom to ask, and whom to tell the leader of.
    fn tick(&mut self, now: u64, we_lead: bool) -> Late {
        let lost = self.own.tick(now);
        let mut late = self.hearing.tick(&self.own, (now, lost));
        if we_lead {
            for node in late.alarm.drain(..) {
                self.question(node, now);
            }
        }
        let asked: BTreeSet<_> = late.ask.iter().copied().collect();
        let questions = self.inquiry.tick(&self.own, (now, lost));
        late.ask.extend(questions.into_iter().filter(|node| !asked.contains(node)));
        late
    }
}

impl Observer {
    pub fn start(transport: Arc<dyn Transport>, watchlist: watch::Receiver<Arc<Watchlist>>) -> Self {
        let shared = Arc::new(Shared {
            transport,
            watchlist,
            senses: Mutex::new(Senses::new()),
            began: Instant::now(),
            cancel: CancellationToken::new(),
        });
        let task = shared.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = task.cancel.cancelled() => {}
                () = listen(&task) => {}
                () = beat(&task) => {}
            }
        });
        Self { shared }
    }

    /// As the leader: milliseconds for which our questions to `peer` have had no answer, less the time in
    /// which we ourselves were late; `None`: nothing is asked, or we are late right now.
    pub fn silence(&self, peer: NodeId) -> Option<u64> {
        let (senses, now) = (self.shared.senses(), self.shared.now());
        senses.inquiry.silence(peer, now).filter(|_| senses.own.lateness(now) == 0)
    }

    /// Milliseconds since a word of `peer` really came in; `None`: never. Says whether a node that was
    /// declared dead is back.
    pub fn last_heard(&self, peer: NodeId) -> Option<u64> {
        let (senses, now) = (self.shared.senses(), self.shared.now());
        senses.spoke.get(&peer).map(|at| now.saturating_sub(*at))
    }

    /// As the leader: every node that owes us an answer, and for how many milliseconds; empty while we are
    /// late ourselves.
    pub fn silences(&self) -> Vec<(NodeId, u64)> {
        let (senses, now) = (self.shared.senses(), self.shared.now());
        if senses.own.lateness(now) > 0 { vec![] } else { senses.inquiry.silences(now) }
    }

    /// Answers a request of the probe lane; the node's `Service` passes it here.
    pub fn answer(&self, request: &[u8]) -> Result<Bytes, Refusal> {
        let invalid = |why: String| Refusal::new(RefusalKind::Invalid, why);
        let ask = decode_ask(request).map_err(|error| invalid(error.to_string()))?;
        if ask.subjects.len() > SUBJECTS_MAX {
            return Err(invalid(format!("at most {SUBJECTS_MAX} nodes in one question")));
        }
        let (senses, now) = (self.shared.senses(), self.shared.now());
        let silences_ms = ask.subjects.iter().map(|subject| senses.judge(*subject, now)).collect();
        let report = scp_codec::encode(VERSION, &SilenceReport { silences_ms });
        report.map(Bytes::from).map_err(|error| Refusal::new(RefusalKind::Failed, error.to_string()))
    }

    /// Asks the subject's observers but ourselves, all at once. Those that do not answer in time report
    /// `None`.
    pub async fn ask(&self, subject: NodeId, timeout: Duration) -> Vec<(NodeId, Option<u64>)> {
        let watchlist = self.shared.watchlist.borrow().clone();
        let us = self.shared.transport.node();
        let observers = observers_of(subject, &watchlist.seats).into_iter().filter(|node| *node != us);
        join_all(observers.map(|observer| self.ask_one(observer, subject, timeout))).await
    }

    async fn ask_one(&self, observer: NodeId, subject: NodeId, timeout: Duration) -> (NodeId, Option<u64>) {
        let ask = scp_codec::encode(VERSION, &SilenceAsk { subjects: vec![subject] });
        let ask = ask.expect("one id fits into a frame");
        let answer = self.shared.transport.request(observer, Lane::Probe, ask.into(), timeout).await;
        let report = answer.ok().and_then(|answer| decode_report(&answer).ok());
        (observer, report.and_then(|report| report.silences_ms.first().copied().flatten()))
    }

    /// Stops heartbeats: to the city this node then dies.
    pub fn shutdown(&self) {
        self.shared.cancel.cancel();
    }
}

fn decode_ask(bytes: &[u8]) -> Result<SilenceAsk, CodecError> {
    scp_codec::decode(VERSION, bytes, Lane::Probe.limits().bytes_max)
}

fn decode_report(bytes: &[u8]) -> Result<SilenceReport, CodecError> {
    scp_codec::decode(VERSION, bytes, Lane::Probe.limits().bytes_max)
}

impl Shared {
    fn senses(&self) -> MutexGuard<'_, Senses> {
        self.senses.lock().expect("nothing panics while it holds this lock")
    }

    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Best effort: what is lost is said again at the next tick, or at the next turn.
    fn say(&self, peer: NodeId, word: &Word) {
        let _ = self.transport.send(peer, Lane::Probe, word.encode());
    }
}

/// Whom a node watches, whom it asks, and whom it tells that it lives.
#[derive(Debug, Default, PartialEq, Eq)]
struct Duties {
    /// With the milliseconds from one heartbeat to the next.
    watches: BTreeMap<NodeId, u64>,
    /// In turns.
    tells: Vec<NodeId>,
    /// The leader, if we count as down.
    reports_to: Option<NodeId>,
    /// As the leader: those that are up, but ourselves.
    asks: BTreeSet<NodeId>,
    leader: Option<NodeId>,
    members: BTreeSet<NodeId>,
}

fn duties_of(us: NodeId, watchlist: &Watchlist) -> Duties {
    let Watchlist { seats, leader } = watchlist;
    let cell = choose::neighbours(us, seats);
    let mut watches = BTreeMap::new();
    for seat in cell.iter().filter(|seat| seat.is_up && seat.node != us) {
        let observers = choose::observers_among(seat.node, &cell);
        if observers.contains(&us) {
            watches.insert(seat.node, HEARTBEAT_MS * observers.len() as u64);
        }
    }
    let tells = choose::observers_among(us, &cell);
    let is_down = seats.iter().any(|seat| seat.node == us && !seat.is_up);
    let reports_to = leader.filter(|leader| is_down && *leader != us);
    let others_up = seats.iter().filter(|seat| seat.is_up && seat.node != us).map(|seat| seat.node);
    let asks = if *leader == Some(us) { others_up.collect() } else { BTreeSet::new() };
    let members = seats.iter().map(|seat| seat.node).collect();
    Duties { watches, tells, reports_to, asks, leader: *leader, members }
}

async fn listen(shared: &Shared) {
    let mut inbox = shared.transport.inbox(Lane::Probe);
    while let Some((from, message)) = inbox.recv().await {
        let Some(word) = Word::decode(&message) else { continue };
        shared.senses().heard(from, shared.now());
        match word {
            Word::Heartbeat => {}
            Word::Question => shared.say(from, &Word::Heartbeat),
            Word::Alarm(nodes) => {
                let now = shared.now();
                let is_new = |node: &NodeId| shared.senses().question(*node, now);
                let asked: Vec<_> = nodes.into_iter().filter(is_new).collect();
                asked.into_iter().for_each(|node| shared.say(node, &Word::Question));
            }
        }
    }
    // The mesh has ended; until the node ends too, it hears and judges nobody.
    std::future::pending().await
}

async fn beat(shared: &Shared) {
    let mut watchlist = shared.watchlist.clone();
    let mut ticks = tokio::time::interval(Duration::from_millis(TICK_MS));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let us = shared.transport.node();
    let mut duties = Duties::default();
    watchlist.mark_changed();
    for tick in (0..TICKS_A_HEARTBEAT).cycle() {
        ticks.tick().await;
        if let Ok(true) = watchlist.has_changed() {
            let now = watchlist.borrow_and_update().clone();
            duties = duties_of(us, &now);
            shared.senses().take(&duties, shared.now());
        }
        if tick == 0 {
            tell(shared, &mut duties);
        }
        let late = shared.senses().tick(shared.now(), duties.leader == Some(us));
        late.ask.iter().for_each(|node| shared.say(*node, &Word::Question));
        if let (Some(leader), [_, ..]) = (duties.leader, &late.alarm[..]) {
            shared.say(leader, &Word::Alarm(late.alarm));
        }
    }
}

/// Whose turn it is hears that we live.
fn tell(shared: &Shared, duties: &mut Duties) {
    if let Some(observer) = duties.tells.first() {
        shared.say(*observer, &Word::Heartbeat);
        duties.tells.rotate_left(1);
    }
    if let Some(leader) = duties.reports_to {
        shared.say(leader, &Word::Heartbeat);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use scp_model::Name;

    use super::*;

    fn watchlist(nodes: u64, leader: Option<u64>) -> Watchlist {
        let zone = Name::new("z").expect("a good name");
        let seats = (0..nodes).map(|id| Seat { node: NodeId(id), zone: zone.clone(), is_up: true }).collect();
        Watchlist { seats, leader: leader.map(NodeId) }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn who_watches_is_told(nodes in 1u64..20, down in prop::option::of(0u64..20)) {
            let mut list = watchlist(nodes, None);
            list.seats.iter_mut().for_each(|seat| seat.is_up = Some(seat.node.0) != down);
            let duties: Vec<_> = (0..nodes).map(|node| duties_of(NodeId(node), &list)).collect();
            for (a_id, a) in list.seats.iter().zip(&duties).filter(|(seat, _)| seat.is_up) {
                for (b_id, b) in list.seats.iter().zip(&duties).filter(|(seat, _)| seat.is_up) {
                    prop_assert_eq!(a.watches.contains_key(&b_id.node), b.tells.contains(&a_id.node));
                }
            }
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
            let _ = decode_ask(&bytes);
            let _ = decode_report(&bytes);
            if let Some(word) = Word::decode(&bytes) {
                prop_assert_eq!(Word::decode(&word.encode()), Some(word));
            }
        }
    }

    #[test]
    fn the_leader_may_ask_everyone_that_is_up_and_nobody_else_asks() {
        let mut list = watchlist(30, Some(3));
        list.seats[7].is_up = false;
        let duties: Vec<_> = (0..30).map(|id| duties_of(NodeId(id), &list)).collect();
        assert_eq!(duties[3].asks.len(), 28);
        assert!((0..30).filter(|id| *id != 3).all(|id| duties[id].asks.is_empty()));
    }

    #[test]
    fn who_counts_as_down_tells_the_leader_that_it_lives() {
        let mut list = watchlist(30, Some(3));
        assert_eq!(duties_of(NodeId(7), &list).reports_to, None);
        list.seats[7].is_up = false;
        assert_eq!(duties_of(NodeId(7), &list).reports_to, Some(NodeId(3)));
        assert!((0..30).all(|id| !duties_of(NodeId(id), &list).watches.contains_key(&NodeId(7))));
    }

    #[test]
    fn an_observer_that_is_late_gives_no_judgement_and_takes_its_own_time_off() {
        let (mut senses, subject) = (Senses::new(), NodeId(2));
        let watches = BTreeMap::from([(subject, 1_000)]);
        senses.take(&Duties { watches, ..Duties::default() }, 0);
        senses.heard(subject, 0);
        for now in (TICK_MS..=600).step_by(TICK_MS as usize) {
            senses.tick(now, false);
        }
        assert_eq!(senses.judge(subject, 600), Some(600));
        assert_eq!(senses.judge(subject, 5_600), None, "our loop has not turned for 5 s");
        assert_eq!(senses.tick(5_600, false), Late::default());
        assert_eq!(senses.judge(subject, 5_600), Some(600 + TICK_MS), "the rest of the stall was ours");
    }

    #[test]
    fn an_alarm_is_bounded_and_read_as_it_was_said() {
        let nodes: Vec<_> = (0..200).map(NodeId).collect();
        let said = Word::Alarm(nodes.clone()).encode();
        assert!(said.len() <= 1_000);
        assert_eq!(Word::decode(&said), Some(Word::Alarm(nodes[..ALARMS_MAX].to_vec())));
        assert_eq!(Word::decode(&said[..9]), Some(Word::Alarm(vec![NodeId(0)])));
        assert_eq!(Word::decode(&said[..8]), None);
    }

    #[test]
    fn the_longest_question_and_report_fit_their_lane() {
        let ask = SilenceAsk { subjects: vec![NodeId(u64::MAX); SUBJECTS_MAX] };
        let report = SilenceReport { silences_ms: vec![Some(u64::MAX); SUBJECTS_MAX] };
        let limit = Lane::Probe.limits().bytes_max;
        assert!(scp_codec::encode(VERSION, &ask).expect("encodes").len() <= limit);
        assert!(scp_codec::encode(VERSION, &report).expect("encodes").len() <= limit);
    }
}
