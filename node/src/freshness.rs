//! When this node last knew itself up to date.
//!
//! Asks for a read index once a second. The answer says: everything that was committed when we asked is
//! applied here. The agent starts nothing without it, and stale reads say how old they are.

use std::time::Duration;

use scp_raft::Raft;
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

/// At 200 nodes this is 200 read indices a second at the leader, well under a percent of what it can.
const INTERVAL: Duration = Duration::from_secs(1);

/// Keeps `fresh` at the moment of the last confirmed question.
pub async fn keep(raft: Raft, fresh: watch::Sender<Option<Instant>>, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let asked = Instant::now();
        match raft.linearizable().await {
            Ok(_) => {
                fresh.send_replace(Some(asked));
            }
            // Woken all the same: that the old confirmation has run out is news, too.
            Err(_) => fresh.send_modify(|_| ()),
        }
    }
}
