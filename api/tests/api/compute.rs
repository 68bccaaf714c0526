//! Nodes, join tokens, keypairs, flavors, images, VMs: each route once, as it should go.

use axum::http::Method;
use serde_json::json;
use uuid::Uuid;

use crate::city::City;

const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl ana@city";

#[tokio::test]
async fn a_node_with_the_only_copy_of_an_image_is_not_to_be_drained() {
    let city = City::new().await;
    city.image("debian").await;
    city.add_node("second");
    let problem = city.delete("operator", "/v1/nodes/n1").await.problem("in_use");
    let remedy = problem["remedy"].as_str().expect("a remedy");
    assert!(remedy.contains("scpctl image delete ") && !remedy.contains("drain"), "{problem}");
    let vm = city.vm("web").await;
    city.place(&vm);
    let problem = city.delete("operator", "/v1/nodes/n1").await.problem("in_use");
    assert!(
        problem["remedy"].as_str().expect("a remedy").contains("scpctl node drain n1 --wait"),
        "{problem}"
    );
}

#[tokio::test]
async fn nodes_are_cordoned_drained_and_uncordoned() {
    let city = City::new().await;
    let list = city.get("operator", "/v1/nodes").await.ok();
    assert_eq!((&list["items"][0]["name"], &list["items"][0]["phase"]), (&json!("n1"), &json!("up")));
    assert_eq!(list["items"][0]["role"], "leader");
    assert_eq!(list["items"][0]["offered"]["vcpus"], 28, "overcommitted fourfold, less the reserve");
    let act = async |what: &str| {
        let reply = city.by("operator", Method::POST, &format!("/v1/nodes/n1/{what}")).send().await;
        reply.ok()["phase"].clone()
    };
    assert_eq!(act("cordon").await, "cordoned");
    assert_eq!(act("drain").await, "draining");
    assert_eq!(act("uncordon").await, "up");
    assert_eq!(city.get("auditor", "/v1/nodes?phase=down").await.ok()["items"], json!([]));
    let id = list["items"][0]["id"].as_str().expect("an id");
    assert_eq!(city.get("auditor", &format!("/v1/nodes/{id}")).await.ok()["name"], "n1");
}

#[tokio::test]
async fn a_node_in_use_is_not_removed() {
    let city = City::new().await;
    let vm = city.vm("web").await;
    city.place(&vm);
    city.add_node("second");
    city.delete("operator", "/v1/nodes/n1").await.problem("in_use");
    city.delete("operator", "/v1/nodes/second").await.ok();
    city.get("operator", "/v1/nodes/second").await.problem("not_found");
}

#[tokio::test]
async fn a_join_token_tells_its_secret_once() {
    let city = City::new().await;
    let made = city.post("operator", "/v1/join-tokens", json!({ "lifetime_s": 600 })).await.ok();
    let text = made["token"].as_str().expect("a token");
    assert!(text.starts_with("SCP-"));
    assert_eq!(made["join_address"], "10.0.0.1:7100");
    let list = city.get("admin", "/v1/join-tokens").await.ok();
    assert_eq!(list["items"][0]["id"], made["id"]);
    assert!(!list.to_string().contains(text), "it is not told again");
    let id = made["id"].as_str().expect("an id");
    city.delete("operator", &format!("/v1/join-tokens/{id}")).await.ok();
    assert_eq!(city.get("admin", "/v1/join-tokens").await.ok()["items"], json!([]));
}

#[tokio::test]
async fn keypairs_come_and_go() {
    let city = City::new().await;
    let made = city.post("member", "/v1/keypairs", json!({ "name": "ana", "public_key": KEY })).await.ok();
    assert_eq!(made["fingerprint"], "SHA256:+DiY3wvvV6TuJJhbpZisF/zLDA0zPMSvHdkr4UvCOqU");
    assert_eq!(made["project"]["name"], "default", "the member's only project");
    assert_eq!(city.get("reader", "/v1/keypairs/ana").await.ok(), made);
    assert_eq!(city.get("reader", "/v1/keypairs?project=default").await.ok()["items"], json!([made]));
    city.delete("member", "/v1/keypairs/ana").await.ok();
    city.get("member", "/v1/keypairs/ana").await.problem("not_found");
}

#[tokio::test]
async fn flavors_come_and_go() {
    let city = City::new().await;
    let size = json!({ "vcpus": 2, "memory_mib": 1024, "disk_mib": 4096 });
    let made =
        city.post("operator", "/v1/flavors", json!({ "name": "medium", "resources": size })).await.ok();
    assert_eq!(made["resources"], size);
    assert_eq!(city.get("nobody", "/v1/flavors/medium").await.ok(), made);
    city.delete("operator", "/v1/flavors/medium").await.ok();
    assert_eq!(city.get("nobody", "/v1/flavors").await.ok()["items"].as_array().expect("a list").len(), 1);
}

#[tokio::test]
async fn an_image_is_uploaded_shown_and_deleted() {
    let city = City::new().await;
    let id = city.image("debian").await;
    let image = city.get("reader", "/v1/images/debian").await.ok();
    assert_eq!(
        (&image["id"], &image["size_bytes"], &image["phase"]),
        (&json!(id), &json!(9), &json!("ready"))
    );
    assert_eq!(image["replicas"][0]["node"]["name"], "n1");
    assert_eq!(image["replicas"][0]["state"], "held");
    assert_eq!(city.get("reader", "/v1/images?phase=replicating").await.ok()["items"], json!([]));
    city.delete("member", "/v1/images/debian").await.ok();
    city.get("reader", "/v1/images/debian").await.problem("not_found");
}

#[tokio::test]
async fn an_image_that_lies_breaks_off_or_has_no_length_is_refused() {
    let city = City::new().await;
    let upload = |length: Option<&'static str>, body: &'static str| {
        let target = format!("/v1/images/{}?name=x{}", Uuid::new_v4(), body.len());
        let mut ask = city.by("member", Method::PUT, &target).body("application/octet-stream", body);
        if let Some(length) = length {
            ask = ask.header("content-length", length);
        }
        ask.send()
    };
    let problem = upload(Some("4"), "lies").await.problem("bad_content");
    assert_eq!(problem["reason"], "backing_file");
    let problem = upload(Some("9"), "short").await.problem("bad_content");
    assert!(problem["detail"].as_str().expect("text").contains("4 bytes are missing"));
    upload(Some("2"), "longer").await.problem("bad_content");
    upload(None, "some disk").await.problem("length_required");
    upload(Some("-1"), "some disk").await.problem("length_required");
    upload(Some("0"), "").await.problem("bad_content");
    upload(Some("9999999999999"), "some disk").await.problem("too_large");
    assert!(city.cluster.snapshot().images.is_empty());
}

#[tokio::test]
async fn an_upload_that_cannot_succeed_takes_no_bytes() {
    let city = City::new().await;
    city.image("debian").await;
    let target = format!("/v1/images/{}?name=debian", Uuid::new_v4());
    let again =
        city.by("member", Method::PUT, &target).header("content-length", "9").body("a/b", "some disk");
    again.send().await.problem("name_taken");
    city.put("admin", "/v1/projects/default/quota", json!({ "images": 1 })).await.ok();
    let target = format!("/v1/images/{}?name=second", Uuid::new_v4());
    let second =
        city.by("member", Method::PUT, &target).header("content-length", "9").body("a/b", "some disk");
    second.send().await.problem("quota_exceeded");
    assert_eq!(city.cluster.images.lock().expect("no panic").len(), 1);
}

#[tokio::test]
async fn a_vm_is_created_stopped_started_rebooted_and_deleted() {
    let city = City::new().await;
    city.image("debian").await;
    city.post("member", "/v1/keypairs", json!({ "name": "ana", "public_key": KEY })).await.ok();
    let body = json!({
        "name": "web", "flavor": "small", "image": "debian", "keypairs": ["ana", "ana"],
        "user_data_base64": "I2Nsb3VkLWNvbmZpZw==", "zone": "z1", "anti_affinity": "web", "restart": "always",
    });
    let made = city.post("member", "/v1/vms", body).await.ok();
    assert_eq!(
        (&made["phase"], &made["power"], &made["node"]),
        (&json!("pending"), &json!("running"), &json!(null))
    );
    assert_eq!((&made["image"]["name"], &made["ssh_keys"]), (&json!("debian"), &json!([KEY])));
    assert_eq!(made["user_data_bytes"], 13);
    let first = made["mac"].as_str().and_then(|mac| u8::from_str_radix(&mac[..2], 16).ok()).expect("a MAC");
    assert_eq!(first & 3, 2, "locally administered, unicast");
    let act =
        async |what: &str| city.by("member", Method::POST, &format!("/v1/vms/web/{what}")).send().await.ok();
    assert_eq!(act("stop").await["power"], "stopped");
    assert_eq!(act("start").await["power"], "running");
    city.place(made["id"].as_str().expect("an id"));
    assert_eq!(act("reboot").await["reboots"], 1);
    let shown = city.get("reader", "/v1/vms/web?project=default").await.ok();
    assert_eq!((&shown["node"]["name"], &shown["phase"]), (&json!("n1"), &json!("bound")));
    assert_eq!(
        city.get("reader", "/v1/vms?phase=bound&project=default%2Fdefault").await.ok()["items"],
        json!([shown])
    );
    city.delete("member", "/v1/vms/web").await.ok();
    assert_eq!(city.get("reader", "/v1/vms/web").await.ok()["phase"], "deleting");
}

#[tokio::test]
async fn what_a_vm_does_can_be_asked() {
    let city = City::new().await;
    let vm = city.vm("web").await;
    let explained = city.get("reader", "/v1/vms/web/explain").await.ok();
    assert_eq!((&explained["vm"], &explained["nodes"][0]["obstacle"]), (&json!(vm), &json!("anti_affinity")));
    assert_eq!(
        (&explained["nodes"][0]["feasible"], &explained["remedy"]),
        (&json!(false), &json!("add a node"))
    );
    city.get("reader", "/v1/vms/web/stats").await.problem("not_found");
    city.place(&vm);
    assert_eq!(city.get("reader", "/v1/vms/web/stats").await.ok()["cpu_time_ms"], 12);
    let log = city.get("member", "/v1/vms/web/console-log?bytes=99").await;
    assert_eq!(
        (&log.bytes[..], &log.headers["content-type"]),
        (&b"<html>99"[..], &axum::http::HeaderValue::from_static("application/octet-stream"))
    );
    assert_eq!(log.headers["x-content-type-options"], "nosniff");
    assert_eq!(city.get("member", "/v1/vms/web/console-log?bytes=0").await.invalid(), ["bytes"]);
    // Not a WebSocket.
    city.get("member", "/v1/vms/web/console").await.problem("malformed_request");
}
