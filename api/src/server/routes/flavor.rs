//! Flavors: named sizes.

use axum::extract::Path;
use scp_model::{
    Command, FlavorId, Resources,
    command::{CreateFlavor, DeleteFlavor},
    flavor::{Flavor, RESOURCES_MAX, RESOURCES_MIN},
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
    v1::{self, Problem},
};

/// The sizes there are.
#[utoipa::path(get, path = "/v1/flavors", tag = "flavors", params(v1::ListQuery),
    responses(
        (status = 200, body = v1::List<v1::Flavor>),
        (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn list(call: Call, Params(query): Params<v1::ListQuery>) -> Answer {
    call.may(Action::FlavorRead, Scope::City)?;
    let filter: Filter<FlavorId, NoPhase> = Filter::new(&call, &query, ByProject::No)?;
    call.ok(&filter.page(&call.state.flavors, |it: &Flavor| filter.keeps(&it.name, None), view::flavor))
}

/// One size.
#[utoipa::path(get, path = "/v1/flavors/{flavor}", tag = "flavors", params(("flavor", description = "id or name")),
    responses(
        (status = 200, body = v1::Flavor),
        (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn show(call: Call, Path(flavor): Path<String>) -> Answer {
    call.may(Action::FlavorRead, Scope::City)?;
    let found = call.state.find_flavor(&flavor).ok_or_else(|| Problem::not_found("flavor", &flavor))?;
    call.ok(&view::flavor(found))
}

/// A new size.
#[utoipa::path(post, path = "/v1/flavors", tag = "flavors", request_body = v1::FlavorCreate,
    responses(
        (status = 201, body = v1::Flavor),
        (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn create(mut call: Call, Body(body): Body<v1::FlavorCreate>) -> Answer {
    call.may(Action::FlavorManage, Scope::City)?;
    let mut invalid = Invalid::default();
    let id = invalid.id(body.id.as_deref(), FlavorId(call.made_id()));
    let name = invalid.name("name", &body.name);
    let (least, most) = (RESOURCES_MIN, RESOURCES_MAX);
    let mut number = |field: &str, value, range| invalid.number(field, Some(value), range);
    let given = body.resources;
    let resources = Resources {
        vcpus: number("resources.vcpus", given.vcpus, (least.vcpus, 0, most.vcpus)),
        memory_mib: number("resources.memory_mib", given.memory_mib, (least.memory_mib, 0, most.memory_mib)),
        disk_mib: number("resources.disk_mib", given.disk_mib, (least.disk_mib, 0, most.disk_mib)),
    };
    invalid.finish()?;
    let id = valid(id);
    call.commit(Command::CreateFlavor(CreateFlavor { id, name: valid(name), resources })).await?;
    call.created(&view::flavor(call.made(call.state.flavors.get(&id))?))
}

/// Delete a size. VMs keep the size that they were made with.
#[utoipa::path(delete, path = "/v1/flavors/{flavor}", tag = "flavors", params(("flavor", description = "id or name")),
    responses(
        (status = 204),
        (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn delete(mut call: Call, Path(flavor): Path<String>) -> Answer {
    call.may(Action::FlavorManage, Scope::City)?;
    if let Some(answer) = call.repeated() {
        return answer.and_then(|()| call.no_content());
    }
    let found = call.state.find_flavor(&flavor).ok_or_else(|| Problem::not_found("flavor", &flavor))?;
    let id = found.id;
    call.commit(Command::DeleteFlavor(DeleteFlavor { id })).await?;
    call.no_content()
}
