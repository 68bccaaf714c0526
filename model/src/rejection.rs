//! Rejections: the command asked for something that cannot be. Deterministic and replicated; the API
//! turns them into problem details.

use serde::{Deserialize, Serialize};

use crate::{CountryError, NameError, Subject};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Rejection {
    #[error("the city is not initialised")]
    NotInitialised,
    #[error("the city is initialised already")]
    AlreadyInitialised,
    #[error("{subject} does not exist")]
    NotFound { subject: Subject },
    #[error("the name {name} is taken by another {kind}")]
    NameTaken { kind: String, name: String },
    #[error("{subject} exists already with other contents")]
    IdTaken { subject: Subject },
    #[error("the project may have {limit} {resource}, has {used} and asked for {asked} more")]
    QuotaExceeded { resource: QuotaResource, limit: u64, used: u64, asked: u64 },
    #[error("{subject} is in use by {by}")]
    InUse { subject: Subject, by: String },
    #[error("{field}: {why}")]
    Invalid { field: String, why: String },
    /// The world moved on between planning and applying; the planner plans again.
    #[error("the plan is stale: {why}")]
    StalePlan { why: String },
    /// The sender no longer owns what it speaks for.
    #[error("epoch {got} is no longer granted, {granted} is")]
    StaleEpoch { got: u64, granted: u64 },
    #[error("{subject} is {state}, which does not allow this")]
    WrongState { subject: Subject, state: String },
    #[error("the join token is unknown in this city")]
    TokenUnknown,
    #[error("the join token has expired")]
    TokenExpired,
    #[error("the join token has been used")]
    TokenUsed,
    #[error("the node speaks protocol {node}, the city {city}: too far apart")]
    ProtocolTooFar { node: u32, city: u32 },
    /// Too many nodes vanished at once to be sure that it is they who are gone.
    #[error("{silent} of {nodes} nodes are silent at once: nothing is evacuated until that is explained")]
    BrakeEngaged { silent: u64, nodes: u64 },
    #[error("not permitted: {why}")]
    Forbidden { why: String },
    #[error("{what}: at most {limit}")]
    LimitReached { what: String, limit: u64 },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum QuotaResource {
    Vms,
    Vcpus,
    MemoryMib,
    DiskMib,
    Images,
    Keypairs,
}

impl std::fmt::Display for QuotaResource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Vms => "VMs",
            Self::Vcpus => "vCPUs",
            Self::MemoryMib => "MiB of memory",
            Self::DiskMib => "MiB of disk",
            Self::Images => "images",
            Self::Keypairs => "keypairs",
        })
    }
}

impl From<NameError> for Rejection {
    fn from(error: NameError) -> Self {
        Self::Invalid { field: "name".into(), why: error.to_string() }
    }
}

impl From<CountryError> for Rejection {
    fn from(error: CountryError) -> Self {
        Self::Invalid { field: "country".into(), why: error.to_string() }
    }
}
