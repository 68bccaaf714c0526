//! What the log holds, in our own types: openraft's may change their shape, the disk may not.

use std::collections::BTreeSet;

use bytes::Bytes;
use openraft::{EntryPayload, vote::RaftLeaderId};
use scp_model::NodeId;
use serde::{Deserialize, Serialize};

use crate::types::{Command, Entry, LeaderId, LogId, Membership, StoredMembership, Vote};

/// A position in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Position {
    pub(crate) term: u64,
    pub(crate) leader: NodeId,
    pub(crate) index: u64,
}

/// Whom this node follows, or would vote for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ballot {
    pub(crate) term: u64,
    pub(crate) candidate: NodeId,
    /// A quorum granted it.
    pub(crate) won: bool,
}

/// Voters (two sets during a change) and all members.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Members {
    pub(crate) voters: Vec<BTreeSet<NodeId>>,
    pub(crate) all: BTreeSet<NodeId>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Content {
    /// A new leader's first entry.
    Blank,
    Command(Bytes),
    Members(Members),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LogEntry {
    pub(crate) at: Position,
    pub(crate) content: Content,
}

/// One durable change. New kinds go to the end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Record {
    Vote(Ballot),
    Entry(LogEntry),
    /// Everything behind this position is void; none: everything.
    TruncateAfter(Option<Position>),
    /// Everything up to here is covered by a snapshot.
    Purge(Position),
    /// Known to be committed; written along with other records, never for its own sake.
    Committed(Position),
}

/// What a segment starts from, so that the segments before it can be dropped.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Base {
    pub(crate) vote: Option<Ballot>,
    pub(crate) purged: Option<Position>,
    pub(crate) committed: Option<Position>,
}

impl LogEntry {
    /// Bytes that it takes when it is encoded, roughly.
    pub(crate) fn room(&self) -> usize {
        const POSITION_BYTES: usize = 48;
        let content = match &self.content {
            Content::Blank => 0,
            Content::Command(bytes) => bytes.len(),
            Content::Members(members) => 32 * members.all.len(),
        };
        POSITION_BYTES + content
    }
}

impl Record {
    /// The same.
    pub(crate) fn room(&self) -> usize {
        match self {
            Self::Entry(entry) => entry.room(),
            Self::Vote(_) | Self::TruncateAfter(_) | Self::Purge(_) | Self::Committed(_) => 48,
        }
    }
}

impl From<LogId> for Position {
    fn from(id: LogId) -> Self {
        Self { term: id.leader_id.term, leader: id.leader_id.node_id, index: id.index }
    }
}

impl From<Position> for LogId {
    fn from(at: Position) -> Self {
        Self::new(<LeaderId as RaftLeaderId>::new(at.term, at.leader).to_committed(), at.index)
    }
}

impl From<Vote> for Ballot {
    fn from(vote: Vote) -> Self {
        Self { term: vote.leader_id.term, candidate: vote.leader_id.node_id, won: vote.committed }
    }
}

impl From<Ballot> for Vote {
    fn from(ballot: Ballot) -> Self {
        Self {
            leader_id: <LeaderId as RaftLeaderId>::new(ballot.term, ballot.candidate),
            committed: ballot.won,
        }
    }
}

impl From<&Membership> for Members {
    fn from(membership: &Membership) -> Self {
        Self {
            voters: membership.get_joint_config().clone(),
            all: membership.nodes().map(|(id, _)| *id).collect(),
        }
    }
}

impl From<Members> for Membership {
    fn from(members: Members) -> Self {
        Self::new_with_defaults(members.voters, members.all)
    }
}

impl From<&Entry> for LogEntry {
    fn from(entry: &Entry) -> Self {
        let content = match &entry.payload {
            EntryPayload::Blank => Content::Blank,
            EntryPayload::Normal(command) => Content::Command(command.0.clone()),
            EntryPayload::Membership(membership) => Content::Members(membership.into()),
        };
        Self { at: entry.log_id.into(), content }
    }
}

impl From<LogEntry> for Entry {
    fn from(entry: LogEntry) -> Self {
        let payload = match entry.content {
            Content::Blank => EntryPayload::Blank,
            Content::Command(bytes) => EntryPayload::Normal(Command(bytes)),
            Content::Members(members) => EntryPayload::Membership(members.into()),
        };
        Self { log_id: entry.at.into(), payload }
    }
}

/// A membership and where it stands in the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PlacedMembers {
    pub(crate) at: Option<Position>,
    pub(crate) members: Members,
}

impl From<&StoredMembership> for PlacedMembers {
    fn from(stored: &StoredMembership) -> Self {
        Self { at: stored.log_id().map(Position::from), members: stored.membership().into() }
    }
}

impl From<PlacedMembers> for StoredMembership {
    fn from(placed: PlacedMembers) -> Self {
        Self::new(placed.at.map(LogId::from), placed.members.into())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(crate) fn position() -> impl Strategy<Value = Position> {
        (any::<u64>(), any::<u64>(), any::<u64>()).prop_map(|(term, leader, index)| Position {
            term,
            leader: NodeId(leader),
            index,
        })
    }

    pub(crate) fn record() -> impl Strategy<Value = Record> {
        let nodes = || proptest::collection::btree_set(any::<u64>().prop_map(NodeId), 0..6);
        let content = prop_oneof![
            Just(Content::Blank),
            proptest::collection::vec(any::<u8>(), 0..300).prop_map(|bytes| Content::Command(bytes.into())),
            (proptest::collection::vec(nodes(), 0..3), nodes())
                .prop_map(|(voters, all)| Content::Members(Members { voters, all })),
        ];
        prop_oneof![
            (any::<u64>(), any::<u64>(), any::<bool>()).prop_map(|(term, node, won)| Record::Vote(Ballot {
                term,
                candidate: NodeId(node),
                won
            })),
            (position(), content).prop_map(|(at, content)| Record::Entry(LogEntry { at, content })),
            proptest::option::of(position()).prop_map(Record::TruncateAfter),
            position().prop_map(Record::Purge),
            position().prop_map(Record::Committed),
        ]
    }

    proptest! {
        #[test]
        fn an_entry_survives_the_way_to_openraft_and_back(record in record()) {
            if let Record::Entry(entry) = record {
                // openraft adds voters to the members, as it must.
                let once = LogEntry::from(&Entry::from(entry));
                prop_assert_eq!(LogEntry::from(&Entry::from(once.clone())), once);
            }
        }
    }
}
