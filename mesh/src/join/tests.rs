//! What a stranger and a misbehaving member can do with bytes of their own making.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use scp_codec::CodecError;
use scp_model::{CityId, Name, NodeId, Timestamp};
use tokio::{sync::watch, time::timeout};

use super::{client::stranger_config, server::Say, *};
use crate::{
    Authority, Clock, Identity, Lane, Mesh, MeshConfig, NodeKey, Ports, Refusal, RefusalKind, Service,
    StreamHandler, Transport,
    authority::Subject,
    peer::CloseCode,
    tls,
    wire::{self, Kind, Preamble},
};

const NOW: Timestamp = Timestamp(1_767_225_600_000);
const PATIENCE: Duration = Duration::from_secs(20);

struct Fixed;

impl Clock for Fixed {
    fn now(&self) -> Timestamp {
        NOW
    }
}

/// Fails the test when anything but a join gets through.
struct JoinOnly;

#[async_trait]
impl Service for JoinOnly {
    async fn answer(&self, _: NodeId, lane: Lane, _: Bytes) -> Result<Bytes, Refusal> {
        panic!("a request on {lane:?} got through");
    }

    async fn stream(&self, _: NodeId, _: Bytes) -> Result<StreamHandler, Refusal> {
        panic!("a stream got through");
    }

    async fn join(&self, _: Stranger, _: JoinRequest) -> Result<JoinReply, JoinRefusal> {
        Err(JoinRefusal::TokenUnknown)
    }
}

struct Scene {
    mesh: Mesh,
    address: SocketAddr,
    client: quinn::Endpoint,
    /// A member's papers.
    member: Identity,
}

async fn scene() -> Scene {
    let name = Name::new("Oeiras").expect("a good name");
    let authority = Authority::create(CityId::from_u128(1), &name, NOW).expect("an authority");
    let identity = || {
        let key = NodeKey::generate().expect("a key");
        let subject = Subject { public_key: key.public_key(), name: name.clone(), addresses: vec![] };
        let certificate = authority.issue(&subject, NOW).expect("a certificate");
        Identity::new(key, &certificate, authority.certificate_pem()).expect("an identity")
    };
    let (_, members) = watch::channel(None);
    let ports = Ports { service: Arc::new(JoinOnly), clock: Arc::new(Fixed), members };
    let listen = ([127, 0, 0, 1], 0).into();
    let mesh = Mesh::start(MeshConfig { listen }, identity(), ports).await.expect("it listens");
    let client = quinn::Endpoint::client(listen).expect("a socket");
    Scene { address: mesh.local_address(), mesh, client, member: identity() }
}

impl Scene {
    async fn connect(&self, config: quinn::ClientConfig) -> quinn::Connection {
        let connecting = self.client.connect_with(config, self.address, tls::ANY_NODE).expect("a good name");
        timeout(PATIENCE, connecting).await.expect("in time").expect("TLS proves a key, and nothing more")
    }

    fn member_config(&self) -> quinn::ClientConfig {
        let identity = &self.member;
        let tls = tls::client(identity.chain(), identity.key.to_tls(), tls::ALPN_MESH).expect("good papers");
        quinn::ClientConfig::new(Arc::new(tls))
    }

    /// Sends bytes on a stream; gives all that comes back.
    async fn exchange(&self, connection: &quinn::Connection, bytes: &[u8]) -> Vec<u8> {
        let (mut send, mut receive) = connection.open_bi().await.expect("a stream");
        // The server may have said no before it read all.
        let _ = send.write_all(bytes).await;
        let _ = send.finish();
        timeout(PATIENCE, receive.read_to_end(1 << 20)).await.expect("in time").expect("an answer")
    }
}

fn stranger() -> quinn::ClientConfig {
    stranger_config(&NodeKey::generate().expect("a key"), NOW).expect("good papers")
}

fn opening(lane: Lane, kind: Kind, frame: &[u8]) -> Vec<u8> {
    let preamble = Preamble { lane, kind, deadline: Duration::from_secs(1) };
    [&preamble.encode()[..], frame].concat()
}

#[tokio::test]
async fn a_stranger_reaches_the_join_lane_and_nothing_else() {
    let scene = scene().await;
    let connection = scene.connect(stranger()).await;
    let mut gossip = scene.mesh.inbox(Lane::Gossip);
    let mut probes = scene.mesh.inbox(Lane::Probe);
    let frame = scp_codec::frame(wire::VERSION, b"hello").expect("small");
    for lane in Lane::ALL {
        for kind in [Kind::Request, Kind::Stream] {
            let answer = scene.exchange(&connection, &opening(lane, kind, &frame)).await;
            let said: Result<Say, JoinRefusal> =
                scp_codec::decode(wire::VERSION, &answer, 4096).expect("a join's answer");
            assert!(matches!(said, Err(JoinRefusal::Invalid { .. })), "{lane:?} {kind:?}: {said:?}");
        }
    }
    let mut message = connection.open_uni().await.expect("a stream");
    message.write_all(&[&[Lane::Gossip.code()][..], &frame].concat()).await.expect("it is sent");
    message.finish().expect("it is sent");
    connection.send_datagram([&[Lane::Probe.code()][..], &[1]].concat().into()).expect("it is sent");
    // An exchange later, both would have been delivered.
    scene.exchange(&connection, &frame).await;
    assert!(gossip.try_recv().is_err() && probes.try_recv().is_err());
    assert!(scene.mesh.connected().is_empty(), "a stranger is no peer");
}

#[tokio::test]
async fn a_stranger_that_speaks_as_a_member_is_shown_out() {
    let scene = scene().await;
    let key = NodeKey::generate().expect("a key");
    let pair = rcgen::KeyPair::try_from(key.pkcs8()).expect("a key");
    let certificate = rcgen::CertificateParams::default().self_signed(&pair).expect("a certificate");
    let tls = tls::client(vec![certificate.der().clone()], key.to_tls(), tls::ALPN_MESH).expect("papers");
    let connection = scene.connect(quinn::ClientConfig::new(Arc::new(tls))).await;
    match timeout(PATIENCE, connection.closed()).await.expect("in time") {
        quinn::ConnectionError::ApplicationClosed(close) => {
            assert_eq!(close.error_code, CloseCode::NotAMember.number().into());
        }
        other => panic!("a stranger was told {other}"),
    }
}

#[tokio::test]
async fn a_member_that_sends_nonsense_is_refused_with_a_sentence() {
    let scene = scene().await;
    let connection = scene.connect(scene.member_config()).await;
    let small = scp_codec::frame(wire::VERSION, b"hello").expect("small");
    let limit = Lane::Probe.limits().bytes_max;
    let oversize = scp_codec::frame(wire::VERSION, &vec![0; limit + 1]).expect("fits a frame");
    let mut damaged = small.clone();
    *damaged.last_mut().expect("not empty") ^= 1;
    let later_version = scp_codec::frame(wire::VERSION + 1, b"hello").expect("small");
    let cases = [
        (opening(Lane::Probe, Kind::Request, &oversize), RefusalKind::Invalid, "exceeds the limit"),
        (opening(Lane::Raft, Kind::Request, &damaged), RefusalKind::Invalid, "checksum"),
        (opening(Lane::Raft, Kind::Request, &later_version), RefusalKind::Invalid, "version"),
        (opening(Lane::Raft, Kind::Request, &small[..7]), RefusalKind::Invalid, ""),
        (opening(Lane::Raft, Kind::Request, &small[..12]), RefusalKind::Invalid, "cut short"),
        (vec![99, 0, 0, 0, 0, 0], RefusalKind::Invalid, "lane 99"),
        (vec![1, 7, 0, 0, 0, 0], RefusalKind::Invalid, "7 is neither"),
        (opening(Lane::Raft, Kind::Stream, &small), RefusalKind::Forbidden, "bulk lane"),
        (opening(Lane::Gossip, Kind::Request, &small), RefusalKind::Forbidden, "messages only"),
        (opening(Lane::Join, Kind::Request, &small), RefusalKind::Forbidden, "strangers"),
    ];
    for (bytes, kind, word) in cases {
        let answer = scene.exchange(&connection, &bytes).await;
        let read = wire::read_answer(&mut answer.as_slice(), 4096).await.expect("an answer");
        let refusal = read.expect_err("nonsense is refused");
        assert!(refusal.kind == kind && refusal.why.contains(word), "{word:?}: {refusal:?}");
    }
    assert!(connection.close_reason().is_none(), "the connection survives it");
}

#[test]
fn a_join_answer_cut_anywhere_is_an_error() {
    let said: Result<Say, JoinRefusal> = Err(JoinRefusal::NameTaken { name: "n1".into() });
    let bytes = scp_codec::encode(wire::VERSION, &said).expect("encodes");
    let read = |bytes: &[u8]| -> Result<Result<Say, JoinRefusal>, CodecError> {
        scp_codec::decode(wire::VERSION, bytes, 4096)
    };
    assert_eq!(read(&bytes), Ok(said));
    assert!((0..bytes.len()).all(|at| read(&bytes[..at]).is_err()));
}

/// A connection to someone who sends back every datagram but each `lost`-th.
async fn echoing_but(lost: Option<u64>) -> (quinn::Endpoint, quinn::Connection) {
    let scene = scene().await;
    let identity = &scene.member;
    let tls = tls::server(identity.chain(), identity.key.to_tls()).expect("good papers");
    let server = quinn::ServerConfig::with_crypto(Arc::new(tls));
    let server = quinn::Endpoint::server(server, ([127, 0, 0, 1], 0).into()).expect("a socket");
    let address = server.local_addr().expect("an address");
    tokio::spawn(async move {
        let connection = server.accept().await.expect("someone dials").await.expect("good papers");
        let mut count = 0u64;
        while let Ok(datagram) = connection.read_datagram().await {
            count += 1;
            if lost.is_none_or(|lost| !count.is_multiple_of(lost)) {
                connection.send_datagram(datagram).expect("it is small enough");
            }
        }
    });
    let connecting = scene.client.connect_with(stranger(), address, tls::ANY_NODE).expect("a good name");
    (scene.client.clone(), connecting.await.expect("TLS proves a key, and nothing more"))
}

#[tokio::test]
async fn a_path_that_loses_packets_warns_and_one_that_loses_too_many_is_refused() {
    let address = ([127, 0, 0, 1], 1).into();
    let (_endpoint, sound) = echoing_but(None).await;
    assert_eq!(network::check(&sound, address).await.expect("nothing is lost"), Vec::<String>::new());
    let (_endpoint, weak) = echoing_but(Some(10)).await;
    let warnings = network::check(&weak, address).await.expect("a few may be lost");
    assert!(warnings.iter().any(|warning| warning.contains("2 of 20")), "{warnings:?}");
    let (_endpoint, broken) = echoing_but(Some(2)).await;
    match network::check(&broken, address).await {
        Err(error @ JoinError::Lossy { lost: 10, sent: 20, .. }) => assert_eq!(error.code(), "network_lossy"),
        other => panic!("half of the packets lost gave {other:?}"),
    }
}
