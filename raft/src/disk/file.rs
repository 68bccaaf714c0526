//! Files in a directory that this process alone uses.

use std::{
    fs::{File, OpenOptions},
    io::ErrorKind,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{Disk, DiskError, DiskFile, Place};

/// Held locked while the directory is in use. Not listed.
const LOCK: &str = "lock";
/// Zeroes are written in pieces of this size.
const ZERO_BYTES: usize = 1 << 20;

/// A directory on a local file system.
#[derive(Debug)]
pub struct FileDisk {
    dir: PathBuf,
    dir_file: File,
    _lock: File,
}

impl FileDisk {
    /// Opens `dir`, making it when it is not there, and locks it against other processes.
    pub fn open(dir: impl Into<PathBuf>) -> Result<Self, DiskError> {
        let dir = dir.into();
        std::fs::create_dir_all(&dir).map_err(|error| named(&dir, error))?;
        let path = dir.join(LOCK);
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(|error| named(&path, error))?;
        match rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(DiskError::Failed(format!("{} is in use by another process", dir.display())));
            }
            Err(error) => return Err(named(&path, error.into())),
        }
        let dir_file = File::open(&dir).map_err(|error| named(&dir, error))?;
        let disk = Self { dir, dir_file, _lock: lock };
        disk.sync_dir()?;
        Ok(disk)
    }
}

impl Disk for FileDisk {
    fn create(&self, name: &str, size: u64) -> Result<Arc<dyn DiskFile>, DiskError> {
        let path = self.dir.join(name);
        let file = OpenOptions::new()
            .create_new(true)
            .read(true)
            .write(true)
            .open(&path)
            .map_err(|error| named(&path, error))?;
        // A half made file is of no use to anybody, and its space is wanted.
        zero(&file, size).map_err(|error| {
            let _ = std::fs::remove_file(&path);
            named(&path, error)
        })?;
        Ok(Arc::new(OpenFile { file, path }))
    }

    fn open(&self, name: &str) -> Result<Arc<dyn DiskFile>, DiskError> {
        let path = self.dir.join(name);
        let file =
            OpenOptions::new().read(true).write(true).open(&path).map_err(|error| named(&path, error))?;
        Ok(Arc::new(OpenFile { file, path }))
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), DiskError> {
        let from = self.dir.join(from);
        std::fs::rename(&from, self.dir.join(to)).map_err(|error| named(&from, error))
    }

    fn remove(&self, name: &str) -> Result<(), DiskError> {
        let path = self.dir.join(name);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(named(&path, error)),
            _ => Ok(()),
        }
    }

    fn list(&self) -> Result<Vec<String>, DiskError> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.dir).map_err(|error| named(&self.dir, error))? {
            let name = entry.map_err(|error| named(&self.dir, error))?.file_name();
            if let Some(name) = name.to_str().filter(|&name| name != LOCK) {
                names.push(name.to_owned());
            }
        }
        names.sort();
        Ok(names)
    }

    fn sync_dir(&self) -> Result<(), DiskError> {
        self.dir_file.sync_all().map_err(|error| named(&self.dir, error))
    }

    fn place(&self) -> Place {
        Place::Thread
    }
}

/// Allocates and zeroes, so that later writes change no metadata: their `fdatasync` then needs no
/// journal commit, which is 25 times faster while others write to the same file system.
fn zero(file: &File, size: u64) -> std::io::Result<()> {
    if size == 0 {
        return Ok(());
    }
    rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), 0, size).or_else(|error| {
        // Some file systems cannot allocate ahead; the zeroes below do it.
        if error == rustix::io::Errno::OPNOTSUPP { Ok(()) } else { Err(error) }
    })?;
    let zeroes = vec![0; ZERO_BYTES.min(size as usize)];
    let mut at = 0;
    while at < size {
        let length = zeroes.len().min((size - at) as usize);
        file.write_all_at(&zeroes[..length], at)?;
        at += length as u64;
    }
    Ok(())
}

#[derive(Debug)]
struct OpenFile {
    file: File,
    path: PathBuf,
}

impl DiskFile for OpenFile {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), DiskError> {
        self.file.write_all_at(bytes, offset).map_err(|error| named(&self.path, error))
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> Result<(), DiskError> {
        self.file.read_exact_at(into, offset).map_err(|error| named(&self.path, error))
    }

    fn sync(&self) -> Result<(), DiskError> {
        self.file.sync_data().map_err(|error| named(&self.path, error))
    }

    fn size(&self) -> Result<u64, DiskError> {
        self.file.metadata().map(|metadata| metadata.len()).map_err(|error| named(&self.path, error))
    }
}

fn named(path: &Path, error: std::io::Error) -> DiskError {
    let name = || path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => DiskError::Full,
        ErrorKind::NotFound => DiskError::NotFound(name()),
        ErrorKind::AlreadyExists => DiskError::Exists(name()),
        _ => DiskError::Failed(format!("{}: {error}", path.display())),
    }
}
