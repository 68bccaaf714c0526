//! Images.

use scp_model::{
    EventKind, NodeId, Rejection, Subject,
    command::{CreateImage, DeleteImage},
    flavor::RESOURCES_MAX,
    image::{IMAGE_BYTES_MAX, Image, ImageContent, ReplicaStatus},
    rejection::QuotaResource,
};

use super::{
    Change, Effect, Verdict,
    check::{QuotaRow, counted, invalid, room_for},
};
use crate::{NameScope, derived, limits::IMAGES_MAX};

impl Effect for CreateImage {
    /// The node that proposes it has the bytes, whole and checked.
    fn apply(&self, change: &mut Change<'_>) -> Verdict {
        let subject = Subject::Image(self.id);
        if let Some(image) = change.state.images.get(&self.id) {
            let same = image.project == self.project
                && image.name == self.name
                && image.visibility == self.visibility
                && image.content == self.content;
            return if same { Ok(()) } else { Err(Rejection::IdTaken { subject }) };
        }
        sizes_are_possible(&self.content)?;
        change.state.known_node(self.held_by)?;
        let limit = change.state.known_project(self.project)?.quota.images;
        let scope = NameScope::Images(self.project);
        change.state.name_is_free(scope.clone(), &self.name, "image")?;
        room_for("images", change.state.images.len(), IMAGES_MAX)?;
        let used = change.state.usage_of(self.project).images;
        QuotaRow { resource: QuotaResource::Images, limit, used, asked: 1 }.check()?;

        let image = Image {
            id: self.id,
            name: self.name.clone(),
            project: self.project,
            visibility: self.visibility,
            content: self.content.clone(),
            replicas: [(self.held_by, ReplicaStatus::Held)].into(),
            created_at: change.now(),
        };
        change.state.names.insert((scope, self.name.clone()), subject);
        change.state.usage.get_mut(&self.project).expect("a project has its usage").images += 1;
        change.state.images.insert(self.id, image);
        derived::settle_copy(change.state, self.id, self.held_by);
        let kind = EventKind::ImageCreated { name: self.name.clone() };
        change.event(subject, Some(self.project), kind);
        Ok(())
    }
}

fn sizes_are_possible(content: &ImageContent) -> Verdict {
    if !(1..=IMAGE_BYTES_MAX).contains(&content.size_bytes) {
        let why = format!("{} is not within 1 to {IMAGE_BYTES_MAX}", content.size_bytes);
        return Err(invalid("content.size_bytes", why));
    }
    let limit = RESOURCES_MAX.disk_mib << 20;
    if !(1..=limit).contains(&content.virtual_size_bytes) {
        let why = format!("{} is not within 1 to {limit}", content.virtual_size_bytes);
        return Err(invalid("content.virtual_size_bytes", why));
    }
    Ok(())
}

impl Effect for DeleteImage {
    /// Its copies are no longer wanted anywhere; each node drops its own.
    fn apply(&self, change: &mut Change<'_>) -> Verdict {
        let subject = Subject::Image(self.id);
        let Some(image) = change.state.images.get(&self.id) else {
            return Err(Rejection::NotFound { subject });
        };
        if let Some(users) = change.state.image_users.get(&self.id) {
            return Err(Rejection::InUse { subject, by: counted(*users, "VM") });
        }
        let (project, name) = (image.project, image.name.clone());
        change.state.names.remove(&(NameScope::Images(project), name));
        change.state.usage.get_mut(&project).expect("a project has its usage").images -= 1;
        let copies: Vec<NodeId> = image.replicas.keys().copied().collect();
        change.state.images.remove(&self.id);
        copies.into_iter().for_each(|node| derived::settle_copy(change.state, self.id, node));
        change.event(subject, Some(project), EventKind::ImageDeleted);
        Ok(())
    }
}
