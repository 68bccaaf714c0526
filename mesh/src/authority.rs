//! The city's certificate authority.
//!
//! Made by `init`. Its certificate is public and part of the state; its private key is part of the state
//! too, sealed under the *city key*, which only voters hold: so any voter can issue, and no snapshot,
//! backup or log gives the key away.
//!
//! ```text
//! sealed key:  | version 1 (1 byte) | nonce (12 bytes) | AES-256-GCM of the PKCS#8, tag (16 bytes) |
//! additional data: the city's id, so that one city's sealed key never opens as another's
//! ```
//!
//! All keys are ed25519 and all serial numbers have the same length, so certificates of equal names have
//! equal lengths: a simulation's packets then do too.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PKCS_ED25519, PublicKeyData, SanType, SerialNumber, SignatureAlgorithm,
};
use ring::{
    aead,
    rand::{SecureRandom, SystemRandom},
};
use rustls::pki_types::{CertificateDer, DnsName};
use scp_model::{CityId, Digest, Name, NodeId, PublicKey, Timestamp, node::NodeProfile};
use sha2::{Digest as _, Sha256};
use time::OffsetDateTime;

use crate::certificate;

/// How long a node's certificate is good. Renewed at half of it, so a node may be off for half a week
/// and notice nothing.
pub const NODE_VALIDITY_MS: u64 = 7 * 24 * 3600 * 1000;
/// How long the authority's certificate is good: longer than the servers.
pub const AUTHORITY_VALIDITY_MS: u64 = 20 * 365 * 24 * 3600 * 1000;
/// Certificates are good from a little before they were made, for peers whose clock is behind.
pub const BACKDATE_MS: u64 = 5 * 60 * 1000;

/// Why the authority cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuthorityError {
    #[error("the system gives no randomness")]
    NoRandomness,
    /// Another city's key, or damaged bytes; which one cannot be told.
    #[error("the authority's sealed key does not open with this city key")]
    Sealed,
    #[error("the authority's key and certificate do not belong together")]
    Mismatch,
    #[error("a certificate cannot be made: {why}")]
    Issue { why: String },
}

/// Opens the sealed key of a city's authority. Held by voters.
#[derive(Clone, PartialEq, Eq)]
pub struct CityKey([u8; 32]);

impl std::fmt::Debug for CityKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CityKey")
    }
}

impl CityKey {
    pub fn generate() -> Result<Self, AuthorityError> {
        let mut bytes = [0; 32];
        SystemRandom::new().fill(&mut bytes).map_err(|_| AuthorityError::NoRandomness)?;
        Ok(Self(bytes))
    }

    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// What a certificate is to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    pub public_key: PublicKey,
    pub name: Name,
    /// Where HTTPS clients will find it; loopback is always added.
    pub addresses: Vec<IpAddr>,
}

impl Subject {
    /// What a node's profile says.
    pub fn of(public_key: PublicKey, profile: &NodeProfile) -> Self {
        let addresses = vec![profile.mesh_address.ip(), profile.api_address.ip()];
        Self { public_key, name: profile.name.clone(), addresses }
    }

    pub fn node(&self) -> NodeId {
        certificate::node_id(&self.public_key)
    }
}

/// The authority, its key opened.
pub struct Authority {
    city: CityId,
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    certificate_pem: String,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Authority({})", self.city)
    }
}

impl Authority {
    /// A new city's authority.
    pub fn create(city: CityId, name: &Name, now: Timestamp) -> Result<Self, AuthorityError> {
        let key = KeyPair::generate_for(&PKCS_ED25519).map_err(issue_error)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, name.as_str());
        params.distinguished_name.push(DnType::CommonName, city.to_string());
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.serial_number = Some(serial(key.der_bytes(), now));
        (params.not_before, params.not_after) = validity(now, AUTHORITY_VALIDITY_MS)?;
        let certificate = params.self_signed(&key).map_err(issue_error)?;
        Self::assemble(city, certificate.der().clone(), certificate.pem(), key)
    }

    /// Opens what [`Authority::seal`] closed.
    pub fn unseal(
        city: CityId,
        certificate_pem: &str,
        sealed: &[u8],
        key: &CityKey,
    ) -> Result<Self, AuthorityError> {
        let certificate = certificate::from_pem(certificate_pem).map_err(|_| AuthorityError::Mismatch)?;
        let pkcs8 = open(city, sealed, key)?;
        let pair = KeyPair::try_from(pkcs8).map_err(|_| AuthorityError::Sealed)?;
        let facts = certificate::Certificate::parse(&certificate).map_err(|_| AuthorityError::Mismatch)?;
        if !facts.is_authority || facts.public_key.0 != pair.der_bytes() {
            return Err(AuthorityError::Mismatch);
        }
        Self::assemble(city, certificate, certificate_pem.to_owned(), pair)
    }

    fn assemble(
        city: CityId,
        certificate: CertificateDer<'static>,
        certificate_pem: String,
        key: KeyPair,
    ) -> Result<Self, AuthorityError> {
        let issuer = Issuer::from_ca_cert_der(&certificate, key).map_err(issue_error)?;
        Ok(Self { city, issuer, certificate, certificate_pem })
    }

    /// The private key, for the state: of no use without the city key.
    pub fn seal(&self, key: &CityKey) -> Result<Vec<u8>, AuthorityError> {
        let mut nonce = [0; aead::NONCE_LEN];
        SystemRandom::new().fill(&mut nonce).map_err(|_| AuthorityError::NoRandomness)?;
        let mut sealed = self.issuer.key().serialize_der();
        cipher(key)
            .seal_in_place_append_tag(
                aead::Nonce::assume_unique_for_key(nonce),
                aead::Aad::from(self.city.0.as_bytes()),
                &mut sealed,
            )
            .map_err(|_| AuthorityError::Sealed)?;
        Ok([&[SEAL_VERSION][..], &nonce, &sealed].concat())
    }

    pub fn city(&self) -> CityId {
        self.city
    }

    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// What join tokens carry.
    pub fn fingerprint(&self) -> Digest {
        certificate::fingerprint(&self.certificate)
    }

    /// A node's certificate (PEM), good for [`NODE_VALIDITY_MS`] from now. It serves the mesh both ways
    /// and HTTPS.
    pub fn issue(&self, subject: &Subject, now: Timestamp) -> Result<String, AuthorityError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, subject.name.as_str());
        params.distinguished_name.push(DnType::CommonName, subject.node().to_string());
        params.subject_alt_names = alternative_names(subject)?;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        params.serial_number = Some(serial(&subject.public_key.0, now));
        (params.not_before, params.not_after) = validity(now, NODE_VALIDITY_MS)?;
        let certificate = params.signed_by(&RawKey(subject.public_key), &self.issuer).map_err(issue_error)?;
        Ok(certificate.pem())
    }
}

/// A public key whose private half is elsewhere.
struct RawKey(PublicKey);

impl PublicKeyData for RawKey {
    fn der_bytes(&self) -> &[u8] {
        &self.0.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ED25519
    }
}

const SEAL_VERSION: u8 = 1;

fn cipher(key: &CityKey) -> aead::LessSafeKey {
    let key = aead::UnboundKey::new(&aead::AES_256_GCM, &key.0).expect("AES-256 takes 32 bytes");
    aead::LessSafeKey::new(key)
}

fn open(city: CityId, sealed: &[u8], key: &CityKey) -> Result<Vec<u8>, AuthorityError> {
    let Some((&[SEAL_VERSION], rest)) = sealed.split_first_chunk::<1>() else {
        return Err(AuthorityError::Sealed);
    };
    let Some((nonce, rest)) = rest.split_first_chunk::<{ aead::NONCE_LEN }>() else {
        return Err(AuthorityError::Sealed);
    };
    let mut bytes = rest.to_vec();
    let nonce = aead::Nonce::assume_unique_for_key(*nonce);
    let opened = cipher(key).open_in_place(nonce, aead::Aad::from(city.0.as_bytes()), &mut bytes);
    opened.map(|plain| plain.to_vec()).map_err(|_| AuthorityError::Sealed)
}

/// 16 bytes, the first of them fixed and below 0x80: always the same length in DER.
fn serial(public_key: &[u8], now: Timestamp) -> SerialNumber {
    let hash = Sha256::new().chain_update(public_key).chain_update(now.0.to_be_bytes()).finalize();
    let mut bytes = hash[..16].to_vec();
    bytes[0] = 0x53;
    SerialNumber::from(bytes)
}

fn validity(now: Timestamp, length_ms: u64) -> Result<(OffsetDateTime, OffsetDateTime), AuthorityError> {
    let at = |ms: u64| {
        let seconds = i64::try_from(ms / 1000).unwrap_or(i64::MAX);
        OffsetDateTime::from_unix_timestamp(seconds).map_err(|error| AuthorityError::Issue {
            why: format!("the clock is beyond what certificates can say: {error}"),
        })
    };
    Ok((at(now.0.saturating_sub(BACKDATE_MS))?, at(now.0.saturating_add(length_ms))?))
}

fn alternative_names(subject: &Subject) -> Result<Vec<SanType>, AuthorityError> {
    let mut names = vec![];
    for name in [subject.name.as_str(), "localhost"] {
        // A node's name may be no DNS name (`a..b`); clients would then refuse the whole certificate.
        if DnsName::try_from(name).is_ok() {
            names.push(SanType::DnsName(name.try_into().map_err(issue_error)?));
        }
    }
    let mut addresses = subject.addresses.clone();
    addresses.extend([IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)]);
    addresses.sort_unstable();
    addresses.dedup();
    names.extend(addresses.into_iter().map(SanType::IpAddress));
    Ok(names)
}

fn issue_error(error: rcgen::Error) -> AuthorityError {
    AuthorityError::Issue { why: error.to_string() }
}
