//! Flavors.

use scp_model::{
    EventKind, Rejection, Subject,
    command::{CreateFlavor, DeleteFlavor},
    flavor::Flavor,
};

use super::{
    Change, Effect, Verdict,
    check::{resources_within_bounds, room_for},
};
use crate::{NameScope, limits::FLAVORS_MAX};

impl Effect for CreateFlavor {
    fn apply(&self, change: &mut Change<'_>) -> Verdict {
        let subject = Subject::Flavor(self.id);
        if let Some(flavor) = change.state.flavors.get(&self.id) {
            let same = flavor.name == self.name && flavor.resources == self.resources;
            return if same { Ok(()) } else { Err(Rejection::IdTaken { subject }) };
        }
        resources_within_bounds(self.resources)?;
        change.state.name_is_free(NameScope::Flavors, &self.name, "flavor")?;
        room_for("flavors", change.state.flavors.len(), FLAVORS_MAX)?;

        let (id, name, resources) = (self.id, self.name.clone(), self.resources);
        let created_at = change.now();
        change.state.names.insert((NameScope::Flavors, name.clone()), subject);
        change.state.flavors.insert(id, Flavor { id, name: name.clone(), resources, created_at });
        change.event(subject, None, EventKind::FlavorCreated { name });
        Ok(())
    }
}

impl Effect for DeleteFlavor {
    /// Always free: VMs have copies of its numbers.
    fn apply(&self, change: &mut Change<'_>) -> Verdict {
        let subject = Subject::Flavor(self.id);
        let Some(flavor) = change.state.flavors.remove(&self.id) else {
            return Err(Rejection::NotFound { subject });
        };
        change.state.names.remove(&(NameScope::Flavors, flavor.name));
        change.event(subject, None, EventKind::FlavorDeleted);
        Ok(())
    }
}
