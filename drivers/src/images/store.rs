//! Files of a content-addressed store, one directory a node.
//!
//! ```text
//! <dir>/chunks/ab/abcd…   content by digest: chunks and manifests
//! <dir>/base/abcd….img    whole images by digest, read-only: what overlays stand on
//! <dir>/held/<image>      record: the image is here whole and was checked
//! <dir>/wanted/<image>    record: the image is being fetched; keeps its chunks from being collected
//! <dir>/tmp/              half-written files; emptied when the store is opened
//! <dir>/index/            sled: how far the scrub has come. May be deleted at any time
//! ```
//!
//! # Guarantees
//! - A file under its final name is whole and on disk: written under `tmp/`, synced, renamed, and the
//!   directory synced.
//! - A half-written file is removed at once when writing fails, and at the next opening after a crash.
//! - A sound chunk is never removed while it is pinned.
//!
//! Everything here blocks: callers run it on a blocking thread.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{self, Read, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use scp_model::{
    Digest, ImageId,
    image::{CHUNK_BYTES, ImageContent},
};
use sha2::{Digest as _, Sha256};

use crate::DriverError;

/// Format version of the records under `held/` and `wanted/`.
const RECORD_VERSION: u16 = 1;
/// A record is an [`ImageContent`]: some hundred bytes.
const RECORD_BYTES_MAX: usize = 4 << 10;
/// Read and copied at a time.
const BUFFER_BYTES: usize = 256 << 10;

/// Which records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Held,
    Wanted,
}

/// The files of one store.
pub struct Store {
    dir: PathBuf,
    pins: Mutex<BTreeMap<Digest, usize>>,
    temporary: AtomicU64,
}

/// Keeps chunks from being collected until it is dropped.
pub struct Pins {
    store: Arc<Store>,
    digests: Mutex<Vec<Digest>>,
}

impl Pins {
    pub fn new(store: &Arc<Store>) -> Self {
        Self { store: store.clone(), digests: Mutex::default() }
    }

    pub fn add(&self, digest: Digest) {
        *self.store.pins().entry(digest).or_default() += 1;
        self.digests.lock().unwrap_or_else(PoisonError::into_inner).push(digest);
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        let mut pins = self.store.pins();
        for digest in self.digests.get_mut().unwrap_or_else(PoisonError::into_inner).drain(..) {
            match pins.get_mut(&digest) {
                Some(count) if *count > 1 => *count -= 1,
                Some(_) | None => drop(pins.remove(&digest)),
            }
        }
    }
}

/// A half-written file: removed unless it was put in its place.
pub struct Temporary {
    path: PathBuf,
    file: File,
    placed: bool,
}

impl Temporary {
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn file(&mut self) -> &mut File {
        &mut self.file
    }

    /// Syncs the file and gives it its final name.
    pub fn place(mut self, to: &Path, mode: u32) -> io::Result<()> {
        self.file.set_permissions(fs::Permissions::from_mode(mode))?;
        self.file.sync_all()?;
        fs::rename(&self.path, to)?;
        self.placed = true;
        sync_parent(to)
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.placed {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

pub fn digest_of(bytes: &[u8]) -> Digest {
    Digest(Sha256::digest(bytes).into())
}

/// Cuts a manifest into the digests it lists; none when it is not a whole number of them.
pub fn manifest_digests(manifest: &[u8]) -> Option<Vec<Digest>> {
    let (digests, rest) = manifest.as_chunks::<32>();
    rest.is_empty().then(|| digests.iter().map(|digest| Digest(*digest)).collect())
}

/// Bytes of the chunk at `index` of a file of `size_bytes`.
pub fn chunk_bytes(index: usize, size_bytes: u64) -> u64 {
    size_bytes.saturating_sub(index as u64 * CHUNK_BYTES).min(CHUNK_BYTES)
}

/// Tells a full disk from other failures: it mends itself once there is space again.
pub fn disk_error(doing: &str, dir: &Path, error: &io::Error) -> DriverError {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => DriverError::DiskFull {
            doing: doing.to_owned(),
            why: format!(
                "the disk that holds {} is full; free space there (`scpctl image delete`, or a larger disk); \
                 nothing half-written was kept",
                dir.display()
            ),
        },
        _ => DriverError::retryable(doing, format!("{}: {error}", dir.display())),
    }
}

impl Store {
    /// Opens the store, makes its directories and removes what a crash left half-written.
    pub fn open(dir: PathBuf) -> io::Result<Self> {
        for (name, mode) in [("chunks", 0o700), ("base", 0o711), ("held", 0o700), ("wanted", 0o700)] {
            fs::create_dir_all(dir.join(name))?;
            fs::set_permissions(dir.join(name), fs::Permissions::from_mode(mode))?;
        }
        // QEMU runs as its own user and has to reach the base files, not to list what is here.
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o711))?;
        match fs::remove_dir_all(dir.join("tmp")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => fs::create_dir_all(dir.join("tmp"))?,
        }
        Ok(Self { dir, pins: Mutex::default(), temporary: AtomicU64::new(0) })
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    fn pins(&self) -> MutexGuard<'_, BTreeMap<Digest, usize>> {
        self.pins.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn chunk_path(&self, digest: Digest) -> PathBuf {
        let name = digest.to_string();
        self.dir.join("chunks").join(&name[..2]).join(name)
    }

    pub fn bases(&self) -> PathBuf {
        self.dir.join("base")
    }

    pub fn base_path(&self, digest: Digest) -> PathBuf {
        self.bases().join(format!("{digest}.img"))
    }

    pub fn temporary(&self) -> io::Result<Temporary> {
        let number = self.temporary.fetch_add(1, Ordering::Relaxed);
        let path = self.dir.join("tmp").join(number.to_string());
        let file = File::options().read(true).write(true).create_new(true).open(&path)?;
        Ok(Temporary { path, file, placed: false })
    }

    /// Whether that content is here, with that length. What stands under a digest was checked.
    pub fn has(&self, digest: Digest, bytes: u64) -> bool {
        fs::metadata(self.chunk_path(digest)).is_ok_and(|metadata| metadata.len() == bytes)
    }

    /// Keeps content whose digest the caller has computed.
    pub fn keep(&self, digest: Digest, bytes: &[u8]) -> io::Result<()> {
        if self.has(digest, bytes.len() as u64) {
            return Ok(());
        }
        let path = self.chunk_path(digest);
        let shard = path.parent().expect("a chunk's path has its shard as parent");
        if !shard.exists() {
            fs::create_dir_all(shard)?;
            sync_parent(shard)?;
        }
        let mut temporary = self.temporary()?;
        temporary.file().write_all(bytes)?;
        temporary.place(&path, 0o600)
    }

    /// The content, at most `bytes_max` long; none when it is not here.
    pub fn read(&self, digest: Digest, bytes_max: u64) -> io::Result<Option<Vec<u8>>> {
        let file = match File::open(self.chunk_path(digest)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let bytes = file.metadata()?.len();
        if bytes > bytes_max {
            let why = format!("{digest} has {bytes} bytes, {bytes_max} were asked for");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        let mut content = Vec::with_capacity(bytes as usize);
        file.take(bytes_max).read_to_end(&mut content)?;
        Ok(Some(content))
    }

    /// The digest of a file.
    pub fn digest_file(path: &Path) -> io::Result<Digest> {
        let mut file = File::open(path)?;
        let mut hash = Sha256::new();
        let mut buffer = vec![0u8; BUFFER_BYTES];
        loop {
            match file.read(&mut buffer)? {
                0 => return Ok(Digest(hash.finalize().into())),
                count => hash.update(&buffer[..count]),
            }
        }
    }

    /// Puts an image's chunks together and checks each of them and the whole. Not yet in its place.
    pub fn assemble(&self, content: &ImageContent, chunks: &[Digest]) -> io::Result<Temporary> {
        let damaged = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
        let mut whole = Sha256::new();
        let mut temporary = self.temporary()?;
        for (index, digest) in chunks.iter().enumerate() {
            let bytes =
                self.read(*digest, CHUNK_BYTES)?.ok_or_else(|| damaged(format!("{digest} is missing")))?;
            if digest_of(&bytes) != *digest || bytes.len() as u64 != chunk_bytes(index, content.size_bytes) {
                // Pinned or not: it is not what its name says.
                remove_if_there(&self.chunk_path(*digest))?;
                return Err(damaged(format!("chunk {digest} was damaged on disk and has been removed")));
            }
            whole.update(&bytes);
            temporary.file().write_all(&bytes)?;
        }
        let digest = Digest(whole.finalize().into());
        if digest != content.digest {
            return Err(damaged(format!("the chunks make {digest}, not {}", content.digest)));
        }
        Ok(temporary)
    }

    fn records_dir(&self, kind: Kind) -> PathBuf {
        self.dir.join(match kind {
            Kind::Held => "held",
            Kind::Wanted => "wanted",
        })
    }

    pub fn write_record(&self, kind: Kind, image: ImageId, content: &ImageContent) -> io::Result<()> {
        let bytes = scp_codec::encode(RECORD_VERSION, content).map_err(io::Error::other)?;
        let mut temporary = self.temporary()?;
        temporary.file().write_all(&bytes)?;
        temporary.place(&self.records_dir(kind).join(image.to_string()), 0o600)
    }

    pub fn remove_record(&self, kind: Kind, image: ImageId) -> io::Result<()> {
        let path = self.records_dir(kind).join(image.to_string());
        remove_if_there(&path)?;
        sync_parent(&path)
    }

    pub fn record(&self, kind: Kind, image: ImageId) -> io::Result<Option<ImageContent>> {
        read_record(&self.records_dir(kind).join(image.to_string()))
    }

    /// All records of a kind. One that cannot be read is as good as none: its image is fetched again.
    pub fn records(&self, kind: Kind) -> io::Result<BTreeMap<ImageId, ImageContent>> {
        let mut records = BTreeMap::new();
        for entry in fs::read_dir(self.records_dir(kind))? {
            let entry = entry?;
            let Some(image) = entry.file_name().to_str().and_then(|name| name.parse::<ImageId>().ok()) else {
                continue;
            };
            match read_record(&entry.path()) {
                Ok(Some(content)) => drop(records.insert(image, content)),
                Ok(None) => {}
                Err(error) => tracing::warn!(%image, %error, "an image record cannot be read"),
            }
        }
        Ok(records)
    }

    /// Whether an image's base file is in its place.
    pub fn has_base(&self, content: &ImageContent) -> bool {
        fs::metadata(self.base_path(content.digest))
            .is_ok_and(|metadata| metadata.len() == content.size_bytes)
    }

    /// The chunks of an image, if its manifest is here; the manifest itself is the last.
    pub fn chunks_of(&self, content: &ImageContent) -> io::Result<Vec<Digest>> {
        let manifest = self.read(content.manifest, manifest_bytes(content))?;
        let mut digests = manifest.as_deref().and_then(manifest_digests).unwrap_or_default();
        digests.push(content.manifest);
        Ok(digests)
    }

    /// Everything that a record speaks for.
    pub fn referenced(&self) -> io::Result<BTreeSet<Digest>> {
        let mut referenced = BTreeSet::new();
        for kind in [Kind::Held, Kind::Wanted] {
            for content in self.records(kind)?.values() {
                referenced.extend(self.chunks_of(content)?);
            }
        }
        Ok(referenced)
    }

    /// Every chunk on disk.
    pub fn chunks(&self) -> io::Result<Vec<Digest>> {
        let mut digests = Vec::new();
        for shard in fs::read_dir(self.dir.join("chunks"))? {
            for entry in fs::read_dir(shard?.path())? {
                digests.extend(entry?.file_name().to_str().and_then(|name| name.parse::<Digest>().ok()));
            }
        }
        Ok(digests)
    }

    /// Removes `candidates` that nothing speaks for, and base files of which no record is left.
    ///
    /// The pins are held still all along: an image is pinned until its record is written, so at any
    /// moment one of the two speaks for its chunks. Base files are listed before the records are read,
    /// because a base file is placed after its record is written.
    pub fn collect(&self, candidates: &[Digest]) -> io::Result<()> {
        let pins = self.pins();
        let bases = fs::read_dir(self.bases())?.collect::<io::Result<Vec<_>>>()?;
        let referenced = self.referenced()?;
        let spoken_for = |digest: &Digest| referenced.contains(digest) || pins.contains_key(digest);
        for digest in candidates.iter().filter(|digest| !spoken_for(digest)) {
            remove_if_there(&self.chunk_path(*digest))?;
        }
        let held: BTreeSet<PathBuf> =
            self.records(Kind::Held)?.values().map(|content| self.base_path(content.digest)).collect();
        for path in bases.iter().map(fs::DirEntry::path).filter(|path| !held.contains(path)) {
            remove_if_there(&path)?;
        }
        Ok(())
    }
}

/// Bytes of an image's manifest.
pub fn manifest_bytes(content: &ImageContent) -> u64 {
    content.chunk_count() * 32
}

pub fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn read_record(path: &Path) -> io::Result<Option<ImageContent>> {
    let mut bytes = Vec::new();
    match File::open(path) {
        Ok(file) => file.take(RECORD_BYTES_MAX as u64).read_to_end(&mut bytes)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    scp_codec::decode(RECORD_VERSION, &bytes, RECORD_BYTES_MAX).map(Some).map_err(io::Error::other)
}
