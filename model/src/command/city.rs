//! The city itself.

use serde::{Deserialize, Serialize};

use super::{AdmitNode, CreateFlavor, CreateUser};
use crate::{CityId, Country, DepartmentId, Name, ProjectId, units::Overcommit};

/// The first command of every log: the city, its first node, its administrator, a department and a
/// project to begin in, and some flavors.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InitCity {
    pub city: CityId,
    pub name: Name,
    pub country: Country,
    pub ca_certificate: String,
    pub ca_key_sealed: Vec<u8>,
    /// Its token is ignored: there is none yet.
    pub node: AdmitNode,
    pub admin: CreateUser,
    /// Both are named `default`.
    pub department: DepartmentId,
    pub project: ProjectId,
    pub flavors: Vec<CreateFlavor>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetOvercommit {
    pub overcommit: Overcommit,
}
