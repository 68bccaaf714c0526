//! A member's profile, cordon and drain.

use scp_model::{
    EventKind, Subject,
    command::{DrainNode, SetNodeSchedulable, UpdateNode},
};

use super::{Change, Effect, Verdict, admit_node};

impl Effect for UpdateNode {
    fn apply(&self, change: &mut Change<'_>) -> Verdict {
        admit_node::set_profile(change, self.node, &self.profile)
    }
}

impl Effect for SetNodeSchedulable {
    /// Uncordoning ends a drain; cordoning a node that drains leaves it draining.
    fn apply(&self, change: &mut Change<'_>) -> Verdict {
        let node = change.state.known_node(self.node)?;
        if node.schedulable == self.schedulable {
            return Ok(());
        }
        let node = change.state.nodes.get_mut(&self.node).expect("the node was found above");
        node.schedulable = self.schedulable;
        node.draining = node.draining && !self.schedulable;
        let schedulable = self.schedulable;
        change.event(Subject::Node(self.node), None, EventKind::NodeSchedulableSet { schedulable });
        Ok(())
    }
}

impl Effect for DrainNode {
    fn apply(&self, change: &mut Change<'_>) -> Verdict {
        if change.state.known_node(self.node)?.draining {
            return Ok(());
        }
        let node = change.state.nodes.get_mut(&self.node).expect("the node was found above");
        node.draining = true;
        node.schedulable = false;
        change.event(Subject::Node(self.node), None, EventKind::NodeDrainStarted);
        Ok(())
    }
}
