//! Bytes of a segment file.
//!
//! ```text
//! segment: | head (HEAD_BYTES) | group | group | ... | seal or zeroes | zeroes ... |
//! head:    | "SCPRAFT\0" | format u16 | 0 u16 | crc32c u32 | body length u32 | body |
//! body:    bincode of sequence, salt, first group, size of the file, base
//! group:   | magic u32 | crc32c u32 | number u64 | length u32 | records u32 | records ... | 0..7 zeroes |
//! record:  | length u32 | bincode |
//! seal:    | magic u32 | crc32c u32 | number of the last synced group u64 |
//! ```
//!
//! All numbers are little endian; groups and seals start at multiples of [`ALIGN`]. Checksums of groups
//! and seals cover the segment's random salt, so that no bytes inside a command can pass for a group.

use serde::{Deserialize, Serialize};

use super::record::{Base, Record};

/// The format that this release writes; it reads all up to it.
pub(crate) const FORMAT: u16 = 1;
/// Bytes before the first group: one page, so that the head is never written again.
pub(crate) const HEAD_BYTES: usize = 4096;
/// Groups start at multiples of this.
pub(crate) const ALIGN: usize = 8;
/// Bytes of a group before its records.
pub(crate) const GROUP_HEAD_BYTES: usize = 24;
/// Bytes of a seal.
pub(crate) const SEAL_BYTES: usize = 16;

const MAGIC: [u8; 8] = *b"SCPRAFT\0";
const GROUP_MAGIC: u32 = 0x5047_5246;
const SEAL_MAGIC: u32 = 0x4c53_5246;
/// Where the checksummed part of a segment's head starts.
const HEAD_CHECKED_FROM: usize = 16;

/// What a segment says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SegmentHead {
    pub(crate) sequence: u64,
    pub(crate) salt: u64,
    pub(crate) first_group: u64,
    /// Bytes of the file: a shorter one was cut, by whomever.
    pub(crate) size: u64,
    pub(crate) base: Base,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HeadError {
    NotASegment,
    Checksum,
    Format(u16),
    Malformed,
}

/// The fixed part behind the checksum.
#[derive(Serialize, Deserialize)]
struct HeadBody {
    sequence: u64,
    salt: u64,
    first_group: u64,
    size: u64,
    base: Base,
}

impl SegmentHead {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let body = HeadBody {
            sequence: self.sequence,
            salt: self.salt,
            first_group: self.first_group,
            size: self.size,
            base: self.base,
        };
        let body = scp_codec::to_payload(&body).expect("a segment's head is plain numbers");
        let mut out = Vec::with_capacity(HEAD_BYTES);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&FORMAT.to_le_bytes());
        out.extend_from_slice(&[0; 6]);
        out.extend_from_slice(&u32::try_from(body.len()).expect("a head is small").to_le_bytes());
        out.extend_from_slice(&body);
        out.resize(HEAD_BYTES, 0);
        let crc = head_checksum(&out);
        out[12..16].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads the first [`HEAD_BYTES`] of a file.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, HeadError> {
        let bytes = bytes.get(..HEAD_BYTES).ok_or(HeadError::NotASegment)?;
        if bytes[..8] != MAGIC {
            return Err(HeadError::NotASegment);
        }
        let format = u16::from_le_bytes([bytes[8], bytes[9]]);
        if format == 0 || format > FORMAT {
            return Err(HeadError::Format(format));
        }
        if head_checksum(bytes) != number32(bytes, 12) {
            return Err(HeadError::Checksum);
        }
        let length = number32(bytes, HEAD_CHECKED_FROM) as usize;
        let from = HEAD_CHECKED_FROM + 4;
        let body = bytes.get(from..from.saturating_add(length)).ok_or(HeadError::Malformed)?;
        let body: HeadBody = scp_codec::from_payload(body).map_err(|_| HeadError::Malformed)?;
        Ok(Self {
            sequence: body.sequence,
            salt: body.salt,
            first_group: body.first_group,
            size: body.size,
            base: body.base,
        })
    }
}

fn head_checksum(head: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&head[..12]), &head[HEAD_CHECKED_FROM..])
}

/// Collects records into one group.
pub(crate) struct GroupBuilder {
    bytes: Vec<u8>,
    records: u32,
}

impl GroupBuilder {
    pub(crate) fn new() -> Self {
        Self::with_room(0)
    }

    /// For some `room` bytes of records.
    pub(crate) fn with_room(room: usize) -> Self {
        let mut bytes = Vec::with_capacity(GROUP_HEAD_BYTES + room + ALIGN);
        bytes.resize(GROUP_HEAD_BYTES, 0);
        Self { bytes, records: 0 }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.records == 0
    }

    /// Bytes that the group takes in the file.
    pub(crate) fn size(&self) -> usize {
        self.bytes.len().next_multiple_of(ALIGN)
    }

    /// Adds a record.
    pub(crate) fn push(&mut self, record: &Record) {
        let at = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 4]);
        scp_codec::append_payload(&mut self.bytes, record).expect("records are bytes and numbers");
        let length = u32::try_from(self.bytes.len() - at - 4).expect("a record fits a segment");
        self.bytes[at..at + 4].copy_from_slice(&length.to_le_bytes());
        self.records += 1;
    }

    /// Takes the record away that was added last, with which the group had become too large: the next group
    /// begins with it. `before`: the bytes without it.
    pub(crate) fn split_last(&mut self, before: usize) -> Self {
        let mut next = Self::new();
        next.bytes.extend(self.bytes.drain(before..));
        next.records = 1;
        self.records -= 1;
        next
    }

    /// Bytes so far, for [`GroupBuilder::split_last`].
    pub(crate) fn mark(&self) -> usize {
        self.bytes.len()
    }

    pub(crate) fn finish(mut self, salt: u64, number: u64) -> Vec<u8> {
        let length = u32::try_from(self.bytes.len() - GROUP_HEAD_BYTES).expect("a group fits a segment");
        self.bytes[..4].copy_from_slice(&GROUP_MAGIC.to_le_bytes());
        self.bytes[8..16].copy_from_slice(&number.to_le_bytes());
        self.bytes[16..20].copy_from_slice(&length.to_le_bytes());
        self.bytes[20..24].copy_from_slice(&self.records.to_le_bytes());
        let crc = checksum(salt, &self.bytes[8..]);
        self.bytes[4..8].copy_from_slice(&crc.to_le_bytes());
        let padded = self.bytes.len().next_multiple_of(ALIGN);
        self.bytes.resize(padded, 0);
        self.bytes
    }
}

/// A group found in a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Group<'a> {
    pub(crate) number: u64,
    /// Bytes up to the next group.
    pub(crate) size: usize,
    records: u32,
    payload: &'a [u8],
}

impl<'a> Group<'a> {
    /// The whole and undamaged group at the start of `bytes`.
    pub(crate) fn parse(salt: u64, bytes: &'a [u8]) -> Option<Self> {
        let head = bytes.get(..GROUP_HEAD_BYTES)?;
        if number32(head, 0) != GROUP_MAGIC {
            return None;
        }
        let length = number32(head, 16) as usize;
        let end = GROUP_HEAD_BYTES.checked_add(length)?;
        let payload = bytes.get(GROUP_HEAD_BYTES..end)?;
        if checksum(salt, &bytes[8..end]) != number32(head, 4) && !scp_mutant::on("torn-group-believed") {
            return None;
        }
        let size = end.next_multiple_of(ALIGN);
        Some(Self { number: number64(head, 8), size, records: number32(head, 20), payload })
    }

    /// Its records; none when the checksum holds but the bytes are no records.
    pub(crate) fn records(&self) -> Option<Vec<Record>> {
        let mut rest = self.payload;
        let mut records = Vec::new();
        while !rest.is_empty() {
            let (length, behind) = rest.split_first_chunk::<4>()?;
            let length = u32::from_le_bytes(*length) as usize;
            if length > behind.len() {
                return None;
            }
            let (body, behind) = behind.split_at(length);
            records.push(scp_codec::from_payload(body).ok()?);
            rest = behind;
        }
        (records.len() == self.records as usize).then_some(records)
    }
}

/// Says that all groups up to `number` were synced before it was written.
pub(crate) fn encode_seal(salt: u64, number: u64) -> [u8; SEAL_BYTES] {
    let mut out = [0; SEAL_BYTES];
    out[..4].copy_from_slice(&SEAL_MAGIC.to_le_bytes());
    out[8..].copy_from_slice(&number.to_le_bytes());
    let crc = checksum(salt, &out[8..]);
    out[4..8].copy_from_slice(&crc.to_le_bytes());
    out
}

/// The number that the seal at the start of `bytes` vouches for.
pub(crate) fn parse_seal(salt: u64, bytes: &[u8]) -> Option<u64> {
    let seal = bytes.get(..SEAL_BYTES)?;
    let holds = number32(seal, 0) == SEAL_MAGIC && checksum(salt, &seal[8..]) == number32(seal, 4);
    holds.then(|| number64(seal, 8))
}

fn checksum(salt: u64, bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&salt.to_le_bytes()), bytes)
}

fn number32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(*bytes[at..].first_chunk().expect("the caller checked the length"))
}

fn number64(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(*bytes[at..].first_chunk().expect("the caller checked the length"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::log::record::tests::{position, record};

    fn group(records: &[Record], salt: u64, number: u64) -> Vec<u8> {
        let mut builder = GroupBuilder::new();
        records.iter().for_each(|record| builder.push(record));
        builder.finish(salt, number)
    }

    proptest! {
        #[test]
        fn a_group_gives_its_records_back(
            records in proptest::collection::vec(record(), 1..8), salt: u64, number: u64, behind: Vec<u8>,
        ) {
            let mut bytes = group(&records, salt, number);
            let size = bytes.len();
            bytes.extend(behind);
            let parsed = Group::parse(salt, &bytes).expect("it was written so");
            prop_assert_eq!((parsed.number, parsed.size), (number, size));
            prop_assert_eq!(parsed.records(), Some(records));
        }

        #[test]
        fn a_flipped_bit_voids_a_group(
            records in proptest::collection::vec(record(), 1..4), at: prop::sample::Index, bit in 0u8..8,
        ) {
            let mut builder = GroupBuilder::new();
            records.iter().for_each(|record| builder.push(record));
            let length = builder.size().min(builder.bytes.len());
            let mut bytes = builder.finish(7, 1);
            bytes[at.index(length)] ^= 1 << bit;
            prop_assert_eq!(Group::parse(7, &bytes), None);
        }

        #[test]
        fn a_cut_anywhere_voids_a_group(records in proptest::collection::vec(record(), 1..4), at: prop::sample::Index) {
            let mut builder = GroupBuilder::new();
            records.iter().for_each(|record| builder.push(record));
            let length = builder.bytes.len();
            let bytes = builder.finish(7, 1);
            prop_assert_eq!(Group::parse(7, &bytes[..at.index(length)]), None);
        }

        #[test]
        fn another_salt_voids_a_group_and_a_seal(records in proptest::collection::vec(record(), 1..4), salt: u64, number: u64) {
            let bytes = group(&records, salt, number);
            prop_assert_eq!(Group::parse(salt ^ 1, &bytes), None);
            let seal = encode_seal(salt, number);
            prop_assert_eq!(parse_seal(salt ^ 1, &seal), None);
            prop_assert_eq!(parse_seal(salt, &seal), Some(number));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>, salt: u64, tail: Vec<u8>) {
            let _ = Group::parse(salt, &bytes).map(|group| group.records());
            let _ = parse_seal(salt, &bytes);
            let _ = SegmentHead::decode(&bytes);
            // Right up to the checksum, then anything.
            let mut builder = GroupBuilder::new();
            builder.bytes.extend(&tail);
            builder.records = 1;
            let bytes = builder.finish(salt, 1);
            let _ = Group::parse(salt, &bytes).expect("the checksum holds").records();
        }

        #[test]
        fn a_head_gives_itself_back_or_nothing(
            sequence: u64, salt: u64, first_group: u64, size: u64,
            purged in proptest::option::of(position()), at: prop::sample::Index, bit in 0u8..8,
        ) {
            let base = Base { vote: None, purged, committed: purged };
            let head = SegmentHead { sequence, salt, first_group, size, base };
            let mut bytes = head.encode();
            prop_assert_eq!(SegmentHead::decode(&bytes), Ok(head));
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            prop_assert!(SegmentHead::decode(&bytes).is_err());
        }
    }
}
