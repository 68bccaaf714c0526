//! From an id or a name to the thing: only among what the asker may see.
//!
//! A text that is the id of something is taken for it first; names that look like ids are not given.

use std::str::FromStr;

use scp_model::{
    ImageId, KeypairId, Name, ProjectId, Subject, VmId,
    image::{Image, Visibility},
    tenancy::{Department, Keypair, Project},
    vm::Vm,
};
use scp_state::{NameScope, State};

use super::{
    authorize::{Action, Scope},
    call::Call,
    problem::{Code, shown},
};
use crate::v1::Problem;

/// Something that belongs to a project, and has a name there.
pub(crate) trait Scoped: Sized {
    const KIND: &'static str;
    type Id: FromStr + Ord;
    fn id_of(subject: Subject) -> Option<Self::Id>;
    fn get<'a>(state: &'a State, id: &Self::Id) -> Option<&'a Self>;
    fn scope(project: ProjectId) -> NameScope;
    fn project(&self) -> ProjectId;
    /// Those of that name that everybody sees.
    fn public<'a>(_: &'a State, _: &Name) -> Vec<&'a Self> {
        Vec::new()
    }
    fn is_public(&self) -> bool {
        false
    }
}

macro_rules! scoped {
    ($type:ty, $kind:literal, $id:ty, $subject:ident, $scope:ident, $table:ident, |$it:ident| $project:expr) => {
        const KIND: &'static str = $kind;
        type Id = $id;

        fn id_of(subject: Subject) -> Option<$id> {
            match subject {
                Subject::$subject(id) => Some(id),
                _ => None,
            }
        }

        fn get<'a>(state: &'a State, id: &$id) -> Option<&'a Self> {
            state.$table.get(id)
        }

        fn scope(project: ProjectId) -> NameScope {
            NameScope::$scope(project)
        }

        fn project(&self) -> ProjectId {
            let $it = self;
            $project
        }
    };
}

impl Scoped for Vm {
    scoped!(Vm, "vm", VmId, Vm, Vms, vms, |vm| vm.spec.project);
}

impl Scoped for Keypair {
    scoped!(Keypair, "keypair", KeypairId, Keypair, Keypairs, keypairs, |keypair| keypair.project);
}

impl Scoped for Image {
    scoped!(Image, "image", ImageId, Image, Images, images, |image| image.project);

    fn public<'a>(state: &'a State, name: &Name) -> Vec<&'a Self> {
        state.images.values().filter(|image| image.is_public() && image.name == *name).collect()
    }

    fn is_public(&self) -> bool {
        self.visibility == Visibility::Public
    }
}

impl Call {
    /// The projects in which the asker may do that.
    pub(crate) fn projects(&self, action: Action) -> Vec<ProjectId> {
        if self.allowed(action, Scope::City) {
            return self.state.projects.keys().copied().collect();
        }
        match &self.identity {
            super::Identity::Local(_) => Vec::new(),
            super::Identity::User { grants, .. } => {
                let may = |project: &ProjectId| self.allowed(action, Scope::Project(*project));
                grants.keys().copied().filter(may).collect()
            }
        }
    }

    pub(crate) fn find_department(&self, text: &str) -> Result<&Department, Problem> {
        self.state.find_department(text).ok_or_else(|| Problem::not_found("department", text))
    }

    /// By id, name, or department/name.
    pub(crate) fn find_project(&self, text: &str) -> Result<&Project, Problem> {
        let visible = |project: &&Project| self.allowed(Action::ProjectRead, Scope::Project(project.id));
        let by_id = ProjectId::from_str(text).ok().and_then(|id| self.state.projects.get(&id));
        if let Some(project) = by_id.filter(visible) {
            return Ok(project);
        }
        let found: Vec<&Project> = match text.split_once('/') {
            Some((department, name)) => {
                let department = self.state.find_department(department);
                department
                    .and_then(|it| self.state.find_project(it.id, name))
                    .into_iter()
                    .filter(visible)
                    .collect()
            }
            None => self.projects_named(text),
        };
        match found[..] {
            [] => Err(Problem::not_found("project", text)),
            [project] => Ok(project),
            [_, _, ..] => Err(Problem::new(
                Code::Ambiguous,
                format!("{} departments have a project {}", found.len(), shown(text)),
            )
            .remedy("Say which: DEPARTMENT/PROJECT, or the project's id.")),
        }
    }

    fn projects_named(&self, name: &str) -> Vec<&Project> {
        if self.allowed(Action::ProjectRead, Scope::City) {
            let departments = self.state.departments.keys();
            return departments.filter_map(|department| self.state.find_project(*department, name)).collect();
        }
        let projects = self.projects(Action::ProjectRead);
        let projects = projects.iter().filter_map(|id| self.state.projects.get(id));
        projects.filter(|project| project.name.as_str() == name).collect()
    }

    /// The project in which something new is made: the one that is named, or the only one there is for
    /// the asker.
    pub(crate) fn project_for(&self, action: Action, text: Option<&str>) -> Result<&Project, Problem> {
        if let Some(text) = text {
            return self.find_project(text);
        }
        match self.projects(action)[..] {
            [only] => {
                self.state.projects.get(&only).ok_or_else(|| Problem::not_found("project", &only.to_string()))
            }
            [] => Err(Problem::new(Code::Invalid, "is needed: you may do this in no project so far")),
            [_, _, ..] => Err(Problem::new(Code::Invalid, "is needed: you may do this in several projects")),
        }
    }

    /// Something in a project, among what the asker may do `see` with.
    pub(crate) fn find<T: Scoped>(
        &self,
        see: Action,
        text: &str,
        project: Option<&str>,
    ) -> Result<&T, Problem> {
        let within = project.map(|text| self.find_project(text)).transpose()?.map(|project| project.id);
        let visible = |it: &T| {
            (it.is_public() || self.allowed(see, Scope::Project(it.project())))
                && within.is_none_or(|project| it.project() == project)
        };
        let by_id = T::Id::from_str(text).ok().and_then(|id| T::get(&self.state, &id));
        if let Some(it) = by_id.filter(|it| visible(it)) {
            return Ok(it);
        }
        let Ok(name) = Name::new(text) else {
            return Err(Problem::not_found(T::KIND, text));
        };
        let projects = within.map_or_else(|| self.projects(see), |project| vec![project]);
        let named = projects.iter().filter_map(|project| {
            let subject = self.state.names.get(&(T::scope(*project), name.clone()))?;
            T::get(&self.state, &T::id_of(*subject)?)
        });
        let mut found: Vec<&T> = named.filter(|it| visible(it)).collect();
        if found.is_empty() {
            found = T::public(&self.state, &name);
            found.retain(|it| visible(it));
        }
        match found[..] {
            [] => Err(Problem::not_found(T::KIND, text)),
            [it] => Ok(it),
            [_, _, ..] => Err(Problem::new(
                Code::Ambiguous,
                format!("{} projects have a {} {}", found.len(), T::KIND, shown(text)),
            )
            .remedy("Say in which: ?project=PROJECT (scpctl --project PROJECT), or give the id.")),
        }
    }
}
