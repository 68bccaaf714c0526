//! Founding a city: `scpctl init`.
//!
//! ```text
//!   key, authority, city key ─▶ founding file ─▶ identity (now a member) ─▶ raft group of one
//!                                                        ─▶ InitCity applied ─▶ founding file removed
//! ```
//! A crash before the identity is stored leaves a server without a city: `init` begins anew. After it,
//! the start of `scpd` finds the founding file and goes on from there.

use std::{io::Write, path::Path};

use anyhow::{Context, Result, bail};
use scp_codec as codec;
use scp_mesh::{Authority, CityKey, Clock, Identity, IdentityDirectory, authority::Subject};
use scp_model::{
    Actor, CityId, Command, Country, DepartmentId, Digest, FlavorId, JoinTokenId, Name, ProjectId, Proposal,
    RequestId, Resources, UserId,
    command::{AdmitNode, CreateFlavor, CreateUser, InitCity},
    node::NodeProfile,
    tenancy::{CityRole, ProjectRole},
};
use uuid::Uuid;

use crate::{
    machine::{PROPOSAL_BYTES_MAX, PROPOSAL_VERSION},
    proposer::Proposer,
};

const FOUNDING_FILE: &str = "founding";

/// The sizes that a new city offers; an operator changes them at will.
const FLAVORS: [(&str, Resources); 5] = [
    ("tiny", Resources { vcpus: 1, memory_mib: 256, disk_mib: 1 << 10 }),
    ("small", Resources { vcpus: 1, memory_mib: 2 << 10, disk_mib: 20 << 10 }),
    ("medium", Resources { vcpus: 2, memory_mib: 4 << 10, disk_mib: 40 << 10 }),
    ("large", Resources { vcpus: 4, memory_mib: 8 << 10, disk_mib: 80 << 10 }),
    ("xlarge", Resources { vcpus: 8, memory_mib: 16 << 10, disk_mib: 160 << 10 }),
];

/// What the founder says.
pub struct Founding {
    pub name: Name,
    pub country: Country,
    pub profile: NodeProfile,
    /// Argon2id of the password of the user `admin`.
    pub password_hash: String,
}

/// Prepares the city on disk; from now on this server is its first member.
pub fn prepare(
    data_dir: &Path,
    directory: &IdentityDirectory,
    clock: &dyn Clock,
    founding: Founding,
) -> Result<Identity> {
    let key = directory.load_or_create_key()?;
    let city = CityId(Uuid::new_v4());
    let authority = Authority::create(city, &founding.name, clock.now())?;
    let city_key = CityKey::generate()?;
    let profile = NodeProfile { country: founding.country, ..founding.profile };
    let certificate = authority.issue(&Subject::of(key.public_key(), &profile), clock.now())?;
    let identity = Identity::new(key, &certificate, authority.certificate_pem())?;
    let proposal = Proposal {
        request: RequestId(Uuid::new_v4()),
        actor: Actor::Local(identity.id()),
        time: clock.now(),
        command: Command::InitCity(Box::new(InitCity {
            city,
            name: founding.name,
            country: founding.country,
            ca_certificate: authority.certificate_pem().to_owned(),
            ca_key_sealed: authority.seal(&city_key)?,
            node: first_node(&identity, profile),
            admin: admin(founding.password_hash),
            department: DepartmentId(Uuid::new_v4()),
            project: ProjectId(Uuid::new_v4()),
            flavors: flavors(),
        })),
    };
    directory.store_city_key(&city_key)?;
    write_file(&data_dir.join(FOUNDING_FILE), &codec::encode(PROPOSAL_VERSION, &proposal)?)?;
    directory.store(&identity)?;
    Ok(identity)
}

/// Carries a prepared founding out; does nothing where there is none.
pub async fn complete(data_dir: &Path, proposer: &Proposer) -> Result<()> {
    let path = data_dir.join(FOUNDING_FILE);
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    let proposal: Proposal = codec::decode(PROPOSAL_VERSION, &bytes, PROPOSAL_BYTES_MAX)
        .with_context(|| format!("{} is damaged", path.display()))?;
    proposer.raft.initialize().await.context("cannot found the group")?;
    let answer = proposer.propose(proposal).await.context("cannot found the city")?;
    if let Err(rejection) = answer.result {
        bail!("the city cannot be founded: {rejection}");
    }
    std::fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))
}

/// A founding that will not be carried out: the server left.
pub fn forget(data_dir: &Path) -> Result<()> {
    let path = data_dir.join(FOUNDING_FILE);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

fn first_node(identity: &Identity, profile: NodeProfile) -> AdmitNode {
    AdmitNode {
        token: JoinTokenId::default(),
        secret_digest: Digest::default(),
        node: identity.id(),
        public_key: identity.key.public_key(),
        profile,
    }
}

fn admin(password_hash: String) -> CreateUser {
    CreateUser {
        id: UserId(Uuid::new_v4()),
        name: name("admin"),
        password_hash,
        city_roles: [CityRole::Admin].into(),
        grants: std::iter::empty::<(ProjectId, ProjectRole)>().collect(),
    }
}

fn flavors() -> Vec<CreateFlavor> {
    let flavor =
        |(label, resources)| CreateFlavor { id: FlavorId(Uuid::new_v4()), name: name(label), resources };
    FLAVORS.into_iter().map(flavor).collect()
}

fn name(text: &str) -> Name {
    Name::new(text).expect("the built-in names are names")
}

/// Whole or not at all, and on disk when this returns.
pub(crate) fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    let write = || {
        let new = path.with_extension("new");
        let mut file = std::fs::File::create(&new)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&new, path)?;
        let parent = path.parent().unwrap_or(Path::new("/"));
        std::fs::File::open(parent)?.sync_all()
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}
