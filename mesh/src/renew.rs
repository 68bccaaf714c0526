//! Renewal of a node's certificate, from half of its life on.
//!
//! ```text
//! node: is_due(certificate, now)? ── renew lane ──▶ any voter: issues for the key that the handshake proved,
//!       new identity ◀─ certificate ───────────────            with the names that the state has for it
//! ```
//!
//! An expired certificate never stops a workload: the node's key is pinned in the state, and that opens
//! the renew lane. A voter renews its own certificate itself; after a long outage of the whole city it is
//! the first that can.

use std::time::Duration;

use bytes::Bytes;
use scp_model::{NodeId, Timestamp};

use crate::{
    certificate::Certificate,
    identity::Identity,
    lane::Lane,
    transport::{MeshError, Transport},
};

/// Whether half of the certificate's life is over.
pub fn is_due(certificate: &Certificate, now: Timestamp) -> bool {
    let life_ms = certificate.not_after.since_ms(certificate.not_before);
    now.since_ms(certificate.not_before) >= life_ms / 2
}

/// Why a certificate was not renewed.
#[derive(Debug, thiserror::Error)]
pub enum RenewError {
    #[error("there is no voter to ask")]
    NobodyToAsk,
    #[error("no voter renewed the certificate; the last said: {0}")]
    Refused(#[source] MeshError),
    #[error("{from} sent a certificate that is of no use: {why}")]
    BadReply { from: NodeId, why: String },
}

/// Asks the voters, one after the other, for a new certificate of the same key. The caller stores it and
/// hands it to [`crate::Mesh::reload`].
pub async fn renew(
    transport: &dyn Transport,
    voters: &[NodeId],
    identity: &Identity,
    timeout: Duration,
) -> Result<Identity, RenewError> {
    let mut last = RenewError::NobodyToAsk;
    for &voter in voters.iter().filter(|voter| **voter != identity.id()) {
        match transport.request(voter, Lane::Renew, Bytes::new(), timeout).await {
            Ok(reply) => match accept(identity, &reply) {
                Ok(identity) => return Ok(identity),
                Err(why) => last = RenewError::BadReply { from: voter, why },
            },
            Err(error) => last = RenewError::Refused(error),
        }
    }
    Err(last)
}

/// The voter's answer to a request on the renew lane: the new certificate's PEM as issued by
/// [`crate::Authority::issue`].
pub fn reply(certificate_pem: &str) -> Bytes {
    Bytes::copy_from_slice(certificate_pem.as_bytes())
}

fn accept(identity: &Identity, reply: &[u8]) -> Result<Identity, String> {
    let pem = std::str::from_utf8(reply).map_err(|error| error.to_string())?;
    let new = Identity::new(identity.key.clone(), pem, identity.authority_pem());
    let new = new.map_err(|error| error.to_string())?;
    if new.certificate().not_after <= identity.certificate().not_after {
        return Err("it is good no longer than the present one".into());
    }
    Ok(new)
}

#[cfg(test)]
mod tests {
    use scp_model::PublicKey;

    use super::*;

    #[test]
    fn renewal_is_due_at_half_of_the_life() {
        let certificate = Certificate {
            public_key: PublicKey::default(),
            not_before: Timestamp(1_000),
            not_after: Timestamp(3_000),
            is_authority: false,
        };
        assert!(!is_due(&certificate, Timestamp(500)));
        assert!(!is_due(&certificate, Timestamp(1_999)));
        assert!(is_due(&certificate, Timestamp(2_000)));
        assert!(is_due(&certificate, Timestamp(9_000)));
    }
}
