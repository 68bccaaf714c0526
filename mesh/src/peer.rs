//! One peer: its address, its connections, and the way back to it.
//!
//! ```text
//!            request, no link                    dialed, judged, hello
//!   Idle ───────────────────────▶ Dialing ─────────────────────────────▶ Linked
//!    ▲                              │  failed: next attempt not before a jittered, doubling pause
//!    └──────────────────────────────┘                                      │
//!    ▲                       link closed, or the peer moved                │
//!    └─────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! # Guarantees
//! - The mutex is held for a look at the table only, never across an await: a peer that does not answer
//!   holds up its own callers, each for its own timeout, and nobody else.
//! - One dial at a time; every caller that waits gets the outcome of an attempt that ended after it asked.
//! - Two nodes that dial each other at once keep both connections until the one dialed by the smaller id
//!   has won on both ends; the loser is closed when nothing uses it any more.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use scp_model::NodeId;
use tokio::{
    sync::{Semaphore, watch},
    time::Instant,
};

use crate::{
    certificate::Certificate,
    lane::{Lane, STREAMS_MAX},
    pulse::Pulse,
    tls::Standing,
    transport::MeshError,
};

/// Two connections of opposite directions that began within this time are a simultaneous dial; a later
/// one means that the peer lost the earlier.
const SIMULTANEOUS: Duration = Duration::from_secs(3);
/// First pause after a failed attempt; a restarting process is back within a few of these.
const BACKOFF_FIRST: Duration = Duration::from_millis(50);
/// Longest pause: a peer that comes back is found within a second.
const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// Close codes of our connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CloseCode {
    Goodbye,
    NotAMember,
    Superseded,
    /// The certificate was renewed: come again with the new one.
    Reauthenticate,
    Busy,
    /// The peer owes a sign of life.
    Silent,
}

impl CloseCode {
    pub(crate) const fn number(self) -> u32 {
        match self {
            Self::Goodbye => 0,
            Self::NotAMember => 1,
            Self::Superseded => 2,
            Self::Reauthenticate => 3,
            Self::Busy => 4,
            Self::Silent => 5,
        }
    }
}

/// A judged connection to a peer.
pub(crate) struct Link {
    pub(crate) connection: quinn::Connection,
    pub(crate) peer: NodeId,
    /// What the peer showed.
    pub(crate) certificate: Certificate,
    pub(crate) dialed_by_us: bool,
    pub(crate) standing: Standing,
    established: Instant,
    uses: AtomicUsize,
    pulse: Mutex<Pulse>,
    /// KiB of requests being read and served for this connection.
    pub(crate) inflight_kib: Arc<Semaphore>,
}

/// Payload of requests being served for one connection, in KiB: four of the largest.
const INFLIGHT_KIB_MAX: usize = 64 << 10;

/// Counts as one use of a link while it lives.
pub(crate) struct LinkUse(Arc<Link>);

impl Drop for LinkUse {
    fn drop(&mut self) {
        self.0.uses.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Link {
    pub(crate) fn new(
        connection: quinn::Connection,
        certificate: Certificate,
        dialed_by_us: bool,
        standing: Standing,
    ) -> Arc<Self> {
        Arc::new(Self {
            connection,
            peer: certificate.node(),
            certificate,
            dialed_by_us,
            standing,
            established: Instant::now(),
            uses: AtomicUsize::new(0),
            pulse: Mutex::new(Pulse::new()),
            inflight_kib: Arc::new(Semaphore::new(INFLIGHT_KIB_MAX)),
        })
    }

    pub(crate) fn enter(self: &Arc<Self>) -> LinkUse {
        self.uses.fetch_add(1, Ordering::Relaxed);
        LinkUse(self.clone())
    }

    pub(crate) fn is_open(&self) -> bool {
        self.connection.close_reason().is_none()
    }

    pub(crate) fn close(&self, code: CloseCode, why: &str) {
        self.connection.close(code.number().into(), why.as_bytes());
    }

    /// Whether a request or a stream of either end is under way.
    pub(crate) fn is_in_use(&self) -> bool {
        self.uses.load(Ordering::Relaxed) > 0
    }

    pub(crate) fn pulse(&self) -> MutexGuard<'_, Pulse> {
        self.pulse.lock().expect("nothing panics while it holds this lock")
    }
}

/// Closes a link that lost or was left behind, once nothing has used it for a while.
pub(crate) async fn retire(link: Arc<Link>) {
    /// Long enough for the other end to have noticed the winner.
    const LINGER: Duration = Duration::from_secs(2);
    loop {
        tokio::time::sleep(LINGER).await;
        if !link.is_open() {
            return;
        }
        if !link.is_in_use() {
            return link.close(CloseCode::Superseded, "another connection is in use");
        }
    }
}

struct State {
    address: Option<SocketAddr>,
    /// Open links, the one to use first.
    links: Vec<Arc<Link>>,
    dialing: bool,
    failures: u32,
    not_before: Option<Instant>,
}

/// What happened to a peer, for those who wait.
#[derive(Debug, Clone, Default)]
pub(crate) struct Outcome {
    /// Attempts that ended, and links that came in.
    pub(crate) count: u64,
    pub(crate) failure: Option<MeshError>,
}

pub(crate) struct Peer {
    us: NodeId,
    pub(crate) id: NodeId,
    state: Mutex<State>,
    outcome: watch::Sender<Outcome>,
    /// Tells a dial under way that the peer has moved.
    pub(crate) moved: watch::Sender<u64>,
    asking: [Arc<Semaphore>; Lane::ALL.len()],
    serving: [Arc<Semaphore>; Lane::ALL.len()],
    pub(crate) streams_out: Arc<Semaphore>,
    pub(crate) streams_in: Arc<Semaphore>,
}

/// What a caller without a link has to do.
pub(crate) enum Way {
    Link(Arc<Link>),
    /// Wait for the outcome of the dial that is under way.
    Wait,
    /// Start this dial, then wait for its outcome.
    Dial(Dial),
    NoAddress,
}

/// One attempt.
pub(crate) struct Dial {
    pub(crate) not_before: Option<Instant>,
}

impl Peer {
    pub(crate) fn new(us: NodeId, id: NodeId) -> Arc<Self> {
        let semaphores = || Lane::ALL.map(|lane| Arc::new(Semaphore::new(lane.limits().requests_max)));
        Arc::new(Self {
            us,
            id,
            state: Mutex::new(State {
                address: None,
                links: vec![],
                dialing: false,
                failures: 0,
                not_before: None,
            }),
            outcome: watch::Sender::new(Outcome::default()),
            moved: watch::Sender::new(0),
            asking: semaphores(),
            serving: semaphores(),
            streams_out: Arc::new(Semaphore::new(STREAMS_MAX)),
            streams_in: Arc::new(Semaphore::new(STREAMS_MAX)),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it holds this lock")
    }

    pub(crate) fn asking(&self, lane: Lane) -> Arc<Semaphore> {
        self.asking[lane.index()].clone()
    }

    pub(crate) fn serving(&self, lane: Lane) -> Arc<Semaphore> {
        self.serving[lane.index()].clone()
    }

    pub(crate) fn address(&self) -> Option<SocketAddr> {
        self.state().address
    }

    pub(crate) fn outcomes(&self) -> watch::Receiver<Outcome> {
        self.outcome.subscribe()
    }

    /// The link to use, or what has to be done to get one.
    pub(crate) fn way(&self) -> Way {
        let mut state = self.state();
        state.links.retain(|link| link.is_open());
        if let Some(link) = state.links.first() {
            return Way::Link(link.clone());
        }
        if state.address.is_none() {
            return Way::NoAddress;
        }
        if state.dialing {
            return Way::Wait;
        }
        state.dialing = true;
        Way::Dial(Dial { not_before: state.not_before })
    }

    /// A dial ended: with its link, or with what callers are told.
    pub(crate) fn dialed(&self, result: Result<Arc<Link>, MeshError>) -> Option<Arc<Link>> {
        self.state().dialing = false;
        match result {
            Ok(link) => self.adopt(link),
            Err(error) => {
                let mut state = self.state();
                let pause = backoff(state.failures, rand::random_range(0.5..1.0));
                state.failures = state.failures.saturating_add(1);
                state.not_before = Some(Instant::now() + pause);
                drop(state);
                self.tell(Some(error));
                None
            }
        }
    }

    /// Takes a new link in. Gives back one that is to be retired.
    pub(crate) fn adopt(&self, link: Arc<Link>) -> Option<Arc<Link>> {
        let mut state = self.state();
        state.links.retain(|link| link.is_open());
        state.failures = 0;
        state.not_before = None;
        let loser = match state.links.first().cloned() {
            None => {
                state.links.push(link);
                None
            }
            Some(current) if self.prefers(&current, &link) => {
                state.links.push(link.clone());
                Some(link)
            }
            Some(current) => {
                state.links.insert(0, link);
                Some(current)
            }
        };
        drop(state);
        self.tell(None);
        // The dialer closes what it dialed; the acceptor waits for that, or would cut a winner.
        loser.filter(|loser| loser.dialed_by_us)
    }

    /// Whether `current` stays the link to use although `new` came.
    fn prefers(&self, current: &Link, new: &Link) -> bool {
        if current.standing != new.standing {
            return current.standing == Standing::Full;
        }
        let simultaneous = new.established.duration_since(current.established) < SIMULTANEOUS;
        if !simultaneous || current.dialed_by_us == new.dialed_by_us {
            return false;
        }
        current.dialed_by_us == (self.us < self.id)
    }

    fn tell(&self, failure: Option<MeshError>) {
        self.outcome.send_modify(|outcome| {
            outcome.count += 1;
            outcome.failure = failure;
        });
    }

    /// A new address: tried at once, and links to the old one are given back to be retired.
    pub(crate) fn set_address(&self, address: Option<SocketAddr>) -> Vec<Arc<Link>> {
        let mut state = self.state();
        let before = std::mem::replace(&mut state.address, address);
        if before == address {
            return vec![];
        }
        state.failures = 0;
        state.not_before = None;
        // A peer that was never known may have come from another of its addresses: that link is good.
        let (keep, left): (Vec<_>, Vec<_>) = match (before, address) {
            (Some(_), Some(new)) => {
                state.links.drain(..).partition(|link| link.connection.remote_address() == new)
            }
            (None, _) | (_, None) => (state.links.drain(..).collect(), vec![]),
        };
        state.links = keep;
        drop(state);
        self.moved.send_modify(|count| *count += 1);
        left
    }

    pub(crate) fn links(&self) -> Vec<Arc<Link>> {
        let mut state = self.state();
        state.links.retain(|link| link.is_open());
        state.links.clone()
    }
}

/// The pause after the `failures`-th failed attempt in a row.
pub(crate) fn backoff(failures: u32, jitter: f64) -> Duration {
    let doubled = BACKOFF_FIRST.saturating_mul(1 << failures.min(10));
    doubled.min(BACKOFF_MAX).mul_f64(jitter)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_second_and_are_spread() {
        assert_eq!(backoff(0, 1.0), Duration::from_millis(50));
        assert_eq!(backoff(2, 1.0), Duration::from_millis(200));
        assert_eq!(backoff(30, 1.0), BACKOFF_MAX);
        assert_eq!(backoff(u32::MAX, 0.5), BACKOFF_MAX / 2);
    }
}
