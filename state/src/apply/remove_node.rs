//! A node's membership ends.

use scp_model::{EventKind, NodeId, Rejection, Subject, VmId, command::RemoveNode, node::Node};

use super::{Change, Effect, Verdict, check::counted};
use crate::{Hold, NameScope, State, derived};

impl Effect for RemoveNode {
    /// With `force`, for a node that is down: what was placed on it is pending again, and nothing is
    /// left to wait for. Its key is no longer a member's, so the mesh lets it in no more; what it may
    /// still run is fenced by its epochs.
    fn apply(&self, change: &mut Change<'_>) -> Verdict {
        let node = change.state.known_node(self.node)?;
        if change.state.nodes.len() == 1 {
            return Err(Rejection::Forbidden { why: "the last node of a city stays".into() });
        }
        match (self.force, node.is_up()) {
            (true, false) => {}
            (true, true) => {
                let (subject, state) = (Subject::Node(self.node), "up".into());
                return Err(Rejection::WrongState { subject, state });
            }
            (false, _) => nothing_depends_on(change.state, node)?,
        }
        let name = node.profile.name.clone();

        let placed: Vec<VmId> = change.state.vms_on(self.node).map(|vm| vm.id).collect();
        placed.into_iter().for_each(|vm| change.evacuate(vm));
        let evicted: Vec<VmId> = change.state.evictions_on(self.node).map(|eviction| eviction.vm).collect();
        // Deletions do not wait for a node that is down, so none is settled by this.
        evicted.into_iter().for_each(|vm| change.drop_eviction(self.node, vm));
        drop_replicas(change.state, self.node);
        change.state.nodes.remove(&self.node);
        change.state.allocated.remove(&self.node);
        change.state.names.remove(&(NameScope::Nodes, name.clone()));
        change.event(Subject::Node(self.node), None, EventKind::NodeRemoved { name });
        Ok(())
    }
}

/// That the city loses nothing with the node: no VM is there, or still to be removed from there, and no
/// image has its only copy there.
fn nothing_depends_on(state: &State, node: &Node) -> Verdict {
    let by = match state.hold(node.id) {
        None => return Ok(()),
        Some(Hold::Vms(placed)) => format!("{} placed on it: drain it first", counted(placed, "VM")),
        Some(Hold::Evictions(evicted)) => format!("{} that it has not yet removed", counted(evicted, "VM")),
        Some(Hold::OnlyCopy(image)) => {
            let image = state.images.get(&image).expect("the hold is an image of this state");
            format!("image {}, whose only copy it holds", image.name)
        }
    };
    Err(Rejection::InUse { subject: Subject::Node(node.id), by })
}

fn drop_replicas(state: &mut State, node: NodeId) {
    let with_replica = state.images.values().filter(|image| image.replicas.contains_key(&node));
    let with_replica: Vec<_> = with_replica.map(|image| image.id).collect();
    for id in with_replica {
        let image = state.images.get_mut(&id).expect("the image was listed above");
        image.replicas.remove(&node);
        derived::settle_copy(state, id, node);
    }
}
