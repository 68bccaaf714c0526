//! What a client sends as its access token, before its signature is looked at.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| scp_api::server::fuzz::access_token(text));
