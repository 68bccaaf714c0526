//! The law: `apply(index, proposal) -> Applied`. Pure; the same on every node.
//!
//! ```text
//!              ┌────────────── apply/ ──────────────┐
//! Proposal ──▶ │ repeated? ─▶ audit ─▶ one command, │ ──▶ Applied { answer, events }
//!   (log)      │ its checks, then its changes       │
//!              └────────────────┬───────────────────┘
//!                               ▼
//!     State: tables + what follows from them ──▶ queries (api, scheduler, agent)
//!                               │                invariants::check (tests, debug builds)
//!                               ▼
//!                       snapshot: frames of at most 1 MiB, table by table
//! ```
//!
//! # Invariants (see [`invariants::check`])
//! - The state at an index is a function of the log up to it.
//! - Every command is answered: by its effect, or by a rejection that changed nothing but the request
//!   table and the audit chain.
//! - A repeated request id is answered by the first answer and applied once.
//! - Everything derived (sums and indices, see [`State`]) is what a recount would give.
//! - A VM is granted to at most one node at a time, and is not granted anew while a node that is up
//!   may still run it ([`State::may_bind`]).
//!
//! All tables are persistent maps: a clone is a pointer copy, so readers, the scheduler and snapshots
//! never hold up `apply`.

pub mod apply;
mod derived;
pub mod invariants;
pub mod limits;
pub mod queries;
pub mod snapshot;

use imbl::{OrdMap, OrdSet, Vector};
use scp_model::{
    Answer, DepartmentId, Digest, Event, FlavorId, ImageId, JoinTokenId, KeypairId, Name, NodeId, ProjectId,
    RequestId, Resources, Subject, Timestamp, UserId, VmId,
    flavor::Flavor,
    image::Image,
    node::Node,
    tenancy::{City, Department, JoinToken, Keypair, Project, User},
    units::Overcommit,
    vm::{Eviction, Vm},
};

pub use apply::Applied;
pub use queries::{EventsGap, Hold, node_id_of};
pub use snapshot::{Frames, Part, Restore, SnapshotError};

/// The replicated state of one city.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct State {
    /// Index of the last command applied.
    pub index: u64,
    /// Time of the last command applied; never runs backwards.
    pub time: Timestamp,
    /// Head of the hash chain over all commands applied.
    pub audit_head: Digest,
    pub city: Option<City>,
    pub overcommit: Overcommit,

    pub nodes: OrdMap<NodeId, Node>,
    pub join_tokens: OrdMap<JoinTokenId, JoinToken>,
    pub departments: OrdMap<DepartmentId, Department>,
    pub projects: OrdMap<ProjectId, Project>,
    pub users: OrdMap<UserId, User>,
    pub keypairs: OrdMap<KeypairId, Keypair>,
    pub flavors: OrdMap<FlavorId, Flavor>,
    pub images: OrdMap<ImageId, Image>,
    pub vms: OrdMap<VmId, Vm>,
    pub evictions: OrdMap<(NodeId, VmId), Eviction>,

    /// What each project has, for its quota. One entry a project.
    pub usage: OrdMap<ProjectId, Usage>,
    /// What is promised on each node: placements and evictions that are not fulfilled yet. One entry a
    /// node.
    pub allocated: OrdMap<NodeId, Resources>,
    pub vms_by_node: OrdSet<(NodeId, VmId)>,
    /// VMs that wait for a placement, with since when: those that wait longest first.
    pub pending: OrdSet<(Timestamp, VmId)>,
    /// Placed members of each anti-affinity group, by node.
    pub groups: OrdSet<(ProjectId, Name, NodeId, VmId)>,
    /// The evictions, by VM.
    pub evictions_by_vm: OrdSet<(VmId, NodeId)>,
    /// Names in use, each within its scope.
    pub names: OrdMap<(NameScope, Name), Subject>,
    /// Hardware addresses in use.
    pub macs: OrdMap<[u8; 6], VmId>,
    /// How many VMs start from each image; no entry: none.
    pub image_users: OrdMap<ImageId, u64>,
    /// How many VMs placed on a node use an image; no entry: none.
    pub image_users_on: OrdMap<(ImageId, NodeId), u64>,
    /// Where a VM uses an image of which there is no copy, and none on its way.
    pub copies_missing: OrdSet<(ImageId, NodeId)>,
    /// Whole copies on nodes where no VM uses them.
    pub copies_idle: OrdSet<(ImageId, NodeId)>,
    /// Answers to recent requests, so that a retry is answered and not applied again.
    pub requests: Requests,
    /// The watch ring: the most recent events, oldest first.
    pub events: Vector<Event>,
    /// Sequence number of the next event.
    pub next_event: u64,
}

/// What a project uses of its quota.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    pub vms: u64,
    pub resources: Resources,
    pub images: u64,
    pub keypairs: u64,
}

/// Within what a name is unique.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum NameScope {
    Nodes,
    Departments,
    Projects(DepartmentId),
    Users,
    Flavors,
    Keypairs(ProjectId),
    Images(ProjectId),
    Vms(ProjectId),
}

/// Recent requests and their answers, bounded by count; the oldest go first.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Requests {
    pub answers: OrdMap<RequestId, Answer>,
    pub order: Vector<RequestId>,
}
