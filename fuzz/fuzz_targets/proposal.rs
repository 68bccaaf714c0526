//! A log entry's payload: malformed, or a proposal that writes and reads back as itself.
#![no_main]

use libfuzzer_sys::fuzz_target;
use scp_model::Proposal;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(proposal) = scp_codec::from_payload::<Proposal>(bytes) {
        let again = scp_codec::to_payload(&proposal).expect("what was read can be written");
        assert_eq!(scp_codec::from_payload::<Proposal>(&again), Ok(proposal));
    }
});
