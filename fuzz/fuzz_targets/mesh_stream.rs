//! The bytes of a stream or an answer from a peer.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| scp_mesh::fuzz::stream(bytes));
