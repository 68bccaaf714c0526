//! The city in one answer. It is given without a quorum, too: that is when it is needed most.

use axum::extract::State;
use axum::http::request::Parts;

use crate::{
    server::{
        Server,
        authorize::{Action, Scope},
        call::{Answer, Call},
        view::{self, Quorum, Seen},
    },
    v1::{self, AGE_MS, CONSISTENCY, Problem},
};

/// The city in one answer.
#[utoipa::path(get, path = "/v1/status", tag = "city",
    responses(
        (status = 200, body = v1::Status),
        (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn show(State(server): State<Server>, mut parts: Parts) -> Answer {
    use axum::extract::FromRequestParts;
    let (call, quorum) = match Call::from_request_parts(&mut parts, &server).await {
        Err(problem) if problem.status == 503 => {
            parts.headers.insert(CONSISTENCY, "stale".parse().expect("it is a header value"));
            parts.uri = axum::http::Uri::from_static("/v1/status");
            (Call::from_request_parts(&mut parts, &server).await?, Quorum::Missed)
        }
        other => (other?, Quorum::Reached),
    };
    call.may(Action::StatusRead, Scope::City)?;
    let cluster = call.cluster();
    let agreement = cluster.agreement();
    let quorum = if agreement.leader.is_none() { Quorum::Missed } else { quorum };
    let nodes_shown = call.allowed(Action::NodeRead, Scope::City);
    let seen = Seen { by: cluster.node(), at: cluster.now(), nodes_shown };
    let mut status = view::status(&call.state, &agreement, quorum, seen);
    if !nodes_shown {
        status.nodes.clear();
        status.warnings.clear();
        status.vms = v1::VmCounts::default();
        status.offered = v1::Resources::default();
        status.allocated = v1::Resources::default();
        status.overcommit = None;
    }
    let answer = call.ok(&status)?;
    debug_assert!(answer.headers().contains_key(AGE_MS), "an answer says how old it is");
    Ok(answer)
}
