//! What a stranger can do with bytes of its own making, and what the network check says of a path.

use std::sync::Arc;

use scp_codec::CodecError;
use tokio::time::timeout;

use super::{client::stranger_config, server::Say, *};
use crate::{
    Lane, NodeKey, Transport,
    peer::CloseCode,
    testing::{NOW, PATIENCE, opening, scene},
    tls,
    wire::{self, Kind},
};

fn stranger() -> quinn::ClientConfig {
    stranger_config(&NodeKey::generate().expect("a key"), NOW, tls::ALPN_JOIN).expect("good papers")
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

/// A way to someone who sends back datagrams.
struct Path {
    /// All but each so-manieth.
    lost: Option<u64>,
    /// No larger ones get through.
    packet_bytes_max: u16,
}

/// A path as on an Ethernet of 1500 bytes.
const SOUND: Path = Path { lost: None, packet_bytes_max: 1472 };

async fn connected_over(path: Path) -> (quinn::Endpoint, quinn::Connection) {
    let scene = scene().await;
    let identity = &scene.member;
    let tls = tls::server(identity.chain(), identity.key.to_tls()).expect("good papers");
    let server = quinn::ServerConfig::with_crypto(Arc::new(tls));
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let mut limits = quinn::EndpointConfig::default();
    limits.max_udp_payload_size(path.packet_bytes_max).expect("QUIC allows it");
    let runtime = Arc::new(quinn::TokioRuntime);
    let server = quinn::Endpoint::new(limits, Some(server), socket, runtime).expect("an endpoint");
    let address = server.local_addr().expect("an address");
    tokio::spawn(async move {
        let connection = server.accept().await.expect("someone dials").await.expect("good papers");
        let mut count = 0u64;
        while let Ok(datagram) = connection.read_datagram().await {
            count += 1;
            if path.lost.is_none_or(|lost| !count.is_multiple_of(lost)) {
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
    let (_endpoint, sound) = connected_over(SOUND).await;
    assert_eq!(network::check(&sound, address).await.expect("nothing is lost"), Vec::<String>::new());
    let (_endpoint, weak) = connected_over(Path { lost: Some(10), ..SOUND }).await;
    let warnings = network::check(&weak, address).await.expect("a few may be lost");
    assert!(warnings.iter().any(|warning| warning.contains("2 of 20")), "{warnings:?}");
    let (_endpoint, broken) = connected_over(Path { lost: Some(2), ..SOUND }).await;
    match network::check(&broken, address).await {
        Err(error @ JoinError::Lossy { lost: 10, sent: 20, .. }) => assert_eq!(error.code(), "network_lossy"),
        other => panic!("half of the packets lost gave {other:?}"),
    }
}

#[tokio::test]
async fn a_path_that_carries_only_small_packets_warns_with_their_size_and_the_remedy() {
    let address = ([127, 0, 0, 1], 1).into();
    let (_endpoint, narrow) = connected_over(Path { packet_bytes_max: 1252, ..SOUND }).await;
    let warnings = network::check(&narrow, address).await.expect("a small MTU does not stand in the way");
    let [warning] = &warnings[..] else { panic!("one warning was due: {warnings:?}") };
    assert!(warning.contains("more than 1252 bytes do not reach 127.0.0.1:1"), "{warning}");
    assert!(warning.contains("set the same MTU"), "{warning}");
}
