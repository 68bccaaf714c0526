//! The beginning and the end of a file that somebody calls an image.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| scp_drivers::images::fuzz::image(bytes));
