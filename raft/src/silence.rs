//! A leader that no quorum answers falls silent, so that the others may elect one that is answered.
//!
//! It may be heard all the same: a cut in one direction only. Each entry that it sends again then renews the
//! lease within which the others vote for nobody else. openraft itself holds only heartbeats back
//! ([`quorum_loss_probe_interval`](openraft::Config)); this holds entries back by the same rule:
//!
//! ```text
//!   last answer of a quorum ─ lease ─▶ silent ─ interval ─▶ speaks ─ interval ─▶ silent ...
//!         ▲                                                   │
//!         └────────────────── a quorum answers ───────────────┘
//! ```
//! Held back is not failed: what waits is sent as soon as a quorum is heard of again, by heartbeats or by
//! the votes of a voter that could not be elected.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use openraft::{Instant as _, ServerState, async_runtime::WatchReceiver, metrics::RaftMetrics};
use tokio::time::Instant;

use crate::{config::Config, types::Types};

type Metrics = openraft::alias::WatchReceiverOf<Types, RaftMetrics<Types>>;

/// What tells a core's clients whether to be silent.
#[derive(Clone)]
pub(crate) struct Silence {
    /// openraft makes clients before it can be asked; nothing is led before it can.
    metrics: Arc<OnceLock<Metrics>>,
    lease: Duration,
    interval: Duration,
}

impl Silence {
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            metrics: Arc::default(),
            lease: config.election_timeout_max,
            interval: config.quorum_loss_interval(),
        }
    }

    pub(crate) fn watch(&self, metrics: Metrics) {
        // Once a core, by the one that made it.
        let _ = self.metrics.set(metrics);
    }

    /// Returns when this node may speak as a leader. A leader that no quorum answered yet counts from
    /// `elected`.
    pub(crate) async fn over(&self, elected: Instant) {
        let Some(mut metrics) = self.metrics.get().cloned() else { return };
        loop {
            let silence = self.left(&metrics.borrow_watched(), elected);
            let Some(silence) = silence else { return };
            tokio::select! {
                () = tokio::time::sleep(silence) => {}
                changed = metrics.changed() => if changed.is_err() { return },
            }
        }
    }

    fn left(&self, metrics: &RaftMetrics<Types>, elected: Instant) -> Option<Duration> {
        let alone = metrics.membership_config.membership().voter_ids().eq([metrics.id]);
        if metrics.state != ServerState::Leader || alone {
            return None;
        }
        let unanswered =
            metrics.last_quorum_acked.as_ref().map_or_else(|| elected.elapsed(), |at| (**at).elapsed());
        silence(unanswered.checked_sub(self.lease)?, self.interval)
    }
}

/// How long to be silent still, so long after the lease ran out.
fn silence(since: Duration, interval: Duration) -> Option<Duration> {
    let turns = since.as_nanos() / interval.as_nanos();
    let into = Duration::from_nanos((since.as_nanos() % interval.as_nanos()) as u64);
    turns.is_multiple_of(2).then(|| interval - into)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_and_probes_take_turns() {
        let left = |since_ms| silence(Duration::from_millis(since_ms), Duration::from_millis(100));
        assert_eq!(left(0), Some(Duration::from_millis(100)));
        assert_eq!(left(99), Some(Duration::from_millis(1)));
        assert_eq!((left(100), left(199)), (None, None));
        assert_eq!(left(230), Some(Duration::from_millis(70)));
    }
}
