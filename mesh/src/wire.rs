//! Bytes on a connection.
//!
//! ```text
//! request:  | lane u8 | kind u8 | deadline u32 ms | frame |  fin        answer:  | status u8 | frame |  fin
//! stream:   the same, kind 1; after an accepting answer both directions carry raw bytes
//! message:  | lane u8 | frame |  fin                        (a uni-stream of its own)
//! datagram: | lane u8 | payload |                           (QUIC's integrity suffices)
//! hello:    | frame |  fin                                  (the acceptor's first uni-stream)
//! ```
//! Frames are `scp-codec`'s, of version [`VERSION`].

use std::time::Duration;

use scp_codec::{CodecError, HEADER_BYTES, Header};
use scp_model::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::{
    lane::Lane,
    transport::{Refusal, RefusalKind},
};

/// Version of the frames between nodes.
pub(crate) const VERSION: u16 = 1;
/// A refusal is a sentence; a longer one is cut by its sender.
const REFUSAL_BYTES_MAX: usize = 4 << 10;
/// No caller waits longer, whatever it says: an hour-long request is a stream.
pub(crate) const DEADLINE_MAX: Duration = Duration::from_secs(120);
/// Capacity taken before the bytes are there; more is taken as they arrive.
const READ_AHEAD_BYTES: usize = 64 << 10;

/// The acceptor's first words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Hello {
    pub(crate) protocol: u32,
    pub(crate) clock: Timestamp,
    /// The dialer's certificate has expired: only the renew lane is open.
    pub(crate) renew_only: bool,
}
pub(crate) const HELLO_BYTES_MAX: usize = 64;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Request,
    Stream,
}

/// What precedes a request's frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Preamble {
    pub(crate) lane: Lane,
    pub(crate) kind: Kind,
    pub(crate) deadline: Duration,
}

pub(crate) const PREAMBLE_BYTES: usize = 6;

/// Why a message could not be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WireError {
    #[error("{0}")]
    Read(#[from] std::io::Error),
    #[error("{0}")]
    Frame(#[from] CodecError),
    #[error("lane {0} is unknown")]
    Lane(u8),
    #[error("{0} is neither a request nor a stream")]
    Kind(u8),
    #[error("{0} is neither an answer nor a refusal")]
    Status(u8),
}

impl Preamble {
    pub(crate) fn encode(self) -> [u8; PREAMBLE_BYTES] {
        let kind = match self.kind {
            Kind::Request => 0,
            Kind::Stream => 1,
        };
        let deadline_ms = u32::try_from(self.deadline.as_millis()).unwrap_or(u32::MAX);
        let [a, b, c, d] = deadline_ms.to_le_bytes();
        [self.lane.code(), kind, a, b, c, d]
    }

    pub(crate) fn decode(bytes: [u8; PREAMBLE_BYTES]) -> Result<Self, WireError> {
        let [lane, kind, a, b, c, d] = bytes;
        let kind = match kind {
            0 => Kind::Request,
            1 => Kind::Stream,
            other => return Err(WireError::Kind(other)),
        };
        let deadline = Duration::from_millis(u32::from_le_bytes([a, b, c, d]).into()).min(DEADLINE_MAX);
        Ok(Self { lane: Lane::from_code(lane).ok_or(WireError::Lane(lane))?, kind, deadline })
    }
}

/// Reads the length of one frame, then its payload; `limit` bounds what is allocated for it.
pub(crate) async fn read_frame<R: AsyncRead + Unpin>(
    reader: &mut R,
    limit: usize,
) -> Result<Vec<u8>, WireError> {
    let header = read_header(reader, limit).await?;
    read_payload(reader, header).await
}

pub(crate) async fn read_header<R: AsyncRead + Unpin>(
    reader: &mut R,
    limit: usize,
) -> Result<Header, WireError> {
    let mut bytes = [0; HEADER_BYTES];
    reader.read_exact(&mut bytes).await?;
    let header = Header::parse(&bytes, limit)?;
    if header.version != VERSION {
        return Err(CodecError::Version { found: header.version, expected: VERSION }.into());
    }
    Ok(header)
}

pub(crate) async fn read_payload<R: AsyncRead + Unpin>(
    reader: &mut R,
    header: Header,
) -> Result<Vec<u8>, WireError> {
    let mut payload = Vec::with_capacity(header.length.min(READ_AHEAD_BYTES));
    let have = reader.take(header.length as u64).read_to_end(&mut payload).await?;
    if have < header.length {
        return Err(CodecError::Incomplete { have, need: header.length }.into());
    }
    header.verify(&payload)?;
    Ok(payload)
}

/// The bytes of an answer or a refusal.
pub(crate) fn answer_bytes(answer: Result<&[u8], &Refusal>) -> Result<Vec<u8>, CodecError> {
    let (status, frame) = match answer {
        Ok(payload) => (0, scp_codec::frame(VERSION, payload)?),
        Err(refusal) => {
            let mut refusal = refusal.clone();
            truncate(&mut refusal.why, REFUSAL_BYTES_MAX / 2);
            (1, scp_codec::encode(VERSION, &refusal)?)
        }
    };
    let mut bytes = Vec::with_capacity(1 + frame.len());
    bytes.push(status);
    bytes.extend_from_slice(&frame);
    Ok(bytes)
}

/// Reads what [`answer_bytes`] made.
pub(crate) async fn read_answer<R: AsyncRead + Unpin>(
    reader: &mut R,
    limit: usize,
) -> Result<Result<Vec<u8>, Refusal>, WireError> {
    let status = reader.read_u8().await?;
    match status {
        0 => Ok(Ok(read_frame(reader, limit).await?)),
        1 => {
            let payload = read_frame(reader, REFUSAL_BYTES_MAX).await?;
            Ok(Err(scp_codec::from_payload(&payload)?))
        }
        other => Err(WireError::Status(other)),
    }
}

/// An answer larger than its lane allows becomes a refusal: the asker shall not guess.
pub(crate) fn bounded_answer(
    lane: Lane,
    answer: Result<bytes::Bytes, Refusal>,
) -> Result<bytes::Bytes, Refusal> {
    let limit = lane.limits().bytes_max;
    match answer {
        Ok(bytes) if bytes.len() > limit => Err(Refusal::new(
            RefusalKind::Failed,
            format!("the answer has {} bytes, more than the {limit} of lane {lane:?}", bytes.len()),
        )),
        other => other,
    }
}

fn truncate(text: &mut String, bytes_max: usize) {
    if text.len() > bytes_max {
        let at = (0..=bytes_max).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(at);
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use proptest::prelude::*;

    use super::*;

    /// Reading from a slice never waits.
    fn now<T>(future: impl Future<Output = T>) -> T {
        future.now_or_never().expect("a slice is always ready")
    }

    fn answers() -> impl Strategy<Value = Result<Vec<u8>, Refusal>> {
        let refusals = any::<String>().prop_map(|why| Refusal::new(RefusalKind::NotHere, why));
        prop_oneof![any::<Vec<u8>>().prop_map(Ok), refusals.prop_map(Err)]
    }

    fn encode(answer: &Result<Vec<u8>, Refusal>) -> Vec<u8> {
        answer_bytes(answer.as_ref().map(Vec::as_slice)).expect("small answers encode")
    }

    proptest! {
        #[test]
        fn what_was_answered_is_read(answer in answers()) {
            let bytes = encode(&answer);
            prop_assert_eq!(now(read_answer(&mut bytes.as_slice(), 1 << 20)).ok(), Some(answer));
        }

        #[test]
        fn an_answer_cut_anywhere_is_an_error(answer in answers(), at: prop::sample::Index) {
            let bytes = encode(&answer);
            let mut cut = &bytes[..at.index(bytes.len())];
            prop_assert!(now(read_answer(&mut cut, 1 << 20)).is_err());
        }

        #[test]
        fn a_flipped_bit_in_an_answer_is_an_error(
            answer in answers(),
            at: prop::sample::Index,
            bit in 0u8..8,
        ) {
            let mut bytes = encode(&answer);
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            let read = now(read_answer(&mut bytes.as_slice(), 1 << 20));
            // The status byte is outside of the frame: flipped, it may turn an answer into a refusal
            // only if the payload happens to be one, which the checksum of QUIC makes impossible anyway.
            prop_assert!(at == 0 || read.is_err());
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>, six: [u8; PREAMBLE_BYTES]) {
            let _ = now(read_answer(&mut bytes.as_slice(), 1 << 10));
            let _ = now(read_frame(&mut bytes.as_slice(), 1 << 10));
            let _ = scp_codec::decode::<Hello>(VERSION, &bytes, HELLO_BYTES_MAX);
            if let Ok(preamble) = Preamble::decode(six) {
                prop_assert!(preamble.deadline <= DEADLINE_MAX);
                prop_assert_eq!(Preamble::decode(preamble.encode()).ok(), Some(preamble));
            }
        }
    }

    #[test]
    fn a_claimed_length_over_the_limit_is_refused_before_it_is_read() {
        let bytes = scp_codec::frame(VERSION, &[0; 100]).expect("fits");
        let error = now(read_frame(&mut bytes.as_slice(), 99)).expect_err("over the limit");
        assert!(matches!(error, WireError::Frame(CodecError::TooLong { length: 100, limit: 99 })));
    }

    #[test]
    fn a_long_refusal_is_cut_not_lost() {
        let refusal = Refusal::new(RefusalKind::Failed, "é".repeat(9000));
        let bytes = answer_bytes(Err(&refusal)).expect("encodes");
        let read = now(read_answer(&mut bytes.as_slice(), 10)).expect("reads").expect_err("a refusal");
        assert!(read.kind == RefusalKind::Failed && read.why.len() == REFUSAL_BYTES_MAX / 2);
    }

    #[test]
    fn the_largest_hello_fits() {
        let hello = Hello { protocol: u32::MAX, clock: Timestamp(u64::MAX), renew_only: true };
        assert!(scp_codec::to_payload(&hello).expect("encodes").len() <= HELLO_BYTES_MAX);
    }
}
