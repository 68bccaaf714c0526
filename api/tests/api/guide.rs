//! docs/api.md says nothing that does not hold: its examples are read from it and run.

use axum::http::Method;
use serde_json::Value;

use crate::{ask::Frames, city::City};

const GUIDE: &str = include_str!("../../../docs/api.md");

/// The contents of the guide's blocks in that language.
fn blocks(language: &str) -> Vec<&'static str> {
    let mark = format!("```{language}\n");
    GUIDE.split(&mark).skip(1).map(|rest| rest.split("\n```").next().expect("a block ends")).collect()
}

/// A request of the guide, sent as it stands there, with a real token.
async fn run(city: &City, block: &str) -> crate::ask::Reply {
    let (head, body) = block.split_once("\n\n").expect("headers, an empty line, a body");
    let mut lines = head.lines();
    let (method, target) = lines.next().and_then(|line| line.split_once(' ')).expect("a method and a path");
    let mut ask = city.ask(method.parse::<Method>().expect("a method"), target);
    for line in lines {
        let (name, value) = line.split_once(": ").expect("a header");
        ask = ask.header(&name.to_lowercase(), &value.replace("TOKEN", city.token("member")));
    }
    ask.json_after(body).send().await
}

#[tokio::test]
async fn the_requests_of_the_guide_do_what_it_says() {
    let city = City::new().await;
    city.image("debian").await;
    let requests = blocks("http");
    assert_eq!(requests.len(), 2);
    assert!(run(&city, requests[0]).await.ok()["token"].is_string());
    let made = run(&city, requests[1]).await;
    assert_eq!(made.status, 201);
    assert_eq!(run(&city, requests[1]).await.ok(), made.ok(), "repeated, and done once");
}

#[tokio::test]
async fn the_problem_of_the_guide_is_the_one_that_is_answered() {
    let city = City::new().await;
    city.image("debian").await;
    let mut shown: Value = serde_json::from_str(blocks("json")[0]).expect("the example is JSON");
    let body = serde_json::json!({ "name": "a b", "flavor": "huge", "image": "debian" });
    let told = city.post("member", "/v1/vms", body).await.problem("invalid");
    shown["request_id"] = told["request_id"].clone();
    assert_eq!(told, shown);
}

#[tokio::test]
async fn the_frames_of_the_guide_are_those_of_a_watch() {
    let city = City::new().await;
    let frames = blocks("text")[0];
    let mut watch = Frames::new(city.by("member", Method::GET, "/v1/events/watch").raw().await);
    let ready = watch.next().await.expect("it begins");
    assert!(frames.contains(&format!("event: {}", ready.0)) && ready.2["sequence"].is_u64());
    city.image("debian").await;
    let event = watch.next().await.expect("it happened");
    assert!(frames.contains(&format!("event: {}", event.0)) && event.2["kind"].is_string());
    let late =
        city.by("member", Method::GET, "/v1/events/watch").header("last-event-id", "999999").raw().await;
    let (name, _, resync) = Frames::new(late).next().await.expect("it begins");
    assert!(frames.contains(&format!("event: {name}")));
    for field in ["asked", "oldest", "sequence"] {
        assert!(resync[field].is_u64() && frames.contains(field));
    }
}
