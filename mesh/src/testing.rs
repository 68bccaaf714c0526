//! A node that answers nothing but joins, for tests that talk to it in bytes.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use scp_model::{CityId, Name, NodeId, Timestamp};
use tokio::{sync::watch, time::timeout};

use crate::{
    Authority, Clock, Identity, JoinRefusal, JoinReply, JoinRequest, Lane, Mesh, MeshConfig, NodeKey, Ports,
    Refusal, Service, Stranger, StreamHandler,
    authority::Subject,
    tls,
    wire::{Kind, Preamble},
};

pub(crate) const NOW: Timestamp = Timestamp(1_767_225_600_000);
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

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

/// A node, and someone who talks to it.
pub(crate) struct Scene {
    pub(crate) mesh: Mesh,
    address: SocketAddr,
    pub(crate) client: quinn::Endpoint,
    /// A member's papers.
    pub(crate) member: Identity,
}

pub(crate) async fn scene() -> Scene {
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
    pub(crate) async fn connect(&self, config: quinn::ClientConfig) -> quinn::Connection {
        let connecting = self.client.connect_with(config, self.address, tls::ANY_NODE).expect("a good name");
        timeout(PATIENCE, connecting).await.expect("in time").expect("TLS proves a key, and nothing more")
    }

    pub(crate) fn member_config(&self) -> quinn::ClientConfig {
        let identity = &self.member;
        let tls = tls::client(identity.chain(), identity.key.to_tls(), tls::ALPN_MESH).expect("good papers");
        quinn::ClientConfig::new(Arc::new(tls))
    }

    /// Sends bytes on a stream; gives all that comes back.
    pub(crate) async fn exchange(&self, connection: &quinn::Connection, bytes: &[u8]) -> Vec<u8> {
        let (mut send, mut receive) = connection.open_bi().await.expect("a stream");
        // The server may have said no before it read all.
        let _ = send.write_all(bytes).await;
        let _ = send.finish();
        timeout(PATIENCE, receive.read_to_end(1 << 20)).await.expect("in time").expect("an answer")
    }
}

/// How a request or a stream begins.
pub(crate) fn opening(lane: Lane, kind: Kind, frame: &[u8]) -> Vec<u8> {
    let preamble = Preamble { lane, kind, deadline: Duration::from_secs(1) };
    [&preamble.encode()[..], frame].concat()
}
