//! What nodes ask each other beside Raft and gossip: the forward lane's requests, the bulk lane's
//! chunks, and what a byte stream is opened for.

use std::net::SocketAddr;

use bytes::Bytes;
use scp_codec::{CodecError, decode, encode, encode_within};
use scp_mesh::{Lane, Refusal, RefusalKind};
use scp_model::{Digest, NodeId, PublicKey, VmId};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// Frame version of everything here.
const VERSION: u16 = 1;

/// A request on the forward lane.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ask {
    /// Have this log entry committed. Only the leader can.
    Propose(Bytes),
    /// The key that the authority's key is sealed with. Only voters get it.
    CityKey,
    /// Admit a stranger; for nodes that cannot issue certificates themselves.
    Admit(Box<Admission>),
    /// The end of a VM's console log.
    ConsoleLog { vm: VmId, bytes_max: u64 },
    /// A VM's usage.
    VmStats { vm: VmId },
    /// Whether the asked node can issue certificates.
    HoldsCityKey,
    /// Have these log entries committed, in this order. Only the leader can; answered by one [`Proposed`]
    /// each.
    ProposeMany(Vec<Bytes>),
}

/// A stranger, as the node it came to saw it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Admission {
    pub public_key: PublicKey,
    pub address: SocketAddr,
    pub request: scp_mesh::JoinRequest,
}

/// The answer to [`Ask::Propose`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Proposed {
    /// Applied; the machine's answer.
    Applied(Bytes),
    /// Nothing was written: ask that one.
    NotLeader(Option<NodeId>),
    /// Nothing was written.
    ReadOnly(String),
    /// Nothing was written.
    Overloaded,
    /// It may or may not have been written.
    Unknown(String),
}

/// A VM's usage, as it travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    pub cpu_time_ms: u64,
    pub memory_rss_kib: u64,
    pub disk_read_bytes: u64,
    pub disk_write_bytes: u64,
    pub net_rx_bytes: u64,
    pub net_tx_bytes: u64,
}

/// A request on the bulk lane: content by its digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WantChunk {
    pub digest: Digest,
    pub bytes_max: u64,
}

/// What a byte stream is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Opening {
    Console { vm: VmId },
}

/// Packs a question.
pub fn pack_ask(ask: &Ask) -> Result<Bytes, Refusal> {
    const WORDS_BYTES: usize = 256;
    let entries = match ask {
        Ask::Propose(entry) => entry.len(),
        // Each has its length before it.
        Ask::ProposeMany(entries) => entries.iter().map(|entry| entry.len() + 5).sum(),
        Ask::CityKey | Ask::Admit(_) | Ask::ConsoleLog { .. } | Ask::VmStats { .. } | Ask::HoldsCityKey => 0,
    };
    let packed = encode_within(VERSION, ask, WORDS_BYTES + entries);
    packed.map(Bytes::from).map_err(|error| unreadable(&error))
}

/// Packs a message.
pub fn pack<T: Serialize>(message: &T) -> Result<Bytes, Refusal> {
    encode(VERSION, message).map(Bytes::from).map_err(|error| unreadable(&error))
}

/// Unpacks a message of a lane.
pub fn unpack<T: DeserializeOwned>(lane: Lane, bytes: &[u8]) -> Result<T, Refusal> {
    decode(VERSION, bytes, lane.limits().bytes_max).map_err(|error| unreadable(&error))
}

fn unreadable(error: &CodecError) -> Refusal {
    Refusal::new(RefusalKind::Invalid, error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_cut_anywhere_or_with_a_flipped_bit_is_refused() {
        let whole = pack(&Ask::Propose(vec![7; 40].into())).expect("packs");
        for at in 0..whole.len() {
            assert!(unpack::<Ask>(Lane::Forward, &whole[..at]).is_err(), "cut at {at}");
            let mut flipped = whole.to_vec();
            flipped[at] ^= 4;
            assert!(unpack::<Ask>(Lane::Forward, &flipped).is_err(), "flipped at {at}");
        }
        assert_eq!(unpack::<Ask>(Lane::Forward, &whole), Ok(Ask::Propose(vec![7; 40].into())));
    }
}
