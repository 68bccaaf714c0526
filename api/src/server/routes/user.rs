//! Users, their passwords and their roles.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
};

use axum::extract::Path;
use scp_model::{
    Command, ProjectId, UserId,
    command::{CreateUser, DeleteUser, UpdateUser},
    tenancy::{CityRole, ProjectRole, User},
};

use super::access::check_password;
use crate::{
    server::{
        authorize::{Action, Scope},
        body::{Body, Params},
        call::{Answer, Call},
        invalid::{Invalid, valid},
        page::{ByProject, Filter, NoPhase},
        view,
    },
    v1::{self, PASSWORD_BYTES_MAX, Problem},
};

/// Users see themselves; admins and auditors see all.
fn find<'a>(call: &'a Call, text: &str) -> Result<&'a User, Problem> {
    let user = call.state.find_user(text);
    let visible = user.filter(|user| call.allowed(Action::UserRead, Scope::User(user.id)));
    visible.ok_or_else(|| Problem::not_found("user", text))
}

/// As much of a user as the asker may see: a project's manager sees who the user is, and their role there.
fn shown(call: &Call, id: UserId) -> Answer {
    let user = call.made(call.state.users.get(&id))?;
    let mut view = view::user(user);
    if !call.allowed(Action::UserRead, Scope::User(id)) {
        view.city_roles.clear();
        view.grants.retain(|grant| {
            let project: Result<ProjectId, _> = grant.project.parse();
            project.is_ok_and(|project| call.allowed(Action::GrantManage, Scope::Project(project)))
        });
    }
    call.ok(&view)
}

fn unchanged(id: UserId) -> UpdateUser {
    UpdateUser {
        id,
        password_hash: None,
        city_roles: None,
        grants: BTreeMap::new(),
        enabled: None,
        revoke_tokens: false,
    }
}

fn city_roles(roles: &[v1::CityRole]) -> BTreeSet<CityRole> {
    let role = |role: &v1::CityRole| match role {
        v1::CityRole::Admin => CityRole::Admin,
        v1::CityRole::Operator => CityRole::Operator,
        v1::CityRole::Auditor => CityRole::Auditor,
    };
    roles.iter().map(role).collect()
}

fn project_role(role: v1::ProjectRole) -> ProjectRole {
    match role {
        v1::ProjectRole::Reader => ProjectRole::Reader,
        v1::ProjectRole::Member => ProjectRole::Member,
        v1::ProjectRole::Manager => ProjectRole::Manager,
    }
}

fn check_new_password(invalid: &mut Invalid, password: &str) {
    let judged = v1::password_is_acceptable(password);
    invalid.check(judged.is_ok(), "password", judged.err().unwrap_or_default());
}

/// The users of the city.
#[utoipa::path(get, path = "/v1/users", tag = "users", params(v1::ListQuery),
    responses(
        (status = 200, body = v1::List<v1::User>),
        (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn list(call: Call, Params(query): Params<v1::ListQuery>) -> Answer {
    call.may(Action::UserRead, Scope::City)?;
    let filter: Filter<UserId, NoPhase> = Filter::new(&call, &query, ByProject::No)?;
    call.ok(&filter.page(&call.state.users, |user| filter.keeps(&user.name, None), view::user))
}

/// One user.
#[utoipa::path(get, path = "/v1/users/{user}", tag = "users", params(("user", description = "id or name")),
    responses(
        (status = 200, body = v1::User),
        (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn show(call: Call, Path(user): Path<String>) -> Answer {
    let user = find(&call, &user)?.id;
    shown(&call, user)
}

/// A new user.
#[utoipa::path(post, path = "/v1/users", tag = "users", request_body = v1::UserCreate,
    responses(
        (status = 201, body = v1::User),
        (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn create(mut call: Call, Body(body): Body<v1::UserCreate>) -> Answer {
    call.may(Action::UserManage, Scope::City)?;
    let mut invalid = Invalid::default();
    let id = invalid.id(body.id.as_deref(), UserId(call.made_id()));
    let name = invalid.name("name", &body.name);
    check_new_password(&mut invalid, &body.password);
    let mut grants = BTreeMap::new();
    for (at, grant) in body.grants.iter().enumerate() {
        let project = call.find_project(&grant.project).map_err(|problem| problem.detail);
        if let Some(project) = invalid.take(&format!("grants[{at}].project"), project) {
            grants.insert(project.id, project_role(grant.role));
        }
    }
    invalid.finish()?;
    let id = valid(id);
    let password_hash = call.server.shared.passwords.hash(body.password).await?;
    let city_roles = city_roles(&body.city_roles);
    let command = CreateUser { id, name: valid(name), password_hash, city_roles, grants };
    call.commit(Command::CreateUser(command)).await?;
    call.created(&view::user(call.made(call.state.users.get(&id))?))
}

/// Change a user's city roles, enable or disable them, or end their access tokens. What is not given
/// stays.
#[utoipa::path(patch, path = "/v1/users/{user}", tag = "users", request_body = v1::UserUpdate,
    params(("user", description = "id or name")),
    responses(
        (status = 200, body = v1::User),
        (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn update(
    mut call: Call,
    Path(user): Path<String>,
    Body(body): Body<v1::UserUpdate>,
) -> Answer {
    let id = find(&call, &user)?.id;
    if body.city_roles.is_some() || body.enabled.is_some() {
        call.may(Action::UserManage, Scope::City)?;
    }
    call.may(Action::TokensRevoke, Scope::User(id))?;
    let command = UpdateUser {
        city_roles: body.city_roles.as_deref().map(city_roles),
        enabled: body.enabled,
        revoke_tokens: body.revoke_tokens,
        ..unchanged(id)
    };
    call.commit(Command::UpdateUser(command)).await?;
    shown(&call, id)
}

/// Delete a user. The city keeps at least one enabled admin.
#[utoipa::path(delete, path = "/v1/users/{user}", tag = "users", params(("user", description = "id or name")),
    responses(
        (status = 204),
        (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn delete(mut call: Call, Path(user): Path<String>) -> Answer {
    call.may(Action::UserManage, Scope::City)?;
    if let Some(answer) = call.repeated() {
        return answer.and_then(|()| call.no_content());
    }
    let id = find(&call, &user)?.id;
    call.commit(Command::DeleteUser(DeleteUser { id })).await?;
    call.no_content()
}

/// A new password. Every access token of the user ends with it.
#[utoipa::path(put, path = "/v1/users/{user}/password", tag = "users", request_body = v1::PasswordSet,
    params(("user", description = "id or name")),
    responses(
        (status = 200, body = v1::User),
        (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn set_password(
    mut call: Call,
    Path(user): Path<String>,
    Body(body): Body<v1::PasswordSet>,
) -> Answer {
    let user = find(&call, &user)?;
    let (id, name, hash) = (user.id, user.name.to_string(), user.password_hash.clone());
    call.may(Action::PasswordSet, Scope::User(id))?;
    let own = call.identity.user() == Some(id);
    let mut invalid = Invalid::default();
    check_new_password(&mut invalid, &body.password);
    invalid.check(
        !own || body.current_password.is_some(),
        "current_password",
        "is needed to change your own",
    );
    let bounded = body.current_password.as_ref().is_none_or(|password| password.len() <= PASSWORD_BYTES_MAX);
    invalid.check(bounded, "current_password", "is too long");
    invalid.finish()?;
    if let Some(current) = body.current_password.filter(|_| own) {
        // Whoever has only stolen a token cannot guess either.
        let from = (name.as_str(), IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        check_password(&call.server, from, Some(hash), current).await?;
    }
    let password_hash = Some(call.server.shared.passwords.hash(body.password).await?);
    let command = UpdateUser { password_hash, revoke_tokens: true, ..unchanged(id) };
    call.commit(Command::UpdateUser(command)).await?;
    shown(&call, id)
}

/// A user's role in a project, in place of the one they had.
#[utoipa::path(put, path = "/v1/users/{user}/grants/{project}", tag = "users", request_body = v1::GrantSet,
    params(("user", description = "id or name"), ("project", description = "id, name or department/name")),
    responses(
        (status = 200, body = v1::User),
        (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn set_grant(
    call: Call,
    Path((user, project)): Path<(String, String)>,
    Body(body): Body<v1::GrantSet>,
) -> Answer {
    grant(call, (&user, &project), Some(project_role(body.role))).await
}

/// Take away a user's role in a project.
#[utoipa::path(delete, path = "/v1/users/{user}/grants/{project}", tag = "users",
    params(("user", description = "id or name"), ("project", description = "id, name or department/name")),
    responses(
        (status = 200, body = v1::User),
        (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn remove_grant(call: Call, Path((user, project)): Path<(String, String)>) -> Answer {
    grant(call, (&user, &project), None).await
}

async fn grant(mut call: Call, (user, project): (&str, &str), role: Option<ProjectRole>) -> Answer {
    let project = call.find_project(project)?.id;
    call.may(Action::GrantManage, Scope::Project(project))?;
    // Managers name users whom they cannot see otherwise: they have to know whom they let in.
    let user = call.state.find_user(user).ok_or_else(|| Problem::not_found("user", user))?.id;
    let command = UpdateUser { grants: BTreeMap::from([(project, role)]), ..unchanged(user) };
    call.commit(Command::UpdateUser(command)).await?;
    shown(&call, user)
}
