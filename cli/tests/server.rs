//! `init`, `join` and `leave`, as root types them, against a stand-in for `scpd` on its socket.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod support;

use std::{
    os::unix::fs::PermissionsExt,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use axum::{
    Json, Router,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde_json::{Value, json};
use support::{Place, Said, said, serve};

const CA: &str = "not a certificate: no login over HTTPS is tried";

fn problem(status: u16, code: &str, detail: &str, remedy: &str) -> Response {
    let body = json!({
        "type": format!("/errors/{code}"), "title": code, "status": status, "detail": detail,
        "code": code, "remedy": remedy, "request_id": "0198-request",
    });
    let status = StatusCode::from_u16(status).expect("a status");
    (status, [(header::CONTENT_TYPE, "application/problem+json")], body.to_string()).into_response()
}

/// A node that has been told to begin or join, or has not.
#[derive(Default)]
struct Scpd {
    city: Mutex<Option<String>>,
    orders: Mutex<Vec<Value>>,
    looks: AtomicUsize,
    /// Whether it is of a release whose nodes look differently.
    strange: bool,
}

impl Scpd {
    fn in_city(name: &str) -> Arc<Self> {
        Arc::new(Self { city: Mutex::new(Some(name.into())), ..Self::default() })
    }

    fn status(&self) -> Value {
        let city = self.city.lock().unwrap().clone();
        json!({ "city": city, "node": "00000000000000a1", "node_name": "n1", "software": "0.1.0",
                "api_address": "127.0.0.1:8443" })
    }

    fn init(&self, order: Value) -> Value {
        *self.city.lock().unwrap() = order["city"].as_str().map(Into::into);
        let answer = json!({
            "city": order["city"], "node": "00000000000000a1", "node_name": "n1", "admin_user": "admin",
            "admin_password": "correct horse battery staple", "ca_certificate": CA,
            "api_address": "127.0.0.1:8443", "join_token": "the-token", "join_address": "127.0.0.1:7443",
        });
        self.orders.lock().unwrap().push(order);
        answer
    }

    fn join(&self, order: Value) -> Response {
        if order["token"] == "used" {
            return problem(409, "token_used", "the join token has been used", "scpctl token create");
        }
        self.orders.lock().unwrap().push(order);
        Json(json!({
            "city": "lisboa", "node": "00000000000000a2", "node_name": "n2", "ca_certificate": CA,
            "api_address": "127.0.0.1:8443", "warnings": ["the MTU towards n1 is 1400"],
        }))
        .into_response()
    }

    /// The joined node, seen by itself: first nothing, then without a part, then as a learner.
    fn node(&self) -> Response {
        match self.looks.fetch_add(1, Ordering::SeqCst) {
            0 => problem(404, "not_found", "node 00000000000000a2 does not exist", "scpctl node list"),
            1 if self.strange => Json(json!({ "nodes": "of another release" })).into_response(),
            1 => Json(node("subscriber")).into_response(),
            _ => Json(node("learner")).into_response(),
        }
    }

    fn serve(self: &Arc<Self>, place: &Place) {
        let [a, b, c, d, e] = std::array::from_fn(|_| Arc::clone(self));
        let router = Router::new()
            .route("/local/status", get(async move || Json(a.status())))
            .route("/local/init", post(async move |Json(order): Json<Value>| Json(b.init(order))))
            .route("/local/join", post(async move |Json(order): Json<Value>| c.join(order)))
            .route(
                "/local/leave",
                post(async move || {
                    *d.city.lock().unwrap() = None;
                    Json(json!({}))
                }),
            )
            .route("/v1/nodes/00000000000000a2", get(async move || e.node()))
            .route("/v1/status", get(async || Json(status())));
        serve(&place.socket(), router);
    }
}

fn resources() -> Value {
    json!({ "vcpus": 1, "memory_mib": 1024, "disk_mib": 1024 })
}

fn node(role: &str) -> Value {
    json!({
        "id": "00000000000000a2", "name": "n2", "zone": "default", "country": "PT", "phase": "up",
        "role": role, "schedulable": true, "draining": false, "mesh_address": "127.0.0.1:7443",
        "api_address": "127.0.0.1:8443", "software": "0.1.0", "protocol": 1, "compute": "tcg",
        "capacity": resources(), "reserved": resources(), "offered": resources(),
        "overcommit": { "vcpus_percent": 400, "memory_percent": 100, "disk_percent": 100 },
        "allocated": resources(), "free": resources(), "vms": 0, "orphans": [], "public_key": "",
        "joined_at": "2026-11-24T03:00:00.000Z",
    })
}

fn status() -> Value {
    json!({
        "sentence": "Running, NOT highly available (1 of 3). Add two servers.", "health": "not_highly_available",
        "city": "lisboa", "country": "PT", "answered_by": "00000000000000a1", "software": "0.1.0",
        "leader": "00000000000000a1", "term": 1, "applied_index": 1, "voters": 1, "survives": 0,
        "nodes_total": 1, "nodes_up": 1, "nodes": [], "warnings": [],
        "vms": { "pending": 0, "bound": 0, "starting": 0, "running": 0, "stopping": 0, "stopped": 0,
                 "crashed": 0, "deleting": 0 },
        "offered": resources(), "allocated": resources(), "time": "2026-11-24T03:00:00.000Z",
    })
}

#[test]
fn init_makes_a_context_and_tells_how_to_go_on() {
    let (place, scpd) = (Place::new(), Arc::new(Scpd::default()));
    scpd.serve(&place);
    let told = place.over_socket("init --city lisboa --country PT --zone rack-1").ok();
    assert!(told.out.contains("https://127.0.0.1:8443/"), "{told:#?}");
    assert!(told.out.contains("scpctl join 127.0.0.1:7443 the-token"), "{told:#?}");
    assert!(told.out.contains("correct horse battery staple"), "{told:#?}");
    assert!(told.err.ends_with("Running, NOT highly available (1 of 3). Add two servers.\n"), "{told:#?}");
    let order = scpd.orders.lock().unwrap().pop().unwrap();
    assert_eq!(
        (&order["city"], &order["country"], &order["zone"]),
        (&json!("lisboa"), &json!("PT"), &json!("rack-1"))
    );
    // From now on no --socket is needed.
    let text = std::fs::read_to_string(place.config()).unwrap();
    assert!(text.contains("current = \"lisboa\"") && !text.contains("correct horse"), "{text}");
    assert_eq!(std::fs::metadata(place.config()).unwrap().permissions().mode() & 0o777, 0o600);
    let told = place.run("status").ok();
    assert!(told.out.starts_with("Running, NOT highly available (1 of 3). Add two servers.\n"), "{told:#?}");
}

#[test]
fn what_is_told_once_is_told_even_when_no_context_can_be_written() {
    let (place, scpd) = (Place::new(), Arc::new(Scpd::default()));
    scpd.serve(&place);
    std::fs::create_dir(place.config()).unwrap();
    let told = place.over_socket("init --city lisboa --country PT").ok();
    assert!(told.out.contains("correct horse battery staple"), "{told:#?}");
    assert!(told.err.contains("warning: no context could be written"), "{told:#?}");
}

#[test]
fn init_for_programs_is_one_json_object() {
    let (place, scpd) = (Place::new(), Arc::new(Scpd::default()));
    scpd.serve(&place);
    let made = place.over_socket("init --city lisboa --country PT --output json --quiet").ok();
    assert_eq!(made.json()["join_token"], "the-token");
    assert_eq!(made.err, "");
}

#[test]
fn a_password_for_the_administrator_comes_from_a_file_and_is_not_repeated() {
    let (place, scpd) = (Place::new(), Arc::new(Scpd::default()));
    scpd.serve(&place);
    let file = place.write("password", "a password of one's own\n");
    let words = format!("init --city lisboa --country PT --admin-password-file {}", file.display());
    place.over_socket(&words).ok();
    let order = scpd.orders.lock().unwrap().pop().unwrap();
    assert_eq!(order["admin_password"], "a password of one's own");
}

#[test]
fn a_server_is_in_one_city_at_most() {
    let (place, scpd) = (Place::new(), Scpd::in_city("porto"));
    scpd.serve(&place);
    for words in ["init --city lisboa --country PT", "join 127.0.0.1:7443 the-token"] {
        let told = place.over_socket(words).failed(5);
        assert!(told.err.contains("in the city porto already, as n1"), "{told:#?}");
        assert!(told.err.contains("scpctl leave"), "{told:#?}");
    }
    assert!(scpd.orders.lock().unwrap().is_empty());
}

#[test]
fn join_returns_when_the_node_has_caught_up() {
    let (place, scpd) = (Place::new(), Arc::new(Scpd::default()));
    scpd.serve(&place);
    let told = place.over_socket("join 127.0.0.1:7443 the-token --node-name n2").ok();
    assert!(scpd.looks.load(Ordering::SeqCst) >= 3, "it looked until the node was a learner");
    assert!(told.err.contains("warning: the MTU towards n1 is 1400"), "{told:#?}");
    assert!(told.out.contains("lisboa") && told.out.contains("n2"), "{told:#?}");
    let order = scpd.orders.lock().unwrap().pop().unwrap();
    assert_eq!(order["node_name"], "n2");
    assert_eq!(place.run("context list --output json").ok().json()[0]["name"], "lisboa");
}

#[test]
fn a_node_that_cannot_be_understood_is_told_at_once_with_what_it_said() {
    let (place, scpd) = (Place::new(), Arc::new(Scpd { strange: true, ..Scpd::default() }));
    scpd.serve(&place);
    let told = place.over_socket("join 127.0.0.1:7443 the-token").failed(1);
    assert_eq!(scpd.looks.load(Ordering::SeqCst), 2, "it did not look again: {told:#?}");
    assert!(told.err.contains("missing field `id`") && told.err.contains("of another release"), "{told:#?}");
    assert!(told.err.contains("n2 has joined lisboa all the same"), "{told:#?}");
    assert!(told.err.contains("of different releases"), "{told:#?}");
}

#[test]
fn a_refused_join_is_told_with_its_remedy_and_leaves_no_context() {
    let (place, scpd) = (Place::new(), Arc::new(Scpd::default()));
    scpd.serve(&place);
    let told = place.over_socket("join 127.0.0.1:7443 used").failed(5);
    assert_eq!(
        last_error(&told),
        "error: the join token has been used\n  remedy:   scpctl token create\n  request:  0198-request (token_used)\n"
    );
    assert!(!place.config().exists());
    let told = place.over_socket("join 127.0.0.1:7443 used --output json --quiet").failed(5);
    let error: Value = serde_json::from_str(&told.err).unwrap();
    assert_eq!(error["error"]["code"], "token_used");
}

fn last_error(told: &Said) -> &str {
    &told.err[told.err.find("error: ").expect("an error is told")..]
}

#[test]
fn leaving_wants_to_be_confirmed_and_forgets_the_context() {
    let (place, scpd) = (Place::new(), Arc::new(Scpd::default()));
    scpd.serve(&place);
    place.over_socket("init --city lisboa --country PT").ok();
    let told = place.over_socket("leave").failed(2);
    assert!(told.err.contains("--yes"), "{told:#?}");
    assert!(scpd.city.lock().unwrap().is_some());
    place.over_socket("leave --yes").ok();
    assert!(scpd.city.lock().unwrap().is_none());
    assert_eq!(place.run("context list --output json").ok().json(), json!([]));
}

#[test]
fn without_scpd_the_exact_command_is_told() {
    let place = Place::new();
    for words in ["status", "init --city a --country PT --no-start", "leave --yes", "vm list"] {
        let told = place.over_socket(words).failed(6);
        assert!(told.err.contains("systemctl start scpd"), "{told:#?}");
    }
}

/// Where systemd runs the machine, it is asked to start scpd, and these stand-ins are not.
fn has_systemd() -> bool {
    std::path::Path::new("/run/systemd/system").exists()
}

/// `scpctl` with a stand-in for `scpd` beside it.
fn beside(place: &Place, scpd: &str) -> std::process::Command {
    let bin = place.path("bin");
    std::fs::create_dir(&bin).unwrap();
    std::fs::hard_link(env!("CARGO_BIN_EXE_scpctl"), bin.join("scpctl")).unwrap();
    std::fs::write(bin.join("scpd"), scpd).unwrap();
    std::fs::set_permissions(bin.join("scpd"), std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = place.command_of(&bin.join("scpctl"));
    command.arg("--socket").arg(place.socket()).env("DIR", place.dir.path());
    command.args(["init", "--city", "lisboa", "--country", "PT", "--data-dir"]).arg(place.path("data"));
    command
}

#[test]
fn scpd_beside_scpctl_is_started_and_waited_for() {
    if has_systemd() {
        return;
    }
    let (place, scpd) = (Place::new(), Arc::new(Scpd::default()));
    // It ends when the test has seen it and is over.
    let mut command = beside(
        &place,
        "#!/bin/sh\necho \"$@\" > $DIR/new && mv $DIR/new $DIR/args\nwhile [ -d $DIR ]; do sleep 0.1; done\n",
    );
    let child = command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn();
    let child = child.unwrap();
    let looks = (0..3000).map(|_| {
        std::thread::park_timeout(std::time::Duration::from_millis(10));
        place.path("args").exists()
    });
    assert!(looks.into_iter().any(|started| started), "the stand-in is never started");
    scpd.serve(&place);
    let told = said(child.wait_with_output().unwrap()).ok();
    assert!(told.err.contains("scpd is not running: starting"), "{told:#?}");
    let given = std::fs::read_to_string(place.path("args")).unwrap();
    let (socket, data) = (place.socket(), place.path("data"));
    assert_eq!(given, format!("--socket {} --data-dir {}\n", socket.display(), data.display()));
}

#[test]
fn the_last_words_of_an_scpd_that_dies_are_told() {
    if has_systemd() {
        return;
    }
    let place = Place::new();
    let mut command = beside(&place, "#!/bin/sh\necho 'the port 8443 is taken' >&2\nexit 3\n");
    let told = said(command.output().unwrap()).failed(1);
    assert!(told.err.contains("exit status: 3"), "{told:#?}");
    assert!(told.err.contains("the port 8443 is taken"), "{told:#?}");
    assert!(told.err.contains("data/scpd.log"), "{told:#?}");
}
