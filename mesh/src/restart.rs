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

use crate::identity::NodeKey;

/// Long enough that no two connections of a node share one (RFC 9000 asks for unpredictable ones).
const ID_BYTES: usize = 8;

pub(crate) fn endpoint_config(key: &NodeKey) -> EndpointConfig {
    let seed = Sha256::new().chain_update(b"scp-mesh stateless reset").chain_update(key.pkcs8()).finalize();
    let mut config = EndpointConfig::new(Arc::new(hmac::Key::new(hmac::HMAC_SHA256, &seed)));
    config.cid_generator(|| Box::new(RandomIds));
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
