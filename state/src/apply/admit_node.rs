//! A node comes in: with a token, once; or again with another token and the same key.
//!
//! Its identity is its key. A node that was removed and returns, or that was reinstalled and kept its
//! key, is the same node; a known one keeps its placements, its cordon and its evictions.

use scp_model::{
    EventKind, NodeId, PROTOCOL_DISTANCE_MAX, PublicKey, Rejection, Resources, Subject,
    command::AdmitNode,
    node::{Compute, Liveness, Node, NodeProfile},
};

use super::{
    Change, Effect, Verdict,
    check::{invalid, line_within, room_for},
};
use crate::{
    NameScope, State,
    limits::{CAPACITY_MAX, MESSAGE_BYTES_MAX, NODES_MAX, SOFTWARE_BYTES_MAX},
    node_id_of,
};

impl Effect for AdmitNode {
    /// Repeating it is fine for the node that used the token, for as long as it is a member: the answer
    /// was lost, and it asks again.
    fn apply(&self, change: &mut Change<'_>) -> Verdict {
        let now = change.now();
        let token = change.state.join_tokens.get(&self.token);
        // A wrong secret is answered as an unknown token: whoever guesses learns nothing.
        let token = token.filter(|token| {
            token.secret_digest == self.secret_digest || scp_mutant::on("token-secret-ignored")
        });
        let token = token.ok_or(Rejection::TokenUnknown)?;
        match token.used {
            Some((user, _)) if user == self.node && change.state.is_member(&self.public_key) => {
                return enrol(change, self.node, self.public_key, &self.profile);
            }
            Some(_) if scp_mutant::on("token-reusable") => {}
            Some(_) => return Err(Rejection::TokenUsed),
            None if token.expires_at <= now && !scp_mutant::on("token-never-expires") => {
                return Err(Rejection::TokenExpired);
            }
            None => {}
        }
        enrol(change, self.node, self.public_key, &self.profile)?;
        let token = change.state.join_tokens.get_mut(&self.token);
        token.expect("the token was found above").used = Some((self.node, now));
        let used = EventKind::JoinTokenUsed { node: self.node };
        change.event(Subject::JoinToken(self.token), None, used);
        Ok(())
    }
}

/// Makes the node a member, or updates the member that it is.
pub(super) fn enrol(change: &mut Change<'_>, id: NodeId, key: PublicKey, profile: &NodeProfile) -> Verdict {
    if node_id_of(&key) != id {
        return Err(invalid("public_key", format!("node id {id} does not follow from it")));
    }
    match change.state.nodes.get(&id) {
        Some(node) if node.public_key == key => return set_profile(change, id, profile),
        // Two keys whose hashes begin alike: one in 2^64 by chance.
        Some(_) => return Err(Rejection::IdTaken { subject: Subject::Node(id) }),
        None => {}
    }
    profile_is_acceptable(change.state, id, profile)?;
    room_for("nodes", change.state.nodes.len(), NODES_MAX)?;

    let node = Node {
        id,
        public_key: key,
        profile: profile.clone(),
        liveness: Liveness::Up,
        schedulable: true,
        draining: false,
        joined_at: change.now(),
        orphans: Vec::new(),
    };
    let name = profile.name.clone();
    change.state.names.insert((NameScope::Nodes, name.clone()), Subject::Node(id));
    change.state.allocated.insert(id, Resources::default());
    change.state.nodes.insert(id, node);
    change.event(Subject::Node(id), None, EventKind::NodeAdmitted { name });
    Ok(())
}

/// A member's new profile; no event when nothing is new.
pub(super) fn set_profile(change: &mut Change<'_>, id: NodeId, profile: &NodeProfile) -> Verdict {
    let before = change.state.known_node(id)?.profile.clone();
    if before == *profile {
        return Ok(());
    }
    profile_is_acceptable(change.state, id, profile)?;

    change.state.names.remove(&(NameScope::Nodes, before.name));
    change.state.names.insert((NameScope::Nodes, profile.name.clone()), Subject::Node(id));
    let node = change.state.nodes.get_mut(&id).expect("the node was found above");
    node.profile = profile.clone();
    change.event(Subject::Node(id), None, EventKind::NodeChanged);
    Ok(())
}

fn profile_is_acceptable(state: &State, id: NodeId, profile: &NodeProfile) -> Verdict {
    let taken = state.named(NameScope::Nodes, profile.name.as_str());
    if taken.is_some_and(|subject| subject != Subject::Node(id)) {
        return Err(Rejection::NameTaken { kind: "node".into(), name: profile.name.to_string() });
    }
    line_within("software", &profile.software, SOFTWARE_BYTES_MAX)?;
    if let Compute::None { reason } = &profile.compute {
        line_within("compute.reason", reason, MESSAGE_BYTES_MAX)?;
    }
    if !CAPACITY_MAX.holds(profile.capacity) {
        return Err(invalid("capacity", "is larger than any server"));
    }
    protocol_is_near(state, id, profile.protocol)
}

/// The city's protocols are those of its members. The newcomer is to be near all of them.
fn protocol_is_near(state: &State, id: NodeId, protocol: u32) -> Verdict {
    let others = state.nodes.values().filter(|node| node.id != id).map(|node| node.profile.protocol);
    let farthest = others.max_by_key(|other| other.abs_diff(protocol));
    match farthest {
        Some(city) if city.abs_diff(protocol) > PROTOCOL_DISTANCE_MAX => {
            Err(Rejection::ProtocolTooFar { node: protocol, city })
        }
        Some(_) | None => Ok(()),
    }
}
