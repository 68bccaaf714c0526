//! Logging in, and who one is.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use axum::extract::FromRequest;
use axum::{
    extract::{ConnectInfo, Path, Request, State},
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};

use crate::{
    cluster::{ClusterError, Consistency, Snapshot},
    server::{
        Code, Server,
        authorize::Identity,
        body::Body,
        call::{Answer, Call},
        invalid::Invalid,
        json_text, token, view,
    },
    v1::{self, Problem, TOKEN_LIFETIME_S_DEFAULT, TOKEN_LIFETIME_S_MAX},
};

/// Log in: a user's name and password for an access token.
#[utoipa::path(post, path = "/v1/tokens", tag = "access", security(()),
    request_body = v1::TokenRequest,
    responses(
        (status = 201, body = v1::Token),
        (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn login(State(server): State<Server>, request: Request) -> Answer {
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>();
    let address = peer.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.0.ip());
    let Body(body) = Body::<v1::TokenRequest>::from_request(request, &server).await?;
    let mut invalid = Invalid::default();
    let range = (1, TOKEN_LIFETIME_S_DEFAULT, TOKEN_LIFETIME_S_MAX);
    let lifetime_s = invalid.number("lifetime_s", body.lifetime_s, range);
    invalid.check(body.password.len() <= v1::PASSWORD_BYTES_MAX, "password", "is too long");
    invalid.finish()?;
    let Snapshot { state, .. } = freshest(&server).await?;
    let user = state.find_user(&body.user).filter(|user| user.name.as_str() == body.user);
    check_password(&server, (&body.user, address), user.map(|it| it.password_hash.clone()), body.password)
        .await?;
    let user = user.filter(|user| user.enabled).ok_or_else(login_failed)?;
    let (token, claims) = token::issue(&*server.shared.cluster, (&state, user), lifetime_s);
    let body = v1::Token { token, expires_at: claims.expires_at.into(), user: user.id.to_string() };
    let mut response = json_text(serde_json::to_string(&body).expect("a token is plain data"));
    *response.status_mut() = StatusCode::CREATED;
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// One can log in without a quorum, to see what is wrong.
async fn freshest(server: &Server) -> Result<Snapshot, Problem> {
    let cluster = &server.shared.cluster;
    match cluster.read(Consistency::Linearizable).await {
        Err(ClusterError::NoQuorum { .. }) => Ok(cluster.read(Consistency::Stale).await?),
        other => Ok(other?),
    }
}

/// Throttled, and as slow for a user that does not exist.
pub(crate) async fn check_password(
    server: &Server,
    (name, address): (&str, IpAddr),
    hash: Option<String>,
    password: String,
) -> Result<(), Problem> {
    server.shared.throttle.attempt(name, address).map_err(too_many)?;
    if !server.shared.passwords.verify(hash, password).await? {
        return Err(login_failed());
    }
    server.shared.throttle.succeeded(name, address);
    Ok(())
}

fn login_failed() -> Problem {
    Problem::new(Code::LoginFailed, "there is no such user, or the password is another one")
        .remedy("Check both. An administrator can set a new password: scpctl user password NAME")
}

fn too_many(wait: Duration) -> Problem {
    let seconds = wait.as_secs_f64().ceil();
    Problem::new(
        Code::TooManyLogins,
        format!("too many failed logins as this user from this address: wait {seconds} s"),
    )
    .remedy(format!("Wait {seconds} s."))
}

/// Whom the server takes the asker for.
#[utoipa::path(get, path = "/v1/whoami", tag = "access",
    responses(
        (status = 200, body = v1::Whoami),
        (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn whoami(call: Call) -> Answer {
    let user = match &call.identity {
        Identity::Local(_) => None,
        Identity::User { id, .. } => call.state.users.get(id),
    };
    let Some(user) = user else {
        let city_roles = vec![v1::CityRole::Admin];
        let name = "root on this server".to_owned();
        return call.ok(&v1::Whoami { user: None, name, city_roles, grants: Vec::new(), expires_at: None });
    };
    let (city_roles, grants) = view::grants(user);
    let expires_at = call.token.as_ref().map(|token| token.claims.expires_at.into());
    let (id, name) = (Some(user.id.to_string()), user.name.to_string());
    call.ok(&v1::Whoami { user: id, name, city_roles, grants, expires_at })
}

/// What a problem's `type` points to.
pub(crate) async fn explain_code(Path(code): Path<String>) -> Result<Response, Problem> {
    let known = Code::ALL.iter().find(|known| known.text() == code);
    let known = known.ok_or_else(|| Problem::not_found("error", &code))?;
    Ok(format!("{}\nstatus {}\n{}\n", known.text(), known.status(), known.title()).into_response())
}
