//! What people and machines send that they should not.

use axum::http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::city::City;

#[tokio::test]
async fn malformed_json_is_told_where_it_breaks() {
    let city = City::new().await;
    for body in ["", "{", "{\"name\":", "[1,2", "nul", "{\"name\":\"x\"} trailing", "\u{0}", "{'name':'x'}"] {
        let reply =
            city.by("admin", Method::POST, "/v1/departments").body("application/json", body).send().await;
        assert_eq!(reply.status, StatusCode::BAD_REQUEST, "{body:?}");
        reply.problem("malformed_request");
    }
    let nested = "[".repeat(100_000);
    let reply =
        city.by("admin", Method::POST, "/v1/departments").body("application/json", nested).send().await;
    assert!(reply.status.is_client_error());
    let invalid_utf8 = vec![b'{', b'"', 0xff, 0xfe, b'"', b':', b'1', b'}'];
    let reply =
        city.by("admin", Method::POST, "/v1/departments").body("application/json", invalid_utf8).send().await;
    assert!(reply.status.is_client_error());
}

#[tokio::test]
async fn unknown_fields_and_wrong_types_name_the_field() {
    let city = City::new().await;
    let post = async |target: &str, body: Value| city.post("admin", target, body).await.invalid();
    assert_eq!(post("/v1/departments", json!({ "name": "x", "nmae": "y" })).await, ["nmae"]);
    assert_eq!(post("/v1/departments", json!({ "name": 7 })).await, ["name"]);
    city.post("admin", "/v1/departments", json!([null, "x"])).await.problem("malformed_request");
    assert_eq!(
        post("/v1/vms", json!({ "name": "x", "flavor": "s", "image": "i", "restart": "maybe" })).await,
        ["restart"]
    );
    let size = json!({ "vcpus": 1, "memory_mib": 64, "disk_mib": 64, "gpus": 1 });
    assert_eq!(post("/v1/flavors", json!({ "name": "x", "resources": size })).await, ["resources.gpus"]);
    assert_eq!(city.get("admin", "/v1/vms?colour=red").await.invalid(), ["query"]);
}

#[tokio::test]
async fn absurd_numbers_are_refused_and_not_wrapped() {
    let city = City::new().await;
    for number in ["-1", "1e400", "1.5", "18446744073709551616", "\"7\"", "null"] {
        let body =
            format!(r#"{{"name":"x","resources":{{"vcpus":{number},"memory_mib":64,"disk_mib":64}}}}"#);
        let reply = city.by("admin", Method::POST, "/v1/flavors").body("application/json", body).send().await;
        assert!(reply.status.is_client_error(), "{number}: {}", reply.status);
    }
    let most = json!({ "vcpus": u64::MAX, "memory_mib": u64::MAX, "disk_mib": 0 });
    let fields = city.post("admin", "/v1/flavors", json!({ "name": "x", "resources": most })).await.invalid();
    assert_eq!(fields, ["resources.vcpus", "resources.memory_mib", "resources.disk_mib"]);
    let quota = json!({ "vms": u64::MAX });
    assert_eq!(city.put("admin", "/v1/projects/default/quota", quota).await.invalid(), ["vms"]);
    let lifetime = json!({ "lifetime_s": u64::MAX });
    assert_eq!(city.post("admin", "/v1/join-tokens", lifetime).await.invalid(), ["lifetime_s"]);
    let login = json!({ "user": "admin", "password": "x", "lifetime_s": u64::MAX });
    assert_eq!(city.ask(Method::POST, "/v1/tokens").json(login).send().await.invalid(), ["lifetime_s"]);
    for limit in ["0", "1001", "18446744073709551615"] {
        assert_eq!(city.get("admin", &format!("/v1/vms?limit={limit}")).await.invalid(), ["limit"]);
    }
    assert_eq!(city.get("admin", "/v1/vms?limit=-1").await.invalid(), ["query"]);
}

#[tokio::test]
async fn names_with_control_characters_or_path_parts_are_refused() {
    let city = City::new().await;
    let long = "a".repeat(64);
    let like_id = "00000000-0000-4000-8000-000000000000";
    let bad = [
        "",
        "a\u{7}b",
        "a\nb",
        "../etc",
        "..",
        ".",
        "a/b",
        "a\\b",
        "-rf",
        "ágora",
        " x",
        long.as_str(),
        like_id,
        "00000000000000ab",
    ];
    for name in bad {
        assert_eq!(
            city.post("admin", "/v1/departments", json!({ "name": name })).await.invalid(),
            ["name"],
            "{name:?}"
        );
        assert_eq!(
            city.post("admin", "/v1/users", json!({ "name": name, "password": "a sentence that is long" }))
                .await
                .invalid(),
            ["name"]
        );
    }
    for path in ["%00", "..%2F..%2Fetc%2Fpasswd", "%0d%0aSet-Cookie:x", "a%07b", "%ff", "%2e%2e"] {
        for kind in ["vms", "images", "keypairs", "flavors", "nodes", "departments", "projects", "users"] {
            let reply = city.get("admin", &format!("/v1/{kind}/{path}")).await;
            assert!(reply.status.is_client_error(), "{kind}/{path}: {}", reply.status);
            let text = String::from_utf8(reply.bytes.to_vec()).expect("an answer is text");
            assert!(!text.contains(['\0', '\u{7}', '\r', '\n']), "{text:?}");
        }
    }
}

#[tokio::test]
async fn everything_that_is_not_valid_is_told_at_once() {
    let city = City::new().await;
    city.image("debian").await;
    let body = json!({
        "id": "seven", "name": "a b", "flavor": "huge", "image": "windows", "keypairs": ["none", "neither"],
        "user_data_base64": "***", "zone": "mars", "anti_affinity": "x y",
    });
    let fields = city.post("member", "/v1/vms", body).await.invalid();
    let expected = [
        "id",
        "name",
        "flavor",
        "zone",
        "anti_affinity",
        "user_data_base64",
        "image",
        "keypairs[0]",
        "keypairs[1]",
    ];
    assert_eq!(fields, expected);
    assert!(city.cluster.snapshot().vms.is_empty());
}

#[tokio::test]
async fn user_data_and_keys_have_their_bounds() {
    let city = City::new().await;
    city.image("debian").await;
    let create = async |bytes: usize| {
        let data = data_encoding::BASE64.encode(&vec![b'x'; bytes]);
        let body = json!({ "name": "web", "flavor": "small", "image": "debian", "user_data_base64": data });
        city.post("member", "/v1/vms", body).await
    };
    assert_eq!(create((64 << 10) + 1).await.invalid(), ["user_data_base64"]);
    assert_eq!(create(70 << 10).await.invalid(), ["user_data_base64"]);
    assert_eq!(create(64 << 10).await.ok()["user_data_bytes"], 64 << 10);
    let keys: Vec<String> = (0..21).map(|at| format!("k{at}")).collect();
    let body = json!({ "name": "web2", "flavor": "small", "image": "debian", "keypairs": keys });
    assert!(city.post("member", "/v1/vms", body).await.invalid().contains(&"keypairs".to_owned()));
}

#[tokio::test]
async fn oversized_bodies_headers_and_paths_are_refused() {
    let city = City::new().await;
    let body = format!("{{\"name\":\"{}\"}}", "x".repeat(2 << 20));
    city.by("admin", Method::POST, "/v1/departments")
        .body("application/json", body)
        .send()
        .await
        .problem("too_large");
    let header = city.by("admin", Method::GET, "/v1/vms").header("x-noise", &"x".repeat(33 << 10));
    header.send().await.problem("headers_too_large");
    let path = format!("/v1/vms/{}", "x".repeat(9 << 10));
    city.get("admin", &path).await.problem("headers_too_large");
    let password = json!({ "user": "admin", "password": "x".repeat(5000) });
    assert_eq!(city.ask(Method::POST, "/v1/tokens").json(password).send().await.invalid(), ["password"]);
}

#[tokio::test]
async fn the_wrong_media_type_route_or_method_is_a_problem_too() {
    let city = City::new().await;
    let body = "name=x";
    let form =
        city.by("admin", Method::POST, "/v1/departments").body("application/x-www-form-urlencoded", body);
    form.send().await.problem("media_type");
    city.by("admin", Method::POST, "/v1/departments").send().await.problem("media_type");
    city.get("admin", "/v1/volumes").await.problem("route_unknown");
    city.get("admin", "/").await.problem("route_unknown");
    let reply = city.delete("admin", "/v1/vms").await;
    assert!(reply.headers.contains_key("allow"));
    reply.problem("method_not_allowed");
}

#[tokio::test]
async fn odd_headers_are_refused_or_replaced() {
    let city = City::new().await;
    let key = city.by("admin", Method::GET, "/v1/vms").header("idempotency-key", "seven");
    assert_eq!(key.send().await.invalid(), ["Idempotency-Key"]);
    let fresh = city.by("admin", Method::GET, "/v1/vms").header("x-scp-consistency", "fresh");
    assert_eq!(fresh.send().await.invalid(), ["consistency"]);
    assert_eq!(city.get("admin", "/v1/status?consistency=fresh").await.invalid(), ["consistency"]);
    let given = city.by("admin", Method::GET, "/v1/vms").header("x-request-id", "trace-7.a_b").send().await;
    assert_eq!(given.headers["x-request-id"], "trace-7.a_b");
    for bad in ["a b", "<script>", "x{y}", &"x".repeat(65)] {
        let reply = city.by("admin", Method::GET, "/v1/vms").header("x-request-id", bad).send().await;
        assert_ne!(reply.headers["x-request-id"], bad);
        assert_eq!(reply.headers["x-request-id"].len(), 36);
    }
}
