//! Asking a city: requests, answers, event streams.

use std::pin::Pin;

use axum::{
    body::{Body, Bytes},
    http::{HeaderMap, Method, Request, StatusCode},
};
use futures::StreamExt;
use serde_json::Value;
use tower::ServiceExt;

use crate::city::City;

/// One answer, read whole.
pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub bytes: Bytes,
}

impl Reply {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes)
            .unwrap_or_else(|error| panic!("{}: {error}: {:?}", self.status, self.bytes))
    }

    #[track_caller]
    pub fn ok(self) -> Value {
        assert!(self.status.is_success(), "{}: {:?}", self.status, self.bytes);
        if self.bytes.is_empty() { Value::Null } else { self.json() }
    }

    /// Asserts that it is a well-formed problem of this code.
    #[track_caller]
    pub fn problem(self, code: &str) -> Value {
        let media = self.headers.get("content-type").and_then(|value| value.to_str().ok());
        assert_eq!(media, Some("application/problem+json"), "{}: {:?}", self.status, self.bytes);
        let problem = self.json();
        assert_eq!(problem["code"], code, "{problem}");
        assert_eq!(problem["type"], format!("/errors/{code}"));
        assert_eq!(problem["status"], self.status.as_u16());
        assert_eq!(problem["request_id"], self.headers["x-request-id"].to_str().expect("it is text"));
        problem
    }

    /// The fields that are told to be invalid.
    #[track_caller]
    pub fn invalid(self) -> Vec<String> {
        let problem = self.problem("invalid");
        let fields = problem["invalid"].as_array().expect("an invalid request names its fields");
        fields.iter().map(|field| field["field"].as_str().expect("a field has a name").to_owned()).collect()
    }
}

/// A request in the making.
pub struct Ask<'a> {
    city: &'a City,
    builder: axum::http::request::Builder,
    body: Body,
    local: bool,
}

impl<'a> Ask<'a> {
    pub fn new(city: &'a City, method: Method, target: &str) -> Self {
        Self {
            city,
            builder: Request::builder().method(method).uri(target),
            body: Body::empty(),
            local: false,
        }
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.builder = self.builder.header(name, value);
        self
    }

    pub fn json(self, body: Value) -> Self {
        self.body("application/json", body.to_string())
    }

    /// A body whose media type was given already.
    pub fn json_after(mut self, body: &str) -> Self {
        self.body = body.to_owned().into();
        self
    }

    pub fn body(mut self, media: &str, body: impl Into<Body>) -> Self {
        self.body = body.into();
        self.header("content-type", media)
    }

    pub fn local(mut self) -> Self {
        self.local = true;
        self
    }

    pub async fn raw(self) -> axum::response::Response {
        let request: Request<Body> =
            self.builder.body(self.body).expect("the test's requests are well-formed");
        let router = if self.local { self.city.api.router_local() } else { self.city.router.clone() };
        router.oneshot(request).await.expect("the router always answers")
    }

    pub async fn send(self) -> Reply {
        let (parts, body) = self.raw().await.into_parts();
        let bytes = axum::body::to_bytes(body, 64 << 20).await.expect("an answer is read whole");
        Reply { status: parts.status, headers: parts.headers, bytes }
    }
}

/// What an event stream says, frame by frame.
pub struct Frames {
    body: Pin<Box<dyn futures::Stream<Item = Result<Bytes, axum::Error>> + Send>>,
    text: String,
}

impl Frames {
    pub fn new(response: axum::response::Response) -> Self {
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self { body: Box::pin(response.into_body().into_data_stream()), text: String::new() }
    }

    /// The next frame's name, id and data; `None` at the end.
    pub async fn next(&mut self) -> Option<(String, String, Value)> {
        loop {
            if let Some((frame, rest)) = self.text.split_once("\n\n") {
                let field = |name: &str| {
                    let line = frame.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")));
                    line.unwrap_or_default().to_owned()
                };
                let found = (field("event"), field("id"), field("data"));
                self.text = rest.to_owned();
                if !found.2.is_empty() {
                    let data = serde_json::from_str(&found.2).expect("data is JSON");
                    return Some((found.0, found.1, data));
                }
                continue;
            }
            let bytes = self.body.next().await?.expect("the stream does not break");
            self.text.push_str(std::str::from_utf8(&bytes).expect("a stream is text"));
        }
    }
}
