//! Images: a content-addressed store on disk, filled by users and by other nodes.
//!
//! ```text
//! take (user's bytes) ──▶ chunks, manifest ─▶ base file ─▶ held
//! EnsureImage (order) ──▶ wanted ─▶ fetch what is missing ─▶ base file ─▶ held
//! scrub ──▶ damaged: removed, wanted again            read_chunk ──▶ peers
//! ```
//!
//! # Guarantees
//! - An image that is reported as held was checked byte by byte on this node, and is on disk.
//! - Files hold the truth; the sled index beside them may be deleted at any time.
//! - A full disk is a clear, retryable error and leaves nothing half-written.
//!
//! # Assumptions
//! - Nobody else writes into the directory. What rots is found by the scrub.

mod detect;
mod fetch;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzz;
mod qcow2;
mod refusal;
mod scrub;
mod second_opinion;
mod store;
mod take;

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use bytes::Bytes;
use scp_model::{Digest, Fact, ImageId, Op};
use tokio::sync::mpsc;

pub use second_opinion::{SEARCH_PATH, installed};

use crate::{ChunkSource, Driver, DriverError};
use store::{Kind, Store, disk_error};

/// The images of one node.
pub struct Images {
    store: Arc<Store>,
    index: Arc<scrub::Index>,
    source: Arc<dyn ChunkSource>,
    /// Fetches under way.
    fetches: Mutex<BTreeMap<ImageId, Arc<fetch::Counters>>>,
}

/// Why bytes were not taken in as an image.
#[derive(Debug, thiserror::Error)]
pub enum TakeError {
    /// The bytes are not what they should be; `code` is for programs, `why` teaches.
    #[error("{why}")]
    BadContent { code: &'static str, why: String },
    /// The sender stopped in the middle.
    #[error("the image did not arrive whole: {0}")]
    Broken(#[source] io::Error),
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
        let dir = dir.into();
        let at = dir.clone();
        let opened = tokio::task::spawn_blocking(move || {
            std::fs::create_dir_all(&dir)?;
            let store = Store::open(dir.canonicalize()?)?;
            let index = scrub::Index::open(&store.dir().join("index"))?;
            // What a crash left behind and no record speaks for.
            store.collect(&store.chunks()?)?;
            Ok((store, index))
        });
        let (store, index) = opened
            .await
            .expect("opening the image store does not panic")
            .map_err(|error| disk_error("opening the image store", &at, &error))?;
        Ok(Self { store: Arc::new(store), index: Arc::new(index), source, fetches: Mutex::default() })
    }

    /// Where the base files are that overlays stand on: `<digest>.img`.
    pub fn bases(&self) -> PathBuf {
        self.store.bases()
    }

    pub fn dir(&self) -> &Path {
        self.store.dir()
    }

    /// A chunk or manifest, for a peer, which checks it itself; none when it is not here. Longer than
    /// `bytes_max` is refused.
    pub async fn read_chunk(&self, digest: Digest, bytes_max: u64) -> Result<Option<Bytes>, DriverError> {
        let read = self.on_disk("reading a chunk", move |store| store.read(digest, bytes_max)).await?;
        Ok(read.map(Bytes::from))
    }

    /// How far an `EnsureImage` has come; none when it is done or was never begun.
    pub fn progress(&self, image: ImageId) -> Option<Progress> {
        self.fetches().get(&image).map(|counters| counters.progress())
    }

    fn fetches(&self) -> MutexGuard<'_, BTreeMap<ImageId, Arc<fetch::Counters>>> {
        self.fetches.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn remove(&self, image: ImageId) -> Result<Vec<Fact>, DriverError> {
        self.fetches().remove(&image);
        self.on_disk(&format!("removing image {image}"), move |store| {
            let mut candidates = Vec::new();
            for kind in [Kind::Wanted, Kind::Held] {
                if let Some(content) = store.record(kind, image)? {
                    candidates.extend(store.chunks_of(&content)?);
                }
                store.remove_record(kind, image)?;
            }
            store.collect(&candidates)
        })
        .await?;
        Ok(vec![Fact::ImageGone { image }])
    }
}

#[async_trait]
impl Driver for Images {
    async fn carry_out(&self, op: &Op) -> Result<Vec<Fact>, DriverError> {
        match op {
            Op::EnsureImage(order) => self.ensure(order).await,
            Op::RemoveImage { image } => self.remove(*image).await,
            Op::EnsureVm(_) | Op::StopVm { .. } | Op::RebootVm { .. } | Op::RemoveVm { .. } => {
                Err(DriverError::terminal("carrying out an image op", "this op is about a VM"))
            }
        }
    }

    async fn observe(&self) -> Result<Vec<Fact>, DriverError> {
        self.on_disk("looking at the images", |store| {
            let held = store.records(Kind::Held)?;
            let whole = held.into_iter().filter(|(_, content)| store.has_base(content));
            Ok(whole.map(|(image, _)| Fact::ImageHeld { image }).collect())
        })
        .await
    }

    fn events(&self) -> Option<mpsc::Receiver<Fact>> {
        None
    }
}
