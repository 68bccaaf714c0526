//! What a stranger says on the join lane, before anything about it is known, and what it is answered.
#![no_main]

use libfuzzer_sys::fuzz_target;
use scp_mesh::join::{JoinReply, JoinRequest};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(request) = scp_codec::from_payload::<JoinRequest>(bytes) {
        scp_codec::to_payload(&request).expect("what was read can be written");
    }
    let _ = scp_codec::from_payload::<JoinReply>(bytes);
});
