//! A door for the fuzz target of watch frames. Compiled for fuzzing only.

/// A frame of a watch's stream, of either side; what a node says is handed out as the client does.
pub fn watch_frame(bytes: &[u8]) {
    super::watch::read_any(bytes);
}
