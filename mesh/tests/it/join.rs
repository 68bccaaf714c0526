//! Joining: what works, and each way in which it does not.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use scp_mesh::{
    Clock, JoinError, JoinRefusal, JoinReply, JoinRequest, JoinToken, Lane, Mesh, NodeKey, Refusal, Service,
    Stranger, StreamHandler, Transport,
    join::{JoinConfig, Joined, join},
    suite::Echo,
};
use scp_model::{NodeId, PROTOCOL, PROTOCOL_DISTANCE_MAX, node::NodeProfile};

use crate::city::{BEGINNING, City, DAY_MS, HandClock, Registrar, ask, introduce, profile};

/// A city of one node that admits, and a server that wants in.
struct Scene {
    city: Arc<City>,
    registrar: Arc<Registrar>,
    mesh: Mesh,
}

impl Scene {
    async fn new() -> Self {
        let city = Arc::new(City::new());
        let registrar = Registrar::new(city.clone());
        let mesh = city.start(&city.member(), registrar.clone()).await;
        Self { city, registrar, mesh }
    }

    fn config(&self, token: JoinToken, profile: NodeProfile) -> JoinConfig {
        let key = NodeKey::generate().expect("a key");
        let clock: Arc<dyn Clock> = self.city.clock.clone();
        JoinConfig { address: self.mesh.local_address(), token, key, profile, clock }
    }

    /// Joins, expecting a refusal that changed nothing; gives its code.
    async fn refused(&self, config: JoinConfig) -> &'static str {
        let before = self.registrar.snapshot();
        let error = join(config).await.expect_err("it is refused");
        assert_eq!(self.registrar.snapshot(), before, "{error}: nothing changed");
        assert!(!error.remedy().is_empty());
        error.code()
    }
}

/// A free address; the port was ours a moment ago.
fn somewhere() -> SocketAddr {
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("a socket");
    socket.local_addr().expect("an address")
}

fn server(name: &str) -> NodeProfile {
    profile(name, somewhere())
}

#[tokio::test]
async fn a_token_makes_a_server_a_member() {
    let scene = Scene::new().await;
    let token = scene.registrar.add_token(1, DAY_MS);
    let config = scene.config(token, server("n2"));
    let Joined { identity, reply, warnings } = join(config.clone()).await.expect("it joins");
    assert_eq!(identity.key.public_key(), config.key.public_key());
    assert!(identity.certificate().is_valid_at(scene.city.clock.now()));
    assert_eq!((reply.admitted_at, reply.city), (7, scene.city.authority.city()));
    assert_eq!(warnings, Vec::<String>::new(), "loopback is a good network");

    let here = scene.city.start(&identity, Echo::new()).await;
    introduce(&[here.clone(), scene.mesh.clone()]);
    assert_eq!(ask(&here, scene.mesh.node(), Lane::Forward).await, Ok("hello".into()));
    assert_eq!(ask(&scene.mesh, here.node(), Lane::Forward).await, Ok("hello".into()));
}

#[tokio::test]
async fn a_lost_answer_is_repeated_to_the_same_server_and_to_no_other() {
    let scene = Scene::new().await;
    let token = scene.registrar.add_token(1, DAY_MS);
    let config = scene.config(token.clone(), server("n2"));
    let first = join(config.clone()).await.expect("it joins");
    let again = join(config).await.expect("the same server may repeat");
    assert_eq!(first.identity.id(), again.identity.id());
    assert_eq!(scene.refused(scene.config(token, server("n3"))).await, "token_used");
}

#[tokio::test]
async fn servers_join_in_parallel() {
    let scene = Scene::new().await;
    let joins = (0..8u128).map(|id| {
        let token = scene.registrar.add_token(id, DAY_MS);
        join(scene.config(token, server(&format!("n{id}"))))
    });
    let joined = futures::future::join_all(joins).await;
    let nodes: std::collections::BTreeSet<NodeId> =
        joined.into_iter().map(|joined| joined.expect("each joins").identity.id()).collect();
    assert_eq!(nodes.len(), 8);
    assert_eq!(scene.registrar.admitted.lock().unwrap().len(), 8);
}

#[tokio::test]
async fn one_token_admits_one_of_many_that_try_at_once() {
    let scene = Scene::new().await;
    let token = scene.registrar.add_token(1, DAY_MS);
    let joins = (0..5).map(|id| join(scene.config(token.clone(), server(&format!("n{id}")))));
    let results = futures::future::join_all(joins).await;
    let codes: Vec<_> = results.iter().filter_map(|r| r.as_ref().err().map(JoinError::code)).collect();
    assert_eq!(codes, vec!["token_used"; 4]);
    assert_eq!(scene.registrar.admitted.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn tokens_that_do_not_open_are_told_apart() {
    let scene = Scene::new().await;
    let unknown = scene.city.token(99);
    assert_eq!(scene.refused(scene.config(unknown, server("n2"))).await, "token_unknown");

    let mut wrong = scene.registrar.add_token(1, DAY_MS);
    wrong.secret.0[0] ^= 1;
    assert_eq!(scene.refused(scene.config(wrong, server("n2"))).await, "token_unknown");

    let expired = scene.registrar.add_token(2, 1_000);
    scene.city.clock.advance(1_000);
    assert_eq!(scene.refused(scene.config(expired, server("n2"))).await, "token_expired");
}

#[tokio::test]
async fn a_token_of_another_city_keeps_its_secret() {
    let scene = Scene::new().await;
    let foreign = City::new().token(1);
    let config = scene.config(foreign.clone(), server("n2"));
    let before = scene.registrar.snapshot();
    match join(config).await {
        Err(JoinError::ForeignCity { expected, found, .. }) => {
            assert_eq!(expected, foreign.authority);
            assert_eq!(found, scene.city.authority.fingerprint());
        }
        other => panic!("a foreign token gave {other:?}"),
    }
    assert_eq!(scene.registrar.snapshot(), before);
}

#[tokio::test]
async fn a_clock_that_is_off_is_found_before_the_token_is_used() {
    let scene = Scene::new().await;
    let token = scene.registrar.add_token(1, DAY_MS);
    for (clock, ahead) in [(BEGINNING - 60_000, false), (BEGINNING + 60_000, true)] {
        let mut config = scene.config(token.clone(), server("n2"));
        config.clock = HandClock::at(clock);
        let before = scene.registrar.snapshot();
        match join(config).await {
            Err(JoinError::Refused(JoinRefusal::ClockOff { skew_ms, ahead: found })) => {
                assert!((55_000..65_000).contains(&skew_ms) && found == ahead);
            }
            other => panic!("a clock that is off gave {other:?}"),
        }
        assert_eq!(scene.registrar.snapshot(), before);
    }
    // Years off: certificates look expired or not valid yet, and still the clock is what is told.
    let mut config = scene.config(token.clone(), server("n2"));
    config.clock = HandClock::at(1_000);
    assert_eq!(scene.refused(config).await, "clock_off");
    let mut config = scene.config(token, server("n2"));
    config.clock = HandClock::at(BEGINNING + 4_000);
    assert!(join(config).await.is_ok(), "four seconds are allowed");
}

#[tokio::test]
async fn names_and_addresses_that_are_taken_are_told_apart() {
    let scene = Scene::new().await;
    let (first, second) = (scene.registrar.add_token(1, DAY_MS), scene.registrar.add_token(2, DAY_MS));
    join(scene.config(first, server("n2"))).await.expect("it joins");
    assert_eq!(scene.refused(scene.config(second.clone(), server("n2"))).await, "name_taken");

    let ours = profile("n3", scene.mesh.local_address());
    assert_eq!(scene.refused(scene.config(second.clone(), ours)).await, "address_taken");
    let nowhere = profile("n3", ([0, 0, 0, 0], 7400).into());
    assert_eq!(scene.refused(scene.config(second, nowhere)).await, "invalid");
}

#[tokio::test]
async fn a_protocol_too_far_apart_is_refused() {
    let scene = Scene::new().await;
    let token = scene.registrar.add_token(1, DAY_MS);
    let mut far = server("n2");
    far.protocol = PROTOCOL + PROTOCOL_DISTANCE_MAX + 1;
    assert_eq!(scene.refused(scene.config(token.clone(), far)).await, "protocol_too_far");
    let mut near = server("n2");
    near.protocol = PROTOCOL + PROTOCOL_DISTANCE_MAX;
    assert!(join(scene.config(token, near)).await.is_ok());
}

#[tokio::test(start_paused = false)]
async fn nobody_at_the_address_is_told() {
    let scene = Scene::new().await;
    let token = scene.registrar.add_token(1, DAY_MS);
    let mut config = scene.config(token, server("n2"));
    let deaf = std::net::UdpSocket::bind("127.0.0.1:0").expect("a socket");
    config.address = deaf.local_addr().expect("an address");
    assert_eq!(scene.refused(config).await, "unreachable");
}

/// Never answers a join, and counts nothing as a stranger's right but that.
struct Mute;

#[async_trait]
impl Service for Mute {
    async fn answer(&self, _: NodeId, _: Lane, _: Bytes) -> Result<Bytes, Refusal> {
        panic!("a stranger reached a member's lane");
    }

    async fn stream(&self, _: NodeId, _: Bytes) -> Result<StreamHandler, Refusal> {
        panic!("a stranger reached a member's lane");
    }

    async fn join(&self, _: Stranger, _: JoinRequest) -> Result<JoinReply, JoinRefusal> {
        std::future::pending().await
    }
}

#[tokio::test]
async fn a_city_that_dies_during_the_join_leaves_the_server_unjoined() {
    let city = Arc::new(City::new());
    let mesh = city.start(&city.member(), Arc::new(Mute)).await;
    let config = JoinConfig {
        address: mesh.local_address(),
        token: city.token(1),
        key: NodeKey::generate().expect("a key"),
        profile: server("n2"),
        clock: city.clock.clone(),
    };
    let dies = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        mesh.shutdown().await;
    };
    let (joined, ()) = tokio::join!(join(config), dies);
    let error = joined.expect_err("the city died");
    assert!(matches!(error.code(), "no_answer" | "unreachable" | "network_lossy"), "{error}");
}

#[test]
fn every_error_teaches_what_to_do_next() {
    let refusals = [
        JoinRefusal::TokenUnknown,
        JoinRefusal::TokenExpired,
        JoinRefusal::TokenUsed,
        JoinRefusal::ClockOff { skew_ms: 7_000, ahead: true },
        JoinRefusal::NameTaken { name: "n1".into() },
        JoinRefusal::AddressTaken { address: ([10, 0, 0, 1], 7400).into() },
        JoinRefusal::ProtocolTooFar { node: 5, city: 1 },
        JoinRefusal::ProtocolTooFar { node: 1, city: 5 },
        JoinRefusal::Unavailable { why: "no leader".into() },
    ];
    let texts: std::collections::BTreeSet<_> =
        refusals.iter().map(|refusal| (refusal.to_string(), refusal.remedy())).collect();
    assert_eq!(texts.len(), refusals.len(), "no two are told alike");
    assert!(refusals.iter().all(|refusal| refusal.remedy().len() > 20));
}
