//! The city: its beginning, its settings.

use scp_model::{
    EventKind, Name, Subject,
    command::{AdmitNode, CreateDepartment, CreateProject, InitCity, SetOvercommit},
    tenancy::{City, CityRole, Quota},
    units::Overcommit,
};

use super::{
    Change, Effect, Verdict, admit_node,
    check::{at_most, bytes_within, invalid},
};
use crate::limits::{CA_BYTES_MAX, INIT_FLAVORS_MAX};

impl Effect for InitCity {
    /// All of it or nothing: the state before is a pointer copy, and comes back when a part is refused.
    fn apply(&self, change: &mut Change<'_>) -> Verdict {
        bytes_within("ca_certificate", self.ca_certificate.len(), CA_BYTES_MAX)?;
        bytes_within("ca_key_sealed", self.ca_key_sealed.len(), CA_BYTES_MAX)?;
        at_most("flavors at the beginning", self.flavors.len(), INIT_FLAVORS_MAX)?;
        if !self.admin.city_roles.contains(&CityRole::Admin) {
            return Err(invalid("admin.city_roles", "the first user is to be an admin"));
        }
        let before = change.state.clone();
        let begun = begin(self, change);
        if begun.is_err() {
            *change.state = before;
            change.events.clear();
        }
        begun
    }
}

fn begin(init: &InitCity, change: &mut Change<'_>) -> Verdict {
    let default = Name::new("default").expect("`default` is a name");
    change.state.city = Some(City {
        id: init.city,
        name: init.name.clone(),
        country: init.country,
        ca_certificate: init.ca_certificate.clone(),
        ca_key_sealed: init.ca_key_sealed.clone(),
        created_at: change.now(),
    });
    change.event(Subject::City, None, EventKind::CityInitialised { name: init.name.clone() });
    let AdmitNode { node, public_key, profile, token: _, secret_digest: _ } = &init.node;
    admit_node::enrol(change, *node, *public_key, profile)?;
    CreateDepartment { id: init.department, name: default.clone() }.apply(change)?;
    let (id, department, name) = (init.project, init.department, default);
    CreateProject { id, department, name, quota: Quota::default() }.apply(change)?;
    init.admin.apply(change)?;
    init.flavors.iter().try_for_each(|flavor| flavor.apply(change))
}

impl Effect for SetOvercommit {
    /// May leave a node with more promised than it offers: nothing is taken away, nothing more is put
    /// there.
    fn apply(&self, change: &mut Change<'_>) -> Verdict {
        let Overcommit { vcpus_percent, memory_percent, disk_percent } = self.overcommit;
        let parts = [
            ("vcpus_percent", vcpus_percent),
            ("memory_percent", memory_percent),
            ("disk_percent", disk_percent),
        ];
        let range = Overcommit::PERCENT_RANGE;
        if let Some((field, percent)) = parts.into_iter().find(|(_, percent)| !range.contains(percent)) {
            let why = format!("{percent} is not within {} to {}", range.start(), range.end());
            return Err(invalid(field, why));
        }
        if change.state.overcommit != self.overcommit {
            change.state.overcommit = self.overcommit;
            change.event(Subject::City, None, EventKind::SettingsChanged);
        }
        Ok(())
    }
}
