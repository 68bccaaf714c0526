//! What a node knows of its group, for operators, the scheduler and the API.

use std::collections::{BTreeMap, BTreeSet};

use scp_model::NodeId;
use tokio::time::Instant;

/// Published whenever something in it changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    pub node: NodeId,
    pub role: Role,
    /// The leader as this node knows it.
    pub leader: Option<NodeId>,
    pub term: u64,
    /// Voters of the membership in force; of both sets while a change is under way. Empty: this node
    /// belongs to no group yet.
    pub voters: BTreeSet<NodeId>,
    pub learners: BTreeSet<NodeId>,
    /// A change of voters is under way: its second step is still to come.
    pub joint: bool,
    /// Index of the last entry that this node's log holds.
    pub last_log: u64,
    /// Index up to which this node knows the log to be committed.
    pub committed: u64,
    /// Index of the last entry applied here.
    pub applied: u64,
    /// Index of the last entry covered by this node's snapshot.
    pub snapshot: u64,
    /// Why this node takes no writes: the disk is full or failing. It still answers reads.
    pub read_only: Option<String>,
    /// On a leader: when a quorum last confirmed it.
    pub quorum_acked_at: Option<Instant>,
    /// On a leader: how far each other node is.
    pub peers: BTreeMap<NodeId, Peer>,
}

/// How far a peer's log is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Peer {
    /// Highest index known to be in its log.
    pub matched: Option<u64>,
    /// When it last answered.
    pub acked_at: Option<Instant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Receives the log, does not vote.
    Learner,
    Follower,
    Candidate,
    Leader,
    /// Its disk failed; it is being started again.
    Restarting,
    Stopped,
}
