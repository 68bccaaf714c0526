//! What a certificate proves: a key, an issuer, a time span. Names in it are for HTTPS clients only.
//!
//! The city's certificates are two deep: the authority signs node certificates directly, all keys are
//! ed25519. So a chain is one signature, checked here, and there is no path building to get wrong.

use rustls::pki_types::{CertificateDer, pem::PemObject};
use scp_model::{Digest, NodeId, PublicKey, Timestamp};
use sha2::{Digest as _, Sha256};
use x509_parser::{
    certificate::X509Certificate, oid_registry::OID_SIG_ED25519, prelude::FromDer, time::ASN1Time,
    x509::SubjectPublicKeyInfo,
};

use crate::authority::BACKDATE_MS;

/// Why a certificate is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    #[error("it is not an X.509 certificate")]
    Malformed,
    #[error("its key is not an ed25519 key")]
    KeyType,
    #[error("it was not issued by this city's authority")]
    Foreign,
    #[error("it is an authority's, not a node's")]
    NotALeaf,
    #[error("it is not an authority's")]
    NotAnAuthority,
}

/// The parts of a certificate that we judge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    pub public_key: PublicKey,
    pub not_before: Timestamp,
    pub not_after: Timestamp,
    pub is_authority: bool,
}

/// The id that follows from a key: the first 8 bytes, big endian, of its SHA-256.
pub fn node_id(key: &PublicKey) -> NodeId {
    let [a, b, c, d, e, f, g, h, ..] = <[u8; 32]>::from(Sha256::digest(key.0));
    NodeId(u64::from_be_bytes([a, b, c, d, e, f, g, h]))
}

/// SHA-256 of the certificate as it is sent.
pub fn fingerprint(der: &[u8]) -> Digest {
    Digest(Sha256::digest(der).into())
}

/// The first certificate of a PEM text.
pub fn from_pem(pem: &str) -> Result<CertificateDer<'static>, CertificateError> {
    CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|_| CertificateError::Malformed)
}

impl Certificate {
    pub fn parse(der: &[u8]) -> Result<Self, CertificateError> {
        let parsed = parse(der)?;
        Ok(Self {
            public_key: ed25519_key(parsed.public_key())?,
            not_before: timestamp(parsed.validity().not_before),
            not_after: timestamp(parsed.validity().not_after),
            is_authority: parsed.is_ca(),
        })
    }

    pub fn node(&self) -> NodeId {
        node_id(&self.public_key)
    }

    /// When the authority vouched for it.
    pub fn issued_at(&self) -> Timestamp {
        self.not_before.plus_ms(BACKDATE_MS)
    }

    pub fn is_valid_at(&self, now: Timestamp) -> bool {
        self.not_before <= now && now < self.not_after
    }
}

/// Reads a node's certificate and checks that `authority` signed it. Says nothing about the time.
pub fn issued_by(der: &[u8], authority_der: &[u8]) -> Result<Certificate, CertificateError> {
    let (leaf, authority) = (parse(der)?, parse(authority_der)?);
    if !authority.is_ca() {
        return Err(CertificateError::NotAnAuthority);
    }
    if leaf.issuer().as_raw() != authority.subject().as_raw()
        || leaf.signature_algorithm.algorithm != OID_SIG_ED25519
        || leaf.verify_signature(Some(authority.public_key())).is_err()
    {
        return Err(CertificateError::Foreign);
    }
    let facts = Certificate::parse(der)?;
    if facts.is_authority { Err(CertificateError::NotALeaf) } else { Ok(facts) }
}

fn parse(der: &[u8]) -> Result<X509Certificate<'_>, CertificateError> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        Ok(_) | Err(_) => Err(CertificateError::Malformed),
    }
}

fn ed25519_key(spki: &SubjectPublicKeyInfo<'_>) -> Result<PublicKey, CertificateError> {
    if spki.algorithm.algorithm != OID_SIG_ED25519 {
        return Err(CertificateError::KeyType);
    }
    let bytes: &[u8] = &spki.subject_public_key.data;
    bytes.try_into().map(PublicKey).map_err(|_| CertificateError::KeyType)
}

fn timestamp(time: ASN1Time) -> Timestamp {
    Timestamp(u64::try_from(time.timestamp()).unwrap_or(0).saturating_mul(1000))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
            let _ = Certificate::parse(&bytes);
            let _ = issued_by(&bytes, &bytes);
            let _ = from_pem(&String::from_utf8_lossy(&bytes));
        }
    }
}
