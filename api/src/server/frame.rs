//! Around every route: request ids, bounds, time limits, metrics, and one shape for all errors.

use std::panic::AssertUnwindSafe;

use axum::{
    body::{Body, to_bytes},
    extract::{MatchedPath, Request, State},
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use futures::FutureExt;
use tokio::{sync::OwnedSemaphorePermit, time::Instant, time::timeout};
use tracing::Instrument;
use uuid::Uuid;

use super::{Server, errors::internal, problem::Code};
use crate::v1::{PROBLEM_JSON, Problem, REQUEST_ID};

/// Names and values of all headers, and the target: a token and a cookie's worth many times over.
const HEADER_BYTES_MAX: usize = 32 << 10;
const URI_BYTES_MAX: usize = 8 << 10;
const REQUEST_ID_BYTES_MAX: usize = 64;
/// Of a foreign error's text, what is passed on.
const FOREIGN_BYTES_MAX: usize = 4 << 10;
/// Route label of what has none.
const NO_ROUTE: &str = "none";

pub(crate) async fn frame(State(server): State<Server>, request: Request, next: Next) -> Response {
    let started = Instant::now();
    let id = request_id(request.headers());
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>().map_or(NO_ROUTE, MatchedPath::as_str).to_owned();
    let span = tracing::info_span!("request", request_id = %id, %method, %route);
    let response = bounded(&server, request, next, (&method, &route)).instrument(span.clone()).await;
    let response = finish(response, &id).await;
    let (status, elapsed) = (response.status(), started.elapsed());
    server.shared.meter.answered((&method, &route), status, elapsed);
    span.in_scope(|| {
        tracing::info!(status = status.as_u16(), elapsed_ms = elapsed.as_millis() as u64, "answered")
    });
    response
}

/// The client's, when it is harmless in a log; otherwise a new one.
fn request_id(headers: &HeaderMap) -> String {
    let given = headers.get(REQUEST_ID).and_then(|value| value.to_str().ok());
    let harmless = |text: &&str| {
        (1..=REQUEST_ID_BYTES_MAX).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
    };
    given.filter(harmless).map_or_else(|| Uuid::new_v4().to_string(), str::to_owned)
}

async fn bounded(
    server: &Server,
    request: Request,
    next: Next,
    (method, route): (&Method, &str),
) -> Response {
    if let Err(problem) = header_bounds(&request) {
        return problem.into_response();
    }
    let _place = match place(server, route) {
        Ok(place) => place,
        Err(problem) => return problem.into_response(),
    };
    let work = AssertUnwindSafe(next.run(request)).catch_unwind();
    let limit = server.shared.options.request_timeout;
    let unlimited = *method == Method::PUT && route == "/v1/images/{image}";
    let done = if unlimited { Ok(work.await) } else { timeout(limit, work).await };
    match done {
        Ok(Ok(response)) => response,
        Ok(Err(_)) => internal("a request panicked").into_response(),
        Err(_) => Problem::new(Code::Timeout, format!("there was no answer within {} s", limit.as_secs()))
            .remedy("A change may have happened: repeat it with the same Idempotency-Key.")
            .into_response(),
    }
}

fn header_bounds(request: &Request) -> Result<(), Problem> {
    let headers: usize =
        request.headers().iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    let target = request.uri().path_and_query().map_or(0, |target| target.as_str().len());
    if headers > HEADER_BYTES_MAX || target > URI_BYTES_MAX {
        return Err(Problem::new(
            Code::HeadersTooLarge,
            format!("headers have at most {HEADER_BYTES_MAX} bytes, paths {URI_BYTES_MAX}"),
        ));
    }
    Ok(())
}

/// A place among the requests under way. Whether the node is alive can always be asked.
fn place(server: &Server, route: &str) -> Result<Option<OwnedSemaphorePermit>, Problem> {
    if route == "/healthz" {
        return Ok(None);
    }
    let place = server.shared.requests.clone().try_acquire_owned();
    place.map(Some).map_err(|_| {
        Problem::new(Code::Overloaded, "too many requests are under way on this node")
            .remedy("Try again in a second, or ask another node.")
    })
}

/// Gives every error its body, and every answer the request's id.
async fn finish(mut response: Response, id: &str) -> Response {
    let problem = match response.extensions_mut().remove::<Problem>() {
        Some(problem) => Some(problem),
        None if response.status().as_u16() >= 400 => Some(foreign(&mut response).await),
        None => None,
    };
    if let Some(mut problem) = problem {
        problem.request_id = id.to_owned();
        let body = serde_json::to_vec(&problem).expect("a problem is plain data");
        let headers = response.headers_mut();
        headers.remove(header::CONTENT_LENGTH);
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        *response.body_mut() = Body::from(body);
    }
    let id = HeaderValue::from_str(id).expect("a request id has harmless characters only");
    response.headers_mut().insert(REQUEST_ID, id);
    response
}

/// An error that none of our routes made.
async fn foreign(response: &mut Response) -> Problem {
    let status = response.status();
    let body = std::mem::take(response.body_mut());
    let text = to_bytes(body, FOREIGN_BYTES_MAX).await.unwrap_or_default();
    let text = String::from_utf8_lossy(&text).trim().to_owned();
    let code = match status {
        StatusCode::NOT_FOUND => Code::RouteUnknown,
        StatusCode::METHOD_NOT_ALLOWED => Code::MethodNotAllowed,
        StatusCode::PAYLOAD_TOO_LARGE => Code::TooLarge,
        StatusCode::UNSUPPORTED_MEDIA_TYPE => Code::MediaType,
        _ if status.is_server_error() => return Problem { status: status.as_u16(), ..internal(&text) },
        _ => Code::MalformedRequest,
    };
    Problem {
        status: status.as_u16(),
        ..Problem::new(code, if text.is_empty() { code.title().into() } else { text })
    }
}
