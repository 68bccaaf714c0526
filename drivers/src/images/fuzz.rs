//! A door for the fuzz target of images. Compiled for fuzzing only.

use super::{detect, qcow2, store};

/// A file that somebody calls an image, by its beginning and its end, and a manifest of one.
pub fn image(bytes: &[u8]) {
    let tail = &bytes[bytes.len().saturating_sub(512)..];
    let _ = detect::detect(bytes, tail);
    let _ = qcow2::parse(bytes, bytes.len() as u64);
    // Behind the magic, which a fuzzer would have to find first.
    let mut image = qcow2::MAGIC.to_vec();
    image.extend_from_slice(bytes);
    let _ = qcow2::parse(&image, u64::MAX);
    let _ = store::manifest_digests(bytes);
}
