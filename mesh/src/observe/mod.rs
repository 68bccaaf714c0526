//! Who has been silent for how long: each node is watched by a few others, and the leader asks them too.
//!
//! ```text
//!   every node ──heartbeat, 150 ms──▶ its 3 to 5 observers, and the leader       (datagrams)
//!   leader: x is silent ──SilenceAsk──▶ x's observers ──SilenceReport──▶ evidence for the scheduler
//! ```
//!
//! Gossip would need 4 to 7 s at 200 members. Heartbeats are pushed: one small packet, no answer, nothing
//! to time out at the sender.
//!
//! # Guarantees
//! - Facts only: what silence means is the scheduler's to say, from the leader's and the observers' together.
//! - Who was late itself discounts its own time (see `hearing`).
//!
//! # Caveats
//! - A new leader, or a new observer, begins with no silence: a death at that moment is seen one threshold
//!   later.
//! - The leader takes in 7 heartbeats a second of every node; some thousand nodes are some thousand small
//!   packets a second.

mod choose;
mod hearing;

use std::{
    collections::BTreeSet,
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
use self::hearing::Hearing;
use crate::{
    lane::Lane,
    transport::{Refusal, RefusalKind, Transport},
    wire::VERSION,
};

/// A node tells its observers and the leader that it lives, this often: some 15 times within
/// the silence that the scheduler calls death.
pub const HEARTBEAT_MS: u64 = 150;

/// The most subjects of one question.
pub const SUBJECTS_MAX: usize = 1_000;

/// Content of a heartbeat; its sender is proven by the connection.
const HEARTBEAT: &[u8] = &[1];

/// Who is in the city, where, and who leads.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Watchlist {
    pub seats: Vec<Seat>,
    pub leader: Option<NodeId>,
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
    hearing: Mutex<Hearing>,
    began: Instant,
    cancel: CancellationToken,
}

impl Observer {
    pub fn start(transport: Arc<dyn Transport>, watchlist: watch::Receiver<Arc<Watchlist>>) -> Self {
        let shared = Arc::new(Shared {
            transport,
            watchlist,
            hearing: Mutex::new(Hearing::new(0)),
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

    /// Milliseconds since `peer` was last heard of (or since the watch began), less the time in which we
    /// ourselves were late; `None`: not watched here, or we are late right now.
    pub fn silence(&self, peer: NodeId) -> Option<u64> {
        self.shared.hearing().silence(peer, self.shared.now())
    }

    /// Milliseconds since a heartbeat of `peer` really came in; `None`: never since the watch began. Says
    /// whether a node that was declared dead is back.
    pub fn last_heard(&self, peer: NodeId) -> Option<u64> {
        self.shared.hearing().last_heard(peer, self.shared.now())
    }

    /// Every watched node with its silence in milliseconds; empty while we are late ourselves.
    pub fn silences(&self) -> Vec<(NodeId, u64)> {
        self.shared.hearing().silences(self.shared.now())
    }

    /// Answers a request of the probe lane; the node's `Service` passes it here.
    pub fn answer(&self, request: &[u8]) -> Result<Bytes, Refusal> {
        let invalid = |why: String| Refusal::new(RefusalKind::Invalid, why);
        let ask = decode_ask(request).map_err(|error| invalid(error.to_string()))?;
        if ask.subjects.len() > SUBJECTS_MAX {
            return Err(invalid(format!("at most {SUBJECTS_MAX} nodes in one question")));
        }
        let (hearing, now) = (self.shared.hearing(), self.shared.now());
        let silences_ms = ask.subjects.iter().map(|subject| hearing.silence(*subject, now)).collect();
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
    fn hearing(&self) -> MutexGuard<'_, Hearing> {
        self.hearing.lock().expect("nothing panics while it holds this lock")
    }

    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// Whom a node watches and whom it tells that it lives.
#[derive(Debug, Default, PartialEq, Eq)]
struct Duties {
    watches: BTreeSet<NodeId>,
    tells: BTreeSet<NodeId>,
}

fn duties_of(us: NodeId, watchlist: &Watchlist) -> Duties {
    let cell = choose::neighbours(us, &watchlist.seats);
    let watched = cell.iter().map(|seat| seat.node).filter(|node| *node != us);
    let mut watches: BTreeSet<_> =
        watched.filter(|node| choose::observers_among(*node, &cell).contains(&us)).collect();
    if watchlist.leader == Some(us) {
        watches.extend(watchlist.seats.iter().map(|seat| seat.node).filter(|node| *node != us));
    }
    let mut tells: BTreeSet<_> = choose::observers_among(us, &cell).into_iter().collect();
    tells.extend(watchlist.leader.filter(|leader| *leader != us));
    Duties { watches, tells }
}

async fn listen(shared: &Shared) {
    let mut inbox = shared.transport.inbox(Lane::Probe);
    while let Some((from, message)) = inbox.recv().await {
        if &message[..] == HEARTBEAT {
            shared.hearing().heard(from, shared.now());
        }
    }
    // The mesh has ended; until the node ends too, it hears and judges nobody.
    std::future::pending().await
}

async fn beat(shared: &Shared) {
    let mut watchlist = shared.watchlist.clone();
    let mut ticks = tokio::time::interval(Duration::from_millis(HEARTBEAT_MS));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut duties = Duties::default();
    watchlist.mark_changed();
    loop {
        ticks.tick().await;
        if let Ok(true) = watchlist.has_changed() {
            let now = watchlist.borrow_and_update().clone();
            duties = duties_of(shared.transport.node(), &now);
            shared.hearing().watch(&duties.watches, shared.now());
        }
        shared.hearing().tick(shared.now());
        for peer in &duties.tells {
            // Not connected, or congested: the next one is 150 ms away.
            let _ = shared.transport.send(*peer, Lane::Probe, Bytes::from_static(HEARTBEAT));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use scp_model::Name;

    use super::*;

    fn watchlist(nodes: u64, leader: Option<u64>) -> Watchlist {
        let zone = Name::new("z").expect("a good name");
        let seats = (0..nodes).map(|id| Seat { node: NodeId(id), zone: zone.clone() }).collect();
        Watchlist { seats, leader: leader.map(NodeId) }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn who_watches_is_told(nodes in 1u64..20, leader in prop::option::of(0u64..20)) {
            let list = watchlist(nodes, leader.filter(|leader| *leader < nodes));
            let duties: Vec<_> = (0..nodes).map(|node| duties_of(NodeId(node), &list)).collect();
            for (at, a) in duties.iter().enumerate() {
                for (other, b) in duties.iter().enumerate() {
                    let (a_id, b_id) = (NodeId(at as u64), NodeId(other as u64));
                    prop_assert_eq!(a.watches.contains(&b_id), b.tells.contains(&a_id));
                }
            }
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
            let _ = decode_ask(&bytes);
            let _ = decode_report(&bytes);
        }
    }

    #[test]
    fn the_leader_watches_everyone() {
        let list = watchlist(30, Some(3));
        assert_eq!(duties_of(NodeId(3), &list).watches.len(), 29);
        assert!(
            (0..30).filter(|id| *id != 3).all(|id| duties_of(NodeId(id), &list).tells.contains(&NodeId(3)))
        );
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
