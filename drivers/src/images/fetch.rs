//! Fetches images from other nodes: several chunks at once, from several nodes at once.
//!
//! # Guarantees
//! - Nothing is kept that does not match its digest, whoever sent it.
//! - What was kept is never fetched again: an interrupted fetch goes on where it stopped.
//! - A node that fails or lies is asked last from then on; a fetch ends only when no source has a chunk.
//!
//! Memory: [`FETCHES_MAX`] chunks.

use std::{
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::StreamExt;
use scp_model::{
    Digest, Fact, NodeId,
    image::{CHUNK_BYTES, IMAGE_BYTES_MAX, ImageContent},
    op::EnsureImage,
};

use super::{
    Images, Progress,
    store::{
        Kind, Pins, chunk_bytes, digest_of, disk_error, manifest_bytes, manifest_digests, remove_if_there,
    },
};
use crate::DriverError;

/// Chunks on their way at once: enough to fill a 10 Gbit/s link at 25 ms, and 32 MiB of memory.
const FETCHES_MAX: usize = 8;
/// A chunk on a link of 1 Mbit/s takes 34 s.
const CHUNK_TIMEOUT: Duration = Duration::from_secs(60);

/// How far one fetch has come; read by others while it goes on.
#[derive(Debug, Default)]
pub(super) struct Counters {
    chunks_held: AtomicU64,
    bytes_held: AtomicU64,
    chunks: u64,
    bytes: u64,
}

impl Counters {
    pub(super) fn progress(&self) -> Progress {
        Progress {
            chunks_held: self.chunks_held.load(Ordering::Relaxed),
            chunks: self.chunks,
            bytes_held: self.bytes_held.load(Ordering::Relaxed),
            bytes: self.bytes,
        }
    }

    fn count(&self, bytes: u64) {
        self.chunks_held.fetch_add(1, Ordering::Relaxed);
        self.bytes_held.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// The sources of one fetch and how often each has failed in it.
struct Sources {
    failures: Mutex<Vec<(NodeId, u32)>>,
}

impl Sources {
    fn new(nodes: &[NodeId]) -> Self {
        Self { failures: Mutex::new(nodes.iter().map(|node| (*node, 0)).collect()) }
    }

    /// The order to ask in for the chunk at `turn`: fewest failures first, and among equals each chunk
    /// begins with another source.
    fn order(&self, turn: usize) -> Vec<NodeId> {
        let failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let count = failures.len().max(1);
        let mut order: Vec<_> = failures
            .iter()
            .enumerate()
            .map(|(at, (node, failed))| (*failed, (at + turn) % count, *node))
            .collect();
        order.sort_unstable();
        order.into_iter().map(|(_, _, node)| node).collect()
    }

    fn failed(&self, node: NodeId) {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, failed)) = failures.iter_mut().find(|(known, _)| *known == node) {
            *failed += 1;
        }
    }
}

/// What one piece of content is, beforehand.
#[derive(Clone, Copy)]
struct Wanted {
    digest: Digest,
    bytes: u64,
    turn: usize,
}

impl Images {
    pub(super) async fn ensure(&self, order: &EnsureImage) -> Result<Vec<Fact>, DriverError> {
        let doing = format!("fetching image {}", order.image);
        let content = Arc::new(order.content.clone());
        if content.size_bytes == 0 || content.size_bytes > IMAGE_BYTES_MAX {
            return Err(DriverError::terminal(doing, "the order's size is out of range"));
        }
        let image = order.image;
        let known = content.clone();
        let held = self.on_disk(&doing, move |store| {
            let recorded = store.record(Kind::Held, image)?.is_some_and(|held| held == *known);
            Ok(recorded && store.has_base(&known))
        });
        if held.await? {
            return Ok(vec![Fact::ImageHeld { image }]);
        }
        let wanted = content.clone();
        self.on_disk(&doing, move |store| store.write_record(Kind::Wanted, image, &wanted)).await?;
        let pins = Arc::new(Pins::new(&self.store));
        let sources = Sources::new(&order.sources);
        let chunks = self.manifest(&doing, &content, &sources).await?;
        self.chunks(&doing, order, (&chunks, &sources, &pins)).await?;
        self.on_disk(&doing, move |store| {
            let temporary = store.assemble(&content, &chunks)?;
            store.write_record(Kind::Held, image, &content)?;
            temporary.place(&store.base_path(content.digest), 0o444)?;
            store.remove_record(Kind::Wanted, image)
        })
        .await?;
        self.fetches().remove(&image);
        Ok(vec![Fact::ImageHeld { image }])
    }

    async fn manifest(
        &self,
        doing: &str,
        content: &ImageContent,
        sources: &Sources,
    ) -> Result<Vec<Digest>, DriverError> {
        let wanted = Wanted { digest: content.manifest, bytes: manifest_bytes(content), turn: 0 };
        self.fetch(doing, wanted, sources).await?;
        let read = self.on_disk(doing, move |store| {
            let manifest = store.read(wanted.digest, wanted.bytes)?.unwrap_or_default();
            if digest_of(&manifest) != wanted.digest {
                remove_if_there(&store.chunk_path(wanted.digest))?;
                return Ok(None);
            }
            Ok(manifest_digests(&manifest))
        });
        let damaged = "the manifest was damaged on disk and has been removed";
        read.await?.ok_or_else(|| DriverError::retryable(doing, damaged))
    }

    async fn chunks(
        &self,
        doing: &str,
        order: &EnsureImage,
        (chunks, sources, pins): (&[Digest], &Sources, &Pins),
    ) -> Result<(), DriverError> {
        let size = order.content.size_bytes;
        let counters = Arc::new(Counters { chunks: chunks.len() as u64, bytes: size, ..Counters::default() });
        self.fetches().insert(order.image, counters.clone());
        let wanted = |(turn, digest): (usize, &Digest)| Wanted {
            digest: *digest,
            bytes: chunk_bytes(turn, size),
            turn,
        };
        let wanted: Vec<Wanted> = chunks.iter().enumerate().map(wanted).collect();
        // After a failure nothing new is begun, and what is under way is brought home and kept.
        let failure = OnceLock::new();
        futures::stream::iter(wanted)
            .for_each_concurrent(FETCHES_MAX, |wanted| {
                let (counters, failure) = (&counters, &failure);
                async move {
                    if failure.get().is_some() {
                        return;
                    }
                    pins.add(wanted.digest);
                    match self.fetch(doing, wanted, sources).await {
                        Ok(()) => counters.count(wanted.bytes),
                        // The first one is told.
                        Err(error) => drop(failure.set(error)),
                    }
                }
            })
            .await;
        failure.into_inner().map_or(Ok(()), Err)
    }

    /// Has one piece of content here, from whichever source gives it.
    async fn fetch(&self, doing: &str, wanted: Wanted, sources: &Sources) -> Result<(), DriverError> {
        let here = self.on_disk(doing, move |store| Ok(store.has(wanted.digest, wanted.bytes)));
        if here.await? {
            return Ok(());
        }
        let mut refusals = Vec::new();
        for node in sources.order(wanted.turn) {
            match self.fetch_from(node, wanted).await {
                Ok(bytes) => {
                    return self.on_disk(doing, move |store| store.keep(wanted.digest, &bytes)).await;
                }
                Err(why) => {
                    sources.failed(node);
                    tracing::warn!(%node, digest = %wanted.digest, %why, "a chunk was not fetched");
                    refusals.push(format!("{node}: {why}"));
                }
            }
        }
        let why = if refusals.is_empty() { "no node holds it".into() } else { refusals.join("; ") };
        Err(DriverError::retryable(doing, format!("chunk {} is not to be had ({why})", wanted.digest)))
    }

    async fn fetch_from(&self, node: NodeId, wanted: Wanted) -> Result<bytes::Bytes, String> {
        debug_assert!(wanted.bytes <= CHUNK_BYTES.max(IMAGE_BYTES_MAX / CHUNK_BYTES * 32));
        let fetch = self.source.fetch(node, wanted.digest, wanted.bytes);
        let bytes = tokio::time::timeout(CHUNK_TIMEOUT, fetch)
            .await
            .map_err(|_| format!("no answer in {} s", CHUNK_TIMEOUT.as_secs()))?
            .map_err(|error| error.to_string())?;
        let (found, bytes) = tokio::task::spawn_blocking(move || (digest_of(&bytes), bytes))
            .await
            .expect("hashing does not panic");
        if found != wanted.digest || bytes.len() as u64 != wanted.bytes {
            return Err(format!("it sent {} bytes of {found} instead", bytes.len()));
        }
        Ok(bytes)
    }

    /// Runs `work` on a blocking thread and tells a full disk from other failures.
    pub(super) async fn on_disk<T: Send + 'static>(
        &self,
        doing: &str,
        work: impl FnOnce(&super::store::Store) -> std::io::Result<T> + Send + 'static,
    ) -> Result<T, DriverError> {
        let store = self.store.clone();
        let done = tokio::task::spawn_blocking(move || work(&store)).await;
        done.expect("the image store does not panic")
            .map_err(|error| disk_error(doing, self.store.dir(), &error))
    }
}
