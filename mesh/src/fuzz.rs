//! Doors for the fuzz targets: decoders that are otherwise this crate's own. Compiled for fuzzing only.

use futures::FutureExt;

use crate::{
    gossip,
    wire::{self, PREAMBLE_BYTES, Preamble},
};

/// The bytes of a stream, an answer, a hello or a gossip message from a peer.
pub fn stream(bytes: &[u8]) {
    const LIMIT: usize = 1 << 20;
    if let Some((preamble, mut rest)) = bytes.split_first_chunk::<PREAMBLE_BYTES>() {
        if let Ok(preamble) = Preamble::decode(*preamble) {
            let again = Preamble::decode(preamble.encode()).expect("what was read can be written");
            assert_eq!(again, preamble);
        }
        let _ = wire::read_frame(&mut rest, LIMIT).now_or_never().expect("a slice never waits");
    }
    let _ = wire::read_answer(&mut &bytes[..], LIMIT).now_or_never().expect("a slice never waits");
    let _ = scp_codec::decode::<wire::Hello>(wire::VERSION, bytes, wire::HELLO_BYTES_MAX);
    gossip::fuzz(bytes);
}
