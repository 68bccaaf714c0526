//! A Raft message from a peer.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| scp_raft::fuzz::message(bytes));
