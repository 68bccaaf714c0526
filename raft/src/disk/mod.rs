//! The port to the disk: what the log needs of files, and no more.
//!
//! # Contract
//! - [`DiskFile::sync`] returns after everything written to that file so far survives power loss.
//!   Nothing is promised about unsynced writes: any part of them may be lost, in units of sectors.
//! - A created, renamed or removed name survives power loss only after [`Disk::sync_dir`].
//! - [`Disk::rename`] replaces its target atomically.
//! - [`Disk::create`] gives a file of the whole size, zeroed and allocated: a later write inside it
//!   does not fail for want of space. It refuses an existing name.
//! - After an error of `sync` nothing may be assumed about unsynced writes, not even that they can be
//!   read back after a later, successful `sync`.
//!
//! Calls block. [`Disk::place`] says where they may be made from: production gives the writer a thread
//! of its own, a simulation runs it as a task, behind a gate that can stall it.

mod file;
pub mod suite;

use std::{fmt, future::Future, io, pin::Pin, sync::Arc};

pub use file::FileDisk;

/// A directory of flat files.
pub trait Disk: Send + Sync + 'static {
    fn create(&self, name: &str, size: u64) -> Result<Arc<dyn DiskFile>, DiskError>;
    fn open(&self, name: &str) -> Result<Arc<dyn DiskFile>, DiskError>;
    fn rename(&self, from: &str, to: &str) -> Result<(), DiskError>;
    /// Removing a name that is not there is no error.
    fn remove(&self, name: &str) -> Result<(), DiskError>;
    /// All names, sorted.
    fn list(&self) -> Result<Vec<String>, DiskError>;
    fn sync_dir(&self) -> Result<(), DiskError>;
    /// Where blocking calls to this disk run.
    fn place(&self) -> Place;

    /// Writes a small file whole: afterwards the name holds the new bytes, or, when power is lost
    /// before it returns, the old or the new ones.
    fn replace(&self, name: &str, bytes: &[u8]) -> Result<(), DiskError> {
        let new = format!("{name}.new");
        self.remove(&new)?;
        let file = self.create(&new, bytes.len() as u64)?;
        file.write_at(0, bytes)?;
        file.sync()?;
        self.rename(&new, name)?;
        self.sync_dir()
    }
}

/// An open file. It stays readable after its name was removed.
pub trait DiskFile: Send + Sync + 'static {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), DiskError>;
    /// Fills the buffer; the end of the file is an error.
    fn read_at(&self, offset: u64, into: &mut [u8]) -> Result<(), DiskError>;
    fn sync(&self) -> Result<(), DiskError>;
    fn size(&self) -> Result<u64, DiskError>;
}

/// Why the disk did not do it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DiskError {
    /// No space, quota or inodes left: waits for an operator, then works again.
    #[error("no space left on the disk")]
    Full,
    #[error("{0} does not exist")]
    NotFound(String),
    #[error("{0} exists already")]
    Exists(String),
    /// The device or the file system failed.
    #[error("disk error: {0}")]
    Failed(String),
}

impl From<DiskError> for io::Error {
    fn from(error: DiskError) -> Self {
        let kind = match &error {
            DiskError::Full => io::ErrorKind::StorageFull,
            DiskError::NotFound(_) => io::ErrorKind::NotFound,
            DiskError::Exists(_) => io::ErrorKind::AlreadyExists,
            DiskError::Failed(_) => io::ErrorKind::Other,
        };
        Self::new(kind, error)
    }
}

/// Awaited before each piece of work on a disk that is used from tasks: simulated latency and stalls.
pub type Gate = Arc<dyn Fn() -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

/// Where blocking calls to a disk run.
#[derive(Clone)]
pub enum Place {
    /// On a thread of their own.
    Thread,
    /// Inline in a task, each piece of work after the gate.
    Task(Gate),
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Thread => "Thread",
            Self::Task(_) => "Task",
        })
    }
}
