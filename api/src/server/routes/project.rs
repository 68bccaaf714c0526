//! Departments, projects and quotas.

use axum::extract::Path;
use scp_model::{
    Command, DepartmentId, ProjectId,
    command::{CreateDepartment, CreateProject, DeleteDepartment, DeleteProject, SetQuota},
    tenancy::{Department, Project, Quota, QuotaChange},
};

use crate::{
    server::{
        authorize::{Action, Scope},
        body::{Body, Params},
        call::{Answer, Call},
        invalid::{Invalid, valid},
        page::{ByProject, Filter, NoPhase},
        view,
    },
    v1::{self, Problem, QuotaSet},
};

/// Beyond this a quota is a slip of the keyboard: more than the largest city.
const QUOTA_MAX: u64 = 1 << 40;

/// The departments of the city.
#[utoipa::path(get, path = "/v1/departments", tag = "tenancy", params(v1::ListQuery),
    responses(
        (status = 200, body = v1::List<v1::Department>),
        (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn list_departments(call: Call, Params(query): Params<v1::ListQuery>) -> Answer {
    call.may(Action::DepartmentRead, Scope::City)?;
    let filter: Filter<DepartmentId, NoPhase> = Filter::new(&call, &query, ByProject::No)?;
    let keep = |it: &Department| filter.keeps(&it.name, None);
    call.ok(&filter.page(&call.state.departments, keep, view::department))
}

/// One department.
#[utoipa::path(get, path = "/v1/departments/{department}", tag = "tenancy",
    params(("department", description = "id or name")),
    responses(
        (status = 200, body = v1::Department),
        (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn show_department(call: Call, Path(department): Path<String>) -> Answer {
    call.may(Action::DepartmentRead, Scope::City)?;
    call.ok(&view::department(call.find_department(&department)?))
}

/// A new department.
#[utoipa::path(post, path = "/v1/departments", tag = "tenancy", request_body = v1::DepartmentCreate,
    responses(
        (status = 201, body = v1::Department),
        (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn create_department(mut call: Call, Body(body): Body<v1::DepartmentCreate>) -> Answer {
    call.may(Action::DepartmentManage, Scope::City)?;
    let mut invalid = Invalid::default();
    let id = invalid.id(body.id.as_deref(), DepartmentId(call.made_id()));
    let name = invalid.name("name", &body.name);
    invalid.finish()?;
    let id = valid(id);
    call.commit(Command::CreateDepartment(CreateDepartment { id, name: valid(name) })).await?;
    call.created(&view::department(call.made(call.state.departments.get(&id))?))
}

/// Delete a department that has no projects.
#[utoipa::path(delete, path = "/v1/departments/{department}", tag = "tenancy",
    params(("department", description = "id or name")),
    responses(
        (status = 204),
        (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn delete_department(mut call: Call, Path(department): Path<String>) -> Answer {
    call.may(Action::DepartmentManage, Scope::City)?;
    if let Some(answer) = call.repeated() {
        return answer.and_then(|()| call.no_content());
    }
    let id = call.find_department(&department)?.id;
    call.commit(Command::DeleteDepartment(DeleteDepartment { id })).await?;
    call.no_content()
}

/// The projects that the asker may see.
#[utoipa::path(get, path = "/v1/projects", tag = "tenancy", params(v1::ListQuery),
    responses(
        (status = 200, body = v1::List<v1::Project>),
        (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn list(call: Call, Params(query): Params<v1::ListQuery>) -> Answer {
    let filter: Filter<ProjectId, NoPhase> = Filter::new(&call, &query, ByProject::No)?;
    let keep = |it: &Project| {
        filter.keeps(&it.name, None) && call.allowed(Action::ProjectRead, Scope::Project(it.id))
    };
    call.ok(&filter.page(&call.state.projects, keep, |it| view::project(&call.state, it)))
}

/// One project.
#[utoipa::path(get, path = "/v1/projects/{project}", tag = "tenancy",
    params(("project", description = "id, name or department/name")),
    responses(
        (status = 200, body = v1::Project),
        (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn show(call: Call, Path(project): Path<String>) -> Answer {
    call.ok(&view::project(&call.state, call.find_project(&project)?))
}

/// A new project.
#[utoipa::path(post, path = "/v1/projects", tag = "tenancy", request_body = v1::ProjectCreate,
    responses(
        (status = 201, body = v1::Project),
        (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn create(mut call: Call, Body(body): Body<v1::ProjectCreate>) -> Answer {
    call.may(Action::ProjectManage, Scope::City)?;
    let mut invalid = Invalid::default();
    let id = invalid.id(body.id.as_deref(), ProjectId(call.made_id()));
    let name = invalid.name("name", &body.name);
    let department = match &body.department {
        Some(text) => call.find_department(text).map(|it| it.id).map_err(|problem| problem.detail),
        None if call.state.departments.len() == 1 => {
            Ok(*call.state.departments.keys().next().expect("there is exactly one"))
        }
        None => Err("is needed: there is not exactly one".to_owned()),
    };
    let department = invalid.take("department", department);
    let quota = quota(Quota::default(), &body.quota.unwrap_or_default(), ("quota.", &mut invalid));
    invalid.finish()?;
    let id = valid(id);
    let command = CreateProject { id, department: valid(department), name: valid(name), quota };
    call.commit(Command::CreateProject(command)).await?;
    call.created(&view::project(&call.state, call.made(call.state.projects.get(&id))?))
}

/// `base` with what is given, each within its bounds.
fn quota(base: Quota, set: &QuotaSet, (prefix, invalid): (&str, &mut Invalid)) -> Quota {
    let mut number = |field: &str, base: u64, set: Option<u64>| {
        invalid.number(&format!("{prefix}{field}"), set, (0, base, QUOTA_MAX))
    };
    Quota {
        vms: number("vms", base.vms, set.vms),
        vcpus: number("vcpus", base.vcpus, set.vcpus),
        memory_mib: number("memory_mib", base.memory_mib, set.memory_mib),
        disk_mib: number("disk_mib", base.disk_mib, set.disk_mib),
        images: number("images", base.images, set.images),
        keypairs: number("keypairs", base.keypairs, set.keypairs),
    }
}

/// Delete a project that has nothing any more.
#[utoipa::path(delete, path = "/v1/projects/{project}", tag = "tenancy",
    params(("project", description = "id, name or department/name")),
    responses(
        (status = 204),
        (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn delete(mut call: Call, Path(project): Path<String>) -> Answer {
    if let Some(answer) = call.repeated() {
        return answer.and_then(|()| call.no_content());
    }
    let id = call.find_project(&project)?.id;
    call.may(Action::ProjectManage, Scope::City)?;
    call.commit(Command::DeleteProject(DeleteProject { id })).await?;
    call.no_content()
}

/// What a project may have, and has.
#[utoipa::path(get, path = "/v1/projects/{project}/quota", tag = "tenancy",
    params(("project", description = "id, name or department/name")),
    responses(
        (status = 200, body = v1::QuotaUsage),
        (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn show_quota(call: Call, Path(project): Path<String>) -> Answer {
    call.ok(&view::quota_usage(&call.state, call.find_project(&project)?))
}

/// Change what a project may have; what is not given stays. May be set below what is in use.
#[utoipa::path(put, path = "/v1/projects/{project}/quota", tag = "tenancy", request_body = QuotaSet,
    params(("project", description = "id, name or department/name")),
    responses(
        (status = 200, body = v1::QuotaUsage),
        (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn set_quota(
    mut call: Call,
    Path(project): Path<String>,
    Body(body): Body<QuotaSet>,
) -> Answer {
    let project = call.find_project(&project)?;
    let (id, base) = (project.id, project.quota);
    call.may(Action::ProjectManage, Scope::City)?;
    let mut invalid = Invalid::default();
    quota(base, &body, ("", &mut invalid));
    invalid.finish()?;
    // What was not given is left out, not repeated: another request may be changing it just now.
    let QuotaSet { vms, vcpus, memory_mib, disk_mib, images, keypairs } = body;
    let quota = QuotaChange { vms, vcpus, memory_mib, disk_mib, images, keypairs };
    call.commit(Command::SetQuota(SetQuota { project: id, quota })).await?;
    let project = call.made(call.state.projects.get(&id))?;
    call.ok(&view::quota_usage(&call.state, project))
}
