//! What an operator pastes: refused, or a token that writes itself as something that reads the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use scp_mesh::token::JoinToken;

fuzz_target!(|text: &str| {
    if let Ok(token) = text.parse::<JoinToken>() {
        assert_eq!(token.to_string().parse::<JoinToken>(), Ok(token));
    }
});
