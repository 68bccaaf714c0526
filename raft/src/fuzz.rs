//! Doors for the fuzz targets: decoders that are otherwise this crate's own. Compiled for fuzzing only.

use crate::wire::{self, Request, Response};

pub use crate::log::fuzz::segment;

/// A message between peers: an error, or one that can be written again.
pub fn message(bytes: &[u8]) {
    if let Ok(request) = wire::decode::<Request>(bytes) {
        wire::encode(&request).expect("what was read can be written");
    }
    if let Ok(response) = wire::decode::<Response>(bytes) {
        wire::encode(&response).expect("what was read can be written");
    }
}
