//! Nodes and join tokens.

use axum::extract::Path;
use scp_model::{
    Command, Digest, JoinTokenId, NodeId,
    command::{CreateJoinToken, DrainNode, RemoveNode, RevokeJoinToken, SetNodeSchedulable},
};
use sha2::Digest as _;

use crate::{
    server::{
        Code,
        authorize::{Action, Scope},
        body::{Body, Params},
        call::{Answer, Call},
        errors::release_node,
        invalid::{Invalid, valid},
        page::{ByProject, Filter, NoPhase},
        view,
    },
    v1::{self, JOIN_TOKEN_LIFETIME_S_DEFAULT, JOIN_TOKEN_LIFETIME_S_MAX, Problem},
};

fn find(call: &Call, text: &str) -> Result<NodeId, Problem> {
    call.may(Action::NodeRead, Scope::City)?;
    call.state.find_node(text).map(|node| node.id).ok_or_else(|| Problem::not_found("node", text))
}

fn shown(call: &Call, node: NodeId) -> Answer {
    let node = call.made(call.state.nodes.get(&node))?;
    call.ok(&view::node(&call.state, &call.cluster().agreement(), node))
}

/// The servers of the city.
#[utoipa::path(get, path = "/v1/nodes", tag = "nodes", params(v1::ListQuery),
    responses(
        (status = 200, body = v1::List<v1::Node>),
        (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn list(call: Call, Params(query): Params<v1::ListQuery>) -> Answer {
    call.may(Action::NodeRead, Scope::City)?;
    let filter: Filter<NodeId, v1::NodePhase> = Filter::new(&call, &query, ByProject::No)?;
    let agreement = call.cluster().agreement();
    let keep = |node: &scp_model::node::Node| {
        filter.keeps(&node.profile.name, None)
            && filter.phase.is_none_or(|wanted| wanted == view::node_phase(node))
    };
    call.ok(&filter.page(&call.state.nodes, keep, |node| view::node(&call.state, &agreement, node)))
}

/// One server.
#[utoipa::path(get, path = "/v1/nodes/{node}", tag = "nodes", params(("node", description = "id or name")),
    responses(
        (status = 200, body = v1::Node),
        (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn show(call: Call, Path(node): Path<String>) -> Answer {
    let node = find(&call, &node)?;
    shown(&call, node)
}

/// No new placements go there.
#[utoipa::path(post, path = "/v1/nodes/{node}/cordon", tag = "nodes", params(("node", description = "id or name")),
    responses(
        (status = 200, body = v1::Node),
        (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn cordon(call: Call, Path(node): Path<String>) -> Answer {
    set_schedulable(call, &node, Schedulable::No).await
}

/// New placements may go there again; ends a drain.
#[utoipa::path(post, path = "/v1/nodes/{node}/uncordon", tag = "nodes", params(("node", description = "id or name")),
    responses(
        (status = 200, body = v1::Node),
        (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn uncordon(call: Call, Path(node): Path<String>) -> Answer {
    set_schedulable(call, &node, Schedulable::Yes).await
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Schedulable {
    Yes,
    No,
}

async fn set_schedulable(mut call: Call, node: &str, schedulable: Schedulable) -> Answer {
    let node = find(&call, node)?;
    call.may(Action::NodeManage, Scope::City)?;
    let schedulable = schedulable == Schedulable::Yes;
    call.commit(Command::SetNodeSchedulable(SetNodeSchedulable { node, schedulable })).await?;
    shown(&call, node)
}

/// Move its VMs away, and place no new ones there.
#[utoipa::path(post, path = "/v1/nodes/{node}/drain", tag = "nodes", params(("node", description = "id or name")),
    responses(
        (status = 200, body = v1::Node),
        (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn drain(mut call: Call, Path(node): Path<String>) -> Answer {
    let node = find(&call, &node)?;
    call.may(Action::NodeManage, Scope::City)?;
    call.commit(Command::DrainNode(DrainNode { node })).await?;
    shown(&call, node)
}

/// End its membership; with force, of one that is down and will not come back.
#[utoipa::path(delete, path = "/v1/nodes/{node}", tag = "nodes",
    params(("node", description = "id or name"), v1::NodeRemoveQuery),
    responses(
        (status = 204),
        (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn remove(
    mut call: Call,
    Path(node): Path<String>,
    Params(query): Params<v1::NodeRemoveQuery>,
) -> Answer {
    call.may(Action::NodeManage, Scope::City)?;
    if let Some(answer) = call.repeated() {
        return answer.and_then(|()| call.no_content());
    }
    let node = find(&call, &node)?;
    let name = view::node_reference(&call.state, node).name;
    let removed = call.commit(Command::RemoveNode(RemoveNode { node, force: query.force })).await;
    removed.map_err(|problem| match (problem.code == Code::InUse.text(), call.state.hold(node)) {
        (true, Some(hold)) => problem.remedy(release_node(&name, hold)),
        (true, None) | (false, _) => problem,
    })?;
    call.no_content()
}

/// Join tokens that were made and not revoked.
#[utoipa::path(get, path = "/v1/join-tokens", tag = "nodes", params(v1::ListQuery),
    responses(
        (status = 200, body = v1::List<v1::JoinToken>),
        (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn list_join_tokens(call: Call, Params(query): Params<v1::ListQuery>) -> Answer {
    call.may(Action::JoinTokenManage, Scope::City)?;
    if query.name.is_some() {
        return Err(Problem::invalid_field("name", "does not apply here"));
    }
    let filter: Filter<JoinTokenId, NoPhase> = Filter::new(&call, &query, ByProject::No)?;
    call.ok(&filter.page(&call.state.join_tokens, |_| true, view::join_token))
}

/// A token with which one server may join, once. Its secret is told in this answer only.
#[utoipa::path(post, path = "/v1/join-tokens", tag = "nodes", request_body = v1::JoinTokenCreate,
    responses(
        (status = 201, body = v1::JoinTokenCreated),
        (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn create_join_token(mut call: Call, Body(body): Body<v1::JoinTokenCreate>) -> Answer {
    call.may(Action::JoinTokenManage, Scope::City)?;
    let mut invalid = Invalid::default();
    let id = invalid.id(body.id.as_deref(), JoinTokenId(call.made_id()));
    let range = (60, JOIN_TOKEN_LIFETIME_S_DEFAULT, JOIN_TOKEN_LIFETIME_S_MAX);
    let lifetime_s = invalid.number("lifetime_s", body.lifetime_s, range);
    invalid.finish()?;
    let id = valid(id);
    let secret: [u8; 16] = rand::random();
    let secret_digest = Digest(sha2::Sha256::digest(secret).into());
    let expires_at = call.cluster().now().max(call.state.time).plus_ms(lifetime_s * 1000);
    let command = CreateJoinToken { id, secret_digest, expires_at };
    call.commit(Command::CreateJoinToken(command)).await?;
    let token = call.made(call.state.join_tokens.get(&id))?;
    if token.secret_digest != secret_digest {
        return Err(Problem::new(
            Code::SecretTold,
            format!("join token {id} exists, and its secret was told before"),
        )
        .reason("the secret is kept nowhere, so it cannot be told again")
        .remedy(format!("Revoke it (scpctl token delete {id}) and make another.")));
    }
    let hint = call.cluster().join_hint();
    call.created(&v1::JoinTokenCreated {
        id: id.to_string(),
        token: call.cluster().join_token_text(id, &secret),
        join_address: hint.mesh_address.to_string(),
        expires_at: token.expires_at.into(),
    })
}

/// Take a join token back.
#[utoipa::path(delete, path = "/v1/join-tokens/{token}", tag = "nodes", params(("token", description = "id")),
    responses(
        (status = 204),
        (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn revoke_join_token(mut call: Call, Path(token): Path<String>) -> Answer {
    call.may(Action::JoinTokenManage, Scope::City)?;
    if let Some(answer) = call.repeated() {
        return answer.and_then(|()| call.no_content());
    }
    let id: JoinTokenId = token.parse().map_err(|_| Problem::not_found("join_token", &token))?;
    call.commit(Command::RevokeJoinToken(RevokeJoinToken { id })).await?;
    call.no_content()
}
