//! Departments, projects, users, and what projects keep: keypairs, images; flavors.

use scp_model::{
    flavor::Flavor,
    image::{IMAGE_REPLICAS, Image, ImageFormat, ReplicaStatus, Visibility},
    tenancy::{CityRole, Department, Keypair, Project, ProjectRole, Quota, User},
};
use scp_state::State;

use super::{node_reference, project_reference, resources};
use crate::v1;

pub(crate) fn department(department: &Department) -> v1::Department {
    v1::Department {
        id: department.id.to_string(),
        name: department.name.to_string(),
        created_at: department.created_at.into(),
    }
}

pub(crate) fn quota_usage(state: &State, project: &Project) -> v1::QuotaUsage {
    let Quota { vms, vcpus, memory_mib, disk_mib, images, keypairs } = project.quota;
    let usage = state.usage_of(project.id);
    v1::QuotaUsage {
        quota: v1::Quota { vms, vcpus, memory_mib, disk_mib, images, keypairs },
        usage: v1::Usage {
            vms: usage.vms,
            resources: resources(usage.resources),
            images: usage.images,
            keypairs: usage.keypairs,
        },
    }
}

pub(crate) fn project(state: &State, project: &Project) -> v1::Project {
    let id = project.department;
    let department = state.departments.get(&id).map_or_else(|| id.to_string(), |it| it.name.to_string());
    let v1::QuotaUsage { quota, usage } = quota_usage(state, project);
    v1::Project {
        id: project.id.to_string(),
        name: project.name.to_string(),
        department: v1::Reference { id: id.to_string(), name: department },
        quota,
        usage,
        created_at: project.created_at.into(),
    }
}

fn city_role(role: CityRole) -> v1::CityRole {
    match role {
        CityRole::Admin => v1::CityRole::Admin,
        CityRole::Operator => v1::CityRole::Operator,
        CityRole::Auditor => v1::CityRole::Auditor,
    }
}

fn project_role(role: ProjectRole) -> v1::ProjectRole {
    match role {
        ProjectRole::Reader => v1::ProjectRole::Reader,
        ProjectRole::Member => v1::ProjectRole::Member,
        ProjectRole::Manager => v1::ProjectRole::Manager,
    }
}

/// City roles and grants.
pub(crate) fn grants(user: &User) -> (Vec<v1::CityRole>, Vec<v1::Grant>) {
    let grant = |(project, role): (&scp_model::ProjectId, &ProjectRole)| v1::Grant {
        project: project.to_string(),
        role: project_role(*role),
    };
    (user.city_roles.iter().copied().map(city_role).collect(), user.grants.iter().map(grant).collect())
}

pub(crate) fn user(user: &User) -> v1::User {
    let (city_roles, grants) = grants(user);
    v1::User {
        id: user.id.to_string(),
        name: user.name.to_string(),
        city_roles,
        grants,
        enabled: user.enabled,
        created_at: user.created_at.into(),
    }
}

pub(crate) fn keypair(state: &State, keypair: &Keypair) -> v1::Keypair {
    v1::Keypair {
        id: keypair.id.to_string(),
        name: keypair.name.to_string(),
        project: project_reference(state, keypair.project),
        public_key: keypair.public_key.to_string(),
        fingerprint: keypair.fingerprint.to_string(),
        created_at: keypair.created_at.into(),
    }
}

pub(crate) fn flavor(flavor: &Flavor) -> v1::Flavor {
    v1::Flavor {
        id: flavor.id.to_string(),
        name: flavor.name.to_string(),
        resources: resources(flavor.resources),
        created_at: flavor.created_at.into(),
    }
}

/// On how many nodes an image should be: three, or all there are.
fn replicas_wanted(state: &State) -> u64 {
    IMAGE_REPLICAS.min(state.nodes.len()) as u64
}

pub(crate) fn image_phase(state: &State, image: &Image) -> v1::ImagePhase {
    match image.holders().count() as u64 {
        0 => v1::ImagePhase::Unavailable,
        held if held < replicas_wanted(state) => v1::ImagePhase::Replicating,
        _ => v1::ImagePhase::Ready,
    }
}

pub(crate) fn image(state: &State, image: &Image) -> v1::Image {
    let replica = |(node, status): (&scp_model::NodeId, &ReplicaStatus)| {
        let (state_of, message, at) = match status {
            ReplicaStatus::Assigned => (v1::ReplicaState::Assigned, None, None),
            ReplicaStatus::Held => (v1::ReplicaState::Held, None, None),
            ReplicaStatus::Failed { message, at } => {
                (v1::ReplicaState::Failed, Some(message.clone()), Some((*at).into()))
            }
        };
        v1::Replica { node: node_reference(state, *node), state: state_of, message, at }
    };
    v1::Image {
        id: image.id.to_string(),
        name: image.name.to_string(),
        project: project_reference(state, image.project),
        visibility: match image.visibility {
            Visibility::Private => v1::Visibility::Private,
            Visibility::Public => v1::Visibility::Public,
        },
        format: match image.content.format {
            ImageFormat::Raw => v1::ImageFormat::Raw,
            ImageFormat::Qcow2 => v1::ImageFormat::Qcow2,
        },
        size_bytes: image.content.size_bytes,
        virtual_size_bytes: image.content.virtual_size_bytes,
        digest: image.content.digest.to_string(),
        phase: image_phase(state, image),
        replicas_held: image.holders().count() as u64,
        replicas_wanted: replicas_wanted(state),
        replicas: image.replicas.iter().map(replica).collect(),
        created_at: image.created_at.into(),
    }
}
