//! The OpenAPI document: it is one, and it has every route.

use std::collections::BTreeSet;

use axum::http::{Method, StatusCode};
use serde_json::Value;

use crate::city::City;

const METHODS: [&str; 5] = ["get", "post", "put", "patch", "delete"];

async fn document(city: &City) -> Value {
    city.ask(Method::GET, "/v1/openapi.json").send().await.ok()
}

/// Every operation: method, path, its object.
fn operations(document: &Value) -> Vec<(Method, String, &Value)> {
    let mut found = Vec::new();
    for (path, item) in document["paths"].as_object().expect("paths are an object") {
        for (method, operation) in item.as_object().expect("a path is an object") {
            if METHODS.contains(&method.as_str()) {
                let method = method.to_uppercase().parse().expect("it is a method");
                found.push((method, path.clone(), operation));
            }
        }
    }
    found
}

/// Every `$ref` in a value.
fn references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
    match value {
        Value::Object(fields) => {
            found.extend(fields.get("$ref").and_then(Value::as_str));
            fields.values().for_each(|value| references(value, found));
        }
        Value::Array(items) => items.iter().for_each(|value| references(value, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[tokio::test]
async fn the_document_is_openapi_3_1_and_whole() {
    let city = City::new().await;
    let document = document(&city).await;
    assert!(document["openapi"].as_str().expect("a version").starts_with("3.1."));
    assert_eq!(document["info"]["title"], "Storm Cloud Platform");
    assert_eq!(document["components"]["securitySchemes"]["token"]["scheme"], "bearer");
    let mut found = Vec::new();
    references(&document, &mut found);
    assert!(found.len() > 100, "types are referred to");
    for reference in found {
        let pointer = reference.strip_prefix('#').expect("references stay within the document");
        assert!(document.pointer(pointer).is_some(), "{reference} leads nowhere");
    }
    let mut ids = BTreeSet::new();
    for (method, path, operation) in operations(&document) {
        let id = format!("{} {}", operation["tags"][0], operation["operationId"]);
        assert!(
            operation["summary"].is_string() && ids.insert(id),
            "{method} {path} has a summary and its own id"
        );
        let problem =
            &operation["responses"]["default"]["content"]["application/problem+json"]["schema"]["$ref"];
        assert_eq!(problem, "#/components/schemas/Problem", "{method} {path}");
        let named: BTreeSet<&str> = operation["parameters"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|parameter| parameter["in"] == "path")
            .filter_map(|parameter| parameter["name"].as_str())
            .collect();
        let wanted: BTreeSet<&str> =
            path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}')).collect();
        assert_eq!(named, wanted, "{method} {path} describes its path parameters");
    }
}

#[tokio::test]
async fn the_document_has_every_route_and_every_route_asks_who_it_is() {
    let city = City::new().await;
    let document = document(&city).await;
    let operations = operations(&document);
    let guide = include_str!("../../../docs/api.md");
    for (method, path, _) in operations {
        assert!(guide.contains(&format!("`{method} {path}`")), "{method} {path} is not in docs/api.md");
        let target = path.replace(['{', '}'], "");
        let reply = city.ask(method.clone(), &target).send().await;
        if path == "/v1/tokens" {
            reply.problem("media_type");
        } else {
            assert_eq!(reply.status, StatusCode::UNAUTHORIZED, "{method} {path}");
            reply.problem("unauthenticated");
        }
    }
}

#[tokio::test]
async fn what_needs_no_token_says_nothing_about_the_city() {
    let city = City::new().await;
    assert_eq!(&city.ask(Method::GET, "/healthz").send().await.bytes[..], b"ok\n");
    let code = city.ask(Method::GET, "/errors/no_quorum").send().await;
    assert!(String::from_utf8_lossy(&code.bytes).contains("cannot agree"));
    city.ask(Method::GET, "/errors/nonsense").send().await.problem("not_found");
    city.ask(Method::GET, "/metrics").send().await.problem("unauthenticated");
}
