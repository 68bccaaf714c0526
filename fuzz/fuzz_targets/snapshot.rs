//! A snapshot of the state as a peer sends it or a disk gives it back.
#![no_main]

use libfuzzer_sys::fuzz_target;
use scp_state::State;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(state) = State::from_bytes(bytes) {
        assert_eq!(State::from_bytes(&state.to_bytes()), Ok(state));
    }
});
