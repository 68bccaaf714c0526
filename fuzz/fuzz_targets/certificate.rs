//! A peer's certificate, before anything in it is believed.
#![no_main]

use libfuzzer_sys::fuzz_target;
use scp_mesh::certificate::Certificate;

fuzz_target!(|bytes: &[u8]| {
    let _ = Certificate::parse(bytes);
});
