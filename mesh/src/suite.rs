//! What every [`Transport`] must do; each implementation runs it in its tests.
//!
//! A [`Network`] makes nodes whose service is [`Echo`] and which know each other.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::join_all;
use scp_model::NodeId;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::Semaphore,
    time::{Instant, timeout},
};

use crate::{
    join::{JoinRefusal, JoinReply, JoinRequest, Stranger},
    lane::Lane,
    transport::{MeshError, Refusal, RefusalKind, Service, StreamHandler, Transport},
};

/// Longer than anything here takes, on the busiest machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// The implementation under test.
#[async_trait]
pub trait Network: Send + Sync {
    /// New nodes that can reach each other.
    async fn nodes(&self, services: Vec<Arc<Echo>>) -> Vec<Arc<dyn Transport>>;
    /// The node stops without a word.
    async fn kill(&self, node: NodeId);
}

/// Answers with the request, but for a few words that ask for something else.
pub struct Echo {
    /// `wait` is answered when a permit is added.
    pub gate: Semaphore,
    /// Requests `wait` that are being served, and the most there ever were.
    pub waiting: AtomicUsize,
    pub waiting_most: AtomicUsize,
}

impl Echo {
    pub fn new() -> Arc<Self> {
        let none = || AtomicUsize::new(0);
        Arc::new(Self { gate: Semaphore::new(0), waiting: none(), waiting_most: none() })
    }

    async fn wait(&self) {
        let now = 1 + self.waiting.fetch_add(1, Ordering::SeqCst);
        self.waiting_most.fetch_max(now, Ordering::SeqCst);
        self.gate.acquire().await.expect("the gate is never closed").forget();
        self.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}

#[async_trait]
impl Service for Echo {
    async fn answer(&self, from: NodeId, lane: Lane, request: Bytes) -> Result<Bytes, Refusal> {
        match &request[..] {
            b"refuse" => Err(Refusal::new(RefusalKind::NotHere, "not here")),
            b"who" => Ok(from.to_string().into()),
            b"too much" => Ok(vec![0; lane.limits().bytes_max + 1].into()),
            b"wait" => {
                self.wait().await;
                Ok(request)
            }
            _ => Ok(request),
        }
    }

    async fn stream(&self, from: NodeId, opening: Bytes) -> Result<StreamHandler, Refusal> {
        if &opening[..] == b"refuse" {
            return Err(Refusal::new(RefusalKind::NotFound, "no such thing"));
        }
        Ok(Box::new(move |mut stream| {
            Box::pin(async move {
                // Says who it speaks with, then echoes until the other end has said all.
                let _ = stream.write_all(from.to_string().as_bytes()).await;
                let _ = tokio::io::copy(&mut stream.reader, &mut stream.writer).await;
                let _ = stream.shutdown().await;
            })
        }))
    }

    async fn join(&self, _: Stranger, _: JoinRequest) -> Result<JoinReply, JoinRefusal> {
        Err(JoinRefusal::Unavailable { why: "an echo admits nobody".into() })
    }
}

/// Runs all checks, each with nodes of its own.
pub async fn run(network: &dyn Network) {
    requests_are_answered_on_every_lane_that_takes_them(network).await;
    a_refusal_is_passed_on_as_it_was_said(network).await;
    what_is_too_large_is_refused(network).await;
    one_way_messages_arrive_from_a_proven_sender(network).await;
    lanes_are_not_mixed_up(network).await;
    a_stream_carries_bytes_both_ways(network).await;
    a_refused_stream_is_not_opened(network).await;
    an_answer_that_does_not_come_is_a_timeout(network).await;
    a_dead_peer_delays_nobody_else(network).await;
    nobody_is_unreachable(network).await;
    requests_to_one_peer_are_bounded_and_none_is_lost(network).await;
}

async fn pair(network: &dyn Network) -> (Arc<dyn Transport>, Arc<dyn Transport>) {
    let mut nodes = network.nodes(vec![Echo::new(), Echo::new()]).await;
    let b = nodes.pop().expect("two nodes were asked for");
    (nodes.pop().expect("two nodes were asked for"), b)
}

async fn ask(
    from: &Arc<dyn Transport>,
    to: NodeId,
    lane: Lane,
    request: &'static str,
) -> Result<Bytes, MeshError> {
    from.request(to, lane, Bytes::from_static(request.as_bytes()), PATIENCE).await
}

async fn requests_are_answered_on_every_lane_that_takes_them(network: &dyn Network) {
    let (a, b) = pair(network).await;
    for lane in [Lane::Raft, Lane::Forward, Lane::Bulk, Lane::Probe, Lane::Renew] {
        assert_eq!(ask(&a, b.node(), lane, "hello").await, Ok("hello".into()), "{lane:?}");
        assert_eq!(ask(&b, a.node(), lane, "who").await, Ok(b.node().to_string().into()), "{lane:?}");
        assert_eq!(ask(&a, b.node(), lane, "").await, Ok(Bytes::new()), "{lane:?}");
        let largest: Bytes = vec![7; lane.limits().bytes_max].into();
        let answer = a.request(b.node(), lane, largest.clone(), PATIENCE).await;
        assert!(answer == Ok(largest), "the largest request of {lane:?} is echoed");
    }
}

async fn a_refusal_is_passed_on_as_it_was_said(network: &dyn Network) {
    let (a, b) = pair(network).await;
    let refusal = Refusal::new(RefusalKind::NotHere, "not here");
    let expected = MeshError::Refused { peer: b.node(), refusal };
    assert_eq!(ask(&a, b.node(), Lane::Forward, "refuse").await, Err(expected));
}

async fn what_is_too_large_is_refused(network: &dyn Network) {
    let (a, b) = pair(network).await;
    for lane in [Lane::Probe, Lane::Renew, Lane::Forward] {
        let limit = lane.limits().bytes_max;
        let request = Bytes::from(vec![0; limit + 1]);
        let refused = a.request(b.node(), lane, request, PATIENCE).await;
        assert_eq!(refused, Err(MeshError::TooLarge { lane, length: limit + 1, limit }));
        match ask(&a, b.node(), lane, "too much").await {
            Err(MeshError::Refused { refusal, .. }) => assert_eq!(refusal.kind, RefusalKind::Failed),
            other => panic!("an answer over the limit of {lane:?} gave {other:?}"),
        }
    }
}

async fn one_way_messages_arrive_from_a_proven_sender(network: &dyn Network) {
    let (a, b) = pair(network).await;
    for lane in [Lane::Gossip, Lane::Probe] {
        let mut inbox = b.inbox(lane);
        // The first ones may be lost while the connection is being made.
        let arrived = async {
            loop {
                let _ = a.send(b.node(), lane, Bytes::from_static(b"tick"));
                if let Ok(message) = timeout(Duration::from_millis(20), inbox.recv()).await {
                    break message.expect("the inbox is open");
                }
            }
        };
        let (from, message) = timeout(PATIENCE, arrived).await.expect("a message arrives");
        assert_eq!((from, &message[..]), (a.node(), &b"tick"[..]));
    }
}

async fn lanes_are_not_mixed_up(network: &dyn Network) {
    let (a, b) = pair(network).await;
    for lane in [Lane::Gossip, Lane::Join] {
        match ask(&a, b.node(), lane, "hello").await {
            Err(MeshError::Refused { refusal, .. }) => assert_eq!(refusal.kind, RefusalKind::Forbidden),
            other => panic!("a request on {lane:?} gave {other:?}"),
        }
    }
    for lane in [Lane::Raft, Lane::Forward, Lane::Bulk, Lane::Join, Lane::Renew] {
        assert!(a.send(b.node(), lane, Bytes::new()).is_err(), "{lane:?} has no one-way messages");
    }
}

async fn a_stream_carries_bytes_both_ways(network: &dyn Network) {
    let (a, b) = pair(network).await;
    let stream = a.open(b.node(), Bytes::from_static(b"console"), PATIENCE).await.expect("it opens");
    let (mut reader, mut writer) = (stream.reader, stream.writer);
    let sent = vec![42u8; 300_000];
    let writing = async {
        writer.write_all(&sent).await.expect("the other end reads");
        writer.shutdown().await.expect("our direction ends");
    };
    let mut received = vec![];
    let reading = reader.read_to_end(&mut received);
    let both = async { tokio::join!(writing, reading) };
    let ((), read) = timeout(PATIENCE, both).await.expect("it comes to an end");
    read.expect("the other end says all");
    assert!(received == [a.node().to_string().as_bytes(), &sent].concat());
}

async fn a_refused_stream_is_not_opened(network: &dyn Network) {
    let (a, b) = pair(network).await;
    let refused = a.open(b.node(), Bytes::from_static(b"refuse"), PATIENCE).await;
    match refused {
        Err(MeshError::Refused { refusal, .. }) => {
            assert_eq!(refusal, Refusal::new(RefusalKind::NotFound, "no such thing"));
        }
        other => panic!("a refused stream gave {other:?}"),
    }
}

async fn an_answer_that_does_not_come_is_a_timeout(network: &dyn Network) {
    let (a, b) = pair(network).await;
    ask(&a, b.node(), Lane::Raft, "connect").await.expect("they are connected");
    let limit = Duration::from_millis(200);
    let silent = a.request(b.node(), Lane::Raft, Bytes::from_static(b"wait"), limit).await;
    assert_eq!(silent, Err(MeshError::Timeout { peer: b.node(), timeout_ms: 200 }));
    assert_eq!(ask(&a, b.node(), Lane::Raft, "still there").await, Ok("still there".into()));
}

async fn a_dead_peer_delays_nobody_else(network: &dyn Network) {
    let nodes = network.nodes(vec![Echo::new(), Echo::new(), Echo::new()]).await;
    let [a, b, c] = &nodes[..] else { panic!("three nodes were asked for") };
    ask(a, b.node(), Lane::Raft, "connect").await.expect("they are connected");
    network.kill(c.node()).await;
    let dead = Duration::from_millis(800);
    let to_the_dead = a.request(c.node(), Lane::Raft, Bytes::from_static(b"x"), dead);
    let to_the_living = async {
        let began = Instant::now();
        for _ in 0..20 {
            ask(a, b.node(), Lane::Raft, "alive").await.expect("b answers");
        }
        began.elapsed()
    };
    let (dead_answer, took) = tokio::join!(to_the_dead, to_the_living);
    assert!(dead_answer.is_err());
    // Twenty calls that each waited behind the dead peer would take sixteen seconds.
    assert!(took < 8 * dead, "calls to a living peer took {took:?}");
}

async fn nobody_is_unreachable(network: &dyn Network) {
    let (a, _b) = pair(network).await;
    let nobody = NodeId(u64::MAX);
    match ask(&a, nobody, Lane::Forward, "hello").await {
        Err(MeshError::Unreachable { peer, .. }) => assert_eq!(peer, nobody),
        other => panic!("asking nobody gave {other:?}"),
    }
}

async fn requests_to_one_peer_are_bounded_and_none_is_lost(network: &dyn Network) {
    let echo = Echo::new();
    let nodes = network.nodes(vec![Echo::new(), echo.clone()]).await;
    let [a, b] = &nodes[..] else { panic!("two nodes were asked for") };
    let lane = Lane::Bulk;
    let limit = lane.limits().requests_max;
    let asking = join_all((0..3 * limit).map(|_| ask(a, b.node(), lane, "wait")));
    let serving = async {
        let full = async {
            while echo.waiting.load(Ordering::SeqCst) < limit {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, full).await.expect("as many as allowed are served at once");
        echo.gate.add_permits(3 * limit);
    };
    let (answers, ()) = tokio::join!(asking, serving);
    assert!(answers.into_iter().all(|answer| answer == Ok("wait".into())));
    assert_eq!(echo.waiting_most.load(Ordering::SeqCst), limit);
}
