//! Events: lists, and the watch with its resume.

use axum::http::Method;
use scp_model::{Command, command::SetVmPower, sandbox::Power};
use serde_json::json;

use crate::{ask::Frames, city::City};

async fn watch(city: &City, user: &str, query: &str, last: Option<u64>) -> Frames {
    let mut ask = city.by(user, Method::GET, &format!("/v1/events/watch{query}"));
    if let Some(last) = last {
        ask = ask.header("last-event-id", &last.to_string());
    }
    Frames::new(ask.raw().await)
}

fn flip(city: &City, vm: &str, power: Power) {
    let vm = vm.parse().expect("an id");
    city.cluster.must(Command::SetVmPower(SetVmPower { vm, power }));
}

#[tokio::test]
async fn events_are_listed_oldest_first_and_go_on_from_where_one_was() {
    let city = City::new().await;
    city.vm("web").await;
    let all = city.get("auditor", "/v1/events?limit=1000").await.ok();
    let sequences: Vec<u64> = all["items"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|event| event["sequence"].as_u64().expect("a number"))
        .collect();
    assert!(sequences.is_sorted());
    assert_eq!(all["more"], false);
    let page = city.get("auditor", "/v1/events?limit=2").await.ok();
    assert_eq!((&page["more"], &page["items"]), (&json!(true), &json!([all["items"][0], all["items"][1]])));
    let next = city.get("auditor", &format!("/v1/events?limit=2&after={}", page["after"])).await.ok();
    assert_eq!(next["items"][0], all["items"][2]);
    let newest = city.get("auditor", "/v1/events?limit=1&newest=true").await.ok();
    assert_eq!(newest["items"][0], *all["items"].as_array().expect("a list").last().expect("some"));
    let vms = city.get("reader", "/v1/events?subject_kind=vm&project=default").await.ok();
    assert_eq!(vms["items"][0]["kind"], "vm_created");
    assert_eq!(vms["items"][0]["message"], "vm web was created");
    assert_eq!(vms["items"][0]["actor"]["kind"], "user");
    assert_eq!(city.get("reader", "/v1/events?subject_kind=ghost").await.invalid(), ["subject_kind"]);
}

#[tokio::test]
async fn a_watch_tells_what_happens_after_it_began_to_those_who_may_see_it() {
    let city = City::new().await;
    let vm = city.vm("web").await;
    let mut member = watch(&city, "member", "", None).await;
    let mut stranger = watch(&city, "stranger", "", None).await;
    assert_eq!(member.next().await.expect("it begins").0, "ready");
    assert_eq!(stranger.next().await.expect("it begins").0, "ready");
    flip(&city, &vm, Power::Stopped);
    let (name, id, event) = member.next().await.expect("it happened");
    assert_eq!(
        (name.as_str(), &event["kind"], &event["subject"]["id"]),
        ("event", &json!("vm_power_set"), &json!(vm))
    );
    assert_eq!(id, event["sequence"].to_string());
    let target = format!("/v1/images/{}?name=theirs", uuid::Uuid::new_v4());
    let upload = city.by("stranger", Method::PUT, &target).header("content-length", "9");
    upload.body("a/b", "some disk").send().await.ok();
    let (_, _, event) = stranger.next().await.expect("their own");
    assert_eq!(event["kind"], "image_created", "the stranger did not see the VM's");
}

#[tokio::test]
async fn a_watch_resumes_without_a_gap_and_without_a_repetition() {
    let city = City::new().await;
    let vm = city.vm("web").await;
    let mut first = watch(&city, "reader", "?subject_kind=vm", None).await;
    first.next().await.expect("ready");
    flip(&city, &vm, Power::Stopped);
    let (_, id, _) = first.next().await.expect("the first");
    drop(first);
    flip(&city, &vm, Power::Running);
    flip(&city, &vm, Power::Stopped);
    let last: u64 = id.parse().expect("a sequence number");
    let mut second = watch(&city, "reader", "?subject_kind=vm&after=0", Some(last)).await;
    let (name, _, ready) = second.next().await.expect("it begins");
    assert_eq!(
        (name.as_str(), &ready["sequence"]),
        ("ready", &json!(last)),
        "the header goes before the query"
    );
    for power in ["running", "stopped"] {
        assert_eq!(second.next().await.expect("missed ones").2["details"]["power"], power);
    }
}

#[tokio::test]
async fn a_watch_that_comes_too_late_is_told_to_look_again_and_goes_on() {
    let city = City::new().await;
    let vm = city.vm("web").await;
    {
        // The ring has moved on: the first events are gone.
        let mut state = city.cluster.state.lock().expect("no panic");
        let kept = state.events.len() as u64;
        state.next_event = 1000 + kept;
        for (at, event) in state.events.iter_mut().enumerate() {
            event.sequence = 1000 + at as u64;
        }
    }
    let mut late = watch(&city, "reader", "", Some(5)).await;
    let (name, id, resync) = late.next().await.expect("it begins");
    assert_eq!((name.as_str(), &resync["asked"], &resync["oldest"]), ("resync", &json!(5), &json!(1000)));
    assert_eq!(id, resync["sequence"].to_string());
    flip(&city, &vm, Power::Stopped);
    assert_eq!(late.next().await.expect("it goes on").2["kind"], "vm_power_set");
    let mut other_city = watch(&city, "reader", "", Some(999_999)).await;
    assert_eq!(other_city.next().await.expect("it begins").0, "resync");
}

#[tokio::test]
async fn a_watch_ends_with_its_token_and_changes_with_its_roles() {
    let city = City::new().await;
    let vm = city.vm("web").await;
    let mut reader = watch(&city, "reader", "", None).await;
    reader.next().await.expect("ready");
    city.delete("manager", "/v1/users/reader/grants/default").await.ok();
    flip(&city, &vm, Power::Stopped);
    // What concerns oneself is seen; the VM's event is not any more.
    assert_eq!(reader.next().await.expect("their own").2["kind"], "user_changed");
    city.by("admin", Method::PATCH, "/v1/users/reader").json(json!({ "enabled": false })).send().await.ok();
    assert_eq!(reader.next().await, None);
}

#[tokio::test]
async fn watches_have_a_bound() {
    let options =
        scp_api::server::Options { password_cost: crate::city::CHEAP, watches_max: 1, ..Default::default() };
    let city = City::with(options).await;
    let first = watch(&city, "reader", "", None).await;
    city.get("reader", "/v1/events/watch").await.problem("overloaded");
    drop(first);
    let mut again = watch(&city, "reader", "", None).await;
    assert_eq!(again.next().await.expect("it begins").0, "ready");
    let odd = city.by("reader", Method::GET, "/v1/events/watch").header("last-event-id", "x").send().await;
    assert_eq!(odd.invalid(), ["Last-Event-ID"]);
}
