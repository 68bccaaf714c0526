//! TLS towards the nodes of one city.
//!
//! The only root is the city's own authority, which signs nodes and nobody else. Any node may answer any
//! request, so it does not matter which one answers: the chain, its dates and its purpose are verified,
//! the name is not. That is what lets nodes be re-addressed, port-forwarded and reached by any name.

use std::sync::Arc;

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor,
    },
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
    server::ParsedCertificate,
    time_provider::{DefaultTimeProvider, TimeProvider},
};

use super::ClientError;

/// TLS configuration that trusts only the authority in `ca_certificate` (PEM).
pub fn client_config(ca_certificate: &str) -> Result<Arc<ClientConfig>, ClientError> {
    client_config_at(ca_certificate, Arc::new(DefaultTimeProvider))
}

/// The same, where certificates are judged by another clock than the operating system's.
pub(super) fn client_config_at(
    ca_certificate: &str,
    clock: Arc<dyn TimeProvider>,
) -> Result<Arc<ClientConfig>, ClientError> {
    let bad =
        |why: String| ClientError::Config { why: format!("the city's CA certificate is not usable: {why}") };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca_certificate.as_bytes()) {
        let certificate = certificate.map_err(|error| bad(error.to_string()))?;
        roots.add(certificate).map_err(|error| bad(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(bad("there is no PEM certificate in it".into()));
    }
    trusting(roots, clock).map(Arc::new)
}

/// Trusts nobody: for the local socket, where there is no TLS. Without a configuration of its own the
/// HTTP client would look for a process-wide provider and panic.
pub(super) fn nobody() -> Result<ClientConfig, ClientError> {
    trusting(RootCertStore::empty(), Arc::new(DefaultTimeProvider))
}

fn trusting(roots: RootCertStore, clock: Arc<dyn TimeProvider>) -> Result<ClientConfig, ClientError> {
    let provider = Arc::new(ring::default_provider());
    let verifier = Arc::new(CityVerifier { roots, provider: provider.clone() });
    let config = ClientConfig::builder_with_details(provider, clock)
        .with_safe_default_protocol_versions()
        .map_err(|error| ClientError::Config { why: error.to_string() })?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    Ok(config)
}

/// Accepts what the city's authority signed, under any name.
#[derive(Debug)]
struct CityVerifier {
    roots: RootCertStore,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for CityVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let certificate =
            ParsedCertificate::try_from(end_entity).map_err(|_| CertificateError::BadEncoding)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&certificate, &self.roots, intermediates, now, algorithms)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
