//! Connections: the contract suite, reconnecting, simultaneous dials, shutdown.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use scp_mesh::{
    Lane, Mesh, MeshConfig, MeshError, Transport,
    suite::{self, Echo},
};
use scp_model::NodeId;

use crate::city::{City, ask, introduce, until};

struct Quic {
    city: City,
    nodes: Mutex<Vec<Mesh>>,
}

#[async_trait]
impl suite::Network for Quic {
    async fn nodes(&self, services: Vec<Arc<Echo>>) -> Vec<Arc<dyn Transport>> {
        let mut nodes = vec![];
        for service in services {
            nodes.push(self.city.start(&self.city.member(), service).await);
        }
        introduce(&nodes);
        self.nodes.lock().unwrap().extend(nodes.clone());
        nodes.into_iter().map(|node| Arc::new(node) as Arc<dyn Transport>).collect()
    }

    async fn kill(&self, node: NodeId) {
        let mesh = self.nodes.lock().unwrap().iter().find(|mesh| mesh.node() == node).cloned();
        mesh.expect("it is one of ours").shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn quic_passes_the_suite() {
    suite::run(&Quic { city: City::new(), nodes: Mutex::default() }).await;
}

#[tokio::test]
async fn a_peer_that_restarts_at_a_new_address_is_found_there() {
    let city = City::new();
    let (a, b) = (city.member(), city.member());
    let here = city.start(&a, Echo::new()).await;
    let first = city.start(&b, Echo::new()).await;
    here.set_address(b.id(), Some(first.local_address()));
    assert_eq!(ask(&here, b.id(), Lane::Forward).await, Ok("hello".into()));
    first.shutdown().await;
    // Two at once: the operating system cannot give the second the port of the first.
    let second = city.start(&b, Echo::new()).await;
    here.set_address(b.id(), Some(second.local_address()));
    assert_eq!(ask(&here, b.id(), Lane::Forward).await, Ok("hello".into()));
}

#[tokio::test]
async fn a_peer_that_moved_without_a_word_is_found_at_once() {
    let city = City::new();
    let (a, b) = (city.member(), city.member());
    let here = city.start(&a, Echo::new()).await;
    let first = city.start(&b, Echo::new()).await;
    here.set_address(b.id(), Some(first.local_address()));
    assert_eq!(ask(&here, b.id(), Lane::Forward).await, Ok("hello".into()));
    // The first life goes on listening, as a half-dead server may; the state says where b is now.
    let second = city.start(&b, Echo::new()).await;
    here.set_address(b.id(), Some(second.local_address()));
    second.set_address(a.id(), Some(here.local_address()));
    assert_eq!(ask(&here, b.id(), Lane::Forward).await, Ok("hello".into()));
    assert_eq!(second.connected(), vec![a.id()], "the request went to the second life");
}

#[tokio::test]
async fn a_peer_that_restarts_at_the_same_address_is_found_again() {
    let city = City::new();
    let (a, b) = (city.member(), city.member());
    let here = city.start(&a, Echo::new()).await;
    let first = city.start(&b, Echo::new()).await;
    let listen = first.local_address();
    here.set_address(b.id(), Some(listen));
    assert_eq!(ask(&here, b.id(), Lane::Forward).await, Ok("hello".into()));
    first.shutdown().await;
    let second = Mesh::start(MeshConfig { listen }, b.clone(), city.ports(Echo::new())).await;
    let second = second.expect("the address is free again");
    assert_eq!(ask(&here, b.id(), Lane::Forward).await, Ok("hello".into()));
    assert_eq!(second.connected(), vec![a.id()]);
}

#[tokio::test]
async fn the_first_gossip_message_goes_out_with_the_connection_that_it_begins() {
    let city = City::new();
    let (a, b) = (city.member(), city.member());
    let (here, there) = (city.start(&a, Echo::new()).await, city.start(&b, Echo::new()).await);
    let mut inbox = there.inbox(Lane::Gossip);
    here.set_address(b.id(), Some(there.local_address()));
    here.send(b.id(), Lane::Gossip, Bytes::from_static(b"news")).expect("it waits for the connection");
    let heard = tokio::time::timeout(crate::city::PATIENCE, inbox.recv()).await.expect("in time");
    assert_eq!(heard, Some((a.id(), Bytes::from_static(b"news"))));
}

#[tokio::test]
async fn an_address_with_nobody_there_is_unreachable_and_says_so() {
    let city = City::new();
    let here = city.start(&city.member(), Echo::new()).await;
    let gone = city.member();
    // A bound socket that never answers: a host that is down behind a firewall.
    let deaf = std::net::UdpSocket::bind("127.0.0.1:0").expect("a socket");
    here.set_address(gone.id(), Some(deaf.local_addr().expect("an address")));
    match here.request(gone.id(), Lane::Raft, Bytes::new(), Duration::from_millis(300)).await {
        Err(MeshError::Unreachable { peer, .. }) => assert_eq!(peer, gone.id()),
        other => panic!("a deaf address gave {other:?}"),
    }
}

#[tokio::test]
async fn another_node_at_the_address_is_not_mistaken_for_the_peer() {
    let city = City::new();
    let nodes = city.echoes(2).await;
    let absent = city.member();
    nodes[0].set_address(absent.id(), Some(nodes[1].local_address()));
    match ask(&nodes[0], absent.id(), Lane::Forward).await {
        Err(MeshError::Unreachable { why, .. }) => assert!(why.contains("another node"), "{why}"),
        other => panic!("the wrong node gave {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn simultaneous_dials_both_ways_lose_nothing() {
    let city = City::new();
    for _ in 0..5 {
        let nodes = city.echoes(2).await;
        let (a, b) = (&nodes[0], &nodes[1]);
        for _ in 0..20 {
            let (there, back) =
                tokio::join!(ask(a, b.node(), Lane::Forward), ask(b, a.node(), Lane::Forward));
            assert_eq!((there, back), (Ok("hello".into()), Ok("hello".into())));
        }
    }
}

#[tokio::test]
async fn many_requests_at_once_share_one_connection() {
    let city = City::new();
    let nodes = city.echoes(2).await;
    let asking = (0..500).map(|_| ask(&nodes[0], nodes[1].node(), Lane::Forward));
    let answers = futures::future::join_all(asking).await;
    assert!(answers.iter().all(Result::is_ok));
    assert_eq!(nodes[0].connected(), vec![nodes[1].node()]);
}

#[tokio::test]
async fn after_shutdown_calls_end_and_peers_notice() {
    let city = City::new();
    let nodes = city.echoes(2).await;
    let (a, b) = (&nodes[0], &nodes[1]);
    ask(a, b.node(), Lane::Forward).await.expect("they are connected");
    b.shutdown().await;
    assert_eq!(ask(b, a.node(), Lane::Forward).await, Err(MeshError::ShutDown));
    assert_eq!(b.send(a.node(), Lane::Gossip, Bytes::new()), Err(MeshError::ShutDown));
    until("the goodbye is heard", || a.connected().is_empty()).await;
}
