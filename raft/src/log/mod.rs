//! The segment log.

use crate::disk::DiskError;

/// Why the log cannot be opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// Synced data was changed. Nothing is cut: replace the disk and let the node join anew.
    #[error("log file {file} is damaged at byte {offset}: {why}")]
    Corrupt { file: String, offset: u64, why: String },
    /// Written by a newer release.
    #[error("log file {file} has format {found}, this release reads up to {supported}")]
    Version { file: String, found: u16, supported: u16 },
}
