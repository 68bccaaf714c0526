//! Sending one call: which node, how often, until when.
//!
//! ```text
//! address ─refused─▶ next address, at once; after a whole round: backoff
//!         ─lost, 502, 503, 504─▶ backoff, next address      (the key makes the repeat safe)
//!         ─any other answer─▶ done
//! ```

use std::{sync::atomic::Ordering, time::Duration};

use bytes::Bytes;
use rand::Rng;
use reqwest::{Method, RequestBuilder, Response, StatusCode, Url, header};
use scp_model::RequestId;
use serde::{Serialize, de::DeserializeOwned};
use tokio::time::{Instant, sleep, timeout_at};
use uuid::Uuid;

use super::{Client, ClientError, Door, Result};
use crate::v1::{self, Consistency, Problem};

/// A node that does not take the connection within this time is passed over.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// A node that took the request and is silent for this long (stalled, cut off) is passed over.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(10);
const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(2);
/// No answer is larger: a page of 1000 VMs with all their keys.
const ANSWER_BYTES_MAX: usize = 64 << 20;

pub(super) fn builder() -> reqwest::ClientBuilder {
    reqwest::Client::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .user_agent(concat!("scp-client/", env!("CARGO_PKG_VERSION")))
}

/// The error with its causes, which is where the useful part is.
pub(super) fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// One call, before it is sent.
pub(super) struct Call<'a> {
    pub method: Method,
    pub path: &'a [&'a str],
    pub query: Vec<(String, String)>,
    pub body: Option<Bytes>,
    /// Longer than the usual, for what takes its time on the server.
    pub attempt_timeout: Duration,
}

impl<'a> Call<'a> {
    pub(super) fn new(method: Method, path: &'a [&'a str]) -> Self {
        Self { method, path, query: Vec::new(), body: None, attempt_timeout: ATTEMPT_TIMEOUT }
    }

    pub(super) fn query(mut self, query: &impl Serialize) -> Self {
        self.query = pairs(query);
        self
    }

    pub(super) fn body(mut self, body: &impl Serialize) -> Self {
        self.body = Some(serde_json::to_vec(body).expect("requests are plain data").into());
        self
    }
}

/// The fields of a flat struct as query parameters.
pub(super) fn pairs(query: &impl Serialize) -> Vec<(String, String)> {
    let serde_json::Value::Object(fields) = serde_json::to_value(query).expect("queries are plain data")
    else {
        return Vec::new();
    };
    let text = |value| match value {
        serde_json::Value::String(text) => text,
        other => other.to_string(),
    };
    fields
        .into_iter()
        .filter(|(_, value)| !value.is_null())
        .map(|(name, value)| (name, text(value)))
        .collect()
}

/// Doubles from try to try; the random half keeps clients from coming back all at once.
pub(super) struct Backoff(Duration);

impl Backoff {
    pub(super) fn new() -> Self {
        Self(BACKOFF_MIN)
    }

    pub(super) fn next(&mut self) -> Duration {
        let base = self.0;
        self.0 = (base * 2).min(BACKOFF_MAX);
        base.mul_f64(rand::rng().random_range(0.5..1.0))
    }
}

/// What one try gave.
enum Attempt {
    Answer(Response),
    /// Never reached the node.
    Refused(String),
    /// May have reached it.
    Lost(String),
}

/// Of an answer that cannot be understood, what is told.
const TOLD_CHARACTERS: usize = 120;

/// An answer's JSON; otherwise what is wrong with it, and how it begins.
pub(super) fn understood<T: DeserializeOwned>(body: &[u8]) -> Result<T> {
    serde_json::from_slice(body).map_err(|error| {
        let text = String::from_utf8_lossy(body);
        let begins: String = text.chars().take(TOLD_CHARACTERS).collect();
        ClientError::BadAnswer { why: format!("{error}; it begins with {begins:?}") }
    })
}

impl Client {
    /// Sends the call and reads its answer as JSON.
    pub(super) async fn json<T: DeserializeOwned>(&self, call: Call<'_>) -> Result<T> {
        let body = self.bytes(call).await?;
        understood(&body)
    }

    /// Sends the call and reads its answer, whatever it is.
    pub(super) async fn bytes(&self, call: Call<'_>) -> Result<Bytes> {
        let key =
            (call.method != Method::GET).then(|| self.request.unwrap_or_else(|| RequestId(Uuid::now_v7())));
        let deadline = Instant::now() + self.deadline;
        let mut backoff = Backoff::new();
        let mut failures = Failures::default();
        for round in 0usize.. {
            let address = self.address(round);
            let limit = deadline.min(Instant::now() + call.attempt_timeout);
            let mut url = self.url(&address, call.path)?;
            if !call.query.is_empty() {
                url.query_pairs_mut().extend_pairs(&call.query);
            }
            let attempt = match timeout_at(limit, self.attempt(&call, url, key)).await {
                Ok(attempt) => attempt,
                Err(_) => Err(Attempt::Lost(format!("{address}: no answer in time"))),
            };
            let mut pause = (round + 1).is_multiple_of(self.address_count());
            match attempt {
                Ok((status, body)) if status.is_success() => {
                    self.prefer(round);
                    return Ok(body);
                }
                Ok((status, body)) => {
                    failures.problem = Some(problem(status, &body));
                    pause |= true;
                    if !worth_repeating(status) {
                        break;
                    }
                }
                Err(Attempt::Refused(why)) => failures.refused.push(why),
                Err(Attempt::Lost(why)) => {
                    failures.lost = Some(why);
                    pause = true;
                }
                Err(Attempt::Answer(_)) => unreachable!("an answer is read before it is judged"),
            }
            let wait = if pause { backoff.next() } else { Duration::ZERO };
            if Instant::now() + wait >= deadline {
                break;
            }
            sleep(wait).await;
        }
        Err(failures.into_error(key))
    }

    async fn attempt(
        &self,
        call: &Call<'_>,
        url: Url,
        key: Option<RequestId>,
    ) -> std::result::Result<(StatusCode, Bytes), Attempt> {
        let address = url.authority().to_owned();
        let mut request = self.request(call.method.clone(), url);
        if let Some(key) = key {
            request = request.header(v1::IDEMPOTENCY_KEY, key.to_string());
        }
        if let Some(body) = &call.body {
            request = request.header(header::CONTENT_TYPE, "application/json").body(body.clone());
        }
        let mut response = match self.transmit(request, &address).await {
            Attempt::Answer(response) => response,
            failed => return Err(failed),
        };
        let status = response.status();
        self.note_age(&response);
        let mut body = Vec::new();
        loop {
            match response.chunk().await {
                Ok(None) => return Ok((status, body.into())),
                Ok(Some(chunk)) if body.len() + chunk.len() <= ANSWER_BYTES_MAX => {
                    body.extend_from_slice(&chunk)
                }
                Ok(Some(_)) => return Err(Attempt::Lost(format!("{address}: the answer is too large"))),
                Err(error) => return Err(Attempt::Lost(format!("{address}: {}", describe(&error)))),
            }
        }
    }

    /// Remembers how old the state was that the answer was read from.
    fn note_age(&self, response: &Response) {
        let age = response.headers().get(v1::AGE_MS).and_then(|age| age.to_str().ok()?.parse().ok());
        if let Some(age_ms) = age {
            self.shared.age_ms.store(age_ms, Ordering::Relaxed);
        }
    }

    async fn transmit(&self, request: RequestBuilder, address: &str) -> Attempt {
        match request.send().await {
            Ok(response) => Attempt::Answer(response),
            Err(error) if error.is_connect() || error.is_builder() => {
                Attempt::Refused(format!("{address}: {}", describe(&error)))
            }
            Err(error) => Attempt::Lost(format!("{address}: {}", describe(&error))),
        }
    }

    /// One try at one node, unread: for streams. Errors are judged like everywhere.
    pub(super) async fn stream(&self, request: RequestBuilder, address: &str) -> Result<Response> {
        let response = match self.transmit(request, address).await {
            Attempt::Answer(response) => response,
            Attempt::Refused(why) => return Err(ClientError::Unreachable { tried: vec![why] }),
            Attempt::Lost(why) => return Err(ClientError::Lost { why, request: self.request }),
        };
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let body = response.bytes().await.unwrap_or_default();
        Err(ClientError::Problem(Box::new(problem(status, &body))))
    }

    pub(super) fn request(&self, method: Method, url: Url) -> RequestBuilder {
        let mut request = self.shared.http.request(method, url);
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        match self.consistency {
            Consistency::Linearizable => request,
            Consistency::Stale => request.header(v1::CONSISTENCY, "stale"),
        }
    }

    pub(super) fn url(&self, address: &str, path: &[&str]) -> Result<Url> {
        let base = match self.shared.door {
            Door::Https { .. } => format!("https://{address}/"),
            Door::Unix { .. } => "http://localhost/".to_owned(),
        };
        let bad = |why: String| ClientError::Config { why: format!("{address:?} is not an address: {why}") };
        // The URL standard drops such segments, and the request would be another one.
        if let Some(part) = path.iter().find(|part| matches!(**part, "" | "." | "..")) {
            return Err(ClientError::Config { why: format!("{part:?} is neither an id nor a name") });
        }
        let mut url = Url::parse(&base).map_err(|error| bad(error.to_string()))?;
        url.path_segments_mut().map_err(|()| bad("it has no path".into()))?.clear().extend(path);
        Ok(url)
    }

    pub(super) fn address_count(&self) -> usize {
        match &self.shared.door {
            Door::Https { addresses, .. } => addresses.len(),
            Door::Unix { .. } => 1,
        }
    }

    /// The address to try in that round.
    pub(super) fn address(&self, round: usize) -> String {
        match &self.shared.door {
            Door::Https { addresses, .. } => {
                let first = self.shared.preferred.load(Ordering::Relaxed);
                addresses[first.wrapping_add(round) % addresses.len()].clone()
            }
            Door::Unix { path } => path.display().to_string(),
        }
    }

    /// The address of that round answered: it comes first from now on.
    pub(super) fn prefer(&self, round: usize) {
        if round > 0 {
            self.shared.preferred.fetch_add(round % self.address_count(), Ordering::Relaxed);
        }
    }
}

#[derive(Default)]
struct Failures {
    problem: Option<Problem>,
    lost: Option<String>,
    refused: Vec<String>,
}

impl Failures {
    /// The one that tells most: the server's word, then that something was sent.
    fn into_error(mut self, request: Option<RequestId>) -> ClientError {
        match (self.problem, self.lost) {
            (Some(problem), _) => ClientError::Problem(Box::new(problem)),
            (None, Some(why)) => ClientError::Lost { why, request },
            (None, None) => {
                self.refused.sort();
                self.refused.dedup();
                ClientError::Unreachable { tried: self.refused }
            }
        }
    }
}

/// Another node, or the same one later, may answer better.
pub(super) fn worth_repeating(status: StatusCode) -> bool {
    matches!(status, StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT)
}

/// The problem in an answer; one of our own making when it carries none.
pub(super) fn problem(status: StatusCode, body: &[u8]) -> Problem {
    serde_json::from_slice(body).unwrap_or_else(|_| Problem {
        type_uri: "/errors/http".into(),
        title: status.canonical_reason().unwrap_or("unknown status").to_owned(),
        status: status.as_u16(),
        detail: format!("the node answered {status} without saying why"),
        code: "http".into(),
        reason: None,
        remedy: None,
        request_id: String::new(),
        invalid: Vec::new(),
    })
}
