//! Events: a word, a sentence and the details.

use scp_model::{Actor, Event, EventKind, NodeId, Subject, node::Evidence, sandbox::Power, vm::VmPhase};
use scp_state::State;
use serde_json::{Map, Value, json};

use super::{node_reference, vm_phase};
use crate::v1;

pub(crate) fn event(state: &State, event: &Event) -> v1::Event {
    let what = subject_text(state, &event.subject);
    let details = match details(state, &event.kind) {
        Value::Object(details) => details,
        _ => Map::new(),
    };
    v1::Event {
        sequence: event.sequence,
        index: event.index,
        time: event.time.into(),
        kind: word(&event.kind).to_owned(),
        subject: v1::Subject { kind: event.subject.kind().to_owned(), id: event.subject.id() },
        actor: actor(event.actor),
        project: event.project.map(|project| project.to_string()),
        message: format!("{what} {}", clause(state, &event.kind)),
        details,
    }
}

fn actor(actor: Actor) -> v1::Actor {
    let (kind, id) = match actor {
        Actor::User(id) => ("user", id.to_string()),
        Actor::Node(id) => ("node", id.to_string()),
        Actor::Leader(id) => ("leader", id.to_string()),
        Actor::Local(id) => ("local", id.to_string()),
    };
    v1::Actor { kind: kind.to_owned(), id }
}

/// The subject by its present name, if it is still there.
fn subject_text(state: &State, subject: &Subject) -> String {
    let name = match subject {
        Subject::City => state.city.as_ref().map(|it| it.name.to_string()),
        Subject::Node(id) => state.nodes.get(id).map(|it| it.profile.name.to_string()),
        Subject::JoinToken(_) => None,
        Subject::Department(id) => state.departments.get(id).map(|it| it.name.to_string()),
        Subject::Project(id) => state.projects.get(id).map(|it| it.name.to_string()),
        Subject::User(id) => state.users.get(id).map(|it| it.name.to_string()),
        Subject::Keypair(id) => state.keypairs.get(id).map(|it| it.name.to_string()),
        Subject::Flavor(id) => state.flavors.get(id).map(|it| it.name.to_string()),
        Subject::Image(id) => state.images.get(id).map(|it| it.name.to_string()),
        Subject::Vm(id) => state.vms.get(id).map(|it| it.spec.name.to_string()),
    };
    format!("{} {}", subject.kind().replace('_', " "), name.unwrap_or_else(|| subject.id()))
}

/// The kind's word.
fn word(kind: &EventKind) -> &'static str {
    match kind {
        EventKind::CityInitialised { .. } => "city_initialised",
        EventKind::SettingsChanged => "settings_changed",
        EventKind::NodeAdmitted { .. } => "node_admitted",
        EventKind::NodeChanged => "node_changed",
        EventKind::NodeSchedulableSet { .. } => "node_schedulable_set",
        EventKind::NodeDrainStarted => "node_drain_started",
        EventKind::NodeDown { .. } => "node_down",
        EventKind::NodeUp => "node_up",
        EventKind::NodeRemoved { .. } => "node_removed",
        EventKind::JoinTokenCreated => "join_token_created",
        EventKind::JoinTokenUsed { .. } => "join_token_used",
        EventKind::JoinTokenRevoked => "join_token_revoked",
        EventKind::DepartmentCreated { .. } => "department_created",
        EventKind::DepartmentDeleted => "department_deleted",
        EventKind::ProjectCreated { .. } => "project_created",
        EventKind::ProjectQuotaSet => "project_quota_set",
        EventKind::ProjectDeleted => "project_deleted",
        EventKind::UserCreated { .. } => "user_created",
        EventKind::UserChanged => "user_changed",
        EventKind::UserDeleted => "user_deleted",
        EventKind::KeypairCreated { .. } => "keypair_created",
        EventKind::KeypairDeleted => "keypair_deleted",
        EventKind::FlavorCreated { .. } => "flavor_created",
        EventKind::FlavorDeleted => "flavor_deleted",
        EventKind::ImageCreated { .. } => "image_created",
        EventKind::ImageAssigned { .. } => "image_assigned",
        EventKind::ImageReplicated { .. } => "image_replicated",
        EventKind::ImageReplicaFailed { .. } => "image_replica_failed",
        EventKind::ImageUnassigned { .. } => "image_unassigned",
        EventKind::ImageReplicaGone { .. } => "image_replica_gone",
        EventKind::ImageDeleted => "image_deleted",
        EventKind::VmCreated { .. } => "vm_created",
        EventKind::VmBound { .. } => "vm_bound",
        EventKind::VmEvacuated { .. } => "vm_evacuated",
        EventKind::VmPowerSet { .. } => "vm_power_set",
        EventKind::VmRebootAsked => "vm_reboot_asked",
        EventKind::VmPhaseChanged { .. } => "vm_phase_changed",
        EventKind::VmDeletionStarted => "vm_deletion_started",
        EventKind::VmDeleted => "vm_deleted",
        EventKind::EvictionFulfilled { .. } => "eviction_fulfilled",
    }
}

/// What happened, behind the subject.
fn clause(state: &State, kind: &EventKind) -> String {
    let node = |id: &NodeId| node_reference(state, *id).name;
    match kind {
        EventKind::CityInitialised { .. } => "was founded".into(),
        EventKind::SettingsChanged => "has new settings".into(),
        EventKind::NodeAdmitted { .. } => "joined".into(),
        EventKind::NodeChanged => "has a new profile".into(),
        EventKind::NodeSchedulableSet { schedulable: true } => "takes new VMs".into(),
        EventKind::NodeSchedulableSet { schedulable: false } => "is cordoned: it takes no new VMs".into(),
        EventKind::NodeDrainStarted => "is draining: its VMs move away".into(),
        EventKind::NodeDown { evidence } => down_clause(evidence),
        EventKind::NodeUp => "is up again".into(),
        EventKind::NodeRemoved { name } => format!("left the city; its name was {name}"),
        EventKind::JoinTokenUsed { node: id } => format!("was used by node {}", node(id)),
        EventKind::JoinTokenRevoked => "was revoked".into(),
        EventKind::ProjectQuotaSet => "has a new quota".into(),
        EventKind::UserChanged => "was changed".into(),
        EventKind::JoinTokenCreated
        | EventKind::DepartmentCreated { .. }
        | EventKind::ProjectCreated { .. }
        | EventKind::UserCreated { .. }
        | EventKind::KeypairCreated { .. }
        | EventKind::FlavorCreated { .. }
        | EventKind::ImageCreated { .. }
        | EventKind::VmCreated { .. } => "was created".into(),
        EventKind::DepartmentDeleted
        | EventKind::ProjectDeleted
        | EventKind::UserDeleted
        | EventKind::KeypairDeleted
        | EventKind::FlavorDeleted
        | EventKind::ImageDeleted
        | EventKind::VmDeleted => "was deleted".into(),
        EventKind::ImageAssigned { node: id } => format!("is to be copied to node {}", node(id)),
        EventKind::ImageReplicated { node: id } => format!("is whole on node {}", node(id)),
        EventKind::ImageReplicaFailed { node: id, message } => {
            format!("could not be copied to node {}: {message}", node(id))
        }
        EventKind::ImageUnassigned { node: id } => format!("is no longer wanted on node {}", node(id)),
        EventKind::ImageReplicaGone { node: id } => format!("is gone from node {}", node(id)),
        EventKind::VmBound { node: id, .. } => format!("was placed on node {}", node(id)),
        EventKind::VmEvacuated { node: id, .. } => format!("was taken away from node {}", node(id)),
        EventKind::VmPowerSet { power } => format!("is to be {}", power_word(*power)),
        EventKind::VmRebootAsked => "is to be rebooted".into(),
        EventKind::VmPhaseChanged { to, message, .. } => phase_clause(*to, message.as_deref()),
        EventKind::VmDeletionStarted => "is being deleted".into(),
        EventKind::EvictionFulfilled { node: id } => format!("is gone from node {}", node(id)),
    }
}

fn down_clause(evidence: &Evidence) -> String {
    let silent = evidence.observers.iter().filter(|(_, silence)| silence.is_some()).count();
    format!(
        "was declared down: silent for {} ms at the leader, and at {silent} of {} observers",
        evidence.leader_silence_ms,
        evidence.observers.len()
    )
}

fn phase_clause(phase: VmPhase, message: Option<&str>) -> String {
    let word = json!(vm_phase(phase));
    let why = message.map(|message| format!(": {message}")).unwrap_or_default();
    format!("is {}{why}", word.as_str().unwrap_or_default())
}

fn power_word(power: Power) -> &'static str {
    match power {
        Power::Running => "running",
        Power::Stopped => "stopped",
    }
}

/// What else is known, by name.
fn details(state: &State, kind: &EventKind) -> Value {
    let node = |id: &NodeId| node_reference(state, *id);
    match kind {
        EventKind::CityInitialised { name }
        | EventKind::NodeAdmitted { name }
        | EventKind::NodeRemoved { name }
        | EventKind::DepartmentCreated { name }
        | EventKind::ProjectCreated { name }
        | EventKind::UserCreated { name }
        | EventKind::KeypairCreated { name }
        | EventKind::FlavorCreated { name }
        | EventKind::ImageCreated { name }
        | EventKind::VmCreated { name } => json!({ "name": name }),
        EventKind::JoinTokenUsed { node: id }
        | EventKind::ImageAssigned { node: id }
        | EventKind::ImageReplicated { node: id }
        | EventKind::ImageUnassigned { node: id }
        | EventKind::ImageReplicaGone { node: id }
        | EventKind::EvictionFulfilled { node: id } => json!({ "node": node(id) }),
        EventKind::ImageReplicaFailed { node: id, message } => {
            json!({ "node": node(id), "message": message })
        }
        EventKind::NodeSchedulableSet { schedulable } => json!({ "schedulable": schedulable }),
        EventKind::NodeDown { evidence } => {
            let observers = evidence.observers.iter();
            let observers: Vec<Value> = observers
                .map(|(id, silence)| json!({ "node": id.to_string(), "silence_ms": silence }))
                .collect();
            json!({ "leader_silence_ms": evidence.leader_silence_ms, "observers": observers })
        }
        EventKind::VmBound { node: id, epoch } | EventKind::VmEvacuated { node: id, epoch } => {
            json!({ "node": node(id), "epoch": epoch.0 })
        }
        EventKind::VmPowerSet { power } => json!({ "power": power_word(*power) }),
        EventKind::VmPhaseChanged { from, to, message } => {
            json!({ "from": vm_phase(*from), "to": vm_phase(*to), "message": message })
        }
        EventKind::SettingsChanged
        | EventKind::NodeChanged
        | EventKind::NodeDrainStarted
        | EventKind::NodeUp
        | EventKind::JoinTokenCreated
        | EventKind::JoinTokenRevoked
        | EventKind::DepartmentDeleted
        | EventKind::ProjectQuotaSet
        | EventKind::ProjectDeleted
        | EventKind::UserChanged
        | EventKind::UserDeleted
        | EventKind::KeypairDeleted
        | EventKind::FlavorDeleted
        | EventKind::ImageDeleted
        | EventKind::VmRebootAsked
        | EventKind::VmDeletionStarted
        | EventKind::VmDeleted => Value::Null,
    }
}
