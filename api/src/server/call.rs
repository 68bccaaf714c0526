//! One authenticated request: who asks, what they see, and how their change is committed.

use std::{sync::Arc, time::Duration};

use axum::{
    extract::FromRequestParts,
    http::{HeaderMap, HeaderValue, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use scp_model::{Command, Proposal, RequestId};
use scp_state::State;
use serde::Serialize;
use sha2::{Digest, Sha256};
use tokio::time::timeout;
use uuid::Uuid;

use super::{
    Door, Server,
    authorize::{Action, Identity, Scope, authorize},
    errors::internal,
    problem::{Code, shown},
    token::{self, Unverified},
};
use crate::{
    cluster::{Cluster, Consistency, Snapshot},
    v1::{self, Problem},
};

/// A node that has not applied what was committed after this long reads through the leader instead.
const CATCH_UP_MAX: Duration = Duration::from_secs(2);

pub(crate) type Answer = Result<Response, Problem>;

pub(crate) struct Call {
    pub(crate) server: Server,
    pub(crate) state: Arc<State>,
    age_ms: u64,
    pub(crate) identity: Identity,
    /// The token, when it was one.
    pub(crate) token: Option<Unverified>,
    request: RequestId,
}

impl FromRequestParts<Server> for Call {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, server: &Server) -> Result<Self, Problem> {
        let token = match server.door {
            Door::Local => None,
            Door::Network => Some(bearer(&parts.headers)?),
        };
        let key = idempotency_key(&parts.headers)?;
        let cluster = &server.shared.cluster;
        let Snapshot { state, age_ms } = cluster.read(consistency(parts)?).await?;
        let identity = identify(&token, &state, server, Check::Signature)?;
        let request = RequestId(scoped_key(key, &identity, parts));
        Ok(Self { server: server.clone(), state, age_ms, identity, token, request })
    }
}

/// How thoroughly a token is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Check {
    Signature,
    /// It was verified when the stream began; is it still good?
    Again,
}

pub(crate) fn identify(
    token: &Option<Unverified>,
    state: &State,
    server: &Server,
    check: Check,
) -> Result<Identity, Problem> {
    let cluster = &server.shared.cluster;
    let Some(token) = token else {
        return Ok(Identity::Local(cluster.node()));
    };
    let user = match check {
        Check::Signature => token.verify_once(&server.shared.proven, state, cluster.now())?,
        Check::Again => token.check(state, cluster.now())?,
    };
    Ok(Identity::User { id: user.id, city_roles: user.city_roles.clone(), grants: user.grants.clone() })
}

fn bearer(headers: &HeaderMap) -> Result<Unverified, Problem> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return Err(Problem::new(Code::Unauthenticated, "one Authorization header is needed")
            .remedy("Log in (scpctl login, or POST /v1/tokens) and send Authorization: Bearer TOKEN"));
    };
    let text = value.to_str().unwrap_or_default();
    let (scheme, token) = text.split_once(' ').unwrap_or_default();
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(Problem::new(Code::Unauthenticated, "the Authorization header is not a bearer token's")
            .remedy("Send Authorization: Bearer TOKEN"));
    }
    Ok(token::parse(token)?)
}

fn idempotency_key(headers: &HeaderMap) -> Result<Uuid, Problem> {
    match headers.get(v1::IDEMPOTENCY_KEY) {
        None => Ok(Uuid::now_v7()),
        Some(value) => value
            .to_str()
            .ok()
            .and_then(|text| Uuid::try_parse(text).ok())
            .ok_or_else(|| Problem::invalid_field("Idempotency-Key", "is not a UUID")),
    }
}

/// By header or query; the query goes first, being the more visible.
pub(crate) fn consistency(parts: &Parts) -> Result<Consistency, Problem> {
    let query = parts.uri.query().unwrap_or_default();
    let asked = query.split('&').find_map(|pair| pair.strip_prefix("consistency="));
    let asked =
        asked.or_else(|| parts.headers.get(v1::CONSISTENCY).map(|value| value.to_str().unwrap_or("?")));
    match asked {
        None | Some("linearizable") => Ok(Consistency::Linearizable),
        Some("stale") => Ok(Consistency::Stale),
        Some(other) => Err(Problem::invalid_field(
            "consistency",
            format!("{} is neither linearizable nor stale", shown(other)),
        )),
    }
}

/// A key counts for its user and route only: nobody is answered by another's request, nor by another
/// kind of their own.
fn scoped_key(key: Uuid, identity: &Identity, parts: &Parts) -> Uuid {
    let who = match identity {
        Identity::Local(_) => Uuid::nil(),
        Identity::User { id, .. } => id.0,
    };
    let route = format!("{} {}", parts.method, parts.uri.path());
    derived(key, &[b"request", who.as_bytes(), route.as_bytes()])
}

/// Bytes in which a UUID of version 7 has its time.
const ORDER_BYTES: usize = 6;

/// A UUID that follows from another and the parts, and only from them. It stands in the same order: ids of
/// version 7 are in order of their making, and so are those derived from them. The state's tables are
/// ordered, and what is made together is then kept together, which costs a fraction of what scattered ids do.
pub(crate) fn derived(from: Uuid, parts: &[&[u8]]) -> Uuid {
    let mut hash = Sha256::new();
    hash.update(from.as_bytes());
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    let hash: [u8; 32] = hash.finalize().into();
    let mut bytes: [u8; 16] = *hash.first_chunk().expect("SHA-256 has 32 bytes");
    bytes[..ORDER_BYTES].copy_from_slice(&from.as_bytes()[..ORDER_BYTES]);
    uuid::Builder::from_custom_bytes(bytes).into_uuid()
}

impl Call {
    pub(crate) fn cluster(&self) -> &dyn Cluster {
        &*self.server.shared.cluster
    }

    pub(crate) fn allowed(&self, action: Action, scope: Scope) -> bool {
        authorize(&self.identity, action, scope).is_ok()
    }

    pub(crate) fn may(&self, action: Action, scope: Scope) -> Result<(), Problem> {
        authorize(&self.identity, action, scope).map_err(|denial| {
            Problem::new(Code::Forbidden, format!("you may not do this: {denial}"))
                .reason(format!("{action:?}"))
                .remedy(format!("Ask an administrator for {}.", denial.needs))
        })
    }

    /// An id for what the client gave none: a repeat with the same key gets the same.
    pub(crate) fn made_id(&self) -> Uuid {
        derived(self.request.0, &[b"id"])
    }

    /// The answer to this request, when it was carried out before. Asked first by what takes away the
    /// ground it stands on: a repeated deletion finds nothing to delete.
    pub(crate) fn repeated(&self) -> Option<Result<(), Problem>> {
        let answer = self.state.requests.answers.get(&self.request)?;
        Some(answer.result.clone().map_err(Problem::from))
    }

    /// Has it committed, and goes on with a state that has it applied.
    pub(crate) async fn commit(&mut self, command: Command) -> Result<(), Problem> {
        let cluster = self.server.shared.cluster.clone();
        let proposal =
            Proposal { request: self.request, actor: self.identity.actor(), time: cluster.now(), command };
        let answer = cluster.propose(proposal).await?;
        answer.result?;
        let mut applied = cluster.applied();
        let here =
            matches!(timeout(CATCH_UP_MAX, applied.wait_for(|at| *at >= answer.index)).await, Ok(Ok(_)));
        let mut snapshot =
            cluster.read(if here { Consistency::Stale } else { Consistency::Linearizable }).await?;
        if snapshot.state.index < answer.index {
            // The index is told a moment before its state is.
            snapshot = cluster.read(Consistency::Linearizable).await?;
        }
        let Snapshot { state, age_ms } = snapshot;
        if state.index < answer.index {
            return Err(internal("a state older than what was applied was read"));
        }
        (self.state, self.age_ms) = (state, age_ms);
        Ok(())
    }

    /// What a committed creation made. Not there: the key was another request's, or it is gone again.
    pub(crate) fn made<T>(&self, value: Option<T>) -> Result<T, Problem> {
        value.ok_or_else(|| {
            Problem::new(
                Code::KeyReused,
                "this request was carried out before, and what this one names is not there",
            )
            .reason("the Idempotency-Key was used with other contents, or what it made is deleted since")
            .remedy("Send a new Idempotency-Key.")
        })
    }

    pub(crate) fn ok(&self, body: &impl Serialize) -> Answer {
        self.answer(StatusCode::OK, body)
    }

    pub(crate) fn created(&self, body: &impl Serialize) -> Answer {
        self.answer(StatusCode::CREATED, body)
    }

    pub(crate) fn no_content(&self) -> Answer {
        Ok(self.stamp(StatusCode::NO_CONTENT.into_response()))
    }

    fn answer(&self, status: StatusCode, body: &impl Serialize) -> Answer {
        let text = serde_json::to_string(body).map_err(|error| internal(&error.to_string()))?;
        let mut response = super::json_text(text);
        *response.status_mut() = status;
        Ok(self.stamp(response))
    }

    /// Says which state the answer is from.
    pub(crate) fn stamp(&self, mut response: Response) -> Response {
        let headers = response.headers_mut();
        headers.insert(v1::APPLIED_INDEX, HeaderValue::from(self.state.index));
        headers.insert(v1::AGE_MS, HeaderValue::from(self.age_ms));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
    }
}
