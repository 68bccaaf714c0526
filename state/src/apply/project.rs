//! Projects and their quotas.

use scp_model::{
    EventKind, ProjectId, Rejection, Subject, UserId,
    command::{CreateProject, DeleteProject, SetQuota},
    tenancy::Project,
};

use super::{
    Change, Effect, Verdict,
    check::{counted, room_for},
};
use crate::{NameScope, State, Usage, limits::PROJECTS_MAX};

impl Effect for CreateProject {
    fn apply(&self, change: &mut Change<'_>) -> Verdict {
        let subject = Subject::Project(self.id);
        if let Some(project) = change.state.projects.get(&self.id) {
            let same = project.department == self.department
                && project.name == self.name
                && project.quota == self.quota;
            return if same { Ok(()) } else { Err(Rejection::IdTaken { subject }) };
        }
        if !change.state.departments.contains_key(&self.department) {
            return Err(Rejection::NotFound { subject: Subject::Department(self.department) });
        }
        let scope = NameScope::Projects(self.department);
        change.state.name_is_free(scope.clone(), &self.name, "project")?;
        room_for("projects", change.state.projects.len(), PROJECTS_MAX)?;

        let (id, name, now) = (self.id, self.name.clone(), change.now());
        let (department, quota) = (self.department, self.quota);
        let project = Project { id, department, name: name.clone(), quota, created_at: now };
        change.state.names.insert((scope, name.clone()), subject);
        change.state.usage.insert(id, Usage::default());
        change.state.projects.insert(id, project);
        change.event(subject, Some(id), EventKind::ProjectCreated { name });
        Ok(())
    }
}

impl Effect for SetQuota {
    /// May be below what is in use: nothing is taken away, nothing more is given.
    fn apply(&self, change: &mut Change<'_>) -> Verdict {
        let before = change.state.known_project(self.project)?.quota;
        let quota = self.quota.of(before);
        if quota == before {
            return Ok(());
        }
        let project = change.state.projects.get_mut(&self.project).expect("the project was found above");
        project.quota = quota;
        let subject = Subject::Project(self.project);
        change.event(subject, Some(self.project), EventKind::ProjectQuotaSet);
        Ok(())
    }
}

impl Effect for DeleteProject {
    /// Only an empty project goes; roles in it go with it.
    fn apply(&self, change: &mut Change<'_>) -> Verdict {
        let subject = Subject::Project(self.id);
        let project = change.state.known_project(self.id)?;
        let scope = NameScope::Projects(project.department);
        let name = project.name.clone();
        if let Some(by) = contents(change.state.usage_of(self.id)) {
            return Err(Rejection::InUse { subject, by });
        }
        take_roles_away(change.state, self.id);
        change.state.names.remove(&(scope, name));
        change.state.usage.remove(&self.id);
        change.state.projects.remove(&self.id);
        change.event(subject, Some(self.id), EventKind::ProjectDeleted);
        Ok(())
    }
}

fn contents(usage: Usage) -> Option<String> {
    let Usage { vms, resources: _, images, keypairs } = usage;
    let empty = vms == 0 && images == 0 && keypairs == 0;
    let parts = [counted(vms, "VM"), counted(images, "image"), counted(keypairs, "keypair")];
    (!empty).then(|| format!("its {}", parts.join(", ")))
}

fn take_roles_away(state: &mut State, project: ProjectId) {
    let granted = state.users.values().filter(|user| user.grants.contains_key(&project));
    let granted: Vec<UserId> = granted.map(|user| user.id).collect();
    for user in granted {
        let user = state.users.get_mut(&user).expect("the user was listed above");
        user.grants.remove(&project);
    }
}
