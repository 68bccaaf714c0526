//! Takes an image's bytes in.
//!
//! ```text
//! stream ─▶ 4 MiB buffer ─▶ hash, keep chunk ─▶ … ─▶ manifest ─▶ assemble ─▶ qemu-img ─▶ record, base
//!                             │ first chunk: format and header, so that a wrong file is refused early
//! ```
//! Memory: one chunk being filled and one being written, whatever the image's size.

use std::sync::Arc;

use bytes::Bytes;
use futures::{Stream, StreamExt};
use scp_model::{
    Digest, ImageId,
    image::{CHUNK_BYTES, IMAGE_BYTES_MAX, ImageContent, ImageFormat},
};
use sha2::{Digest as _, Sha256};

use super::{
    Images, TakeError,
    detect::{self, Detected},
    qcow2,
    refusal::Refusal,
    second_opinion::second_opinion,
    store::{Kind, Pins, Store, digest_of, disk_error},
};

const DOING: &str = "taking an image in";

impl From<Refusal> for TakeError {
    fn from(refusal: Refusal) -> Self {
        Self::BadContent { code: refusal.code, why: refusal.why }
    }
}

/// What has come in so far. Travels between the stream and the blocking thread that hashes and writes.
struct Intake {
    store: Arc<Store>,
    whole: Sha256,
    /// The first bytes of the file, for its format and header.
    head: Vec<u8>,
    /// The last [`detect::TAIL_BYTES`] of the file.
    tail: Vec<u8>,
    chunks: Vec<Digest>,
    size_bytes: u64,
}

impl Intake {
    fn new(store: Arc<Store>) -> Self {
        Self { store, whole: Sha256::new(), head: vec![], tail: vec![], chunks: vec![], size_bytes: 0 }
    }

    /// Hashes and keeps one chunk.
    fn absorb(&mut self, chunk: &[u8], pins: &Pins) -> Result<(), TakeError> {
        if self.chunks.is_empty() {
            self.head = chunk[..chunk.len().min(qcow2::HEADER_BYTES_MAX)].to_vec();
            // The size is not known yet; whatever else is wrong is wrong already.
            format_of(&self.head, &[], u64::MAX)?;
        }
        let keep = detect::TAIL_BYTES.min(chunk.len());
        self.tail.extend_from_slice(&chunk[chunk.len() - keep..]);
        self.tail.drain(..self.tail.len().saturating_sub(detect::TAIL_BYTES));
        self.whole.update(chunk);
        self.size_bytes += chunk.len() as u64;
        let digest = digest_of(chunk);
        pins.add(digest);
        self.store.keep(digest, chunk).map_err(|error| self.failed(&error))?;
        self.chunks.push(digest);
        Ok(())
    }

    fn failed(&self, error: &std::io::Error) -> TakeError {
        TakeError::Failed(disk_error(DOING, self.store.dir(), error))
    }

    /// Keeps the manifest and says what the image is.
    fn finish(&mut self, pins: &Pins) -> Result<ImageContent, TakeError> {
        if self.size_bytes == 0 {
            return Err(Refusal::new("image_empty", "the file is empty").into());
        }
        let (format, virtual_size_bytes) = format_of(&self.head, &self.tail, self.size_bytes)?;
        let manifest: Vec<u8> = self.chunks.iter().flat_map(|digest| digest.0).collect();
        let content = ImageContent {
            format,
            size_bytes: self.size_bytes,
            virtual_size_bytes,
            digest: Digest(std::mem::take(&mut self.whole).finalize().into()),
            manifest: digest_of(&manifest),
        };
        pins.add(content.manifest);
        self.store.keep(content.manifest, &manifest).map_err(|error| self.failed(&error))?;
        Ok(content)
    }
}

/// What the bytes are and how large the disk is that a guest sees; or why they are not taken in.
fn format_of(head: &[u8], tail: &[u8], file_bytes: u64) -> Result<(ImageFormat, u64), Refusal> {
    match detect::detect(head, tail) {
        Detected::Qcow2 => Ok((ImageFormat::Qcow2, qcow2::parse(head, file_bytes)?.virtual_bytes)),
        Detected::Foreign(foreign) => Err(Refusal::new(
            "image_format_unsupported",
            format!("this is {}; qcow2 and raw are taken in: {}", foreign.name, foreign.remedy),
        )),
        Detected::Raw if file_bytes != u64::MAX && !file_bytes.is_multiple_of(512) => Err(Refusal::new(
            "image_raw_size",
            format!(
                "the file has no format that is known, and as a raw disk its {file_bytes} bytes are not a \
                 multiple of 512: it was cut short, or it is no disk; if it really is one: \
                 `truncate -s %512 FILE`"
            ),
        )),
        Detected::Raw => Ok((ImageFormat::Raw, file_bytes)),
    }
}

/// Collects the chunks of an image that was not taken in, also when its sender went away in the middle.
struct Leftovers {
    store: Arc<Store>,
    chunks: Vec<Digest>,
    /// The only lasting holder: with it the chunks are free.
    pins: Arc<Pins>,
}

impl Leftovers {
    fn new(store: &Arc<Store>) -> Self {
        Self { store: store.clone(), chunks: Vec::new(), pins: Arc::new(Pins::new(store)) }
    }
}

impl Drop for Leftovers {
    fn drop(&mut self) {
        self.pins = Arc::new(Pins::new(&self.store));
        if self.chunks.is_empty() {
            return;
        }
        let (store, chunks) = (self.store.clone(), std::mem::take(&mut self.chunks));
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn_blocking(move || {
                if let Err(error) = store.collect(&chunks) {
                    tracing::warn!(%error, "chunks of a refused image were not removed");
                }
            });
        }
    }
}

impl Images {
    /// Takes an image's bytes in: checked, chunked, on disk when this returns. Memory is bounded.
    ///
    /// # Errors
    /// Nothing of a refused or broken image is left on disk.
    pub async fn take<S>(&self, image: ImageId, body: S) -> Result<ImageContent, TakeError>
    where
        S: Stream<Item = std::io::Result<Bytes>> + Send,
    {
        let mut leftovers = Leftovers::new(&self.store);
        let (content, chunks) = self.receive(body, &mut leftovers).await?;
        self.place_taken(image, content.clone(), chunks).await?;
        leftovers.chunks.clear();
        Ok(content)
    }

    async fn receive<S>(
        &self,
        body: S,
        leftovers: &mut Leftovers,
    ) -> Result<(ImageContent, Vec<Digest>), TakeError>
    where
        S: Stream<Item = std::io::Result<Bytes>> + Send,
    {
        let mut body = std::pin::pin!(body);
        let mut intake = Intake::new(self.store.clone());
        let mut buffer = Vec::new();
        let mut received = 0u64;
        while let Some(bytes) = body.next().await {
            let mut bytes = bytes.map_err(TakeError::Broken)?;
            received += bytes.len() as u64;
            if received > IMAGE_BYTES_MAX {
                let why =
                    format!("the image exceeds {} TiB, the most that is taken in", IMAGE_BYTES_MAX >> 40);
                return Err(Refusal::new("image_too_large", why).into());
            }
            while !bytes.is_empty() {
                let room = CHUNK_BYTES as usize - buffer.len();
                buffer.extend_from_slice(&bytes.split_to(room.min(bytes.len())));
                if buffer.len() as u64 == CHUNK_BYTES {
                    intake = absorb(intake, std::mem::take(&mut buffer), leftovers).await?;
                }
            }
        }
        if !buffer.is_empty() {
            intake = absorb(intake, buffer, leftovers).await?;
        }
        let pins = leftovers.pins.clone();
        let finished = blocking(move || intake.finish(&pins).map(|content| (content, intake.chunks)));
        let (content, chunks) = finished.await?;
        leftovers.chunks.push(content.manifest);
        Ok((content, chunks))
    }

    /// Puts the base file together, has it looked at again, and writes the record.
    async fn place_taken(
        &self,
        image: ImageId,
        content: ImageContent,
        chunks: Vec<Digest>,
    ) -> Result<(), TakeError> {
        let held = self.on_disk(DOING, move |store| store.record(Kind::Held, image));
        if held.await.map_err(TakeError::Failed)?.is_some_and(|held| held != content) {
            let why = format!("image {image} is here already with other contents; use a new id");
            return Err(Refusal::new("image_id_taken", why).into());
        }
        let whole = content.clone();
        let assembled = self.on_disk(DOING, move |store| store.assemble(&whole, &chunks));
        let temporary = assembled.await.map_err(TakeError::Failed)?;
        match content.format {
            ImageFormat::Raw => {}
            ImageFormat::Qcow2 => second_opinion(temporary.path(), content.virtual_size_bytes)
                .await
                .map_err(TakeError::Failed)??,
        }
        self.on_disk(DOING, move |store| {
            // The record first: a base file that no record speaks for may be collected.
            store.write_record(Kind::Held, image, &content)?;
            temporary.place(&store.base_path(content.digest), 0o444)
        })
        .await
        .map_err(TakeError::Failed)
    }
}

async fn absorb(mut intake: Intake, chunk: Vec<u8>, leftovers: &mut Leftovers) -> Result<Intake, TakeError> {
    let pins = leftovers.pins.clone();
    let intake = blocking(move || intake.absorb(&chunk, &pins).map(|()| intake)).await?;
    leftovers.chunks.extend(intake.chunks.last());
    Ok(intake)
}

/// Hashing and writing block; the runtime's own threads stay free.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, TakeError> + Send + 'static,
) -> Result<T, TakeError> {
    tokio::task::spawn_blocking(work).await.expect("taking a chunk in does not panic")
}
