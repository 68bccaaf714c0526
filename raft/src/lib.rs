//! Agreement: one replicated log, applied in the same order on every node.
//!
//! This crate knows bytes, not VMs, and node ids, not addresses.
//!
//! ```text
//!              write ─┐                                   ┌─▶ Machine (port): apply, snapshot, restore
//!  linearizable ─────▶│ Raft ──▶ openraft ──▶ applier ────┤
//!  status ◀───────────┘   ▲         │                     └─▶ snapshots ──┐
//!                         │         ├──▶ log: segments, group commit ─────┴─▶ Disk (port)
//!            answer(from) │         └──▶ peers: codec frames ───────────────▶ Network (port)
//!                         └───────────────────────────────────────────────────┘
//! ```

mod answer;
mod applier;
pub mod config;
mod core;
pub mod disk;
pub mod error;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzz;
mod keeper;
pub mod log;
pub mod machine;
pub mod network;
mod peers;
pub mod raft;
mod reads;
#[cfg(any(test, feature = "sim"))]
pub mod sim;
mod snapshot;
pub mod status;
#[cfg(test)]
mod store_test;
mod types;
mod wire;
mod worker;

pub use config::{COMMAND_BYTES_MAX, Config};
pub use disk::{Disk, DiskError, DiskFile, FileDisk};
pub use error::{ChangeError, ReadError, StartError, TransferError, WriteError};
pub use log::LogError;
pub use machine::{Machine, MachineSnapshot};
pub use network::{Network, REQUEST_BYTES_MAX, Unreachable};
pub use raft::{Applied, Ports, Raft};
pub use status::{Peer, Role, Status};
