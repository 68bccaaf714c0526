//! Renewal of a node's certificate, from half of its life on.
//!
//! ```text
//! node: due(certificate, now)? ── renew lane ──▶ any voter: issues for the key that the handshake proved,
//!       new identity ◀─ certificate ───────────            with the names that the state has for it
//! ```
//!
//! An expired certificate never stops a workload: the node's key is pinned in the state, and that opens
//! the renew lane.

use std::time::Duration;

use bytes::Bytes;
use scp_model::{NodeId, Timestamp};

use crate::{
    certificate::Certificate,
    identity::Identity,
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

/// Asks the voters, one after the other, for a new certificate of the same key.
pub async fn renew(
    _transport: &dyn Transport,
    _voters: &[NodeId],
    _identity: &Identity,
    _timeout: Duration,
) -> Result<Identity, RenewError> {
    unimplemented!()
}

/// The voter's answer to a request on the renew lane: the new certificate's PEM as issued by
/// [`crate::Authority::issue`].
pub fn reply(certificate_pem: &str) -> Bytes {
    Bytes::copy_from_slice(certificate_pem.as_bytes())
}
