//! Departments, projects, quotas, users, grants: each route once, as it should go.

use axum::http::{Method, StatusCode};
use serde_json::json;

use crate::city::{City, DEPARTMENT, PASSWORD};

#[tokio::test]
async fn departments_come_and_go() {
    let city = City::new().await;
    let made = city.post("admin", "/v1/departments", json!({ "name": "culture" })).await;
    assert_eq!(made.status, StatusCode::CREATED);
    assert!(made.headers.contains_key("x-scp-applied-index"));
    let made = made.ok();
    assert_eq!(city.get("reader", "/v1/departments/culture").await.ok(), made);
    let list = city.get("reader", "/v1/departments?name=culture").await.ok();
    assert_eq!(list["items"], json!([made]));
    assert_eq!(city.delete("admin", "/v1/departments/culture").await.status, StatusCode::NO_CONTENT);
    city.get("admin", "/v1/departments/culture").await.problem("not_found");
    city.delete("admin", &format!("/v1/departments/{DEPARTMENT}")).await.problem("in_use");
}

#[tokio::test]
async fn projects_have_a_quota_that_changes_in_parts() {
    let city = City::new().await;
    let body = json!({ "name": "museum", "quota": { "vms": 3 } });
    let made = city.post("admin", "/v1/projects", body).await.ok();
    assert_eq!((&made["quota"]["vms"], &made["quota"]["vcpus"]), (&json!(3), &json!(40)));
    assert_eq!(made["department"]["name"], "default");
    let quota = city.put("admin", "/v1/projects/default%2Fmuseum/quota", json!({ "vcpus": 7 })).await.ok();
    assert_eq!((&quota["quota"]["vms"], &quota["quota"]["vcpus"]), (&json!(3), &json!(7)));
    assert_eq!(city.get("operator", "/v1/projects/museum/quota").await.ok(), quota);
    city.delete("admin", "/v1/projects/museum").await.ok();
    city.get("admin", "/v1/projects/museum").await.problem("not_found");
}

#[tokio::test]
async fn usage_is_told_beside_the_quota_and_the_quota_holds() {
    let city = City::new().await;
    city.put("admin", "/v1/projects/default/quota", json!({ "vms": 1 })).await.ok();
    city.vm("web").await;
    let quota = city.get("reader", "/v1/projects/default/quota").await.ok();
    assert_eq!(quota["usage"]["vms"], 1);
    assert_eq!(quota["usage"]["resources"]["memory_mib"], 512);
    let body = json!({ "name": "more", "flavor": "small", "image": "debian" });
    let problem = city.post("member", "/v1/vms", body).await.problem("quota_exceeded");
    assert!(problem["remedy"].as_str().expect("a remedy").contains("quota of 2 VMs"), "{problem}");
}

#[tokio::test]
async fn users_come_log_in_and_go() {
    let city = City::new().await;
    let grants = json!([{ "project": "default", "role": "member" }]);
    let body = json!({ "name": "ana", "password": PASSWORD, "city_roles": ["auditor"], "grants": grants });
    let made = city.post("admin", "/v1/users", body).await.ok();
    assert_eq!(
        (&made["name"], &made["enabled"], &made["grants"][0]["role"]),
        (&json!("ana"), &json!(true), &json!("member"))
    );
    assert!(!made.to_string().contains("argon2"), "the hash is told to nobody");
    city.cluster.advance_ms(1);
    city.login("ana", PASSWORD).await.ok();
    let update = json!({ "city_roles": [] });
    let updated = city.by("admin", Method::PATCH, "/v1/users/ana").json(update).send().await.ok();
    assert_eq!(updated["city_roles"], json!([]));
    assert_eq!(updated["grants"], made["grants"], "what is not given stays");
    assert_eq!(city.get("auditor", "/v1/users?name=ana").await.ok()["items"], json!([updated]));
    city.delete("admin", "/v1/users/ana").await.ok();
    city.get("admin", "/v1/users/ana").await.problem("not_found");
}

#[tokio::test]
async fn who_grants_roles_in_a_project_sees_no_more_of_a_user() {
    let city = City::new().await;
    let seen =
        city.put("manager", "/v1/users/stranger/grants/default", json!({ "role": "reader" })).await.ok();
    assert_eq!(
        seen["grants"].as_array().expect("a list").len(),
        1,
        "the other project's role is not told: {seen}"
    );
    assert_eq!(seen["grants"][0]["role"], "reader");
    city.get("stranger", "/v1/projects/default").await.ok();
    let seen = city.delete("manager", "/v1/users/stranger/grants/default").await.ok();
    assert_eq!(seen["grants"], json!([]));
    city.get("stranger", "/v1/projects/default").await.problem("not_found");
    city.put("member", "/v1/users/stranger/grants/default", json!({ "role": "reader" }))
        .await
        .problem("forbidden");
    city.put("manager", "/v1/users/stranger/grants/other", json!({ "role": "reader" }))
        .await
        .problem("not_found");
}
