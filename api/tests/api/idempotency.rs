//! A request that is repeated is done once.

use std::sync::atomic::Ordering;

use axum::http::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::city::{City, Fault, PASSWORD};

const KEY: &str = "7e57ab1e-0000-4000-8000-000000000001";

async fn keyed(city: &City, method: Method, target: &str, body: Value) -> crate::ask::Reply {
    city.by("member", method, target).header("idempotency-key", KEY).json(body).send().await
}

#[tokio::test]
async fn a_lost_answer_repeated_makes_one_vm() {
    let city = City::new().await;
    city.image("debian").await;
    let body = json!({ "name": "web", "flavor": "small", "image": "debian" });
    city.cluster.fail_next(Fault::AnswerLost);
    let lost = keyed(&city, Method::POST, "/v1/vms", body.clone()).await.problem("no_quorum");
    assert!(lost["remedy"].as_str().expect("a remedy").contains("Idempotency-Key"));
    let first = keyed(&city, Method::POST, "/v1/vms", body.clone()).await.ok();
    let second = keyed(&city, Method::POST, "/v1/vms", body.clone()).await.ok();
    assert_eq!(first, second);
    assert_eq!(city.cluster.snapshot().vms.len(), 1);
    // Without a key it is another request, and the name is taken.
    city.post("member", "/v1/vms", body).await.problem("name_taken");
}

#[tokio::test]
async fn with_an_id_of_the_clients_a_repeat_is_safe_even_when_the_key_is_forgotten() {
    let city = City::new().await;
    city.image("debian").await;
    let body =
        json!({ "id": Uuid::new_v4().to_string(), "name": "web", "flavor": "small", "image": "debian" });
    let first = city.post("member", "/v1/vms", body.clone()).await.ok();
    assert_eq!(city.post("member", "/v1/vms", body.clone()).await.ok(), first);
    let mut other = body;
    other["name"] = json!("elsewhere");
    city.post("member", "/v1/vms", other).await.problem("id_taken");
    assert_eq!(city.cluster.snapshot().vms.len(), 1);
}

#[tokio::test]
async fn a_repeated_deletion_succeeds_though_nothing_is_left() {
    let city = City::new().await;
    city.vm("web").await;
    city.cluster.fail_next(Fault::AnswerLost);
    keyed(&city, Method::DELETE, "/v1/vms/web", json!({})).await.problem("no_quorum");
    keyed(&city, Method::DELETE, "/v1/vms/web", json!({})).await.ok();
    // Another request finds nothing, or what is left of it; it is not answered by the first.
    let proposals = city.cluster.proposals.load(Ordering::Relaxed);
    city.delete("member", "/v1/keypairs/none").await.problem("not_found");
    assert_eq!(city.cluster.proposals.load(Ordering::Relaxed), proposals);
}

#[tokio::test]
async fn a_key_counts_for_its_user_and_route_only() {
    let city = City::new().await;
    city.vm("web").await;
    keyed(&city, Method::POST, "/v1/vms/web/stop", json!({})).await.ok();
    assert_eq!(keyed(&city, Method::POST, "/v1/vms/web/start", json!({})).await.ok()["power"], "running");
    let by_reader = city.by("reader", Method::POST, "/v1/vms/web/stop").header("idempotency-key", KEY);
    by_reader.send().await.problem("forbidden");
    let by_another = city.by("manager", Method::POST, "/v1/vms/web/stop").header("idempotency-key", KEY);
    assert_eq!(by_another.send().await.ok()["power"], "stopped");
}

#[tokio::test]
async fn a_key_that_is_used_with_other_contents_is_refused() {
    let city = City::new().await;
    city.image("debian").await;
    let body = |id: &str, name: &str| json!({ "id": id, "name": name, "flavor": "small", "image": "debian" });
    let (one, two) = (Uuid::new_v4().to_string(), Uuid::new_v4().to_string());
    keyed(&city, Method::POST, "/v1/vms", body(&one, "a")).await.ok();
    keyed(&city, Method::POST, "/v1/vms", body(&two, "b")).await.problem("key_reused");
    assert_eq!(city.cluster.snapshot().vms.len(), 1);
}

#[tokio::test]
async fn a_join_token_is_not_told_twice() {
    let city = City::new().await;
    let create = || {
        let ask = city.by("operator", Method::POST, "/v1/join-tokens").header("idempotency-key", KEY);
        ask.json(json!({})).send()
    };
    create().await.ok();
    let problem = create().await.problem("secret_told");
    assert!(problem["remedy"].as_str().expect("a remedy").contains("Revoke"));
    assert_eq!(city.cluster.snapshot().join_tokens.len(), 1);
}

#[tokio::test]
async fn a_repeated_upload_is_answered_with_the_image_that_is_there() {
    let city = City::new().await;
    let target = format!("/v1/images/{}?name=debian", Uuid::new_v4());
    let upload = || {
        let ask = city.by("member", Method::PUT, &target).header("content-length", "9");
        ask.body("application/octet-stream", "some disk").send()
    };
    let first = upload().await.ok();
    assert_eq!(upload().await.ok(), first);
    assert_eq!(city.cluster.snapshot().images.len(), 1);
}

#[tokio::test]
async fn a_rejection_is_repeated_too() {
    let city = City::new().await;
    let body = json!({ "name": "admin", "password": PASSWORD });
    let create = || {
        let ask = city.by("admin", Method::POST, "/v1/users").header("idempotency-key", KEY);
        ask.json(body.clone()).send()
    };
    let first = create().await.problem("name_taken");
    city.cluster.advance_ms(5);
    assert_eq!(create().await.problem("name_taken")["detail"], first["detail"]);
}
