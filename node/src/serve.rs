//! The two doors: HTTPS for everyone, a unix socket for this server's root. The accept loops are the
//! API's; this makes what they need: the certificate in use, and a socket that only root may open.

use std::{fmt, path::Path, sync::Arc};

use anyhow::{Context, Result};
use arc_swap::ArcSwap;
use axum::Router;
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use scp_api::server::listen;
use tokio::net::{TcpListener, UnixListener};
use tokio_util::sync::CancellationToken;

/// The HTTPS certificate in use; looked up for each handshake and swapped when it is renewed.
#[derive(Clone)]
pub struct Certificate(Arc<ArcSwap<CertifiedKey>>);

impl Certificate {
    /// From the node's certificate chain and its key (PKCS #8).
    pub fn new(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Result<Self> {
        Ok(Self(Arc::new(ArcSwap::from_pointee(certified(chain, key)?))))
    }

    pub fn replace(&self, chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Result<()> {
        self.0.store(Arc::new(certified(chain, key)?));
        Ok(())
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Certificate")
    }
}

fn certified(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Result<CertifiedKey> {
    let key =
        rustls::crypto::ring::sign::any_supported_type(&key).context("the node key is unusable for TLS")?;
    Ok(CertifiedKey::new(chain, key))
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

/// TLS for HTTPS with the certificate in use.
pub fn tls(certificate: Certificate) -> Result<Arc<ServerConfig>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .context("ring supports the default TLS versions")?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(certificate));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Serves HTTPS on `listener` until cancelled.
pub async fn https(listener: TcpListener, tls: Arc<ServerConfig>, router: Router, stop: CancellationToken) {
    listen::serve_tls(listener, tls, router, stop.cancelled()).await;
}

/// Serves plain HTTP on a unix socket that only root may open, until cancelled.
pub async fn local(path: &Path, router: Router, stop: CancellationToken) -> Result<()> {
    let listener = bind_local(path)?;
    listen::serve_unix(listener, router, stop.cancelled()).await;
    let _ = std::fs::remove_file(path);
    Ok(())
}

fn bind_local(path: &Path) -> Result<UnixListener> {
    use std::os::unix::fs::PermissionsExt;
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).with_context(|| format!("cannot create {}", parent.display()))?;
    }
    // Bound beside its place and moved there when its mode is right: it is never open to others.
    let new = path.with_extension("new");
    let _ = std::fs::remove_file(&new);
    let listener =
        UnixListener::bind(&new).with_context(|| format!("cannot listen on {}", path.display()))?;
    std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o600))
        .with_context(|| format!("cannot restrict {} to root", path.display()))?;
    // Replaces a socket left by a killed scpd; two living ones are kept apart by the data directory's lock.
    std::fs::rename(&new, path).with_context(|| format!("cannot place {}", path.display()))?;
    Ok(listener)
}
