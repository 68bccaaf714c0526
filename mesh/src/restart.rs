//! What lets a restarted node end the connections of its earlier life.
//!
//! A peer goes on sending into a connection that the restarted node knows nothing of. QUIC's answer is a
//! stateless reset; it carries a token that only the node could have made when the connection began. So
//! the tokens are made with a key that follows from the node's own, and connection ids are plain random
//! numbers: quinn's default ids carry a mark of the process, and a later process drops what it did not
//! mark instead of resetting it. Without this, peers talk to nobody until their idle timeout.
//!
//! quinn sends at most one reset in 20 ms, so bytes of no connection cost nothing to speak of.

use std::{sync::Arc, time::Duration};

use quinn::{ConnectionId, ConnectionIdGenerator, EndpointConfig};
use ring::hmac;
use sha2::{Digest as _, Sha256};

use crate::{identity::NodeKey, mesh::DATAGRAM_BYTES_MAX};

/// Long enough that no two connections of a node share one (RFC 9000 asks for unpredictable ones).
const ID_BYTES: usize = 8;

pub(crate) fn endpoint_config(key: &NodeKey) -> EndpointConfig {
    let seed = Sha256::new().chain_update(b"scp-mesh stateless reset").chain_update(key.pkcs8()).finalize();
    let mut config = EndpointConfig::new(Arc::new(hmac::Key::new(hmac::HMAC_SHA256, &seed)));
    config.cid_generator(|| Box::new(RandomIds));
    config.max_udp_payload_size(DATAGRAM_BYTES_MAX).expect("within what QUIC allows");
    config
}

struct RandomIds;

impl ConnectionIdGenerator for RandomIds {
    fn generate_cid(&mut self) -> ConnectionId {
        ConnectionId::new(&rand::random::<[u8; ID_BYTES]>())
    }

    fn cid_len(&self) -> usize {
        ID_BYTES
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use bytes::Bytes;
    use scp_model::{CityId, Name};
    use tokio::{sync::watch, time::Instant};

    use super::*;
    use crate::{
        Authority, Clock, Identity, Lane, Mesh, MeshConfig, Ports, SystemClock, Transport,
        authority::Subject, pulse::IDLE, suite::Echo,
    };

    async fn start(identity: &Identity, listen: SocketAddr) -> Mesh {
        let (_, members) = watch::channel(None);
        let ports = Ports { service: Echo::new(), clock: Arc::new(SystemClock), members };
        Mesh::start(MeshConfig { listen }, identity.clone(), ports).await.expect("it listens")
    }

    fn identities() -> [Identity; 2] {
        let (name, now) = (Name::new("Oeiras").expect("a good name"), SystemClock.now());
        let authority = Authority::create(CityId::from_u128(1), &name, now).expect("an authority");
        [(), ()].map(|()| {
            let key = NodeKey::generate().expect("a key");
            let subject = Subject { public_key: key.public_key(), name: name.clone(), addresses: vec![] };
            let certificate = authority.issue(&subject, now).expect("a certificate");
            Identity::new(key, &certificate, authority.certificate_pem()).expect("an identity")
        })
    }

    /// As `kill -9`: no goodbye, and the socket is gone.
    async fn kill(mesh: &Mesh, listen: SocketAddr) {
        mesh.shared.cancel.cancel();
        mesh.shared.tasks.close();
        mesh.shared.tasks.wait().await;
        mesh.shared.let_go_of_the_port();
        // Connections that were not closed take the move in when their tasks next run.
        let began = Instant::now();
        while std::net::UdpSocket::bind(listen).is_err() {
            assert!(began.elapsed() < 4 * IDLE, "the port is let go of");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    #[tokio::test]
    async fn a_killed_peer_that_restarts_is_found_before_its_old_connection_times_out() {
        let [a, b] = identities();
        let free = SocketAddr::from(([127, 0, 0, 1], 0));
        let (here, first) = (start(&a, free).await, start(&b, free).await);
        let listen = first.local_address();
        here.set_address(b.id(), Some(listen));
        let ask = |timeout| here.request(b.id(), Lane::Raft, Bytes::from_static(b"x"), timeout);
        ask(4 * IDLE).await.expect("they are connected");
        kill(&first, listen).await;
        let _second = start(&b, listen).await;
        // The first request goes into the old connection; the reset that it meets ends that.
        let began = Instant::now();
        while ask(IDLE / 5).await.is_err() {
            assert!(began.elapsed() < 2 * IDLE, "the peer is found again");
        }
        assert!(began.elapsed() < IDLE * 3 / 5, "by a reset, not by the timeout: {:?}", began.elapsed());
    }
}
