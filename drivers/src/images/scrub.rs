//! Reads what is kept again, from time to time, and throws out what has rotted.
//!
//! A damaged chunk or base file is removed and its images are *wanted* again instead of *held*: they are
//! no longer reported, the agent orders `EnsureImage` again, and only what is missing is fetched.
//! A running VM keeps the file it has open; its next start takes the mended one.
//!
//! The index remembers what the scrub under way has checked, so that a restart does not begin anew.
//! Losing the index costs reading some chunks twice.

use std::{collections::BTreeSet, fs, io, path::Path};

use scp_model::{Digest, ImageId};

use super::{
    Images, ScrubReport,
    store::{Kind, Store, digest_of, remove_if_there},
};
use crate::DriverError;

/// The cache of the index: it holds 32 bytes a chunk.
const INDEX_CACHE_BYTES: u64 = 4 << 20;

/// What the scrub under way has found sound. All of it can be found again.
pub(super) struct Index(sled::Db);

impl Index {
    /// Opens the index; one that cannot be read is made anew.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let config = || sled::Config::new().path(path).cache_capacity(INDEX_CACHE_BYTES);
        config()
            .open()
            .or_else(|error| {
                tracing::warn!(%error, "the chunk index cannot be read and is made anew");
                fs::remove_dir_all(path)?;
                config().open()
            })
            .map(Self)
            .map_err(io::Error::other)
    }

    fn is_sound(&self, digest: Digest) -> bool {
        self.0.contains_key(digest.0).unwrap_or(false)
    }

    /// Losing a note costs reading that chunk twice, so its failure is no one's.
    fn note_sound(&self, digest: Digest) {
        if let Err(error) = self.0.insert(digest.0, &[]) {
            tracing::debug!(%error, "the chunk index did not take a note");
        }
    }

    fn begin_anew(&self) {
        if let Err(error) = self.0.clear() {
            tracing::debug!(%error, "the chunk index was not cleared");
        }
    }
}

impl Images {
    /// Reads everything again and removes what no longer matches its digest.
    pub async fn scrub(&self) -> Result<ScrubReport, DriverError> {
        let index = self.index.clone();
        self.on_disk("scrubbing the images", move |store| scrub(store, &index)).await
    }
}

fn scrub(store: &Store, index: &Index) -> io::Result<ScrubReport> {
    let mut report = ScrubReport::default();
    for digest in store.chunks()? {
        if index.is_sound(digest) {
            continue;
        }
        report.chunks_checked += 1;
        // Removed in the meantime: nothing to check. Unreadable: as good as damaged.
        let sound = match fs::read(store.chunk_path(digest)) {
            Ok(bytes) => digest_of(&bytes) == digest,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => {
                tracing::warn!(%digest, %error, "a chunk cannot be read");
                false
            }
        };
        if sound {
            index.note_sound(digest);
        } else {
            tracing::warn!(%digest, "a chunk was damaged on disk and has been removed");
            remove_if_there(&store.chunk_path(digest))?;
            report.chunks_damaged.push(digest);
        }
    }
    demote_damaged(store, &mut report)?;
    index.begin_anew();
    Ok(report)
}

/// Images of which a chunk is missing, or whose base file is no longer what it should be.
fn demote_damaged(store: &Store, report: &mut ScrubReport) -> io::Result<()> {
    let damaged: BTreeSet<Digest> = report.chunks_damaged.iter().copied().collect();
    for (image, content) in store.records(Kind::Held)? {
        let base = store.base_path(content.digest);
        let base_is_sound = Store::digest_file(&base).is_ok_and(|digest| digest == content.digest);
        if !base_is_sound {
            tracing::warn!(%image, "a base file was damaged on disk and has been removed");
            remove_if_there(&base)?;
        }
        let chunks = store.chunks_of(&content)?;
        let chunks_are_sound = chunks.len() as u64 == content.chunk_count() + 1
            && chunks.iter().all(|digest| !damaged.contains(digest));
        if !base_is_sound || !chunks_are_sound {
            demote(store, image)?;
            report.images_damaged.push(image);
        }
    }
    Ok(())
}

fn demote(store: &Store, image: ImageId) -> io::Result<()> {
    if let Some(content) = store.record(Kind::Held, image)? {
        store.write_record(Kind::Wanted, image, &content)?;
        store.remove_record(Kind::Held, image)?;
    }
    Ok(())
}
