//! The scheduler wants a copy of an image on a node, or no longer.

use scp_model::{
    EventKind, Subject,
    command::AssignImage,
    image::{Image, ReplicaStatus},
};

use super::{Change, Effect, Verdict, check::stale};
use crate::derived;

impl Effect for AssignImage {
    /// Assigning where a copy failed is to try again.
    fn apply(&self, change: &mut Change<'_>) -> Verdict {
        let Some(image) = change.state.images.get(&self.image) else {
            return Err(stale(format!("{} is gone", Subject::Image(self.image))));
        };
        let Some(node) = change.state.nodes.get(&self.node) else {
            return Err(stale(format!("{} is gone", Subject::Node(self.node))));
        };
        let project = image.project;
        let kind = match (self.wanted, image.replicas.get(&self.node)) {
            (true, Some(ReplicaStatus::Assigned | ReplicaStatus::Held)) | (false, None) => return Ok(()),
            (true, None | Some(ReplicaStatus::Failed { .. })) => {
                if !node.is_up() {
                    return Err(stale(format!("node {} is down", node.profile.name)));
                }
                image_mut(change, self).replicas.insert(self.node, ReplicaStatus::Assigned);
                EventKind::ImageAssigned { node: self.node }
            }
            (false, Some(_)) => {
                if image.holders().eq([self.node]) && !scp_mutant::on("only-copy-dropped") {
                    return Err(stale(format!("node {} has the only copy", node.profile.name)));
                }
                image_mut(change, self).replicas.remove(&self.node);
                EventKind::ImageUnassigned { node: self.node }
            }
        };
        derived::settle_copy(change.state, self.image, self.node);
        change.event(Subject::Image(self.image), Some(project), kind);
        Ok(())
    }
}

fn image_mut<'a>(change: &'a mut Change<'_>, assign: &AssignImage) -> &'a mut Image {
    change.state.images.get_mut(&assign.image).expect("the image was found above")
}
