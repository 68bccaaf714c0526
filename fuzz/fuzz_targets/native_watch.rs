//! Frames of a watch over the native lane: what a program orders, and what a node tells.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| scp_api::native::fuzz::watch_frame(bytes));
