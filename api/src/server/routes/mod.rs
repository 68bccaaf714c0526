//! The routes, one file a resource. Each annotation makes both the route and its place in the OpenAPI
//! document.

pub(crate) mod access;
mod console;
mod event;
mod flavor;
mod image;
pub(crate) mod keypair;
pub(crate) mod metrics;
mod node;
mod overcommit;
mod project;
mod status;
mod user;
mod vm;

use utoipa_axum::{router::OpenApiRouter, routes};

use super::Server;

pub(crate) fn all() -> OpenApiRouter<Server> {
    OpenApiRouter::new().merge(city()).merge(tenancy()).merge(compute())
}

fn city() -> OpenApiRouter<Server> {
    OpenApiRouter::new()
        .routes(routes!(access::login))
        .routes(routes!(access::whoami))
        .routes(routes!(status::show))
        .routes(routes!(overcommit::show_overcommit, overcommit::set_overcommit))
        .routes(routes!(event::list))
        .routes(routes!(event::watch))
        .routes(routes!(node::list))
        .routes(routes!(node::show, node::remove))
        .routes(routes!(node::cordon))
        .routes(routes!(node::uncordon))
        .routes(routes!(node::drain))
        .routes(routes!(node::list_join_tokens, node::create_join_token))
        .routes(routes!(node::revoke_join_token))
}

fn tenancy() -> OpenApiRouter<Server> {
    OpenApiRouter::new()
        .routes(routes!(project::list_departments, project::create_department))
        .routes(routes!(project::show_department, project::delete_department))
        .routes(routes!(project::list, project::create))
        .routes(routes!(project::show, project::delete))
        .routes(routes!(project::show_quota, project::set_quota))
        .routes(routes!(user::list, user::create))
        .routes(routes!(user::show, user::update, user::delete))
        .routes(routes!(user::set_password))
        .routes(routes!(user::set_grant, user::remove_grant))
}

fn compute() -> OpenApiRouter<Server> {
    OpenApiRouter::new()
        .routes(routes!(keypair::list, keypair::create))
        .routes(routes!(keypair::show, keypair::delete))
        .routes(routes!(flavor::list, flavor::create))
        .routes(routes!(flavor::show, flavor::delete))
        .routes(routes!(image::list))
        .routes(routes!(image::show, image::upload, image::delete))
        .routes(routes!(vm::list, vm::create))
        .routes(routes!(vm::show, vm::delete))
        .routes(routes!(vm::start))
        .routes(routes!(vm::stop))
        .routes(routes!(vm::reboot))
        .routes(routes!(vm::explain))
        .routes(routes!(vm::stats))
        .routes(routes!(console::open))
        .routes(routes!(console::log))
}
