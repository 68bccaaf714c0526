//! Failure detection in virtual time over links in memory, and heartbeats over real QUIC.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use scp_mesh::{
    JoinRefusal, JoinReply, JoinRequest, Lane, Observer, Refusal, Service, Stranger, StreamHandler,
    Transport,
    memory::MemoryNetwork,
    observe::{HEARTBEAT_MS, Seat, Watchlist, observers_of},
    suite::Echo,
};
use scp_model::NodeId;
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

use crate::city::{City, introduce, name, until};

/// A service that passes silence questions to its observer.
#[derive(Default)]
struct Watching {
    observer: Mutex<Option<Observer>>,
}

#[async_trait]
impl Service for Watching {
    async fn answer(&self, _: NodeId, lane: Lane, request: Bytes) -> Result<Bytes, Refusal> {
        assert_eq!(lane, Lane::Probe);
        let observer = self.observer.lock().unwrap().clone();
        observer.expect("it is started before anyone asks").answer(&request)
    }

    async fn stream(&self, from: NodeId, opening: Bytes) -> Result<StreamHandler, Refusal> {
        Echo::new().stream(from, opening).await
    }

    async fn join(&self, from: Stranger, request: JoinRequest) -> Result<JoinReply, JoinRefusal> {
        Echo::new().join(from, request).await
    }
}

const LEADER: NodeId = NodeId(1);

const ASK_TIMEOUT: Duration = Duration::from_millis(250);

struct Scene {
    network: MemoryNetwork,
    observers: BTreeMap<NodeId, Observer>,
    list: watch::Sender<Arc<Watchlist>>,
}

impl Scene {
    fn new(count: u64) -> Self {
        let zone = |id: u64| name(["a", "b", "c"][(id % 3) as usize]);
        let seats = (1..=count).map(|id| Seat { node: NodeId(id), zone: zone(id), is_up: true }).collect();
        let list = watch::Sender::new(Arc::new(Watchlist { seats, leader: Some(LEADER) }));
        let mut scene = Self { network: MemoryNetwork::new(), observers: BTreeMap::new(), list };
        (1..=count).for_each(|id| scene.start(NodeId(id)));
        scene
    }

    fn start(&mut self, node: NodeId) {
        let service = Arc::new(Watching::default());
        let transport: Arc<dyn Transport> = self.network.join(node, service.clone());
        let observer = Observer::start(transport, self.list.subscribe());
        *service.observer.lock().unwrap() = Some(observer.clone());
        self.observers.insert(node, observer);
    }

    fn kill(&mut self, node: NodeId) {
        self.observers.remove(&node).expect("it runs").shutdown();
        self.network.leave(node);
    }

    fn leader(&self) -> &Observer {
        &self.observers[&LEADER]
    }

    /// What the observers of a node besides the leader say.
    async fn told(&self, node: NodeId) -> Vec<Option<u64>> {
        let reports = self.leader().ask(node, ASK_TIMEOUT).await;
        reports.into_iter().map(|(_, silence_ms)| silence_ms).collect()
    }

    /// The longest silence of a node at the leader while time passes.
    async fn longest_silence(&self, node: NodeId, within: Duration) -> u64 {
        let began = Instant::now();
        let mut longest = 0;
        while began.elapsed() < within {
            longest = longest.max(self.leader().silence(node).unwrap_or(0));
            sleep(Duration::from_millis(10)).await;
        }
        longest
    }
}

/// The most observers of a node: it tells each in turn.
const TURN_MS: u64 = 5 * HEARTBEAT_MS;
/// From a node's last heartbeat until the leader asks it: the next one's observer waits a moment, asks
/// itself, and tells.
const NOTICED_MS: u64 = 500;

/// Heartbeats run, everyone has heard everyone.
async fn settled(scene: &Scene) {
    sleep(Duration::from_secs(3)).await;
    assert_eq!(scene.leader().silences(), [], "at rest nobody is asked");
}

#[tokio::test(start_paused = true)]
async fn a_killed_node_is_silent_at_its_observers_and_soon_at_the_leader() {
    for count in [2, 3, 5, 9, 20] {
        let mut scene = Scene::new(count);
        settled(&scene).await;
        let victim = NodeId(count);
        scene.kill(victim);
        sleep(Duration::from_millis(2_600)).await;
        let is_death = |ms: u64| (2_600 - NOTICED_MS..=2_600).contains(&ms);
        let silence = scene.leader().silence(victim);
        assert!(silence.is_some_and(is_death), "{count} nodes: {silence:?}");
        let told = scene.told(victim).await;
        assert_eq!(told.is_empty(), count == 2, "only in a city of two nobody else watches");
        let is_silence = |ms: u64| (2_600..=2_600 + TURN_MS).contains(&ms);
        assert!(told.iter().all(|told| told.is_some_and(is_silence)), "{count} nodes: {told:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_that_stalls_for_two_seconds_is_never_silent_for_so_long_at_the_leader() {
    for phase_ms in [0, 40, 80, 120, 160, 199] {
        let scene = Scene::new(5);
        settled(&scene).await;
        sleep(Duration::from_millis(phase_ms)).await;
        let stalled = NodeId(5);
        let others = (1..5).map(NodeId);
        others.clone().for_each(|other| scene.network.cut(stalled, other));
        let resume = async {
            sleep(Duration::from_secs(2)).await;
            others.for_each(|other| scene.network.heal(stalled, other));
        };
        let (longest, ()) = tokio::join!(scene.longest_silence(stalled, Duration::from_secs(6)), resume);
        assert!((1_500..2_000).contains(&longest), "phase {phase_ms}: {longest} ms");
        assert_eq!(scene.leader().silence(stalled), None, "it answered");
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_that_only_the_leader_cannot_hear_is_heard_by_its_observers() {
    let scene = Scene::new(5);
    settled(&scene).await;
    scene.network.cut(NodeId(5), LEADER);
    scene.network.cut(NodeId(5), NodeId(4));
    sleep(Duration::from_secs(20)).await;
    assert!(scene.leader().silence(NodeId(5)).is_some_and(|ms| ms > 15_000));
    let told = scene.told(NodeId(5)).await;
    let hear = told.iter().filter(|told| told.is_some_and(|ms| ms <= TURN_MS)).count();
    assert!(hear > 0 && hear * 2 >= told.len(), "{told:?}");
}

#[tokio::test(start_paused = true)]
async fn those_whose_observers_vanish_with_them_are_found_by_the_roll_call() {
    let mut scene = Scene::new(12);
    settled(&scene).await;
    let gone = (5..=12).map(NodeId);
    gone.clone().for_each(|node| scene.kill(node));
    sleep(Duration::from_millis(2_500)).await;
    let silences: BTreeMap<_, _> = scene.leader().silences().into_iter().collect();
    assert!(gone.clone().eq(silences.keys().copied()), "{silences:?}");
    assert!(silences.values().all(|ms| *ms >= 1_000), "{silences:?}");
}

#[tokio::test(start_paused = true)]
async fn a_node_without_observers_that_live_is_watched_by_others_once_they_count_as_down() {
    let mut scene = Scene::new(12);
    settled(&scene).await;
    let (subject, seats) = (NodeId(12), scene.list.borrow().seats.clone());
    let observers: Vec<_> =
        observers_of(subject, &seats).into_iter().filter(|node| *node != LEADER).collect();
    observers.iter().for_each(|node| scene.kill(*node));
    scene.list.send_modify(|list| observers.iter().for_each(|node| Arc::make_mut(list).mark(*node, false)));
    sleep(Duration::from_secs(3)).await;
    scene.kill(subject);
    sleep(Duration::from_millis(2_600)).await;
    assert!(scene.leader().silence(subject).is_some_and(|ms| ms >= 2_100));
    let told = scene.told(subject).await;
    assert!(told.iter().flatten().count() > 2 && told.iter().flatten().all(|ms| *ms >= 2_000), "{told:?}");
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_is_cut_off_gets_no_word_from_any_observer() {
    let scene = Scene::new(5);
    settled(&scene).await;
    for other in (2..=5).map(NodeId) {
        scene.network.cut(other, LEADER);
        scene.network.cut(LEADER, other);
    }
    sleep(Duration::from_secs(5)).await;
    let told = scene.told(NodeId(5)).await;
    assert!(!told.is_empty() && told.iter().all(Option::is_none), "{told:?}");
}

#[tokio::test(start_paused = true)]
async fn a_node_that_counts_as_down_is_heard_when_it_comes_back() {
    let mut scene = Scene::new(12);
    settled(&scene).await;
    let node = NodeId(3);
    scene.kill(node);
    sleep(Duration::from_secs(3)).await;
    scene.list.send_modify(|list| Arc::make_mut(list).mark(node, false));
    sleep(Duration::from_secs(1)).await;
    assert_eq!(scene.leader().silence(node), None, "it is not asked any more");
    assert!(scene.leader().last_heard(node).is_none_or(|ms| ms > 2_000));
    scene.start(node);
    sleep(Duration::from_millis(2 * HEARTBEAT_MS)).await;
    assert!(scene.leader().last_heard(node).is_some_and(|ms| ms <= HEARTBEAT_MS));
}

#[tokio::test(start_paused = true)]
async fn a_new_leader_learns_who_is_silent() {
    let mut scene = Scene::new(4);
    settled(&scene).await;
    scene.kill(LEADER);
    sleep(Duration::from_secs(1)).await;
    scene.list.send_modify(|list| Arc::make_mut(list).leader = Some(NodeId(2)));
    sleep(Duration::from_secs(1)).await;
    let silence = scene.observers[&NodeId(2)].silence(LEADER);
    assert!(silence.is_some_and(|ms| ms >= 2_000 - NOTICED_MS), "what it asked before counts: {silence:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heartbeats_travel_as_datagrams_of_the_mesh() {
    let city = City::new();
    let services: Vec<Arc<Watching>> = (0..3).map(|_| Arc::default()).collect();
    let mut nodes = vec![];
    for service in &services {
        nodes.push(city.start(&city.member(), service.clone()).await);
    }
    introduce(&nodes);
    let seats = nodes.iter().map(|node| Seat { node: node.node(), zone: name("z"), is_up: true }).collect();
    let list = Arc::new(Watchlist { seats, leader: Some(nodes[0].node()) });
    let (_keep, list) = watch::channel(list);
    let observers: Vec<_> =
        nodes.iter().map(|node| Observer::start(Arc::new(node.clone()), list.clone())).collect();
    for (service, observer) in services.iter().zip(&observers) {
        *service.observer.lock().unwrap() = Some(observer.clone());
    }
    let (leader, subject) = (&observers[0], nodes[2].node());
    until("the leader hears the others", || {
        nodes[1..].iter().all(|node| leader.last_heard(node.node()).is_some())
    })
    .await;
    let mut reports = leader.ask(subject, Duration::from_secs(10)).await;
    while reports.iter().any(|(_, silence)| silence.is_none()) {
        reports = leader.ask(subject, Duration::from_secs(10)).await;
    }
    assert!(matches!(reports[..], [(observer, Some(_))] if observer == nodes[1].node()), "{reports:?}");
    observers[2].shutdown();
    nodes[2].shutdown().await;
    until("the silence is noticed", || leader.silence(subject).is_some_and(|ms| ms >= 1_000)).await;
    assert!(leader.last_heard(nodes[1].node()).is_some_and(|ms| ms < 1_000), "the other is still heard");
}
