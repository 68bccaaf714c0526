//! The local socket: `/local/*` for this server's root, and `/v1` as the city's administrator.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{Request, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use data_encoding::BASE32_NOPAD;
use scp_api::{
    local::{LocalInit, LocalInitialised, LocalJoin, LocalJoined, LocalStatus},
    server::{PasswordCost, password, release_node},
    v1::{self, PROBLEM_JSON, Problem},
};
use scp_mesh::JoinToken;
use scp_model::{Actor, Command, Country, JoinTokenId, Name, Rejection, command::CreateJoinToken};
use tower::ServiceExt;
use uuid::Uuid;

use crate::{
    config::Names,
    daemon::{Daemon, LifeError, NewCity},
    member::Member,
    server::SOFTWARE,
};

/// How long the token that `init` prints is good for.
const FIRST_TOKEN_VALIDITY_MS: u64 = 24 * 3600 * 1000;
/// The largest body of `/local`.
const BODY_BYTES_MAX: usize = 64 << 10;

/// The local socket's routes.
pub fn router(daemon: Arc<Daemon>) -> Router {
    Router::new()
        .route("/local/status", get(status))
        .route("/local/init", post(init))
        .route("/local/join", post(join))
        .route("/local/leave", post(leave))
        .layer(axum::extract::DefaultBodyLimit::max(BODY_BYTES_MAX))
        .fallback(member_api)
        .with_state(daemon)
}

/// Everything else is the city's API, when there is a city.
async fn member_api(State(daemon): State<Arc<Daemon>>, request: Request) -> Response {
    match daemon.member() {
        Some(member) => match member.local.clone().oneshot(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        },
        None => Failure::from(LifeError::NoMember).into_response(),
    }
}

async fn status(State(daemon): State<Arc<Daemon>>) -> Result<Json<LocalStatus>, Failure> {
    let node = daemon.node().map_err(LifeError::from)?;
    let member = daemon.member();
    let state = member.as_ref().map(|member| member.proposer.published.state());
    let city = state.as_ref().and_then(|state| state.city.as_ref()).map(|city| city.name.to_string());
    let named =
        state.as_ref().and_then(|state| state.nodes.get(&node)).map(|node| node.profile.name.to_string());
    Ok(Json(LocalStatus {
        city,
        node: node.to_string(),
        node_name: named,
        software: SOFTWARE.into(),
        api_address: daemon.config.api_address.to_string(),
    }))
}

async fn init(
    State(daemon): State<Arc<Daemon>>,
    Json(asked): Json<LocalInit>,
) -> Result<Json<LocalInitialised>, Failure> {
    let city: Name = valid("city", asked.city.parse())?;
    let country: Country = valid("country", asked.country.parse())?;
    let names = names(asked.node_name, asked.zone)?;
    if let Some(password) = &asked.admin_password {
        v1::password_is_acceptable(password)
            .map_err(|why| LifeError::Invalid { field: "admin_password", why })?;
    }
    let made = if asked.admin_password.is_none() { Some(make_password()) } else { None };
    let password = asked.admin_password.or_else(|| made.clone()).unwrap_or_default();
    let hash = password::hash(PasswordCost::default(), &password)
        .map_err(|why| LifeError::Invalid { field: "admin_password", why })?;
    let member = daemon.init(NewCity { name: city, country, password_hash: hash }, names).await?;
    let join_token = first_token(&member).await?;
    let state = member.proposer.published.state();
    let node = member.proposer.me();
    Ok(Json(LocalInitialised {
        city: state.city.as_ref().map(|city| city.name.to_string()).unwrap_or_default(),
        node: node.to_string(),
        node_name: state.nodes.get(&node).map(|node| node.profile.name.to_string()).unwrap_or_default(),
        admin_user: "admin".into(),
        admin_password: made,
        ca_certificate: state.city.as_ref().map(|city| city.ca_certificate.clone()).unwrap_or_default(),
        api_address: daemon.config.api_address.to_string(),
        join_token,
        join_address: daemon.config.mesh_address.to_string(),
    }))
}

async fn first_token(member: &Member) -> Result<String, LifeError> {
    let authority = scp_model::Digest(member.door.join_hint().ca_fingerprint);
    let token = JoinToken::generate(JoinTokenId(Uuid::new_v4()), authority)
        .ok_or_else(|| anyhow::anyhow!("the system gives no randomness"))?;
    let command = Command::CreateJoinToken(CreateJoinToken {
        id: token.id,
        secret_digest: token.secret_digest(),
        expires_at: member.proposer.clock.now().plus_ms(FIRST_TOKEN_VALIDITY_MS),
    });
    let answer = member.proposer.command(Actor::Local(member.proposer.me()), command).await;
    let answer = answer.map_err(anyhow::Error::from)?;
    answer.result.map_err(anyhow::Error::from)?;
    Ok(token.to_string())
}

async fn join(
    State(daemon): State<Arc<Daemon>>,
    Json(asked): Json<LocalJoin>,
) -> Result<Json<LocalJoined>, Failure> {
    let address = valid("address", asked.address.parse())?;
    let token: JoinToken =
        asked.token.parse().map_err(|error| LifeError::Join(scp_mesh::JoinError::Token(error)))?;
    let names = names(asked.node_name, asked.zone)?;
    let (member, joined) = daemon.join(address, token, names).await?;
    let node = member.proposer.me();
    let state = member.proposer.published.state();
    Ok(Json(LocalJoined {
        city: joined.reply.city_name.to_string(),
        node: node.to_string(),
        node_name: state.nodes.get(&node).map(|node| node.profile.name.to_string()).unwrap_or_default(),
        ca_certificate: joined.reply.authority,
        api_address: daemon.config.api_address.to_string(),
        warnings: joined.warnings,
    }))
}

async fn leave(State(daemon): State<Arc<Daemon>>) -> Result<Json<serde_json::Value>, Failure> {
    if let Err(error) = daemon.leave().await {
        let held = daemon.member().and_then(|member| {
            let (state, node) = (member.proposer.published.state(), member.proposer.me());
            let name = state.nodes.get(&node)?.profile.name.to_string();
            Some(release_node(&name, state.hold(node)?))
        });
        return Err(Failure { error, held });
    }
    Ok(Json(serde_json::json!({})))
}

fn names(name: Option<String>, zone: Option<String>) -> Result<Names, LifeError> {
    let name = name.map(|name| valid("node_name", name.parse())).transpose()?;
    let zone = zone.map(|zone| valid("zone", zone.parse())).transpose()?;
    Ok(Names { name, zone, country: None })
}

fn valid<T, E: std::fmt::Display>(field: &'static str, parsed: Result<T, E>) -> Result<T, LifeError> {
    parsed.map_err(|error| LifeError::Invalid { field, why: error.to_string() })
}

/// 130 bits, in letters and digits that are hard to confuse.
fn make_password() -> String {
    let bytes: [u8; 16] = rand::random();
    BASE32_NOPAD.encode(&bytes).to_lowercase()
}

/// A problem of the local socket.
struct Failure {
    error: LifeError,
    /// How this server is freed of what keeps it in its city.
    held: Option<String>,
}

impl From<LifeError> for Failure {
    fn from(error: LifeError) -> Self {
        Self { error, held: None }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let (status, code, remedy) = match &self.error {
            LifeError::AlreadyMember { .. } => {
                (StatusCode::CONFLICT, "already_member", "To move it to another city: scpctl leave".into())
            }
            LifeError::NoMember => (
                StatusCode::CONFLICT,
                "no_city",
                "Found a city with scpctl init --city NAME --country CC, or join one with scpctl join ADDRESS \
                 TOKEN"
                    .into(),
            ),
            LifeError::Invalid { .. } => (StatusCode::BAD_REQUEST, "invalid", "Correct it and repeat".into()),
            LifeError::Join(error) => (StatusCode::UNPROCESSABLE_ENTITY, error.code(), error.remedy()),
            LifeError::Leave(Rejection::Forbidden { .. }) => (
                StatusCode::CONFLICT,
                "cannot_leave",
                "To end the city: stop scpd, then delete its data directory. Nothing of the city is left then"
                    .into(),
            ),
            LifeError::Leave(Rejection::WrongState { .. }) => (
                StatusCode::CONFLICT,
                "cannot_leave",
                "Bring back the nodes that are down, or, if they never will be, remove them first: scpctl \
                 node remove NAME --force. Then repeat scpctl leave"
                    .into(),
            ),
            LifeError::Leave(_) => (
                StatusCode::CONFLICT,
                "cannot_leave",
                self.held.clone().unwrap_or_else(|| "See how the city is with scpctl status, then repeat".into()),
            ),
            LifeError::Failed(_) => {
                (StatusCode::INTERNAL_SERVER_ERROR, "failed", "See the log of scpd, then repeat".into())
            }
        };
        let problem = Problem {
            type_uri: format!("/errors/{code}"),
            title: status.canonical_reason().unwrap_or_default().into(),
            status: status.as_u16(),
            detail: self.error.to_string(),
            code: code.into(),
            reason: None,
            remedy: Some(remedy),
            request_id: String::new(),
            invalid: Vec::new(),
        };
        (status, [(header::CONTENT_TYPE, PROBLEM_JSON)], Json(problem)).into_response()
    }
}
