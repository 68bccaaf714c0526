//! A segment of the Raft log as it may lie on a disk after anything.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| scp_raft::fuzz::segment(bytes));
