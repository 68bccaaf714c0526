//! The checks that every implementation of [`Network`] passes.

use std::{future::pending, sync::Arc, time::Duration};

use bytes::Bytes;
use scp_model::NodeId;
use tokio::time::{Instant, timeout};

use super::{Answerer, Network, REQUEST_BYTES_MAX};

/// Three nodes that know each other's addresses: 1, 2 and 3. Node 9 exists nowhere.
pub trait Fixture {
    fn port(&self, node: NodeId) -> Arc<dyn Network>;
    /// From now on requests to `node` are answered so.
    fn serve(&self, node: NodeId, answerer: Answerer);
}

const ONE: NodeId = NodeId(1);
const TWO: NodeId = NodeId(2);
const THREE: NodeId = NodeId(3);
const NOWHERE: NodeId = NodeId(9);

/// Enough for any single call, and long enough to tell waiting from not waiting.
const LONG: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(300);

/// Runs all checks.
pub async fn check(fixture: &impl Fixture) {
    requests_arrive_whole_with_the_callers_id(fixture).await;
    the_largest_request_and_answer_pass(fixture).await;
    an_unknown_peer_is_unreachable_in_time(fixture).await;
    a_call_to_a_silent_peer_ends_in_time_and_holds_up_no_other(fixture).await;
}

/// Answers with the caller's id and the request.
fn echo() -> Answerer {
    Arc::new(|from, request| {
        Box::pin(async move { [from.to_string().as_bytes(), b" ", &request].concat().into() })
    })
}

async fn requests_arrive_whole_with_the_callers_id(fixture: &impl Fixture) {
    fixture.serve(TWO, echo());
    for from in [ONE, THREE] {
        for request in [&b""[..], b"x", &[0; 5000]] {
            let answer = fixture.port(from).call(TWO, Bytes::copy_from_slice(request), LONG).await;
            let wanted = [from.to_string().as_bytes(), b" ", request].concat();
            assert_eq!(answer.expect("it is there"), wanted);
        }
    }
}

async fn the_largest_request_and_answer_pass(fixture: &impl Fixture) {
    fixture.serve(TWO, Arc::new(|_, request| Box::pin(async move { request })));
    let request = Bytes::from(vec![0x5a; REQUEST_BYTES_MAX]);
    let answer = fixture.port(ONE).call(TWO, request.clone(), LONG).await.expect("it is there");
    assert!(answer == request, "all bytes came back");
}

async fn an_unknown_peer_is_unreachable_in_time(fixture: &impl Fixture) {
    let asked_at = Instant::now();
    let answer = fixture.port(ONE).call(NOWHERE, Bytes::from_static(b"anyone?"), SHORT).await;
    assert_eq!(answer.expect_err("nobody is there").peer, NOWHERE);
    assert!(asked_at.elapsed() < LONG);
}

async fn a_call_to_a_silent_peer_ends_in_time_and_holds_up_no_other(fixture: &impl Fixture) {
    // Node 2 answers nothing but "quick".
    fixture.serve(
        TWO,
        Arc::new(|_, request| {
            Box::pin(async move { if request == b"quick"[..] { request } else { pending().await } })
        }),
    );
    fixture.serve(THREE, echo());
    let port = fixture.port(ONE);
    let asked_at = Instant::now();
    let silent = port.call(TWO, Bytes::from_static(b"slow"), SHORT).await;
    assert_eq!(silent.expect_err("it says nothing").peer, TWO);
    assert!(asked_at.elapsed() < LONG);
    let waiting = {
        let port = port.clone();
        tokio::spawn(async move { port.call(TWO, Bytes::from_static(b"slow"), LONG).await })
    };
    tokio::task::yield_now().await;
    for (peer, request) in [(THREE, "hello"), (TWO, "quick")] {
        let answer = timeout(LONG / 2, port.call(peer, request.into(), LONG)).await;
        answer.expect("nothing is waited for").expect("it is there");
    }
    assert!(!waiting.is_finished());
    waiting.abort();
}
