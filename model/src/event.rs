//! Events: what happened, in the past tense. Kept in the state's watch ring; a watcher resumes by
//! sequence number.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{
    Actor, DepartmentId, Epoch, FlavorId, ImageId, JoinTokenId, KeypairId, Name, NodeId, ProjectId,
    Timestamp, UserId, VmId, node::Evidence, sandbox::Power, vm::VmPhase,
};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Counts up by one from the city's first event.
    pub sequence: u64,
    /// Raft index of the command that caused it.
    pub index: u64,
    pub time: Timestamp,
    pub actor: Actor,
    pub subject: Subject,
    /// Whose tenants may see it; none: the city's operators and auditors.
    pub project: Option<ProjectId>,
    pub kind: EventKind,
}

/// What something is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Subject {
    City,
    Node(NodeId),
    JoinToken(JoinTokenId),
    Department(DepartmentId),
    Project(ProjectId),
    User(UserId),
    Keypair(KeypairId),
    Flavor(FlavorId),
    Image(ImageId),
    Vm(VmId),
}

impl Subject {
    /// The field's word for it.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::City => "city",
            Self::Node(_) => "node",
            Self::JoinToken(_) => "join_token",
            Self::Department(_) => "department",
            Self::Project(_) => "project",
            Self::User(_) => "user",
            Self::Keypair(_) => "keypair",
            Self::Flavor(_) => "flavor",
            Self::Image(_) => "image",
            Self::Vm(_) => "vm",
        }
    }

    /// The id as text; empty for the city.
    pub fn id(&self) -> String {
        match self {
            Self::City => String::new(),
            Self::Node(id) => id.to_string(),
            Self::JoinToken(id) => id.to_string(),
            Self::Department(id) => id.to_string(),
            Self::Project(id) => id.to_string(),
            Self::User(id) => id.to_string(),
            Self::Keypair(id) => id.to_string(),
            Self::Flavor(id) => id.to_string(),
            Self::Image(id) => id.to_string(),
            Self::Vm(id) => id.to_string(),
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::City => f.write_str("the city"),
            other => write!(f, "{} {}", other.kind(), other.id()),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum EventKind {
    CityInitialised {
        name: Name,
    },
    SettingsChanged,
    NodeAdmitted {
        name: Name,
    },
    NodeChanged,
    NodeSchedulableSet {
        schedulable: bool,
    },
    NodeDrainStarted,
    NodeDown {
        evidence: Evidence,
    },
    NodeUp,
    NodeRemoved {
        name: Name,
    },
    JoinTokenCreated,
    JoinTokenUsed {
        node: NodeId,
    },
    JoinTokenRevoked,
    DepartmentCreated {
        name: Name,
    },
    DepartmentDeleted,
    ProjectCreated {
        name: Name,
    },
    ProjectQuotaSet,
    ProjectDeleted,
    UserCreated {
        name: Name,
    },
    UserChanged,
    UserDeleted,
    KeypairCreated {
        name: Name,
    },
    KeypairDeleted,
    FlavorCreated {
        name: Name,
    },
    FlavorDeleted,
    ImageCreated {
        name: Name,
    },
    ImageAssigned {
        node: NodeId,
    },
    ImageReplicated {
        node: NodeId,
    },
    ImageReplicaFailed {
        node: NodeId,
        message: String,
    },
    /// The scheduler no longer wants a copy there.
    ImageUnassigned {
        node: NodeId,
    },
    /// The node no longer has its copy.
    ImageReplicaGone {
        node: NodeId,
    },
    ImageDeleted,
    VmCreated {
        name: Name,
    },
    VmBound {
        node: NodeId,
        epoch: Epoch,
    },
    VmEvacuated {
        node: NodeId,
        epoch: Epoch,
    },
    VmPowerSet {
        power: Power,
    },
    VmRebootAsked,
    VmPhaseChanged {
        from: VmPhase,
        to: VmPhase,
        message: Option<String>,
    },
    VmDeletionStarted,
    VmDeleted,
    /// The node confirmed that it removed what it no longer owned.
    EvictionFulfilled {
        node: NodeId,
    },
}
