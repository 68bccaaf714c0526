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
//!
//! # Flow of a write
//! [`Raft::write`] on the leader → openraft appends → the log makes it durable here while peers do the
//! same → a majority has it: committed → applied in order on every node → the machine's answer returns.
//!
//! # Guarantees
//! - *An acknowledged write is never lost*: it is synced on a majority, and what is damaged afterwards is
//!   an error, not a gap ([`log`]).
//! - *Reads see it*: [`Raft::linearizable`], on any node, returns when everything acknowledged before the
//!   call is applied there. No clock is trusted for that.
//! - *One leader at most commits*: a partitioned one commits nothing, and its reads fail.
//! - *A node that returns disturbs nobody*: it asks before it calls an election (pre-vote).
//! - *A full disk stops writes, not the node*: see `keeper`; a failed one is opened anew by itself.
//! - *A leader that stops in order hands over first*; one that dies is replaced in a third of a second to half of one ([`config`]).
//!
//! # Assumptions
//! - Peers are authenticated and not malicious; a message that speaks for another node is refused.
//! - A directory belongs to one node for ever ([`StartError::Identity`]). A node that lost its disk comes
//!   back under a new id.
//!
//! # Not here
//! Who shall vote (the scheduler), where peers are (the mesh), forwarding of writes to the leader (the
//! node), the meaning of commands and the recognition of repeated ones (the state).

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
mod silence;
#[cfg(any(test, feature = "sim"))]
pub mod sim;
mod snapshot;
pub mod status;
#[cfg(test)]
mod store_test;
mod types;
mod wire;
mod worker;
mod writes;

pub use config::{COMMAND_BYTES_MAX, Config};
pub use disk::{Disk, DiskError, DiskFile, FileDisk};
pub use error::{ChangeError, ReadError, StartError, TransferError, WriteError};
pub use log::LogError;
pub use machine::{Machine, MachineSnapshot};
pub use network::{Network, REQUEST_BYTES_MAX, Unreachable};
pub use raft::{Applied, Ports, Raft};
pub use status::{Peer, Role, Status};
pub use writes::Written;
