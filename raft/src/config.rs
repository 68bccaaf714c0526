//! Timing and sizes.
//!
//! Failover: a follower asks for votes when `election_timeout_max` (the leader's lease) and its own
//! random election timeout have passed since it last heard from the leader. With 100 to 220 ms that is
//! 0.27 to 0.44 s after the leader's death, then two round trips and two syncs. The price: a leader that is
//! heard by nobody for a third of a second is replaced, which costs writers less than its silence did.

use std::time::Duration;

use scp_model::NodeId;

/// The largest command. Batches, segments and frames are sized for it.
pub const COMMAND_BYTES_MAX: usize = 1 << 20;
/// A snapshot that is written in less than a second is written as often as the configuration says.
const SNAPSHOT_LARGE_BYTES: u64 = 32 << 20;
/// Bytes logged at most between two snapshots: all of them are in memory.
const SNAPSHOT_DUE_BYTES_MAX: u64 = 256 << 20;

#[derive(Debug, Clone)]
pub struct Config {
    pub node: NodeId,
    /// This node has voted or acknowledged entries before: it does not start without a log.
    pub has_taken_part: bool,
    /// How often a leader says that it is there.
    pub heartbeat: Duration,
    pub election_timeout_min: Duration,
    /// Also the lease within which followers refuse to vote for another.
    pub election_timeout_max: Duration,
    /// How long one call to a peer may take. Longer than a slow sync, shorter than a person's patience.
    pub call_timeout: Duration,
    /// How long a write waits for its quorum before its outcome is reported as unknown.
    pub write_timeout: Duration,
    /// How long a linearizable read waits for its leader, quorum and the local log.
    pub read_timeout: Duration,
    /// Writes under way at once. Beyond that they are refused: a queue would only add to their age.
    pub writes_max: usize,
    /// Bytes of one log segment. Two are allocated at any time: the one written to and a spare, which
    /// is the reserve that keeps elections and started writes going when the disk is full.
    pub segment_bytes: u64,
    /// A snapshot is taken when so many bytes were logged since the last one; or half of what that one has,
    /// where that is more: see [`Config::snapshot_due`]. Also bounds what a start replays, and the entries
    /// kept in memory.
    pub snapshot_log_bytes: u64,
    /// Bytes of log kept although a snapshot covers them, for followers that are a little behind.
    pub keep_log_bytes: u64,
    /// Bytes of one chunk of a snapshot on its way to a peer.
    pub chunk_bytes: usize,
    /// How often a full or failed disk is tried again.
    pub retry: Duration,
}

impl Config {
    /// What production uses.
    pub fn new(node: NodeId) -> Self {
        Self {
            node,
            has_taken_part: false,
            heartbeat: Duration::from_millis(50),
            election_timeout_min: Duration::from_millis(100),
            election_timeout_max: Duration::from_millis(220),
            call_timeout: Duration::from_secs(1),
            write_timeout: Duration::from_secs(10),
            read_timeout: Duration::from_secs(5),
            writes_max: 4096,
            segment_bytes: 16 << 20,
            snapshot_log_bytes: 32 << 20,
            keep_log_bytes: 8 << 20,
            chunk_bytes: 1 << 20,
            retry: Duration::from_secs(1),
        }
    }

    /// Bytes of log that call for the snapshot after one of `bytes`. A snapshot writes all of the state: at a
    /// fixed distance a large state would be written many times for each time its size is logged. Half of it,
    /// since to replay an entry takes some three times as long as to read its record from a snapshot: a start
    /// then takes at most two and a half times as long as the snapshot alone. Bounded, since entries are in
    /// memory until a snapshot covers them.
    pub(crate) fn snapshot_due(&self, bytes: u64) -> u64 {
        let is_large = bytes > SNAPSHOT_LARGE_BYTES;
        let due = if is_large { (bytes / 2).min(SNAPSHOT_DUE_BYTES_MAX) } else { 0 };
        due.max(self.snapshot_log_bytes)
    }

    /// How long a leader that no quorum answers is silent, and then tries to be heard, in turns. The others'
    /// lease and the longest election timeout are half of it; the rest is for syncs of votes, and a split one.
    pub(crate) fn quorum_loss_interval(&self) -> Duration {
        4 * self.election_timeout_max
    }

    pub(crate) fn openraft(&self) -> Result<openraft::Config, String> {
        let millis = |duration: Duration| duration.as_millis() as u64;
        openraft::Config {
            cluster_name: "scp".into(),
            heartbeat_interval: millis(self.heartbeat),
            election_timeout_min: millis(self.election_timeout_min),
            election_timeout_max: millis(self.election_timeout_max),
            install_snapshot_timeout: millis(self.call_timeout),
            // Bytes bound a batch (see LogReader); this only bounds the bookkeeping.
            max_payload_entries: 1024,
            max_append_entries: Some(4096),
            // A learner counts as caught up when it is so close behind.
            replication_lag_threshold: 1000,
            // Snapshots are taken, and the log is purged, by bytes: see `keeper`.
            snapshot_policy: openraft::SnapshotPolicy::Never,
            max_in_snapshot_log_to_keep: u64::MAX >> 1,
            backoff: "50ms 100ms 200ms ...500ms".into(),
            enable_pre_vote: Some(true),
            // Of heartbeats alone: see `silence`.
            quorum_loss_probe_interval: Some(millis(self.quorum_loss_interval())),
            // A restarted leader has to be elected: its state may be behind what it once answered.
            enable_leader_restore: Some(false),
            ..Default::default()
        }
        .validate()
        .map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_state_is_written_twice_for_each_time_its_size_is_logged_within_a_bound() {
        let config = Config::new(NodeId(1));
        assert_eq!(config.snapshot_due(0), 32 << 20);
        assert_eq!(config.snapshot_due(32 << 20), 32 << 20);
        assert_eq!(config.snapshot_due(50 << 20), 32 << 20);
        assert_eq!(config.snapshot_due(100 << 20), 50 << 20);
        assert_eq!(config.snapshot_due(1 << 30), 256 << 20);
        let small = Config { snapshot_log_bytes: 8 << 10, ..config };
        assert_eq!(small.snapshot_due(1 << 20), 8 << 10);
    }
}
