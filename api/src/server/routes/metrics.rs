//! `/metrics`: the city and this node's API in Prometheus' text format.

use std::sync::atomic::AtomicU64;

use axum::{
    extract::{FromRequestParts, State},
    http::{HeaderValue, header, request::Parts},
    response::IntoResponse,
};
use prometheus_client::{
    encoding::text::{encode_eof, encode_registry},
    metrics::{family::Family, gauge::Gauge},
    registry::{Registry, Unit},
};
use scp_state::State as City;

use crate::{
    cluster::{Agreement, Consistency, Snapshot},
    server::{
        Server,
        authorize::{Action, Scope},
        call::{Answer, Call},
        errors::internal,
        view,
    },
    v1::{self, CONSISTENCY},
};

const TEXT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

type Labels = Vec<(&'static str, String)>;
type Number = Gauge<u64, AtomicU64>;

/// Reads what this node has: scraping goes on without a quorum.
pub(crate) async fn show(State(server): State<Server>, mut parts: Parts) -> Answer {
    if !server.shared.options.open_metrics {
        parts.headers.insert(CONSISTENCY, HeaderValue::from_static("stale"));
        let call = Call::from_request_parts(&mut parts, &server).await?;
        call.may(Action::MetricsRead, Scope::City)?;
    }
    let cluster = &server.shared.cluster;
    let Snapshot { state, age_ms } = cluster.read(Consistency::Stale).await?;
    let mut registry = Registry::with_prefix("scp");
    agreement(&mut registry, &cluster.agreement(), (&state, age_ms));
    objects(&mut registry, &state);
    capacity(&mut registry, &state);
    let mut text = String::new();
    let meter = server.shared.meter.registry();
    let written = encode_registry(&mut text, &registry)
        .and_then(|()| encode_registry(&mut text, meter))
        .and_then(|()| encode_eof(&mut text));
    written.map_err(|error| internal(&error.to_string()))?;
    Ok(([(header::CONTENT_TYPE, HeaderValue::from_static(TEXT))], text).into_response())
}

fn number(registry: &mut Registry, (name, help): (&str, &str), value: u64) {
    let gauge = Number::default();
    gauge.set(value);
    registry.register(name, help, gauge);
}

fn agreement(registry: &mut Registry, from: &Agreement, (state, age_ms): (&City, u64)) {
    number(registry, ("raft_term", "Term of the agreement"), from.term);
    number(registry, ("raft_applied_index", "Index of the last command applied here"), state.index);
    number(
        registry,
        ("raft_has_leader", "Whether this node knows a leader"),
        u64::from(from.leader.is_some()),
    );
    number(registry, ("raft_voters", "Voters"), from.voters.len() as u64);
    number(registry, ("raft_learners", "Learners"), from.learners.len() as u64);
    let age = Gauge::<f64, AtomicU64>::default();
    age.set(age_ms as f64 / 1000.0);
    registry.register_with_unit("state_age", "How old this node's state may be", Unit::Seconds, age);
}

fn objects(registry: &mut Registry, state: &City) {
    let family = Family::<Labels, Number>::default();
    let set = |kind: &str, phase: &str, count: u64| {
        let labels = vec![("kind", kind.to_owned()), ("phase", phase.to_owned())];
        family.get_or_create(&labels).set(count);
    };
    let v1::VmCounts { pending, bound, starting, running, stopping, stopped, crashed, deleting } =
        view::counts(state);
    for (phase, count) in [
        ("pending", pending),
        ("bound", bound),
        ("starting", starting),
        ("running", running),
        ("stopping", stopping),
        ("stopped", stopped),
        ("crashed", crashed),
        ("deleting", deleting),
    ] {
        set("vm", phase, count);
    }
    let nodes = |wanted| state.nodes.values().filter(|node| view::node_phase(node) == wanted).count() as u64;
    set("node", "up", nodes(v1::NodePhase::Up));
    set("node", "cordoned", nodes(v1::NodePhase::Cordoned));
    set("node", "draining", nodes(v1::NodePhase::Draining));
    set("node", "down", nodes(v1::NodePhase::Down));
    let images = |wanted| {
        state.images.values().filter(|image| view::image_phase(state, image) == wanted).count() as u64
    };
    set("image", "ready", images(v1::ImagePhase::Ready));
    set("image", "replicating", images(v1::ImagePhase::Replicating));
    set("image", "unavailable", images(v1::ImagePhase::Unavailable));
    set("department", "", state.departments.len() as u64);
    set("project", "", state.projects.len() as u64);
    set("user", "", state.users.len() as u64);
    set("keypair", "", state.keypairs.len() as u64);
    set("flavor", "", state.flavors.len() as u64);
    set("eviction", "", state.evictions.len() as u64);
    registry.register("objects", "What the city has, by kind and phase", family);
    number(registry, ("events_next", "Sequence number of the next event"), state.next_event);
}

fn capacity(registry: &mut Registry, state: &City) {
    let family = Family::<Labels, Number>::default();
    for node in state.nodes.values() {
        let allocated = state.allocated.get(&node.id).copied().unwrap_or_default();
        for (what, amount) in [("offered", state.offered(node)), ("allocated", allocated)] {
            let set = |resource: &str, value| {
                let labels = vec![
                    ("node", node.profile.name.to_string()),
                    ("resource", resource.to_owned()),
                    ("what", what.to_owned()),
                ];
                family.get_or_create(&labels).set(value);
            };
            set("vcpus", amount.vcpus);
            set("memory_mib", amount.memory_mib);
            set("disk_mib", amount.disk_mib);
        }
    }
    registry.register("node_resources", "What nodes offer and what of it is allocated", family);
}
