//! The city in one answer, and in numbers.

use axum::http::Method;
use scp_api::server::Options;
use scp_model::{
    Command,
    command::{MarkNodeDown, UpdateNode},
    node::{Compute, Evidence, NodeProfile},
};
use serde_json::json;

use crate::city::{CHEAP, City, profile};

#[tokio::test]
async fn a_city_of_one_server_says_what_it_lacks_in_a_sentence() {
    let city = City::new().await;
    let status = city.get("admin", "/v1/status").await.ok();
    assert_eq!(status["sentence"], "Running, NOT highly available (1 of 3). Add two servers.");
    assert_eq!(
        (&status["health"], &status["city"], &status["warnings"]),
        (&json!("not_highly_available"), &json!("porto"), &json!([]))
    );
    assert_eq!(status["nodes"][0]["role"], "leader");
    let tenant = city.get("reader", "/v1/status").await.ok();
    assert_eq!((&tenant["sentence"], &tenant["nodes"]), (&status["sentence"], &json!([])));
    assert_eq!((&status["overcommit"]["vcpus_percent"], &tenant["overcommit"]), (&json!(400), &json!(null)));
}

#[tokio::test]
async fn a_node_that_is_down_is_a_warning_with_a_remedy() {
    let city = City::new().await;
    let node = city.add_node("second");
    let evidence = Evidence { leader_silence_ms: 2500, observers: Vec::new() };
    city.cluster.must(Command::MarkNodeDown(MarkNodeDown { node, evidence }));
    let status = city.get("operator", "/v1/status").await.ok();
    assert_eq!((&status["health"], &status["nodes_up"]), (&json!("degraded"), &json!(1)));
    assert_eq!(status["warnings"][0]["code"], "node_down");
    assert!(
        status["warnings"][0]["remedy"]
            .as_str()
            .expect("a remedy")
            .contains("scpctl node remove second --force")
    );
    let shown = city.get("operator", "/v1/nodes/second").await.ok();
    assert_eq!((&shown["phase"], &shown["down"]["leader_silence_ms"]), (&json!("down"), &json!(2500)));
}

#[tokio::test]
async fn compute_that_is_wanted_off_is_no_warning_and_compute_that_failed_is_one() {
    let city = City::new().await;
    let node = city.add_node("second");
    let becomes = |compute: Compute| {
        let profile = NodeProfile { compute, ..profile("second") };
        let update = UpdateNode { node, profile };
        city.cluster.must(Command::UpdateNode(Box::new(update)));
    };
    let memory = json!(15 << 10);
    becomes(Compute::Off);
    let status = city.get("operator", "/v1/status").await.ok();
    assert_eq!((&status["health"], &status["warnings"]), (&json!("not_highly_available"), &json!([])));
    assert_eq!(status["offered"]["memory_mib"], memory, "only the first runs VMs");
    let shown = city.get("operator", "/v1/nodes/second").await.ok();
    assert_eq!(shown["compute"], "off");
    assert_eq!(shown["compute_reason"], "switched off by this server's configuration");

    becomes(Compute::None { reason: "libvirtd does not answer".into() });
    let status = city.get("operator", "/v1/status").await.ok();
    assert_eq!(status["warnings"][0]["code"], "no_compute");
}

#[tokio::test]
async fn without_a_quorum_the_status_is_still_told_and_says_so() {
    let city = City::new().await;
    city.cluster.set_quorum(false);
    let reply = city.get("admin", "/v1/status").await;
    assert_eq!(reply.headers["x-scp-age-ms"], "7000");
    let status = reply.ok();
    assert_eq!((&status["health"], &status["leader"]), (&json!("unavailable"), &json!(null)));
    assert!(status["sentence"].as_str().expect("text").starts_with("Unavailable"), "{}", status["sentence"]);
    assert_eq!(status["warnings"][0]["code"], "no_quorum");
}

#[tokio::test]
async fn the_word_for_programs_and_the_sentence_for_people_say_the_same() {
    let city = City::new().await;
    let second = city.add_node("second");
    let third = city.add_node("third");
    city.cluster.set_voters(vec![scp_api::cluster::Cluster::node(&*city.cluster), second, third]);
    let seen = async || {
        let status = city.get("operator", "/v1/status").await.ok();
        let sentence = status["sentence"].as_str().expect("text").to_owned();
        (status["health"].as_str().expect("text").to_owned(), sentence)
    };
    let begins = |(health, sentence): (String, String), word: &str, beginning: &str| {
        assert!(health == word && sentence.starts_with(beginning), "{health}: {sentence}");
    };
    begins(seen().await, "healthy", "Healthy. Survives any 1 node.");
    let compute = Compute::None { reason: "libvirtd does not answer".into() };
    let profile = NodeProfile { compute, ..profile("second") };
    city.cluster.must(Command::UpdateNode(Box::new(UpdateNode { node: second, profile })));
    begins(seen().await, "warned", "Works, with 1 warning.");
    let evidence = Evidence { leader_silence_ms: 2500, observers: [(second, Some(2400))].into() };
    city.cluster.must(Command::MarkNodeDown(MarkNodeDown { node: third, evidence }));
    begins(seen().await, "degraded", "Degraded: third is down");
    city.cluster.set_quorum(false);
    begins(seen().await, "unavailable", "Unavailable: ");
    city.cluster.set_quorum(true);
    city.cluster.set_voters(vec![scp_api::cluster::Cluster::node(&*city.cluster)]);
    city.cluster.must(Command::MarkNodeUp(scp_model::command::MarkNodeUp { node: third }));
    begins(seen().await, "not_highly_available", "Running, not highly available yet");
}

#[tokio::test]
async fn what_the_city_promises_beyond_what_it_has_is_set_as_a_whole_and_shown_with_the_capacity() {
    let city = City::new().await;
    let before = city.get("operator", "/v1/overcommit").await.ok();
    assert_eq!(before, json!({ "vcpus_percent": 400, "memory_percent": 100, "disk_percent": 100 }));
    let ratios = json!({ "vcpus_percent": 200, "memory_percent": 150, "disk_percent": 100 });
    assert_eq!(city.put("admin", "/v1/overcommit", ratios.clone()).await.ok(), ratios);
    let node = city.get("operator", "/v1/nodes/n1").await.ok();
    assert_eq!((&node["overcommit"], &node["offered"]["vcpus"]), (&ratios, &json!(14)));
    assert_eq!(city.get("operator", "/v1/status").await.ok()["overcommit"], ratios);
    let events = city.get("auditor", "/v1/events?subject_kind=city&newest=true&limit=1").await.ok();
    assert_eq!(events["items"][0]["kind"], "settings_changed");
    let absurd = json!({ "vcpus_percent": 99, "memory_percent": 4_294_967_295_u32, "disk_percent": 3201 });
    let all = ["vcpus_percent", "memory_percent", "disk_percent"];
    assert_eq!(city.put("admin", "/v1/overcommit", absurd).await.invalid(), all);
    city.put("admin", "/v1/overcommit", json!({ "vcpus_percent": 200 })).await.problem("invalid");
    assert_eq!(city.get("operator", "/v1/overcommit").await.ok(), ratios, "nothing was changed");
}

#[tokio::test]
async fn metrics_count_the_city_and_the_requests() {
    let city = City::new().await;
    city.vm("web").await;
    city.get("admin", "/v1/vms/none").await.problem("not_found");
    let text = String::from_utf8(city.get("operator", "/metrics").await.bytes.to_vec()).expect("it is text");
    for line in [
        "scp_raft_term 3",
        "scp_raft_has_leader 1",
        r#"scp_objects{kind="vm",phase="pending"} 1"#,
        r#"scp_objects{kind="image",phase="ready"} 1"#,
        r#"scp_objects{kind="user",phase=""} 9"#,
        r#"scp_node_resources{node="n1",resource="vcpus",what="offered"} 28"#,
        r#"scp_http_requests_total{route="/v1/vms",method="POST",status="201"} 1"#,
        r#"scp_http_requests_total{route="/v1/vms/{vm}",method="GET",status="404"} 1"#,
        "# EOF",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
    }
    assert!(text.contains("scp_http_request_duration_seconds_bucket"));
    city.cluster.set_quorum(false);
    assert!(
        String::from_utf8_lossy(&city.get("operator", "/metrics").await.bytes)
            .contains("scp_raft_has_leader 0")
    );
}

#[tokio::test]
async fn metrics_are_open_only_where_that_is_wanted() {
    let city = City::with(Options { password_cost: CHEAP, open_metrics: true, ..Options::default() }).await;
    assert_eq!(city.ask(Method::GET, "/metrics").send().await.status, 200);
    let unlabelled = city.ask(Method::GET, "/nowhere/at/all").send().await;
    unlabelled.problem("route_unknown");
    let text = city.ask(Method::GET, "/metrics").send().await.bytes;
    assert!(!String::from_utf8_lossy(&text).contains("nowhere"), "a stranger makes no labels");
}
