//! Whether a link still lives, without a word on a quiet one.
//!
//! ```text
//!   quiet:  nothing is sent; after [`REST`] without use both ends forget the connection
//!   in use: a request or a stream is under way ──1.5 s without a word──▶ a ping, so that an end is noticed
//!   owing:  something was sent and no packet came back ──5 s──▶ closed; the next use dials
//! ```
//! A node has a link to everyone it ever spoke to, so what is sent on those that nobody needs would grow
//! with the city. A peer that restarted answers the first packet with a reset ([`crate::restart`]); one that
//! is dead owes an answer.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use quinn::ConnectionStats;
use tokio::time::{Instant, MissedTickBehavior};

use crate::{mesh::Shared, peer::CloseCode};

/// A connection that owes a sign of life for this long is dead. More than twice the longest stall (2 s)
/// after which a node still counts as alive.
pub(crate) const IDLE: Duration = Duration::from_secs(5);
/// A connection without use is kept for so long: partners in gossip meet more often.
pub(crate) const REST: Duration = Duration::from_secs(300);
/// On a connection in use somebody speaks at least so often: three times within [`IDLE`], so two may be lost.
pub(crate) const KEEP_ALIVE: Duration = Duration::from_millis(1_500);
const LOOK: Duration = Duration::from_millis(500);
/// A look that comes later than this was held up by ourselves: nobody is blamed for that time.
const LATE: Duration = Duration::from_secs(1);
/// No lane has this code: whoever gets it lets it fall, and QUIC has acknowledged it.
const PING: &[u8] = &[0];

/// What has passed on a connection so far, in frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Passed {
    /// Of those that call for an acknowledgement.
    sent: u64,
    received: u64,
}

impl From<ConnectionStats> for Passed {
    fn from(stats: ConnectionStats) -> Self {
        let eliciting = |frames: quinn::FrameStats| {
            let data = frames.stream + frames.datagram + frames.crypto + frames.ping;
            let limits =
                frames.max_data + frames.max_stream_data + frames.max_streams_bidi + frames.max_streams_uni;
            data + limits + frames.reset_stream + frames.stop_sending + frames.path_challenge
        };
        Self { sent: eliciting(stats.frame_tx), received: stats.frame_rx.acks + eliciting(stats.frame_rx) }
    }
}

/// What becomes of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Good,
    /// If it is in use.
    Ping,
    Dead,
}

/// What is remembered of a connection from look to look.
#[derive(Debug)]
pub(crate) struct Pulse {
    passed: Passed,
    heard: Instant,
    /// Since when an answer has been owed.
    owing: Option<Instant>,
}

impl Pulse {
    pub(crate) fn new() -> Self {
        Self { passed: Passed { sent: 0, received: 0 }, heard: Instant::now(), owing: None }
    }

    /// `lost`: time that we ourselves stood still.
    fn look(&mut self, passed: Passed, (now, lost): (Instant, Duration)) -> Verdict {
        self.heard += lost;
        self.owing = self.owing.map(|since| since + lost);
        if passed.received != self.passed.received {
            *self = Self { passed, heard: now, owing: None };
            return Verdict::Good;
        }
        if passed.sent != self.passed.sent {
            let since = *self.owing.get_or_insert(now);
            if now.saturating_duration_since(since) >= IDLE - LOOK {
                return Verdict::Dead;
            }
        }
        if now.saturating_duration_since(self.heard) >= KEEP_ALIVE { Verdict::Ping } else { Verdict::Good }
    }
}

/// Looks at all links until the mesh ends.
pub(crate) async fn watch(shared: Arc<Shared>) {
    let mut ticks = tokio::time::interval(LOOK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last = Instant::now();
    loop {
        ticks.tick().await;
        let now = Instant::now();
        let gap = now.duration_since(last).saturating_sub(LOOK);
        let lost = if gap > LATE { gap } else { Duration::ZERO };
        last = now;
        for link in shared.links() {
            let verdict = link.pulse().look(link.connection.stats().into(), (now, lost));
            match verdict {
                Verdict::Good => {}
                // Congested or just closed: the next look is near.
                Verdict::Ping if link.is_in_use() => {
                    let _ = link.connection.send_datagram(Bytes::from_static(PING));
                }
                Verdict::Ping => {}
                Verdict::Dead => link.close(CloseCode::Silent, "no sign of life"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: Duration = Duration::ZERO;

    fn passed(sent: u64, received: u64) -> Passed {
        Passed { sent, received }
    }

    /// Looks from one time to another; the last verdict.
    fn look(pulse: &mut Pulse, now: Passed, span: std::ops::RangeInclusive<u64>, began: Instant) -> Verdict {
        let times = span.step_by(LOOK.as_millis() as usize);
        let verdicts = times.map(|ms| pulse.look(now, (began + Duration::from_millis(ms), NOTHING)));
        verdicts.last().expect("one look at least")
    }

    #[test]
    fn a_quiet_connection_is_never_dead() {
        let (mut pulse, began) = (Pulse::new(), Instant::now());
        assert_eq!(look(&mut pulse, passed(3, 3), 0..=0, began), Verdict::Good);
        assert_eq!(look(&mut pulse, passed(3, 3), 500..=1_000, began), Verdict::Good);
        assert_eq!(look(&mut pulse, passed(3, 3), 1_500..=600_000, began), Verdict::Ping);
    }

    #[test]
    fn one_that_owes_an_answer_is_dead_after_a_while_and_good_as_soon_as_anything_comes() {
        let (mut pulse, began) = (Pulse::new(), Instant::now());
        look(&mut pulse, passed(3, 3), 0..=0, began);
        assert_eq!(look(&mut pulse, passed(4, 3), 500..=4_500, began), Verdict::Ping);
        assert_eq!(look(&mut pulse, passed(5, 4), 5_000..=5_000, began), Verdict::Good);
        assert_eq!(look(&mut pulse, passed(6, 4), 5_500..=9_500, began), Verdict::Ping);
        assert_eq!(look(&mut pulse, passed(6, 4), 10_000..=10_000, began), Verdict::Dead);
    }

    #[test]
    fn our_own_stall_is_nobodys_fault() {
        let (mut pulse, began) = (Pulse::new(), Instant::now());
        look(&mut pulse, passed(3, 3), 0..=0, began);
        look(&mut pulse, passed(4, 3), 500..=1_000, began);
        let (later, lost) = (began + Duration::from_secs(61), Duration::from_secs(60));
        assert_eq!(pulse.look(passed(4, 3), (later, lost)), Verdict::Good);
    }
}
