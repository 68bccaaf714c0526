//! Who may do what, through the routes. The table itself is tested beside it.

use axum::http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::city::City;

const ALL: [&str; 8] = ["admin", "operator", "auditor", "manager", "member", "reader", "stranger", "nobody"];

/// Each read, and who gets an answer; the others get 403 or 404.
const READS: &[(&str, &[&str])] = &[
    ("/v1/status", &ALL),
    ("/v1/whoami", &ALL),
    ("/v1/flavors/small", &ALL),
    ("/v1/departments/default", &ALL),
    ("/metrics", &["admin", "operator", "auditor"]),
    ("/v1/nodes", &["admin", "operator", "auditor"]),
    ("/v1/nodes/n1", &["admin", "operator", "auditor"]),
    ("/v1/overcommit", &["admin", "operator", "auditor"]),
    ("/v1/join-tokens", &["admin", "operator"]),
    ("/v1/projects/default/default", &[]),
    ("/v1/projects/default", &["admin", "operator", "auditor", "manager", "member", "reader"]),
    ("/v1/projects/default/quota", &["admin", "operator", "auditor", "manager", "member", "reader"]),
    ("/v1/users", &["admin", "auditor"]),
    ("/v1/users/member", &["admin", "auditor", "member"]),
    ("/v1/keypairs/ana", &["admin", "manager", "member", "reader"]),
    ("/v1/images/debian", &["admin", "operator", "manager", "member", "reader"]),
    ("/v1/vms/web", &["admin", "manager", "member", "reader"]),
    ("/v1/vms/web/stats", &["admin", "manager", "member", "reader"]),
    ("/v1/vms/web/explain", &["admin", "operator", "manager", "member", "reader"]),
    ("/v1/vms/web/console-log", &["admin", "manager", "member"]),
];

async fn furnished() -> (City, String) {
    let city = City::new().await;
    let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl";
    city.post("member", "/v1/keypairs", json!({ "name": "ana", "public_key": key })).await.ok();
    let vm = city.vm("web").await;
    city.place(&vm);
    (city, vm)
}

#[tokio::test]
async fn every_read_is_answered_to_those_who_may_and_to_nobody_else() {
    let (city, _) = furnished().await;
    for (target, may) in READS {
        for user in ALL {
            let reply = city.get(user, target).await;
            if may.contains(&user) {
                assert_eq!(reply.status, StatusCode::OK, "{target} by {user}: {:?}", reply.bytes);
            } else {
                let refused = matches!(reply.status, StatusCode::FORBIDDEN | StatusCode::NOT_FOUND);
                assert!(refused, "{target} by {user}: {}", reply.status);
            }
        }
    }
}

/// Each write with a body that would do it, and who may; for the others nothing happens.
fn writes() -> Vec<(Method, &'static str, Value, &'static [&'static str])> {
    let size = json!({ "vcpus": 1, "memory_mib": 64, "disk_mib": 64 });
    vec![
        (Method::POST, "/v1/nodes/n1/cordon", json!({}), &["admin", "operator"]),
        (Method::POST, "/v1/nodes/n1/drain", json!({}), &["admin", "operator"]),
        (Method::POST, "/v1/nodes/n1/uncordon", json!({}), &["admin", "operator"]),
        (
            Method::PUT,
            "/v1/overcommit",
            json!({ "vcpus_percent": 200, "memory_percent": 100, "disk_percent": 100 }),
            &["admin"],
        ),
        (Method::POST, "/v1/join-tokens", json!({}), &["admin", "operator"]),
        (Method::POST, "/v1/departments", json!({ "name": "x" }), &["admin"]),
        (Method::POST, "/v1/projects", json!({ "name": "x" }), &["admin"]),
        (Method::PUT, "/v1/projects/default/quota", json!({ "vms": 9 }), &["admin"]),
        (
            Method::POST,
            "/v1/users",
            json!({ "name": "x", "password": "a sentence that is long" }),
            &["admin"],
        ),
        (Method::PATCH, "/v1/users/nobody", json!({ "enabled": true }), &["admin"]),
        (Method::PATCH, "/v1/users/reader", json!({ "city_roles": ["auditor"] }), &["admin"]),
        (
            Method::PUT,
            "/v1/users/ghost/password",
            json!({ "password": "a sentence that is long" }),
            &["admin"],
        ),
        (Method::PUT, "/v1/users/nobody/grants/default", json!({ "role": "reader" }), &["admin", "manager"]),
        (Method::DELETE, "/v1/users/nobody/grants/default", json!({}), &["admin", "manager"]),
        (Method::POST, "/v1/flavors", json!({ "name": "x", "resources": size }), &["admin", "operator"]),
        (Method::POST, "/v1/vms/web/stop", json!({}), &["admin", "manager", "member"]),
        (Method::POST, "/v1/vms/web/start", json!({}), &["admin", "manager", "member"]),
        (Method::POST, "/v1/vms/web/reboot", json!({}), &["admin", "manager", "member"]),
        (Method::DELETE, "/v1/keypairs/ana", json!({}), &["admin", "manager", "member"]),
        (Method::DELETE, "/v1/vms/web", json!({}), &["admin", "manager", "member"]),
        (Method::DELETE, "/v1/projects/other", json!({}), &["admin"]),
        (Method::DELETE, "/v1/flavors/small", json!({}), &["admin", "operator"]),
    ]
}

#[tokio::test]
async fn every_write_is_refused_to_those_who_may_not_before_it_is_proposed() {
    let (city, _) = furnished().await;
    for (method, target, body, may) in writes() {
        for user in ALL.iter().filter(|user| !may.contains(user)) {
            let before = city.cluster.proposals.load(std::sync::atomic::Ordering::Relaxed);
            let reply = city.by(user, method.clone(), target).json(body.clone()).send().await;
            let refused = matches!(reply.status, StatusCode::FORBIDDEN | StatusCode::NOT_FOUND);
            assert!(refused, "{method} {target} by {user}: {} {:?}", reply.status, reply.bytes);
            let after = city.cluster.proposals.load(std::sync::atomic::Ordering::Relaxed);
            assert_eq!(before, after, "{method} {target} by {user} was proposed");
        }
    }
}

#[tokio::test]
async fn every_write_is_done_for_those_who_may() {
    for (method, target, body, may) in writes() {
        for user in may {
            let (city, _) = furnished().await;
            let reply = city.by(user, method.clone(), target).json(body.clone()).send().await;
            assert!(
                reply.status.is_success(),
                "{method} {target} by {user}: {} {:?}",
                reply.status,
                reply.bytes
            );
        }
        let (city, _) = furnished().await;
        let reply = city.ask(method.clone(), target).json(body).local().send().await;
        assert!(reply.status.is_success(), "{method} {target} by root: {} {:?}", reply.status, reply.bytes);
    }
}

#[tokio::test]
async fn what_is_others_does_not_exist() {
    let (city, vm) = furnished().await;
    let strange = city.get("stranger", &format!("/v1/vms/{vm}")).await.problem("not_found");
    let nothing =
        city.get("stranger", "/v1/vms/00000000-0000-4000-8000-000000000000").await.problem("not_found");
    assert_eq!(strange["title"], nothing["title"]);
    let events = city.get("stranger", "/v1/events?limit=1000").await.ok().to_string();
    assert!(events.contains("project other was created") && !events.contains("vm_created"), "{events}");
    for list in ["/v1/vms", "/v1/images", "/v1/keypairs", "/v1/events?subject_kind=vm"] {
        assert_eq!(city.get("stranger", list).await.ok()["items"], json!([]), "{list}");
    }
    let projects = city.get("stranger", "/v1/projects").await.ok();
    assert_eq!(projects["items"].as_array().expect("a list").len(), 1);
    assert_eq!(city.get("stranger", "/v1/vms?project=default").await.invalid(), ["project"]);
    let body = json!({ "name": "x", "flavor": "small", "image": "debian", "project": "default" });
    assert_eq!(city.post("stranger", "/v1/vms", body).await.invalid(), ["project"]);
}

#[tokio::test]
async fn an_operator_sees_counts_and_no_tenant_names() {
    let (city, vm) = furnished().await;
    assert_eq!(city.get("operator", "/v1/vms").await.ok()["items"], json!([]));
    assert_eq!(city.get("operator", "/v1/nodes/n1").await.ok()["vms"], 1);
    assert_eq!(city.get("operator", "/v1/status").await.ok()["vms"]["bound"], 1);
    let explained = city.get("operator", &format!("/v1/vms/{vm}/explain")).await.ok();
    assert!(!explained.to_string().contains("secret"), "{explained}");
    assert!(city.get("reader", "/v1/vms/web/explain").await.ok().to_string().contains("secret-vm"));
    let events = city.get("operator", "/v1/events?limit=1000").await.ok().to_string();
    assert!(events.contains("node_admitted") && !events.contains("vm_created"));
    assert!(city.get("auditor", "/v1/events?limit=1000").await.ok().to_string().contains("vm_created"));
}

#[tokio::test]
async fn public_images_are_the_operators_and_everybody_sees_them() {
    let (city, _) = furnished().await;
    let target = |text: &str| {
        format!("/v1/images/{}?name={text}&project=other&visibility=public", uuid::Uuid::new_v4())
    };
    let upload = |user: &'static str, text: &str| {
        let ask = city.by(user, Method::PUT, &target(text)).header("content-length", "9");
        ask.body("application/octet-stream", "some disk").send()
    };
    upload("stranger", "alpine").await.problem("forbidden");
    upload("operator", "alpine").await.ok();
    city.get("nobody", "/v1/images/alpine").await.ok();
    assert_eq!(city.get("nobody", "/v1/images").await.ok()["items"].as_array().expect("a list").len(), 1);
    let body = json!({ "name": "x", "flavor": "small", "image": "alpine" });
    city.post("member", "/v1/vms", body).await.ok();
    city.delete("stranger", "/v1/images/alpine").await.problem("forbidden");
    city.delete("operator", "/v1/images/alpine").await.problem("in_use");
}
