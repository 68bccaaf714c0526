//! TLS proves one thing: that the peer has the private half of the key in its certificate. What that key
//! may do is judged right after the handshake, by [`judge`], the same way on both ends and before
//! anything else is read or sent.
//!
//! Why not in the handshake: there a refusal is an alert number. Here it is a sentence, and one piece of
//! code judges dialers and acceptors, members and strangers.
//!
//! There is no resumption and no early data: both would skip that judgement.

use std::sync::Arc;

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use ring::signature::{ED25519, UnparsedPublicKey};
use rustls::{
    DigitallySignedStruct, DistinguishedName, Error, SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, ring::default_provider},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};
use scp_model::{NodeId, Timestamp};

use crate::{
    certificate::{self, Certificate, CertificateError},
    members::{Known, Members},
};

/// Spoken between members.
pub(crate) const ALPN_MESH: &[u8] = b"scp-mesh/1";
/// Spoken with users' programs: who they are is proven inside.
pub(crate) const ALPN_CLIENT: &[u8] = b"scp-client/1";
/// Spoken with strangers.
pub(crate) const ALPN_JOIN: &[u8] = b"scp-join/1";

const NAME_SUFFIX: &str = ".node.scp.internal";
/// The name that a joining server asks for: any node of the city will do.
pub(crate) const ANY_NODE: &str = "any.node.scp.internal";

/// The TLS name under which a node is dialed; it carries the expected id to the verifier.
pub(crate) fn server_name(node: NodeId) -> String {
    format!("{node}{NAME_SUFFIX}")
}

/// What a member may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    Full,
    /// The certificate is out of its time, but the state knows the key.
    RenewOnly,
}

/// Why someone with a proven key is not a member.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Outsider {
    #[error("the certificate is of no use here: {0}")]
    Certificate(#[from] CertificateError),
    #[error("node {0} is not a member of the city (any more, or not yet)")]
    NotAMember(NodeId),
    #[error("the certificate of node {0} has expired, and it is not known here as a member")]
    Expired(NodeId),
}

/// Judges a proven key by its certificate, the city's authority, its members and the clock.
pub(crate) fn judge(
    leaf: &[u8],
    authority: &[u8],
    members: Option<&Members>,
    now: Timestamp,
) -> Result<(Certificate, Standing), Outsider> {
    let facts = certificate::issued_by(leaf, authority)?;
    let standing = judge_membership(&facts, members, now)?;
    Ok((facts, standing))
}

/// Judges a certificate that is the authority's.
pub(crate) fn judge_membership(
    facts: &Certificate,
    members: Option<&Members>,
    now: Timestamp,
) -> Result<Standing, Outsider> {
    let known = members.map_or(Known::Perhaps, |members| members.look_up(facts));
    match (known, facts.is_valid_at(now)) {
        (Known::Member | Known::Perhaps, true) => Ok(Standing::Full),
        (Known::Member, false) => Ok(Standing::RenewOnly),
        (Known::Perhaps, false) => Err(Outsider::Expired(facts.node())),
        (Known::Removed, _) => Err(Outsider::NotAMember(facts.node())),
    }
}

/// Checks possession of an ed25519 key, and of the expected one where the name tells which.
#[derive(Debug)]
struct ProvenKey;

fn proof(
    message: &[u8],
    certificate: &CertificateDer<'_>,
    signed: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, Error> {
    let key = Certificate::parse(certificate).map_err(bad_certificate)?.public_key;
    // ring with the key that we parsed ourselves: no second parser may see another key in these bytes.
    match UnparsedPublicKey::new(&ED25519, key.0).verify(message, signed.signature()) {
        Ok(()) if signed.scheme == SignatureScheme::ED25519 => Ok(HandshakeSignatureValid::assertion()),
        Ok(()) | Err(_) => Err(Error::InvalidCertificate(rustls::CertificateError::BadSignature)),
    }
}

fn bad_certificate(error: CertificateError) -> Error {
    Error::General(format!("the peer's certificate is of no use: {error}"))
}

fn no_tls12() -> Error {
    Error::General("QUIC has TLS 1.3 only".into())
}

impl ServerCertVerifier for ProvenKey {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        _rest: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let found = Certificate::parse(leaf).map_err(bad_certificate)?.node();
        let name = name.to_str();
        if name == ANY_NODE {
            return Ok(ServerCertVerified::assertion());
        }
        let expected = name.strip_suffix(NAME_SUFFIX).and_then(|id| id.parse::<NodeId>().ok());
        if expected == Some(found) {
            return Ok(ServerCertVerified::assertion());
        }
        Err(Error::General(format!("another node answers at this address: {found}")))
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        proof(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

impl ClientCertVerifier for ProvenKey {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        _rest: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Certificate::parse(leaf).map(|_| ClientCertVerified::assertion()).map_err(bad_certificate)
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        proof(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(default_provider())
}

/// The acceptor's side; speaks with members and strangers.
pub(crate) fn server(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<QuicServerConfig, Error> {
    let mut config = rustls::ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(Arc::new(ProvenKey))
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![ALPN_MESH.to_vec(), ALPN_JOIN.to_vec(), ALPN_CLIENT.to_vec()];
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    QuicServerConfig::try_from(config).map_err(|error| Error::General(error.to_string()))
}

/// The dialer's side.
pub(crate) fn client(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    alpn: &[u8],
) -> Result<QuicClientConfig, Error> {
    let mut config = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(ProvenKey))
        .with_client_auth_cert(chain, key)?;
    config.alpn_protocols = vec![alpn.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    QuicClientConfig::try_from(config).map_err(|error| Error::General(error.to_string()))
}
