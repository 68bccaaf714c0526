//! The words of the platform: ids, specs, statuses, commands, events, ops and facts.
//!
//! Every other crate speaks in these types. This one holds no behaviour beyond validation and
//! arithmetic on its own values: no I/O, no clock, no randomness.
//!
//! ```text
//! api ──Proposal{Command}──▶ raft ──▶ state ──Answer / Event──▶ api
//!                                      │
//!                       scheduler ◀────┤ (reads)      proposes Bind, Assign, MarkNodeDown
//!                       agent     ◀────┘ (reads) ──Op──▶ drivers ──Fact──▶ agent ──Report──▶ raft
//! ```
//!
//! One file a resource; `command/` mirrors them.

pub mod command;
pub mod event;
pub mod explain;
pub mod fact;
pub mod flavor;
pub mod id;
pub mod image;
pub mod name;
pub mod node;
pub mod op;
pub mod rejection;
pub mod sandbox;
pub mod tenancy;
pub mod units;
pub mod vm;

pub use command::{Actor, Command, Proposal};
pub use event::{Event, EventKind, Subject};
pub use fact::{Fact, Report};
pub use id::*;
pub use name::{Country, CountryError, Name, NameError};
pub use op::Op;
pub use rejection::Rejection;
pub use units::{Epoch, Resources, Timestamp};

/// What `state::apply` answers for a command: its effect, or the replicated reason why not.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Answer {
    /// Raft index at which the command was applied. A repeated request gets the first one's.
    pub index: u64,
    pub result: Result<(), Rejection>,
}

/// The protocol that nodes speak with each other. Nodes join when theirs is at most
/// [`PROTOCOL_DISTANCE_MAX`] away from the city's.
pub const PROTOCOL: u32 = 1;
/// A rolling upgrade runs two neighbouring protocols at once, never three.
pub const PROTOCOL_DISTANCE_MAX: u32 = 1;
