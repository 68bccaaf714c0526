//! The segment log: votes, entries, truncations and purges, in one order, each durable before openraft
//! hears of it.
//!
//! ```text
//! openraft ──append, vote──▶ Log ──jobs (bounded)──▶ writer: drain ─▶ one group ─▶ write, sync ─▶ answers
//!                             │ memory: all entries that are not purged
//! openraft ◀──reads───────────┘
//! ```
//!
//! # Guarantees
//! - An answer (flushed callback, returned future) comes after its records and all earlier ones are
//!   synced: at any power loss the log holds a prefix of what was asked, at least all that was answered.
//! - What is read back was written: every group carries a checksum over the segment's random salt.
//! - Torn tails are cut, damaged synced data is an error: see [`recover`](self::recover) for the rule.
//!
//! # Decisions
//! - *The vote is a record*, not a file of its own: it has its place in the order of writes, costs one
//!   sync instead of three, and needs no new space, so that elections go on when the disk is full.
//! - *Truncation and purge are records* too. Nothing is ever overwritten but a seal and a torn tail;
//!   segments are dropped whole.
//! - *Entries stay in memory* until they are purged. Snapshots are taken by bytes of log, so that is
//!   bounded, and neither replication nor apply ever waits for the disk.
//! - *Two segments are allocated at any time.* When the spare cannot be made because the disk is full,
//!   the node turns read-only with the rest of the current segment as reserve (see `keeper`).
//!
//! # Assumptions
//! - The device writes sectors of 512 bytes whole or not at all, and keeps what it synced.

#[cfg(test)]
mod crash_test;
#[cfg(test)]
mod damage_test;
mod format;
#[cfg(fuzzing)]
pub(crate) mod fuzz;
#[cfg(test)]
mod golden_test;
pub(crate) mod record;
pub(crate) mod recover;
mod store;
pub(crate) mod writer;
mod writer_loop;

use crate::disk::DiskError;

pub(crate) use store::Log;

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
