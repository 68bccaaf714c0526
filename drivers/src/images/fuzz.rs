//! The doors of the fuzz targets into the decoders of images.

use super::{detect, qcow2};

/// Reads `bytes` as the head and the tail of an image, and as its header.
pub fn image(bytes: &[u8]) {
    let tail = &bytes[bytes.len().saturating_sub(detect::TAIL_BYTES)..];
    let _ = detect::detect(bytes, tail);
    for file_bytes in [bytes.len() as u64, u64::MAX] {
        let _ = qcow2::parse(bytes, file_bytes);
    }
}
