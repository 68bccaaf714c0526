//! A node's identity: its key, and what the city's authority says of it.
//!
//! ```text
//! DIR/node.key          PKCS#8 of the ed25519 key; made once, never leaves the server
//! DIR/node.pem          the node's certificate; renewed at half of its life
//! DIR/authority.pem     the certificate of the city's authority
//! DIR/city.key          on voters: opens the sealed key of the authority
//! ```
//!
//! # Guarantees
//! - Each file is replaced atomically (temporary file, fsync, rename, fsync of the directory), mode 0600:
//!   after a crash there is the old one or the new one, whole.
//! - A node without certificate is of no city yet; the key stays the same whatever city it joins.

use std::{
    fs, io,
    io::Write,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use ring::{
    rand::SystemRandom,
    signature::{Ed25519KeyPair, KeyPair as _},
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use scp_model::{NodeId, PublicKey};

use crate::{
    authority::CityKey,
    certificate::{self, Certificate, CertificateError},
};

/// Why an identity could not be read, made or kept.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error("{path}: {source}", path = path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("{path} is damaged: {why}", path = path.display())]
    Damaged { path: PathBuf, why: String },
    #[error("the certificate belongs to another key")]
    WrongKey,
    #[error("the certificate is of no use: {0}")]
    Certificate(#[from] CertificateError),
    #[error("the system gives no randomness")]
    NoRandomness,
}

/// A node's ed25519 key pair. Clones are the same key.
#[derive(Clone)]
pub struct NodeKey {
    inner: Arc<KeyInner>,
}

struct KeyInner {
    pair: Ed25519KeyPair,
    pkcs8: Vec<u8>,
    public: PublicKey,
    id: NodeId,
}

impl std::fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "NodeKey({})", self.inner.id)
    }
}

impl NodeKey {
    pub fn generate() -> Result<Self, IdentityError> {
        let document =
            Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).map_err(|_| IdentityError::NoRandomness)?;
        Ok(Self::from_pkcs8(document.as_ref()).expect("ring reads the key that ring made"))
    }

    /// `None`: the bytes are not an ed25519 key in PKCS#8.
    pub fn from_pkcs8(pkcs8: &[u8]) -> Option<Self> {
        let pair = Ed25519KeyPair::from_pkcs8(pkcs8).ok()?;
        let public = PublicKey(pair.public_key().as_ref().try_into().ok()?);
        let id = certificate::node_id(&public);
        Some(Self { inner: Arc::new(KeyInner { pair, pkcs8: pkcs8.to_vec(), public, id }) })
    }

    pub fn id(&self) -> NodeId {
        self.inner.id
    }

    pub fn public_key(&self) -> PublicKey {
        self.inner.public
    }

    /// An ed25519 signature.
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        let signature = self.inner.pair.sign(message);
        signature.as_ref().try_into().expect("an ed25519 signature has 64 bytes")
    }

    /// The private key, for TLS.
    pub fn to_tls(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.inner.pkcs8.clone()).into()
    }

    pub(crate) fn pkcs8(&self) -> &[u8] {
        &self.inner.pkcs8
    }
}

/// A key with the certificate that makes it a member of a city.
#[derive(Debug, Clone)]
pub struct Identity {
    pub key: NodeKey,
    certificate_pem: String,
    authority_pem: String,
    chain: [CertificateDer<'static>; 2],
    facts: Certificate,
}

impl Identity {
    /// Checks that the certificate is the key's and the authority's. It may have expired: an expired
    /// identity is still good for being renewed.
    pub fn new(key: NodeKey, certificate_pem: &str, authority_pem: &str) -> Result<Self, IdentityError> {
        let leaf = certificate::from_pem(certificate_pem)?;
        let authority = certificate::from_pem(authority_pem)?;
        let facts = certificate::issued_by(&leaf, &authority)?;
        if facts.public_key != key.public_key() {
            return Err(IdentityError::WrongKey);
        }
        Ok(Self {
            key,
            certificate_pem: certificate_pem.to_owned(),
            authority_pem: authority_pem.to_owned(),
            chain: [leaf, authority],
            facts,
        })
    }

    pub fn id(&self) -> NodeId {
        self.key.id()
    }

    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    pub fn authority_pem(&self) -> &str {
        &self.authority_pem
    }

    /// The node's certificate and the authority's, for TLS (mesh and HTTPS alike).
    pub fn chain(&self) -> Vec<CertificateDer<'static>> {
        self.chain.to_vec()
    }

    pub fn authority_der(&self) -> &CertificateDer<'static> {
        &self.chain[1]
    }

    pub fn certificate(&self) -> &Certificate {
        &self.facts
    }
}

/// Where a node keeps its identity.
#[derive(Debug, Clone)]
pub struct IdentityDirectory {
    path: PathBuf,
}

const NODE_KEY: &str = "node.key";
const NODE_CERTIFICATE: &str = "node.pem";
const AUTHORITY_CERTIFICATE: &str = "authority.pem";
const CITY_KEY: &str = "city.key";

impl IdentityDirectory {
    /// Creates the directory (mode 0700) when it is missing.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, IdentityError> {
        let path = path.into();
        match fs::DirBuilder::new().recursive(true).mode(0o700).create(&path) {
            Ok(()) => Ok(Self { path }),
            Err(source) => Err(IdentityError::File { path, source }),
        }
    }

    /// The node's key; made and kept on the first call.
    pub fn load_or_create_key(&self) -> Result<NodeKey, IdentityError> {
        match self.read(NODE_KEY)? {
            Some(bytes) => NodeKey::from_pkcs8(&bytes).ok_or_else(|| IdentityError::Damaged {
                path: self.path.join(NODE_KEY),
                why: "not an ed25519 key in PKCS#8".into(),
            }),
            None => {
                let key = NodeKey::generate()?;
                self.replace(NODE_KEY, key.pkcs8())?;
                Ok(key)
            }
        }
    }

    /// The identity in the city; `None` before init or join.
    pub fn load(&self) -> Result<Option<Identity>, IdentityError> {
        let key = self.load_or_create_key()?;
        let (Some(certificate), Some(authority)) =
            (self.read_text(NODE_CERTIFICATE)?, self.read_text(AUTHORITY_CERTIFICATE)?)
        else {
            return Ok(None);
        };
        Identity::new(key, &certificate, &authority).map(Some)
    }

    /// Keeps certificate and authority; the authority first, so that a crash between the two leaves a
    /// node that has not joined.
    pub fn store(&self, identity: &Identity) -> Result<(), IdentityError> {
        self.replace(AUTHORITY_CERTIFICATE, identity.authority_pem.as_bytes())?;
        self.replace(NODE_CERTIFICATE, identity.certificate_pem.as_bytes())
    }

    /// Leaves the city: certificates and city key go, the node's key stays.
    pub fn forget_city(&self) -> Result<(), IdentityError> {
        for name in [NODE_CERTIFICATE, CITY_KEY, AUTHORITY_CERTIFICATE] {
            let path = self.path.join(name);
            match fs::remove_file(&path) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(source) => return Err(IdentityError::File { path, source }),
            }
        }
        self.sync_directory()
    }

    pub fn store_city_key(&self, key: &CityKey) -> Result<(), IdentityError> {
        self.replace(CITY_KEY, key.bytes())
    }

    /// The city's key, on a node that was given it.
    pub fn load_city_key(&self) -> Result<Option<CityKey>, IdentityError> {
        let Some(bytes) = self.read(CITY_KEY)? else { return Ok(None) };
        match <[u8; 32]>::try_from(bytes.as_slice()) {
            Ok(bytes) => Ok(Some(CityKey::from_bytes(bytes))),
            Err(_) => Err(IdentityError::Damaged {
                path: self.path.join(CITY_KEY),
                why: format!("{} bytes instead of 32", bytes.len()),
            }),
        }
    }

    fn read(&self, name: &str) -> Result<Option<Vec<u8>>, IdentityError> {
        let path = self.path.join(name);
        match fs::read(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(IdentityError::File { path, source }),
        }
    }

    fn read_text(&self, name: &str) -> Result<Option<String>, IdentityError> {
        let Some(bytes) = self.read(name)? else { return Ok(None) };
        match String::from_utf8(bytes) {
            Ok(text) => Ok(Some(text)),
            Err(_) => Err(IdentityError::Damaged { path: self.path.join(name), why: "not text".into() }),
        }
    }

    fn replace(&self, name: &str, bytes: &[u8]) -> Result<(), IdentityError> {
        let (path, temporary) = (self.path.join(name), self.path.join(format!("{name}.new")));
        let at = |path: &Path| {
            let path = path.to_path_buf();
            move |source| IdentityError::File { path, source }
        };
        write_synced(&temporary, bytes).map_err(at(&temporary))?;
        fs::rename(&temporary, &path).map_err(at(&path))?;
        self.sync_directory()
    }

    fn sync_directory(&self) -> Result<(), IdentityError> {
        let synced = fs::File::open(&self.path).and_then(|directory| directory.sync_all());
        synced.map_err(|source| IdentityError::File { path: self.path.clone(), source })
    }
}

fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    // A leftover of a crash may have another mode: it is made anew, not reused.
    match fs::remove_file(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}
