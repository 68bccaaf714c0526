//! The server: routes under `/v1`, `/metrics`, `/healthz`, `/errors/{code}`.
//!
//! ```text
//! frame      request id, limits, timeout, metrics, problem+json for whatever goes wrong   frame.rs
//!   call     who asks (token or local socket), which state they see, idempotency          call.rs
//!     route  validates everything at once, authorises, fills in ids, times, hashes        routes/
//!       └──▶ Cluster::propose ─▶ wait until applied here ─▶ view of the result            view/
//! ```
//!
//! # Guarantees
//! - It decides nothing: whether a command holds is said by `state::apply`, once, on every node.
//! - An answer to a write is read from a state that has it.
//! - Every error is `application/problem+json`, whoever made it.
//! - Every queue and every body is bounded ([`Options`]).
//!
//! # Caveats
//! - Rules are checked against the state that the request sees; a role taken away while a request is under
//!   way may still be used by it.

#![allow(clippy::result_large_err, reason = "a problem is the rare path, and becomes an answer at once")]

mod authorize;
mod body;
mod call;
mod errors;
mod frame;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzz;
mod invalid;
pub mod listen;
mod meter;
mod openapi;
mod page;
pub mod password;
mod problem;
mod proven;
mod resolve;
mod routes;
pub(crate) mod seen;
mod throttle;
pub(crate) mod token;
mod told;
mod view;

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    extract::DefaultBodyLimit,
    http::{HeaderValue, header},
    middleware,
    response::IntoResponse,
    routing::get,
};
use tokio::sync::Semaphore;

pub use self::{
    authorize::{Action, Denial, Identity, Scope, authorize},
    errors::release_node,
    password::PasswordCost,
    problem::Code,
    token::{Claims, TOKEN_CHARACTERS},
};
pub(crate) use self::{call::derived, routes::keypair::public_key};
use self::{meter::Meter, password::Passwords, proven::Proven, throttle::Throttle, told::Told};
use crate::{
    cluster::Cluster,
    v1::{BODY_BYTES_MAX, Problem},
};

/// Bounds of one node's API.
#[derive(Debug, Clone)]
pub struct Options {
    pub password_cost: PasswordCost,
    /// Requests at once; beyond it they are turned away with 503. Each holds at most a body.
    pub requests_max: usize,
    /// Event streams at once.
    pub watches_max: usize,
    /// Uploads at once: each writes to disk as fast as it can.
    pub uploads_max: usize,
    /// Consoles at once.
    pub consoles_max: usize,
    /// Any request but uploads and streams is answered by then.
    pub request_timeout: Duration,
    /// An upload or console may be silent for this long.
    pub idle_timeout: Duration,
    /// Serve `/metrics` to anybody: for a scraper within the operators' own network.
    pub open_metrics: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            password_cost: PasswordCost::default(),
            requests_max: 1024,
            watches_max: 4096,
            uploads_max: 8,
            consoles_max: 256,
            request_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(60),
            open_metrics: false,
        }
    }
}

/// One node's API: a router for the network and one for the local socket, over the same bounds.
#[derive(Clone)]
pub struct Api {
    shared: Arc<Shared>,
}

pub(crate) struct Shared {
    pub(crate) cluster: Arc<dyn Cluster>,
    pub(crate) options: Options,
    pub(crate) passwords: Passwords,
    pub(crate) proven: Proven,
    pub(crate) throttle: Throttle,
    pub(crate) told: Told,
    pub(crate) meter: Meter,
    pub(crate) requests: Arc<Semaphore>,
    pub(crate) watches: Arc<Semaphore>,
    pub(crate) uploads: Arc<Semaphore>,
    pub(crate) consoles: Arc<Semaphore>,
}

/// Through which door a request came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Door {
    Network,
    /// The unix socket, which only root can open.
    Local,
}

/// What every route works with.
#[derive(Clone)]
pub(crate) struct Server {
    pub(crate) shared: Arc<Shared>,
    pub(crate) door: Door,
}

impl Api {
    pub fn new(cluster: Arc<dyn Cluster>, options: Options) -> Self {
        let places = |count| Arc::new(Semaphore::new(count));
        let shared = Shared {
            cluster,
            passwords: Passwords::new(options.password_cost),
            proven: Proven::default(),
            throttle: Throttle::default(),
            told: Told::default(),
            meter: Meter::new(),
            requests: places(options.requests_max),
            watches: places(options.watches_max),
            uploads: places(options.uploads_max),
            consoles: places(options.consoles_max),
            options,
        };
        Self { shared: Arc::new(shared) }
    }

    /// For the HTTPS listener. The peer's address is expected as `ConnectInfo<SocketAddr>` in the
    /// request's extensions, as [`listen::serve_tls`] puts it there.
    pub fn router(&self) -> Router {
        self.routes(Door::Network)
    }

    /// For the local socket: whoever can open it is the city's administrator.
    pub fn router_local(&self) -> Router {
        self.routes(Door::Local)
    }

    fn routes(&self, door: Door) -> Router {
        let server = Server { shared: self.shared.clone(), door };
        let (router, document) = routes::all().split_for_parts();
        let document: Arc<str> = openapi::finish(document).into();
        router
            .route("/v1/openapi.json", get(move || openapi::serve(document.clone())))
            .route("/healthz", get(async || "ok\n"))
            .route("/metrics", get(routes::metrics::show))
            .route("/errors/{code}", get(routes::access::explain_code))
            .fallback(async |uri: axum::http::Uri| {
                Problem::new(Code::RouteUnknown, format!("there is no route {}", problem::shown(uri.path())))
                    .remedy("The routes: GET /v1/openapi.json")
            })
            .method_not_allowed_fallback(async |method: axum::http::Method, uri: axum::http::Uri| {
                let path = problem::shown(uri.path());
                Problem::new(Code::MethodNotAllowed, format!("{path} does not know {method}"))
                    .remedy("The routes: GET /v1/openapi.json")
            })
            .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
            .layer(middleware::from_fn_with_state(server.clone(), frame::frame))
            .with_state(server)
    }
}

/// The API of a node, for its HTTPS listener.
pub fn router(cluster: Arc<dyn Cluster>, options: Options) -> Router {
    Api::new(cluster, options).router()
}

/// The API of a node, for its local socket.
pub fn router_local(cluster: Arc<dyn Cluster>, options: Options) -> Router {
    Api::new(cluster, options).router_local()
}

/// JSON text that is there already.
pub(crate) fn json_text(text: String) -> axum::response::Response {
    ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], text).into_response()
}
