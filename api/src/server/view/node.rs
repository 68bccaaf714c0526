//! Nodes and join tokens.

use scp_model::node::{Compute, Liveness, Node};
use scp_model::tenancy::JoinToken;
use scp_state::State;

use super::{overcommit, resources};
use crate::{cluster::Agreement, v1};

pub(crate) fn phase(node: &Node) -> v1::NodePhase {
    match (node.is_up(), node.draining, node.schedulable) {
        (false, _, _) => v1::NodePhase::Down,
        (true, true, _) => v1::NodePhase::Draining,
        (true, false, false) => v1::NodePhase::Cordoned,
        (true, false, true) => v1::NodePhase::Up,
    }
}

pub(crate) fn role(agreement: &Agreement, node: scp_model::NodeId) -> v1::NodeRole {
    if agreement.leader == Some(node) {
        v1::NodeRole::Leader
    } else if agreement.voters.contains(&node) {
        v1::NodeRole::Voter
    } else if agreement.learners.contains(&node) {
        v1::NodeRole::Learner
    } else {
        v1::NodeRole::Subscriber
    }
}

pub(crate) fn node(state: &State, agreement: &Agreement, node: &Node) -> v1::Node {
    let compute = match &node.profile.compute {
        Compute::Kvm => v1::ComputeKind::Kvm,
        Compute::Tcg => v1::ComputeKind::Tcg,
        Compute::None { .. } => v1::ComputeKind::None,
        Compute::Off => v1::ComputeKind::Off,
    };
    let compute_reason = node.profile.compute.why_not().map(str::to_owned);
    let down = match &node.liveness {
        Liveness::Up => None,
        Liveness::Down { since, evidence } => Some(v1::NodeDown {
            since: (*since).into(),
            leader_silence_ms: evidence.leader_silence_ms,
            observers: evidence
                .observers
                .iter()
                .map(|(node, silence_ms)| v1::Observer { node: node.to_string(), silence_ms: *silence_ms })
                .collect(),
        }),
    };
    let profile = &node.profile;
    v1::Node {
        id: node.id.to_string(),
        name: profile.name.to_string(),
        zone: profile.zone.to_string(),
        country: profile.country.to_string(),
        phase: phase(node),
        role: role(agreement, node.id),
        schedulable: node.schedulable,
        draining: node.draining,
        down,
        mesh_address: profile.mesh_address.to_string(),
        api_address: profile.api_address.to_string(),
        software: profile.software.clone(),
        protocol: profile.protocol,
        compute,
        compute_reason,
        capacity: resources(profile.capacity),
        reserved: resources(profile.reserved),
        overcommit: overcommit(state.overcommit),
        offered: resources(state.offered(node)),
        allocated: resources(state.allocated.get(&node.id).copied().unwrap_or_default()),
        free: resources(state.free(node)),
        vms: state.vms_on(node.id).count() as u64,
        orphans: node
            .orphans
            .iter()
            .map(|orphan| v1::Orphan { name: orphan.name.clone(), detail: orphan.detail.clone() })
            .collect(),
        public_key: scp_model::Digest(node.public_key.0).to_string(),
        joined_at: node.joined_at.into(),
    }
}

pub(crate) fn join_token(token: &JoinToken) -> v1::JoinToken {
    v1::JoinToken {
        id: token.id.to_string(),
        expires_at: token.expires_at.into(),
        used_by: token.used.map(|(node, _)| node.to_string()),
        used_at: token.used.map(|(_, at)| at.into()),
        created_at: token.created_at.into(),
    }
}
