//! Every error is a problem, whoever made it.

use std::time::Duration;

use axum::http::Method;
use scp_api::server::Options;
use serde_json::json;

use crate::city::{CHEAP, City, Fault};

async fn failing(fault: Fault) -> crate::ask::Reply {
    let city = City::new().await;
    city.cluster.fail_next(fault);
    city.post("admin", "/v1/departments", json!({ "name": "culture" })).await
}

#[tokio::test]
async fn what_the_cluster_cannot_do_is_told_with_a_remedy() {
    for (fault, code) in
        [(Fault::NoQuorum, "no_quorum"), (Fault::ReadOnly, "read_only"), (Fault::Overloaded, "overloaded")]
    {
        let reply = failing(fault).await;
        assert_eq!(reply.headers["retry-after"], "1", "{code}");
        assert!(reply.problem(code)["remedy"].is_string());
    }
}

#[tokio::test]
async fn a_panic_is_an_answer_and_the_next_request_works() {
    let city = City::new().await;
    city.cluster.fail_next(Fault::Panic);
    let problem =
        city.post("admin", "/v1/departments", json!({ "name": "culture" })).await.problem("internal");
    assert!(!problem.to_string().contains("the test wants it"), "causes stay in the log");
    city.post("admin", "/v1/departments", json!({ "name": "culture" })).await.ok();
}

#[tokio::test(start_paused = true)]
async fn a_request_that_takes_too_long_is_given_up_and_says_how_to_repeat_it() {
    let problem = failing(Fault::Hang).await.problem("timeout");
    assert!(problem["remedy"].as_str().expect("a remedy").contains("Idempotency-Key"));
}

#[tokio::test]
async fn too_many_requests_at_once_are_turned_away_and_health_is_still_told() {
    let options = Options {
        password_cost: CHEAP,
        requests_max: 1,
        request_timeout: Duration::from_secs(600),
        ..Options::default()
    };
    let city = City::with(options).await;
    city.cluster.fail_next(Fault::Hang);
    let hanging = city.by("admin", Method::POST, "/v1/departments").json(json!({ "name": "culture" })).send();
    let mut hanging = Box::pin(hanging);
    let started = async {
        while city.cluster.proposals.load(std::sync::atomic::Ordering::Relaxed) == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        _ = &mut hanging => panic!("it hangs"),
        () = started => {}
    }
    let turned_away = city.get("admin", "/v1/vms").await;
    assert_eq!(turned_away.headers["retry-after"], "1");
    turned_away.problem("overloaded");
    assert_eq!(city.ask(Method::GET, "/healthz").send().await.status, 200);
    drop(hanging);
    city.get("admin", "/v1/vms").await.ok();
}

#[tokio::test]
async fn answers_say_which_state_they_are_from() {
    let city = City::new().await;
    let fresh = city.get("admin", "/v1/vms").await;
    let index = city.cluster.snapshot().index.to_string();
    assert_eq!(fresh.headers["x-scp-applied-index"], index.as_str());
    assert_eq!(fresh.headers["x-scp-age-ms"], "0");
    assert_eq!(city.get("admin", "/v1/vms?consistency=stale").await.headers["x-scp-age-ms"], "7");
    let header = city.by("admin", Method::GET, "/v1/vms").header("x-scp-consistency", "stale").send().await;
    assert_eq!(header.headers["x-scp-age-ms"], "7");
    assert_eq!(header.headers["cache-control"], "no-store");
}
