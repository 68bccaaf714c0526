//! What peers say to each other. Our own types: openraft's may change between two nodes of a rolling
//! upgrade. Each message is one codec frame; [`VERSION`] changes when a message does.

use bytes::Bytes;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use scp_codec::CodecError;

use crate::{
    log::record::{Ballot, LogEntry, Position},
    network::REQUEST_BYTES_MAX,
    snapshot::Offer,
};

pub(crate) const VERSION: u16 = 1;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Request {
    Append(Append),
    Vote(Canvass),
    /// Would you vote for me? Nothing is promised.
    PreVote(Canvass),
    /// Take over as leader, once your log reaches `last`.
    Transfer {
        leader: Ballot,
        to: scp_model::NodeId,
        last: Option<Position>,
    },
    /// From where on do you need this snapshot?
    SnapshotOffer {
        leader: Ballot,
        offer: Offer,
    },
    SnapshotChunk {
        leader: Ballot,
        offer: Offer,
        offset: u64,
        bytes: Bytes,
    },
    /// All chunks are there: install it.
    SnapshotInstall {
        leader: Ballot,
        offer: Offer,
    },
    /// Up to where must a read see the log now? For the leader.
    ReadIndex,
    /// Does your disk take writes? Asked by a leader whose own does not, before it hands over.
    Writable,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Append {
    pub(crate) leader: Ballot,
    pub(crate) previous: Option<Position>,
    pub(crate) entries: Vec<LogEntry>,
    pub(crate) committed: Option<Position>,
}

/// Asking for a vote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Canvass {
    pub(crate) ballot: Ballot,
    pub(crate) last: Option<Position>,
    /// The leader wants this election: its lease does not stand in the way.
    pub(crate) transfer: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Response {
    Append(Appended),
    Vote {
        ballot: Ballot,
        granted: bool,
        last: Option<Position>,
    },
    Transfer(TransferAnswer),
    /// Bytes of the snapshot that are there.
    SnapshotAt(u64),
    SnapshotInstalled(Ballot),
    ReadIndex(u64),
    Writable,
    Refused(Refusal),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Appended {
    Success,
    /// Only up to here.
    Partial(Option<Position>),
    Conflict,
    HigherVote(Ballot),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum TransferAnswer {
    Accepted,
    VoteChanged { expected: Ballot, actual: Ballot },
    LogBehind { expected: Option<Position>, actual: Option<Position> },
}

/// Why a request was not carried out. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("it is not the leader")]
    NotLeader,
    #[error("no quorum confirmed it")]
    NoQuorum,
    #[error("its Raft is stopped")]
    Stopped,
    #[error("it is read-only: {0}")]
    ReadOnly(String),
    /// The caller speaks for another node, or not our language.
    #[error("it refused the message: {0}")]
    Invalid(String),
    #[error("its disk failed: {0}")]
    Disk(String),
}

impl Request {
    /// Bytes that it takes when it is encoded, roughly.
    fn room(&self) -> usize {
        const WORDS_BYTES: usize = 256;
        let content = match self {
            Self::Append(append) => append.entries.iter().map(LogEntry::room).sum(),
            Self::SnapshotChunk { bytes, .. } => bytes.len(),
            Self::Vote(_)
            | Self::PreVote(_)
            | Self::Transfer { .. }
            | Self::SnapshotOffer { .. }
            | Self::SnapshotInstall { .. }
            | Self::ReadIndex
            | Self::Writable => 0,
        };
        WORDS_BYTES + content
    }
}

pub(crate) fn encode_request(request: &Request) -> Result<Bytes, CodecError> {
    bounded(scp_codec::encode_within(VERSION, request, request.room())?)
}

pub(crate) fn encode<T: Serialize>(message: &T) -> Result<Bytes, CodecError> {
    bounded(scp_codec::encode(VERSION, message)?)
}

fn bounded(bytes: Vec<u8>) -> Result<Bytes, CodecError> {
    if bytes.len() > REQUEST_BYTES_MAX {
        return Err(CodecError::TooLong { length: bytes.len(), limit: REQUEST_BYTES_MAX });
    }
    Ok(bytes.into())
}

pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    scp_codec::decode(VERSION, bytes, REQUEST_BYTES_MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::log::record::{
        Record,
        tests::{position, record},
    };

    fn append() -> impl Strategy<Value = Request> {
        (proptest::collection::vec(record(), 0..6), proptest::option::of(position()), any::<u64>()).prop_map(
            |(records, previous, term)| {
                let entries = records.into_iter().filter_map(|record| match record {
                    Record::Entry(entry) => Some(entry),
                    Record::Vote(_) | Record::TruncateAfter(_) | Record::Purge(_) | Record::Committed(_) => {
                        None
                    }
                });
                let leader = Ballot { term, candidate: scp_model::NodeId(term), won: true };
                Request::Append(Append { leader, previous, entries: entries.collect(), committed: previous })
            },
        )
    }

    proptest! {
        #[test]
        fn a_message_arrives_as_it_was_sent(request in append()) {
            let bytes = encode(&request).expect("small");
            prop_assert_eq!(decode::<Request>(&bytes), Ok(request));
        }

        #[test]
        fn a_cut_or_flipped_message_is_an_error(request in append(), at: prop::sample::Index, bit in 0u8..8) {
            let bytes = encode(&request).expect("small");
            let at = at.index(bytes.len());
            prop_assert!(decode::<Request>(&bytes[..at]).is_err());
            let mut flipped = bytes.to_vec();
            flipped[at] ^= 1 << bit;
            prop_assert!(decode::<Request>(&flipped).is_err());
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
            let _ = decode::<Request>(&bytes);
            let _ = decode::<Response>(&bytes);
            // Behind a right frame too.
            let framed = scp_codec::frame(VERSION, &bytes).expect("small");
            let _ = decode::<Request>(&framed);
            let _ = decode::<Response>(&framed);
        }
    }

    #[test]
    fn a_message_over_the_limit_is_not_sent() {
        let leader = Ballot { term: 1, candidate: scp_model::NodeId(1), won: true };
        let offer = Offer { last: None, bytes: 0, crc: 0 };
        let bytes = Bytes::from(vec![0; REQUEST_BYTES_MAX]);
        let request = Request::SnapshotChunk { leader, offer, offset: 0, bytes };
        assert!(matches!(encode(&request), Err(CodecError::TooLong { .. })));
    }
}
