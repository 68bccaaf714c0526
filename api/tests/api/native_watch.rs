//! Watching over the native lane: what HTTP's watch tells, to many subscriptions of one stream.

use std::{sync::Arc, time::Duration};

use axum::http::Method;
use scp_api::native::{
    Filter, Native, NativeError, SubjectKind, Subscription, WatchClient, WatchEnd,
    watch::{SUBSCRIPTIONS_MAX, WAITING_MAX},
};
use scp_model::{Command, Event, Subject, VmId, command::SetVmPower, sandbox::Power};
use serde::Serialize;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    sync::watch,
    time::timeout,
};

use crate::city::{City, DEFAULT, OTHER};

const PATIENCE: Duration = Duration::from_secs(60);

/// A stream to the city's node that holds so many bytes.
fn stream(city: &City, bytes: usize) -> DuplexStream {
    let (ours, theirs) = tokio::io::duplex(bytes);
    let native = Arc::new(Native::new(city.cluster.clone()));
    tokio::spawn(async move { native.serve(theirs).await });
    ours
}

async fn by(city: &City, user: &str) -> WatchClient {
    WatchClient::open(stream(city, 64 << 10), city.token(user)).await.expect("the token is good")
}

async fn begin(client: &WatchClient, filter: Filter, after: Option<u64>) -> Subscription {
    timeout(PATIENCE, client.subscribe(filter, after)).await.expect("in time").expect("it begins")
}

async fn next(subscription: &mut Subscription) -> Result<Arc<Event>, WatchEnd> {
    timeout(PATIENCE, subscription.next()).await.expect("in time").expect("it has not ended")
}

/// Sequence numbers of what is told before the end, and the end.
async fn rest(subscription: &mut Subscription) -> (Vec<u64>, WatchEnd) {
    let mut told = Vec::new();
    loop {
        match next(subscription).await {
            Ok(event) => told.push(event.sequence),
            Err(end) => return (told, end),
        }
    }
}

fn code<T: std::fmt::Debug>(result: Result<T, WatchEnd>) -> String {
    match result {
        Err(WatchEnd::Refused(failure)) => failure.code,
        other => panic!("that was to be refused: {other:?}"),
    }
}

/// One event about the VM.
async fn flip(city: &City, vm: VmId, count: usize) {
    for _ in 0..count {
        let power = match city.cluster.snapshot().vms[&vm].spec.power {
            Power::Running => Power::Stopped,
            Power::Stopped => Power::Running,
        };
        city.cluster.must(Command::SetVmPower(SetVmPower { vm, power }));
        tokio::task::yield_now().await;
    }
}

async fn vm(city: &City) -> VmId {
    city.vm("web").await.parse().expect("an id")
}

/// Number of the newest event.
fn newest(city: &City) -> u64 {
    city.cluster.snapshot().next_event - 1
}

/// The ring moves on by so many events.
fn move_on(city: &City, count: u64) {
    let mut state = city.cluster.state.lock().expect("no panic");
    state.next_event += count;
    state.events.iter_mut().for_each(|event| event.sequence += count);
}

async fn listed(city: &City, user: &str, query: &str) -> Vec<u64> {
    let list = city.get(user, &format!("/v1/events?limit=1000&after=0{query}")).await.ok();
    let items = list["items"].as_array().expect("a list");
    items.iter().map(|event| event["sequence"].as_u64().expect("a number")).collect()
}

#[tokio::test]
async fn everybody_is_told_what_http_lists_to_them_and_no_more() {
    let city = City::new().await;
    city.place(&city.vm("web").await);
    let target = format!("/v1/images/{}?name=theirs", uuid::Uuid::new_v4());
    let upload = city.by("stranger", Method::PUT, &target).header("content-length", "9");
    upload.body("a/b", "some disk").send().await.ok();
    let mut lists = std::collections::BTreeSet::new();
    for user in ["operator", "auditor", "manager", "member", "reader", "stranger", "nobody"] {
        let expected = listed(&city, user, "").await;
        let mut subscription = begin(&by(&city, user).await, Filter::default(), Some(0)).await;
        // What has happened came with the word that it begins.
        let disabled = json!({ "enabled": false });
        city.by("admin", Method::PATCH, &format!("/v1/users/{user}")).json(disabled).send().await.ok();
        let (told, end) = rest(&mut subscription).await;
        assert_eq!(told, expected, "{user}");
        assert_eq!(code::<()>(Err(end)), "token_refused");
        assert!(subscription.next().await.is_none());
        lists.insert(expected);
    }
    assert!(lists.len() >= 4, "they do not all see the same: {lists:?}");
}

#[tokio::test]
async fn each_subscription_of_a_stream_is_told_what_its_filter_has() {
    let city = City::new().await;
    let vm = vm(&city).await;
    let client = by(&city, "auditor").await;
    let kind = Some(SubjectKind::Image);
    let cases = [
        (Filter::default(), String::new()),
        (Filter { kind, ..Filter::default() }, "&subject_kind=image".to_owned()),
        (Filter { subject: Some(Subject::Vm(vm)), ..Filter::default() }, format!("&subject_id={vm}")),
        (Filter { project: Some(DEFAULT), ..Filter::default() }, format!("&project={DEFAULT}")),
        (
            Filter { kind, project: Some(OTHER), ..Filter::default() },
            format!("&subject_kind=image&project={OTHER}"),
        ),
        (Filter::default(), String::new()),
    ];
    let mut subscriptions = Vec::new();
    for (at, (filter, _)) in cases.iter().enumerate() {
        // Some begin early and some late: they come together, and stay apart in what they are told.
        let after = if at % 2 == 0 { 0 } else { newest(&city) };
        subscriptions.push((after, begin(&client, *filter, Some(after)).await));
        flip(&city, vm, 1).await;
    }
    let mut expected = Vec::new();
    for ((after, _), (_, query)) in subscriptions.iter().zip(&cases) {
        let all = listed(&city, "auditor", query).await;
        expected.push(all.into_iter().filter(|sequence| sequence > after).collect::<Vec<_>>());
    }
    for ((_, subscription), expected) in subscriptions.iter_mut().zip(&expected) {
        for sequence in expected {
            assert_eq!(next(subscription).await.expect("it happened").sequence, *sequence);
        }
    }
    let ended = json!({ "revoke_tokens": true });
    city.cluster.advance_ms(1);
    city.by("admin", Method::PATCH, "/v1/users/auditor").json(ended).send().await.ok();
    for (_, mut subscription) in subscriptions {
        let (told, end) = rest(&mut subscription).await;
        assert_eq!((told, code::<()>(Err(end))), (vec![], "token_refused".to_owned()));
    }
    let late = client.subscribe(Filter::default(), None).await;
    assert!(matches!(late, Err(WatchEnd::Gone { .. })), "{late:?}");
}

#[tokio::test]
async fn a_watch_resumes_without_a_gap_and_without_a_repetition() {
    let city = City::new().await;
    let vm = vm(&city).await;
    let filter = Filter { kind: Some(SubjectKind::Vm), ..Filter::default() };
    let mut first = begin(&by(&city, "reader").await, filter, None).await;
    assert_eq!(first.position(), newest(&city));
    flip(&city, vm, 3).await;
    let seen = next(&mut first).await.expect("it happened").sequence;
    assert_eq!(first.position(), seen);
    let position = first.position();
    drop(first);
    flip(&city, vm, 1).await;
    let mut second = begin(&by(&city, "member").await, filter, Some(position)).await;
    for sequence in seen + 1..=newest(&city) {
        assert_eq!(next(&mut second).await.expect("missed ones").sequence, sequence);
    }
}

#[tokio::test(start_paused = true)]
async fn a_quiet_subscription_learns_how_far_it_is() {
    let city = City::new().await;
    let vm = vm(&city).await;
    let filter = Filter { kind: Some(SubjectKind::Node), ..Filter::default() };
    let subscription = begin(&by(&city, "auditor").await, filter, None).await;
    flip(&city, vm, 5).await;
    let until = async {
        while subscription.position() < newest(&city) {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    timeout(PATIENCE, until).await.expect("the node says so");
}

#[tokio::test]
async fn who_comes_too_late_or_from_another_city_is_told_the_gap() {
    let city = City::new().await;
    let vm = vm(&city).await;
    move_on(&city, 1000);
    let client = by(&city, "reader").await;
    let (oldest, newest) = {
        let state = city.cluster.snapshot();
        (state.next_event - state.events.len() as u64, state.next_event - 1)
    };
    let gap = |asked| WatchEnd::Gap { asked, oldest, sequence: newest };
    assert_eq!(client.subscribe(Filter::default(), Some(5)).await.err(), Some(gap(5)));
    assert_eq!(client.subscribe(Filter::default(), Some(999_999)).await.err(), Some(gap(999_999)));
    let mut again = begin(&client, Filter::default(), Some(newest)).await;
    flip(&city, vm, 1).await;
    assert_eq!(next(&mut again).await.expect("it goes on").sequence, newest + 1);
}

#[tokio::test]
async fn a_reader_slower_than_the_ring_is_told_so_and_the_node_keeps_nothing_for_it() {
    const FLIPS: usize = 2000;
    let city = City::new().await;
    let vm = vm(&city).await;
    // Between program and node: 1 KiB, and somebody who passes nothing on until it is said.
    let (ours, middle) = tokio::io::duplex(1024);
    let theirs = stream(&city, 1024);
    let (mut from_program, mut to_program) = tokio::io::split(middle);
    let (mut from_node, mut to_node) = tokio::io::split(theirs);
    let (open, mut opened) = watch::channel(true);
    tokio::spawn(async move { tokio::io::copy(&mut from_program, &mut to_node).await });
    tokio::spawn(async move {
        let mut bytes = vec![0; 256];
        while opened.wait_for(|open| *open).await.is_ok() {
            let count = from_node.read(&mut bytes).await.expect("the node is there");
            if count == 0 || to_program.write_all(&bytes[..count]).await.is_err() {
                return;
            }
        }
    });
    let client = WatchClient::open(ours, city.token("reader")).await.expect("the token is good");
    let mut subscription = begin(&client, Filter::default(), None).await;
    let begun = subscription.position();
    open.send_replace(false);
    flip(&city, vm, FLIPS).await;
    let told_before = newest(&city);
    move_on(&city, 1_000_000);
    open.send_replace(true);
    let (told, end) = rest(&mut subscription).await;
    assert!(told.iter().copied().eq(begun + 1..=begun + told.len() as u64), "in order, and none left out");
    assert!(told.len() < FLIPS / 2, "{} events were kept for it", told.len());
    let asked = begun + told.len() as u64;
    let oldest = city.cluster.snapshot().events.front().expect("there are some").sequence;
    assert_eq!(end, WatchEnd::Gap { asked, oldest, sequence: told_before + 1_000_000 });
    // The stream goes on.
    let mut again = begin(&client, Filter::default(), None).await;
    flip(&city, vm, 1).await;
    assert_eq!(next(&mut again).await.expect("it goes on").sequence, newest(&city));
}

#[tokio::test]
async fn a_program_that_does_not_take_its_events_loses_that_subscription_and_no_other() {
    let city = City::new().await;
    let vm = vm(&city).await;
    let client = by(&city, "reader").await;
    let mut idle = begin(&client, Filter::default(), None).await;
    let mut busy = begin(&client, Filter::default(), None).await;
    let begun = idle.position();
    for _ in 0..WAITING_MAX + 10 {
        flip(&city, vm, 1).await;
        next(&mut busy).await.expect("this one takes them");
    }
    let (told, end) = rest(&mut idle).await;
    assert!(told.iter().copied().eq(begun + 1..=begun + WAITING_MAX as u64), "what there was room for");
    let position = begun + WAITING_MAX as u64;
    assert_eq!(end, WatchEnd::FellBehind { position });
    let mut again = begin(&client, Filter::default(), Some(position)).await;
    for sequence in position + 1..=newest(&city) {
        assert_eq!(next(&mut again).await.expect("the node has it").sequence, sequence);
    }
    flip(&city, vm, 1).await;
    assert_eq!(next(&mut busy).await, next(&mut again).await);
}

#[tokio::test]
async fn permission_is_that_of_the_moment() {
    let city = City::new().await;
    let vm = vm(&city).await;
    let client = by(&city, "reader").await;
    let theirs = Filter { project: Some(OTHER), ..Filter::default() };
    assert_eq!(code(client.subscribe(theirs, None).await), "not_found");
    let mut reader = begin(&client, Filter::default(), None).await;
    city.delete("manager", "/v1/users/reader/grants/default").await.ok();
    flip(&city, vm, 1).await;
    // What concerns oneself is seen; the VM's event is not any more.
    let event = next(&mut reader).await.expect("their own");
    assert!(matches!(event.subject, Subject::User(_)), "{event:?}");
    city.by("admin", Method::PATCH, "/v1/users/reader").json(json!({ "enabled": false })).send().await.ok();
    assert_eq!(code(next(&mut reader).await), "token_refused");
    let refused = WatchClient::open(stream(&city, 1024), city.token("reader")).await;
    assert!(matches!(refused, Err(NativeError::Refused(failure)) if failure.code == "token_refused"));
}

#[tokio::test]
async fn subscriptions_have_a_bound_and_a_dropped_one_gives_its_place_back() {
    let city = City::new().await;
    let client = by(&city, "reader").await;
    let all = (0..SUBSCRIPTIONS_MAX).map(|_| client.subscribe(Filter::default(), None));
    let mut all = futures::future::try_join_all(all).await.expect("there is room");
    assert_eq!(code(client.subscribe(Filter::default(), None).await), "overloaded");
    drop(all.pop());
    begin(&client, Filter::default(), None).await;
}

/// As it travels.
#[derive(Serialize)]
enum Order {
    Subscribe { id: u32, filter: Filter, after: Option<u64> },
    End { id: u32 },
}

#[tokio::test]
async fn whoever_talks_nonsense_loses_the_stream() {
    const VERSION: u16 = 2;
    let city = City::new().await;
    let frame = |orders: &Vec<Order>| scp_codec::encode(VERSION, orders).expect("it encodes");
    let subscribe = |id| Order::Subscribe { id, filter: Filter::default(), after: None };
    let damaged = {
        let mut bytes = frame(&vec![subscribe(1)]);
        *bytes.last_mut().expect("some") ^= 1;
        bytes
    };
    let huge = [&VERSION.to_le_bytes()[..], &u32::MAX.to_le_bytes(), &[0; 4]].concat();
    let many = (0..=2 * SUBSCRIPTIONS_MAX).map(|_| Order::End { id: 7 }).collect();
    for nonsense in [frame(&vec![subscribe(1), subscribe(1)]), frame(&many), damaged, huge] {
        let mut stream = stream(&city, 64 << 10);
        let hello = scp_codec::encode(VERSION, &(city.token("reader"), 1u32)).expect("it encodes");
        stream.write_all(&hello).await.expect("it is there");
        stream.write_all(&nonsense).await.expect("it is there");
        let mut said = Vec::new();
        let end = timeout(PATIENCE, stream.read_to_end(&mut said)).await.expect("it ends in time");
        assert!(end.expect("it ends in order") < 256, "a welcome, and no events");
    }
    // One that ends what is not there does no harm.
    let client = by(&city, "reader").await;
    drop(begin(&client, Filter::default(), None).await);
    begin(&client, Filter::default(), None).await;
}
