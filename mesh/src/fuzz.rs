//! Doors for the fuzz targets: decoders that are otherwise this crate's own. Compiled for fuzzing only.

use futures::executor::block_on;

use crate::wire::{HELLO_BYTES_MAX, Hello, PREAMBLE_BYTES, Preamble, VERSION, read_answer, read_frame};

const LIMIT: usize = 1 << 16;

/// The first bytes of a stream from a peer, and what it takes for an answer.
pub fn stream(bytes: &[u8]) {
    if let Some((preamble, rest)) = bytes.split_first_chunk::<PREAMBLE_BYTES>()
        && let Ok(preamble) = Preamble::decode(*preamble)
    {
        assert_eq!(Preamble::decode(preamble.encode()).ok(), Some(preamble));
        let frame = block_on(read_frame(&mut &*rest, LIMIT));
        assert!(frame.is_err() || frame.is_ok_and(|frame| frame.len() <= LIMIT));
    }
    let _ = block_on(read_answer(&mut &*bytes, LIMIT));
    let _ = scp_codec::decode::<Hello>(VERSION, bytes, HELLO_BYTES_MAX);
}
