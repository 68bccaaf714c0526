//! A frame cut, damaged or made up: an error or exactly one frame, never more than the limit.
#![no_main]

use libfuzzer_sys::fuzz_target;

const LIMIT: usize = 1 << 16;

fuzz_target!(|bytes: &[u8]| {
    if let Ok((version, payload, rest)) = scp_codec::unframe(bytes, LIMIT) {
        assert!(payload.len() <= LIMIT);
        assert_eq!(bytes.len(), scp_codec::HEADER_BYTES + payload.len() + rest.len());
        let again = scp_codec::frame(version, payload).expect("what was read can be written");
        assert_eq!(again, &bytes[..bytes.len() - rest.len()]);
    }
    let _ = scp_codec::from_payload::<(u64, String, Vec<Option<bool>>)>(bytes);
});
