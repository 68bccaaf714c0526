//! Lanes: what kinds of talk share one connection, and how much of each.
//!
//! Each lane has its own limits, so that none can starve another: an image transfer never holds up a
//! heartbeat, a flood of forwarded writes never holds up a vote.

use serde::{Deserialize, Serialize};

/// What a message is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Lane {
    /// Agreement: appends, votes, snapshots.
    Raft,
    /// chitchat; one-way messages.
    Gossip,
    /// Reads and writes on their way to the leader, and everything one node asks another to do.
    Forward,
    /// Image chunks as requests; consoles and other long transfers as duplex streams.
    Bulk,
    /// Heartbeats as one-way datagrams; silence reports as requests.
    Probe,
    /// All that a stranger may use.
    Join,
    /// All that a member with an expired certificate may use.
    Renew,
}

/// How much of a lane one peer may use at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Largest request, answer or message, in bytes.
    pub bytes_max: usize,
    /// Requests under way to (and, separately, from) one peer.
    pub requests_max: usize,
}

/// Duplex streams under way to (and, separately, from) one peer: open consoles mostly, which last hours
/// and cost one idle task each.
pub const STREAMS_MAX: usize = 64;

/// One-way messages of a lane that wait for their reader. Both lanes repeat themselves within a second:
/// what does not fit is dropped, never queued.
pub const INBOX_MAX: usize = 1024;

impl Lane {
    pub const ALL: [Self; 7] =
        [Self::Raft, Self::Gossip, Self::Forward, Self::Bulk, Self::Probe, Self::Join, Self::Renew];

    pub const fn limits(self) -> Limits {
        match self {
            // An append batch or a snapshot piece is at most a quarter of a codec frame (64 MiB).
            // Raft sends a few at once; the limit leaves room for pipelining.
            Self::Raft => Limits { bytes_max: 16 << 20, requests_max: 64 },
            // chitchat's own hard limit is 65,507 bytes. Three partners a round; 16 absorb a slow link.
            Self::Gossip => Limits { bytes_max: 64 << 10, requests_max: 16 },
            // A batch of 512 reports or a page of a listing. 256 keep a group commit well filled.
            Self::Forward => Limits { bytes_max: 8 << 20, requests_max: 256 },
            // A chunk is 4 MiB, the manifest of the largest image 8 MiB. 16 chunks fill a 10 Gbit/s link.
            Self::Bulk => Limits { bytes_max: 9 << 20, requests_max: 16 },
            // A silence report on every node of a full cell is under 4 KiB.
            Self::Probe => Limits { bytes_max: 16 << 10, requests_max: 16 },
            // A profile out; a certificate and the city's members in.
            Self::Join => Limits { bytes_max: 1 << 20, requests_max: 4 },
            // A certificate.
            Self::Renew => Limits { bytes_max: 64 << 10, requests_max: 4 },
        }
    }

    /// Byte on the wire; never reused for another meaning.
    pub const fn code(self) -> u8 {
        match self {
            Self::Raft => 1,
            Self::Gossip => 2,
            Self::Forward => 3,
            Self::Bulk => 4,
            Self::Probe => 5,
            Self::Join => 6,
            Self::Renew => 7,
        }
    }

    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|lane| lane.code() == code)
    }

    /// Carries one-way messages.
    pub const fn is_one_way(self) -> bool {
        match self {
            Self::Gossip | Self::Probe => true,
            Self::Raft | Self::Forward | Self::Bulk | Self::Join | Self::Renew => false,
        }
    }

    /// Position in per-lane tables.
    pub(crate) const fn index(self) -> usize {
        self.code() as usize - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_lane_has_its_own_code_and_fits_a_frame() {
        for (at, lane) in Lane::ALL.into_iter().enumerate() {
            assert_eq!(Lane::from_code(lane.code()), Some(lane));
            assert_eq!(lane.index(), at);
            assert!(lane.limits().bytes_max <= scp_codec::PAYLOAD_BYTES_MAX);
        }
        assert_eq!(Lane::from_code(0), None);
        assert_eq!(Lane::from_code(8), None);
    }
}
