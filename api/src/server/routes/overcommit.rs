//! How much more than it has the city promises to VMs.

use scp_model::{Command, command::SetOvercommit, units};

use crate::{
    server::{
        authorize::{Action, Scope},
        body::Body,
        call::{Answer, Call},
        invalid::Invalid,
        view,
    },
    v1::{self, Problem},
};

/// How much more than it has the city promises to VMs.
#[utoipa::path(get, path = "/v1/overcommit", tag = "city",
    responses(
        (status = 200, body = v1::Overcommit),
        (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn show_overcommit(call: Call) -> Answer {
    call.may(Action::NodeRead, Scope::City)?;
    call.ok(&view::overcommit(call.state.overcommit))
}

/// Set all three ratios. What is placed stays, also where a node has then promised more than it offers:
/// it takes no further VMs until there is room again.
#[utoipa::path(put, path = "/v1/overcommit", tag = "city", request_body = v1::Overcommit,
    responses(
        (status = 200, body = v1::Overcommit),
        (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn set_overcommit(mut call: Call, Body(body): Body<v1::Overcommit>) -> Answer {
    call.may(Action::OvercommitManage, Scope::City)?;
    let v1::Overcommit { vcpus_percent, memory_percent, disk_percent } = body;
    let overcommit = units::Overcommit { vcpus_percent, memory_percent, disk_percent };
    let range = units::Overcommit::PERCENT_RANGE;
    let mut invalid = Invalid::default();
    for (field, percent) in
        [("vcpus_percent", vcpus_percent), ("memory_percent", memory_percent), ("disk_percent", disk_percent)]
    {
        let why = format!("must be between {} and {}", range.start(), range.end());
        invalid.check(range.contains(&percent), field, why);
    }
    invalid.finish()?;
    call.commit(Command::SetOvercommit(SetOvercommit { overcommit })).await?;
    call.ok(&view::overcommit(call.state.overcommit))
}
