//! What callers are told.

use scp_model::NodeId;

use crate::{disk::DiskError, log::LogError};

/// Why a write was not confirmed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// Nothing was written; ask the leader.
    #[error("this node is not the leader")]
    NotLeader { leader: Option<NodeId> },
    /// Nothing was written; this node's disk takes no more.
    #[error("this node is read-only: {why}")]
    ReadOnly { why: String },
    /// Nothing was written; too many writes are under way. Retry after a pause.
    #[error("too many writes are under way")]
    Overloaded,
    /// Nothing was written.
    #[error("a command of {bytes} bytes exceeds the limit of {limit}")]
    TooLarge { bytes: usize, limit: usize },
    /// It may or may not be committed later: repeat it with the same request id.
    #[error("the outcome is unknown: {why}")]
    Unknown { why: String },
    #[error("this node's Raft is stopped")]
    Stopped,
}

/// Why no linearizable read is possible here and now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    #[error("no leader is known")]
    NoLeader,
    #[error("the leader {leader} did not confirm: {why}")]
    Leader { leader: NodeId, why: String },
    #[error("no quorum confirmed this leader")]
    NoQuorum,
    /// The log is known to be longer than what was applied here in time.
    #[error("this node is behind: applied {applied}, needed {needed}")]
    Behind { applied: u64, needed: u64 },
    #[error("this node's Raft is stopped")]
    Stopped,
}

/// Why the membership was not changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    #[error("this node is not the leader")]
    NotLeader { leader: Option<NodeId> },
    #[error("another change is under way")]
    InProgress,
    /// Voters are made of learners that have caught up; a group needs a voter.
    #[error("the change is not possible: {0}")]
    Impossible(String),
    #[error("the outcome is unknown: {0}")]
    Unknown(String),
    #[error("this node's Raft is stopped")]
    Stopped,
}

/// Why leadership was not handed over.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TransferError {
    #[error("this node is not the leader")]
    NotLeader { leader: Option<NodeId> },
    #[error("no other voter can take over")]
    NoCandidate,
    #[error("node {0} did not take over in time")]
    TimedOut(NodeId),
    #[error("this node's Raft is stopped")]
    Stopped,
}

/// Why Raft did not start.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StartError {
    #[error("configuration: {0}")]
    Config(String),
    #[error(transparent)]
    Disk(#[from] DiskError),
    #[error(transparent)]
    Log(#[from] LogError),
    #[error("snapshot {file} is damaged: {why}")]
    Snapshot { file: String, why: String },
    #[error("this directory belongs to node {found}, not to {expected}")]
    Identity { found: NodeId, expected: NodeId },
    /// Started without its log it would vote again where it has voted, and vouch for what it no longer has.
    #[error("node {0} has taken part in agreement, and its log is gone")]
    Forgotten(NodeId),
    #[error("raft: {0}")]
    Core(String),
}
