//! Departments.

use scp_model::{
    EventKind, Name, ProjectId, Rejection, Subject,
    command::{CreateDepartment, DeleteDepartment},
    tenancy::Department,
};

use super::{Change, Effect, Verdict, check::room_for};
use crate::{NameScope, State, limits::DEPARTMENTS_MAX};

impl Effect for CreateDepartment {
    fn apply(&self, change: &mut Change<'_>) -> Verdict {
        let subject = Subject::Department(self.id);
        if let Some(department) = change.state.departments.get(&self.id) {
            let same = department.name == self.name;
            return if same { Ok(()) } else { Err(Rejection::IdTaken { subject }) };
        }
        change.state.name_is_free(NameScope::Departments, &self.name, "department")?;
        room_for("departments", change.state.departments.len(), DEPARTMENTS_MAX)?;

        let (id, name, created_at) = (self.id, self.name.clone(), change.now());
        change.state.names.insert((NameScope::Departments, name.clone()), subject);
        change.state.departments.insert(id, Department { id, name: name.clone(), created_at });
        change.event(subject, None, EventKind::DepartmentCreated { name });
        Ok(())
    }
}

impl Effect for DeleteDepartment {
    fn apply(&self, change: &mut Change<'_>) -> Verdict {
        let subject = Subject::Department(self.id);
        let Some(department) = change.state.departments.get(&self.id) else {
            return Err(Rejection::NotFound { subject });
        };
        if let Some(project) = a_project_of(change.state, self) {
            return Err(Rejection::InUse { subject, by: format!("project {project}") });
        }
        let name = department.name.clone();
        change.state.names.remove(&(NameScope::Departments, name));
        change.state.departments.remove(&self.id);
        change.event(subject, None, EventKind::DepartmentDeleted);
        Ok(())
    }
}

fn a_project_of(state: &State, delete: &DeleteDepartment) -> Option<Name> {
    let of = |(_, project): (&ProjectId, &scp_model::tenancy::Project)| {
        (project.department == delete.id).then(|| project.name.clone())
    };
    state.projects.iter().find_map(of)
}
