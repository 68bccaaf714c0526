//! The one place that turns values into bytes and back: Raft log, snapshots, mesh messages.
//!
//! ```text
//! frame:  | version u16 | length u32 | crc32c u32 | payload (bincode, little endian, varint) |
//!         |<------------ HEADER_BYTES ----------->|<------------- length -------------------->|
//! ```
//!
//! # Guarantees
//! - [`decode`] never panics, never allocates more than [`PAYLOAD_BYTES_MAX`] on behalf of a length
//!   that the input merely claims, and consumes exactly one frame.
//! - The checksum covers version, length and payload: a flipped bit anywhere is an error.
//!
//! # Caveats
//! - bincode is not self-describing: field order is the format. Once a release has written a type, a
//!   change to it needs a new frame version and a decoder for the old one.

use serde::{Serialize, de::DeserializeOwned};

/// Bytes before the payload: version, length, checksum.
pub const HEADER_BYTES: usize = 10;

/// The largest payload of one frame. Snapshots and images travel as many frames; the largest single
/// value is a Raft append batch, bounded to a quarter of this by its sender.
pub const PAYLOAD_BYTES_MAX: usize = 64 << 20;

/// Room for a value of unknown size: most commands fit.
const ROOM_BYTES: usize = 502;

/// Why bytes were not a frame, or a value not encodable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// Fewer bytes than the header and its length announce: a torn tail, or more is to come.
    #[error("frame is cut short: {have} bytes of {need}")]
    Incomplete {
        /// Bytes at hand.
        have: usize,
        /// Bytes that the frame needs.
        need: usize,
    },
    /// The frame announces more than the reader accepts.
    #[error("frame of {length} bytes exceeds the limit of {limit}")]
    TooLong {
        /// Announced payload length.
        length: usize,
        /// What the reader accepts.
        limit: usize,
    },
    /// The checksum does not match: the bytes are damaged.
    #[error("frame is damaged: its checksum does not match")]
    Checksum,
    /// The version is not one that this reader knows.
    #[error("frame version {found} is not supported, expected {expected}")]
    Version {
        /// Version in the frame.
        found: u16,
        /// Version that the reader knows.
        expected: u16,
    },
    /// The checksum is right but the payload is not a value of the type.
    #[error("payload is malformed: {0}")]
    Malformed(String),
    /// Bytes follow the value inside its frame.
    #[error("{0} bytes follow the value inside its frame")]
    Trailing(usize),
}

/// What a header says about the payload behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Format version of the payload.
    pub version: u16,
    /// Payload length in bytes.
    pub length: usize,
    crc: u32,
}

impl Header {
    /// Reads a header and refuses a payload longer than `limit` before anything is allocated for it.
    pub fn parse(bytes: &[u8], limit: usize) -> Result<Self, CodecError> {
        let Some(head) = bytes.first_chunk::<HEADER_BYTES>() else {
            return Err(CodecError::Incomplete { have: bytes.len(), need: HEADER_BYTES });
        };
        let [v0, v1, l0, l1, l2, l3, c0, c1, c2, c3] = *head;
        let length = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
        let limit = limit.min(PAYLOAD_BYTES_MAX);
        if length > limit {
            return Err(CodecError::TooLong { length, limit });
        }
        Ok(Self { version: u16::from_le_bytes([v0, v1]), length, crc: u32::from_le_bytes([c0, c1, c2, c3]) })
    }

    /// Whether `payload` is what the header was written for.
    pub fn verify(&self, payload: &[u8]) -> Result<(), CodecError> {
        let length = u32::try_from(payload.len()).map_err(|_| CodecError::Checksum)?;
        if checksum(self.version, length, payload) == self.crc { Ok(()) } else { Err(CodecError::Checksum) }
    }
}

fn checksum(version: u16, length: u32, payload: &[u8]) -> u32 {
    let mut head = [0u8; 6];
    head[..2].copy_from_slice(&version.to_le_bytes());
    head[2..].copy_from_slice(&length.to_le_bytes());
    crc32c::crc32c_append(crc32c::crc32c(&head), payload)
}

/// The bytes that go before a payload.
fn header(version: u16, payload: &[u8]) -> Result<[u8; HEADER_BYTES], CodecError> {
    let length = u32::try_from(payload.len()).ok().filter(|_| payload.len() <= PAYLOAD_BYTES_MAX);
    let Some(length) = length else {
        return Err(CodecError::TooLong { length: payload.len(), limit: PAYLOAD_BYTES_MAX });
    };
    let mut head = [0; HEADER_BYTES];
    head[..2].copy_from_slice(&version.to_le_bytes());
    head[2..6].copy_from_slice(&length.to_le_bytes());
    head[6..].copy_from_slice(&checksum(version, length, payload).to_le_bytes());
    Ok(head)
}

/// Wraps bytes in a frame.
pub fn frame(version: u16, payload: &[u8]) -> Result<Vec<u8>, CodecError> {
    let mut out = Vec::with_capacity(HEADER_BYTES + payload.len());
    out.extend_from_slice(&header(version, payload)?);
    out.extend_from_slice(payload);
    Ok(out)
}

/// Takes one frame off the front of `bytes`: its version, its payload, and what follows it.
pub fn unframe(bytes: &[u8], limit: usize) -> Result<(u16, &[u8], &[u8]), CodecError> {
    let header = Header::parse(bytes, limit)?;
    let need = HEADER_BYTES + header.length;
    if bytes.len() < need {
        return Err(CodecError::Incomplete { have: bytes.len(), need });
    }
    let (payload, rest) = bytes[HEADER_BYTES..].split_at(header.length);
    header.verify(payload)?;
    Ok((header.version, payload, rest))
}

/// A value's payload without a frame, for embedding where the outer format already has one.
pub fn to_payload<T: Serialize>(value: &T) -> Result<Vec<u8>, CodecError> {
    let mut out = Vec::with_capacity(ROOM_BYTES);
    append_payload(&mut out, value)?;
    Ok(out)
}

/// Reads a payload made by [`to_payload`]; bytes behind the value are an error.
pub fn from_payload<T: DeserializeOwned>(payload: &[u8]) -> Result<T, CodecError> {
    let config = bincode::config::standard().with_limit::<PAYLOAD_BYTES_MAX>();
    let (value, used) = bincode::serde::decode_from_slice(payload, config)
        .map_err(|error| CodecError::Malformed(error.to_string()))?;
    match payload.len() - used {
        0 => Ok(value),
        more => Err(CodecError::Trailing(more)),
    }
}

/// Appends a value's payload to `out`.
pub fn append_payload<T: Serialize>(out: &mut Vec<u8>, value: &T) -> Result<(), CodecError> {
    bincode::serde::encode_into_std_write(value, out, bincode::config::standard())
        .map(drop)
        .map_err(|error| CodecError::Malformed(error.to_string()))
}

/// Encodes a value as one frame.
pub fn encode<T: Serialize>(version: u16, value: &T) -> Result<Vec<u8>, CodecError> {
    encode_within(version, value, ROOM_BYTES)
}

/// The same for a value that takes some `room` bytes, as far as the caller knows: more costs copies, no more.
pub fn encode_within<T: Serialize>(version: u16, value: &T, room: usize) -> Result<Vec<u8>, CodecError> {
    let mut out = Vec::with_capacity(HEADER_BYTES + room);
    out.resize(HEADER_BYTES, 0);
    append_payload(&mut out, value)?;
    let (head, payload) = out.split_at_mut(HEADER_BYTES);
    head.copy_from_slice(&header(version, payload)?);
    Ok(out)
}

/// Decodes one whole frame of the given version; anything before, behind or beside it is an error.
pub fn decode<T: DeserializeOwned>(version: u16, bytes: &[u8], limit: usize) -> Result<T, CodecError> {
    let (found, payload, rest) = unframe(bytes, limit)?;
    if found != version {
        return Err(CodecError::Version { found, expected: version });
    }
    if !rest.is_empty() {
        return Err(CodecError::Trailing(rest.len()));
    }
    from_payload(payload)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Value = (u64, String, Vec<(bool, Option<i32>)>);

    proptest! {
        #[test]
        fn what_was_encoded_is_decoded(value: Value, version: u16) {
            let bytes = encode(version, &value).expect("small values encode");
            prop_assert_eq!(decode::<Value>(version, &bytes, 1 << 20), Ok(value));
        }

        #[test]
        fn any_flipped_bit_is_an_error(value: Value, at: prop::sample::Index, bit in 0u8..8) {
            let mut bytes = encode(1, &value).expect("small values encode");
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            prop_assert!(decode::<Value>(1, &bytes, 1 << 20).is_err());
        }

        #[test]
        fn a_cut_anywhere_is_an_error(value: Value, at: prop::sample::Index) {
            let bytes = encode(1, &value).expect("small values encode");
            prop_assert!(decode::<Value>(1, &bytes[..at.index(bytes.len())], 1 << 20).is_err());
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
            let _ = decode::<Value>(1, &bytes, 1 << 20);
            let _ = from_payload::<Value>(&bytes);
        }
    }

    #[test]
    fn a_claimed_length_allocates_nothing() {
        let huge = [0xfd, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
        assert!(matches!(from_payload::<Vec<u64>>(&huge), Err(CodecError::Malformed(_))));
    }

    #[test]
    fn a_frame_over_the_limit_is_refused_by_its_header() {
        let bytes = frame(1, &[0; 100]).expect("fits");
        assert_eq!(Header::parse(&bytes, 99), Err(CodecError::TooLong { length: 100, limit: 99 }));
    }
}
