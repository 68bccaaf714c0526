//! City > department > project; users, their roles and quotas; join tokens.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use crate::{
    CityId, Country, DepartmentId, Digest, JoinTokenId, KeypairId, Name, NodeId, ProjectId, Timestamp, UserId,
};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct City {
    pub id: CityId,
    pub name: Name,
    pub country: Country,
    /// PEM of the certificate authority's certificate.
    pub ca_certificate: String,
    /// The authority's private key, encrypted under the city key that only voters hold.
    pub ca_key_sealed: Vec<u8>,
    pub created_at: Timestamp,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Department {
    pub id: DepartmentId,
    pub name: Name,
    pub created_at: Timestamp,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Project {
    pub id: ProjectId,
    pub department: DepartmentId,
    pub name: Name,
    pub quota: Quota,
    pub created_at: Timestamp,
}

/// What a project may have at once. Counted in `apply`, so it cannot race.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quota {
    pub vms: u64,
    pub vcpus: u64,
    pub memory_mib: u64,
    pub disk_mib: u64,
    pub images: u64,
    pub keypairs: u64,
}

impl Default for Quota {
    fn default() -> Self {
        Self { vms: 20, vcpus: 40, memory_mib: 96 << 10, disk_mib: 2 << 20, images: 50, keypairs: 100 }
    }
}

/// A change of a quota: what is given is set, the rest stays. Merged in `apply`, so that two changes of
/// different parts are both kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuotaChange {
    pub vms: Option<u64>,
    pub vcpus: Option<u64>,
    pub memory_mib: Option<u64>,
    pub disk_mib: Option<u64>,
    pub images: Option<u64>,
    pub keypairs: Option<u64>,
}

impl QuotaChange {
    /// The quota after the change.
    pub fn of(self, quota: Quota) -> Quota {
        Quota {
            vms: self.vms.unwrap_or(quota.vms),
            vcpus: self.vcpus.unwrap_or(quota.vcpus),
            memory_mib: self.memory_mib.unwrap_or(quota.memory_mib),
            disk_mib: self.disk_mib.unwrap_or(quota.disk_mib),
            images: self.images.unwrap_or(quota.images),
            keypairs: self.keypairs.unwrap_or(quota.keypairs),
        }
    }
}

impl From<Quota> for QuotaChange {
    /// Sets every part.
    fn from(quota: Quota) -> Self {
        let Quota { vms, vcpus, memory_mib, disk_mib, images, keypairs } = quota;
        Self {
            vms: Some(vms),
            vcpus: Some(vcpus),
            memory_mib: Some(memory_mib),
            disk_mib: Some(disk_mib),
            images: Some(images),
            keypairs: Some(keypairs),
        }
    }
}

/// A role over the whole city.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum CityRole {
    /// Departments, projects, users and quotas; machines too.
    Admin,
    /// Machines: nodes, join tokens, images for all. Reads no tenant data.
    Operator,
    /// Reads events and the audit log.
    Auditor,
}

/// A role in one project; each includes the ones before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ProjectRole {
    /// Sees.
    Reader,
    /// Creates, changes and deletes resources.
    Member,
    /// Grants roles in the project.
    Manager,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    pub id: UserId,
    pub name: Name,
    /// Argon2id in PHC string format.
    pub password_hash: String,
    pub city_roles: BTreeSet<CityRole>,
    pub grants: BTreeMap<ProjectId, ProjectRole>,
    pub enabled: bool,
    /// Access tokens signed before are refused.
    pub tokens_valid_from: Timestamp,
    pub created_at: Timestamp,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keypair {
    pub id: KeypairId,
    pub project: ProjectId,
    pub name: Name,
    /// One line of an `authorized_keys` file.
    pub public_key: Arc<str>,
    /// SHA-256 of the key's bytes, as OpenSSH prints it.
    pub fingerprint: Arc<str>,
    pub created_at: Timestamp,
}

/// Lets one node join, once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinToken {
    pub id: JoinTokenId,
    /// SHA-256 of the secret; the secret itself is nowhere in the state.
    pub secret_digest: Digest,
    pub expires_at: Timestamp,
    pub used: Option<(NodeId, Timestamp)>,
    pub created_at: Timestamp,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_changes_of_different_parts_are_both_kept() {
        let vms = QuotaChange { vms: Some(3), ..QuotaChange::default() };
        let images = QuotaChange { images: Some(7), ..QuotaChange::default() };
        let expected = Quota { vms: 3, images: 7, ..Quota::default() };
        assert_eq!(images.of(vms.of(Quota::default())), expected);
        assert_eq!(vms.of(images.of(Quota::default())), expected);
        assert_eq!(QuotaChange::from(expected).of(Quota::default()), expected);
    }
}
