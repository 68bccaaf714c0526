//! A door for the fuzz target of the log. Compiled for fuzzing only.

use super::format::{ALIGN, Group, HEAD_BYTES, SegmentHead, parse_seal};

/// A segment from its first byte: its head, its groups and seals, whatever they are. The checksums keep a
/// fuzzer out of the records, so those are tried on their own too.
pub fn segment(bytes: &[u8]) {
    let salt = match SegmentHead::decode(bytes) {
        Ok(head) => {
            assert_eq!(SegmentHead::decode(&head.encode()), Ok(head));
            head.salt
        }
        Err(_) => 0,
    };
    let mut rest = bytes.get(HEAD_BYTES..).unwrap_or(bytes);
    while let Some(group) = Group::parse(salt, rest) {
        let _ = group.records();
        assert!(group.size >= ALIGN, "a group takes space");
        rest = rest.get(group.size..).unwrap_or_default();
    }
    let _ = parse_seal(salt, rest);
    let _ = scp_codec::from_payload::<super::record::Record>(bytes);
}
