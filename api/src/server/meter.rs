//! What the API counts of itself, in Prometheus' words.

use std::time::Duration;

use axum::http::{Method, StatusCode};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        family::Family,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};

/// Labels are bounded: routes are templates, methods those of HTTP.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answered {
    route: String,
    method: String,
    status: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Route {
    route: String,
}

pub(crate) struct Meter {
    registry: Registry,
    requests: Family<Answered, Counter>,
    durations: Family<Route, Histogram, fn() -> Histogram>,
}

/// 1 ms to 16 s.
fn durations() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 2.0, 15))
}

impl Meter {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::with_prefix("scp_http");
        let requests = Family::default();
        let durations = Family::new_with_constructor(durations as fn() -> Histogram);
        registry.register("requests", "Requests answered", requests.clone());
        registry.register("request_duration_seconds", "Time until the answer began", durations.clone());
        Self { registry, requests, durations }
    }

    pub(crate) fn registry(&self) -> &Registry {
        &self.registry
    }

    pub(crate) fn answered(&self, (method, route): (&Method, &str), status: StatusCode, elapsed: Duration) {
        let method = match *method {
            Method::GET
            | Method::POST
            | Method::PUT
            | Method::PATCH
            | Method::DELETE
            | Method::HEAD
            | Method::OPTIONS => method.as_str(),
            _ => "other",
        };
        let labels = Answered { route: route.into(), method: method.into(), status: status.as_u16() };
        self.requests.get_or_create(&labels).inc();
        self.durations.get_or_create(&Route { route: route.into() }).observe(elapsed.as_secs_f64());
    }
}
