//! A user's program, connected to a city: the dialer's side of the client's protocol.
//!
//! The city proves itself by a certificate of its authority, as it does to its members. The program shows
//! a key made for this connection, which proves nothing: who it speaks for is proven by what it says
//! first, to whoever serves it ([`crate::Service::client`]). It reaches one stream and no lane.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task,
    time::Duration,
};

use rustls::pki_types::CertificateDer;
use scp_model::NodeId;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::timeout,
};

use crate::{
    certificate,
    clock::{Clock, SystemClock},
    identity::NodeKey,
    join::stranger_config,
    mesh::peer_chain,
    restart, serve,
    tls::{self, ALPN_CLIENT},
    transport::Duplex,
};

/// A node that does not answer within this is not there; another one is.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Why there is no connection.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    #[error("no connection can be made from here: {why}")]
    Local { why: String },
    #[error("{address} cannot be reached: {why}")]
    Unreachable { address: SocketAddr, why: String },
    #[error("what answers at {address} is not a node of this city: {why}")]
    ForeignCity { address: SocketAddr, why: String },
}

/// Bytes both ways with one node of the city; dropping it ends the connection.
#[derive(Debug)]
pub struct ClientStream {
    duplex: Duplex,
    /// Which node it is.
    pub node: NodeId,
}

/// Connects to the node at `address` of the city whose authority's certificate (PEM) is given.
pub async fn connect(address: SocketAddr, authority_pem: &str) -> Result<ClientStream, ConnectError> {
    let local = |error: &dyn std::fmt::Display| ConnectError::Local { why: error.to_string() };
    let unreachable =
        |error: &dyn std::fmt::Display| ConnectError::Unreachable { address, why: error.to_string() };
    let authority = certificate::from_pem(authority_pem).map_err(|error| local(&error))?;
    let key = NodeKey::generate().map_err(|error| local(&error))?;
    let config = stranger_config(&key, SystemClock.now(), ALPN_CLIENT).map_err(|error| local(&error))?;
    let any = match address {
        SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let socket = std::net::UdpSocket::bind(SocketAddr::new(any, 0)).map_err(|error| local(&error))?;
    let runtime = Arc::new(quinn::TokioRuntime);
    let endpoint = quinn::Endpoint::new(restart::endpoint_config(&key), None, socket, runtime);
    let endpoint = endpoint.map_err(|error| local(&error))?;
    let connecting = endpoint.connect_with(config, address, tls::ANY_NODE);
    let connecting = connecting.map_err(|error| unreachable(&error))?;
    let connection = match timeout(CONNECT_TIMEOUT, connecting).await {
        Ok(connected) => connected.map_err(|error| unreachable(&error))?,
        Err(_) => return Err(unreachable(&"no answer")),
    };
    let chain = peer_chain(&connection).unwrap_or_default();
    let node = check_city(&chain, &authority).map_err(|why| ConnectError::ForeignCity { address, why })?;
    let streams = connection.open_bi().await.map_err(|error| unreachable(&error))?;
    Ok(ClientStream { duplex: serve::duplex(streams, Arc::new((endpoint, connection))), node })
}

/// The first certificate must be a node's, by this authority, and valid now.
fn check_city(chain: &[CertificateDer<'static>], authority: &[u8]) -> Result<NodeId, String> {
    let leaf = chain.first().ok_or("it showed no certificate")?;
    let facts = certificate::issued_by(leaf, authority).map_err(|error| error.to_string())?;
    if !facts.is_valid_at(SystemClock.now()) {
        return Err("its certificate is out of its time".into());
    }
    Ok(facts.node())
}

impl AsyncRead for ClientStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut task::Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> task::Poll<std::io::Result<()>> {
        Pin::new(&mut self.duplex).poll_read(cx, buf)
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut task::Context<'_>,
        buf: &[u8],
    ) -> task::Poll<std::io::Result<usize>> {
        Pin::new(&mut self.duplex).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> task::Poll<std::io::Result<()>> {
        Pin::new(&mut self.duplex).poll_flush(cx)
    }

    fn poll_shutdown(
        mut self: Pin<&mut Self>,
        cx: &mut task::Context<'_>,
    ) -> task::Poll<std::io::Result<()>> {
        Pin::new(&mut self.duplex).poll_shutdown(cx)
    }
}
