//! openraft's types, spelled out for us, and nothing of them outside this crate.

use std::fmt;

use bytes::Bytes;
use scp_model::NodeId;
use serde::{Deserialize, Serialize};

openraft::declare_raft_types!(
    pub Types:
        D = Command,
        R = Answer,
        NodeId = NodeId,
        Node = (),
        LeaderId = openraft::impls::leader_id_adv::LeaderId<u64, NodeId>,
);

pub type LeaderId = openraft::impls::leader_id_adv::LeaderId<u64, NodeId>;
pub type Vote = openraft::alias::VoteOf<Types>;
pub type LogId = openraft::alias::LogIdOf<Types>;
pub type Entry = openraft::alias::EntryOf<Types>;
pub type Membership = openraft::Membership<NodeId, ()>;
pub type StoredMembership = openraft::alias::StoredMembershipOf<Types>;
pub type SnapshotMeta = openraft::alias::SnapshotMetaOf<Types>;

/// What is replicated: bytes that only the machine understands.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Command(pub Bytes);

/// What the machine answered.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Answer(pub Vec<u8>);

impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Command({} bytes)", self.0.len())
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Answer({} bytes)", self.0.len())
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}
