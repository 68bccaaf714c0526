//! Departments, projects, users, keypairs.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::{
    DepartmentId, KeypairId, Name, ProjectId, UserId,
    tenancy::{CityRole, ProjectRole, Quota, QuotaChange},
};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreateDepartment {
    pub id: DepartmentId,
    pub name: Name,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeleteDepartment {
    pub id: DepartmentId,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreateProject {
    pub id: ProjectId,
    pub department: DepartmentId,
    pub name: Name,
    pub quota: Quota,
}

/// May be set below what is in use: nothing is taken away, nothing more is given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetQuota {
    pub project: ProjectId,
    pub quota: QuotaChange,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeleteProject {
    pub id: ProjectId,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreateUser {
    pub id: UserId,
    pub name: Name,
    pub password_hash: String,
    pub city_roles: BTreeSet<CityRole>,
    pub grants: BTreeMap<ProjectId, ProjectRole>,
}

/// Changes what is given and leaves the rest. The city keeps at least one enabled admin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpdateUser {
    pub id: UserId,
    pub password_hash: Option<String>,
    pub city_roles: Option<BTreeSet<CityRole>>,
    /// Sets (`Some`) or takes away (`None`) the role in a project.
    pub grants: BTreeMap<ProjectId, Option<ProjectRole>>,
    pub enabled: Option<bool>,
    /// Refuse every access token signed until now.
    pub revoke_tokens: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeleteUser {
    pub id: UserId,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreateKeypair {
    pub id: KeypairId,
    pub project: ProjectId,
    pub name: Name,
    pub public_key: String,
    pub fingerprint: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeleteKeypair {
    pub id: KeypairId,
}
