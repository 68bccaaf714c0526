//! Users and their roles.

use scp_model::{
    EventKind, ProjectId, Rejection, Subject,
    command::{CreateUser, DeleteUser, UpdateUser},
    tenancy::{CityRole, User},
};

use super::{
    Change, Effect, Verdict,
    check::{at_most, line_within, room_for},
};
use crate::{
    NameScope, State,
    limits::{GRANTS_MAX, PASSWORD_HASH_BYTES_MAX, USERS_MAX},
};

impl Effect for CreateUser {
    fn apply(&self, change: &mut Change<'_>) -> Verdict {
        let subject = Subject::User(self.id);
        if let Some(user) = change.state.users.get(&self.id) {
            let same = user.name == self.name
                && user.password_hash == self.password_hash
                && user.city_roles == self.city_roles
                && user.grants == self.grants;
            return if same { Ok(()) } else { Err(Rejection::IdTaken { subject }) };
        }
        line_within("password_hash", &self.password_hash, PASSWORD_HASH_BYTES_MAX)?;
        at_most("roles of one user", self.grants.len(), GRANTS_MAX)?;
        projects_are_known(change.state, self.grants.keys())?;
        change.state.name_is_free(NameScope::Users, &self.name, "user")?;
        room_for("users", change.state.users.len(), USERS_MAX)?;

        let user = User {
            id: self.id,
            name: self.name.clone(),
            password_hash: self.password_hash.clone(),
            city_roles: self.city_roles.clone(),
            grants: self.grants.clone(),
            enabled: true,
            tokens_valid_from: change.now(),
            created_at: change.now(),
        };
        change.state.names.insert((NameScope::Users, self.name.clone()), subject);
        change.state.users.insert(self.id, user);
        change.event(subject, None, EventKind::UserCreated { name: self.name.clone() });
        Ok(())
    }
}

impl Effect for UpdateUser {
    fn apply(&self, change: &mut Change<'_>) -> Verdict {
        let subject = Subject::User(self.id);
        let Some(user) = change.state.users.get(&self.id) else {
            return Err(Rejection::NotFound { subject });
        };
        let given = self.grants.iter().filter(|(_, role)| role.is_some()).map(|(project, _)| project);
        projects_are_known(change.state, given)?;
        let mut changed = user.clone();
        if let Some(hash) = &self.password_hash {
            line_within("password_hash", hash, PASSWORD_HASH_BYTES_MAX)?;
            changed.password_hash.clone_from(hash);
        }
        if let Some(roles) = &self.city_roles {
            changed.city_roles.clone_from(roles);
        }
        for (project, role) in &self.grants {
            match role {
                Some(role) => changed.grants.insert(*project, *role),
                None => changed.grants.remove(project),
            };
        }
        at_most("roles of one user", changed.grants.len(), GRANTS_MAX)?;
        changed.enabled = self.enabled.unwrap_or(changed.enabled);
        if self.revoke_tokens {
            changed.tokens_valid_from = change.now();
        }
        if changed == *user {
            return Ok(());
        }
        admin_remains(change.state, user, Some(&changed))?;

        change.state.users.insert(self.id, changed);
        change.event(subject, None, EventKind::UserChanged);
        Ok(())
    }
}

impl Effect for DeleteUser {
    fn apply(&self, change: &mut Change<'_>) -> Verdict {
        let subject = Subject::User(self.id);
        let Some(user) = change.state.users.get(&self.id) else {
            return Err(Rejection::NotFound { subject });
        };
        admin_remains(change.state, user, None)?;
        let name = user.name.clone();
        change.state.names.remove(&(NameScope::Users, name));
        change.state.users.remove(&self.id);
        change.event(subject, None, EventKind::UserDeleted);
        Ok(())
    }
}

fn projects_are_known<'a>(state: &State, mut projects: impl Iterator<Item = &'a ProjectId>) -> Verdict {
    projects.try_for_each(|project| state.known_project(*project).map(|_| ()))
}

/// A city without an enabled admin could never get one again.
fn admin_remains(state: &State, user: &User, after: Option<&User>) -> Verdict {
    let is_admin = |user: &User| user.enabled && user.city_roles.contains(&CityRole::Admin);
    let stays = after.is_some_and(is_admin);
    if !is_admin(user) || stays || state.admins().any(|admin| admin.id != user.id) {
        return Ok(());
    }
    Err(Rejection::Forbidden { why: "the city keeps at least one enabled admin".into() })
}
