//! The node's one QUIC endpoint: it listens, dials, and carries every lane.
//!
//! ```text
//!   request/open ─▶ call ─▶ peer.way() ─┬─ link ──▶ stream on it
//!                                       └─ dial ──▶ TLS, judge, hello ──▶ adopt, serve
//!   endpoint ─▶ serve::accept ─▶ TLS, judge ─┬─ member:   hello, adopt, serve the lanes of its standing
//!                                            ├─ stranger: serve the join lane
//!                                            └─ neither:  closed with a sentence
//! ```
//!
//! # Failure paths
//! - Peer dead: a link that owes an answer is closed ([`pulse`]), dials fail, callers are told within their own timeouts.
//! - Peer restarted: it answers our packets of the old connection with a stateless reset, and we redial.
//! - Removed from the city: links are closed as soon as the state says so.
//! - Our certificate renewed: [`Mesh::reload`]; links keep running, new ones use the new certificate.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use quinn::{AckFrequencyConfig, AsyncUdpSocket, IdleTimeout, MtuDiscoveryConfig, Runtime, TransportConfig};
use scp_model::NodeId;
use tokio::sync::{mpsc, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    call,
    certificate::Certificate,
    clock::Clock,
    identity::{Identity, NodeKey},
    lane::{INBOX_MAX, Lane, STREAMS_MAX},
    members::{Known, Members},
    peer::{CloseCode, Link, Peer, retire},
    pulse, restart, serve,
    tls::{self, Standing},
    transport::{Duplex, MeshError, Service, Transport},
};

/// Packets that a peer may take without acknowledging them at once. Most are questions and answers, so that the next
/// one back acknowledges the last; a packet of its own costs both sides as much as one with something in it.
const UNACKNOWLEDGED_MAX: u32 = 8;
/// Assumed before the first answer; a lost first packet is repeated after three times this. Cities are
/// wider than a room and smaller than a continent.
const INITIAL_RTT: Duration = Duration::from_millis(100);
/// Unread bytes of one stream: a chunk's worth, so that a transfer runs at full speed.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
/// Unread bytes of one connection.
const CONNECTION_WINDOW_BYTES: u32 = 64 << 20;
/// The largest datagram that is tried, where the path takes more than Ethernet's usual 1,472 bytes: jumbo
/// frames, loopback. Each packet costs the same work, however large. quinn hands the kernel ten at once, which
/// together have to stay below 64 KiB.
pub(crate) const DATAGRAM_BYTES_MAX: u16 = 6_500;
/// How often a connection tries again whether its path takes larger datagrams: paths hardly ever change, and a
/// search is a dozen packets of the largest sizes.
const PATH_INTERVAL: Duration = Duration::from_secs(24 * 3600);
/// How long [`Mesh::shutdown`] waits for peers to hear the goodbye.
const GOODBYE: Duration = Duration::from_millis(500);

/// Where to listen.
#[derive(Debug, Clone)]
pub struct MeshConfig {
    /// Port 0 takes a free one; see [`Mesh::local_address`].
    pub listen: SocketAddr,
}

/// What the mesh needs from the node.
#[derive(Clone)]
pub struct Ports {
    pub service: Arc<dyn Service>,
    pub clock: Arc<dyn Clock>,
    /// `None`: not known yet (before the first snapshot of the state), then every certificate of the
    /// city's authority that is valid now is a member's.
    pub members: watch::Receiver<Option<Arc<Members>>>,
}

/// The endpoint could not be started.
#[derive(Debug, thiserror::Error)]
pub enum MeshStartError {
    #[error("cannot listen on {address}: {source}")]
    Listen { address: SocketAddr, source: std::io::Error },
    #[error("TLS cannot be set up: {why}")]
    Tls { why: String },
}

impl From<rustls::Error> for MeshStartError {
    fn from(error: rustls::Error) -> Self {
        Self::Tls { why: error.to_string() }
    }
}

/// A handle; clones are the same mesh.
#[derive(Clone)]
pub struct Mesh {
    pub(crate) shared: Arc<Shared>,
}

/// What all tasks of one mesh share.
pub(crate) struct Shared {
    pub(crate) key: NodeKey,
    pub(crate) endpoint: quinn::Endpoint,
    pub(crate) ports: Ports,
    papers: Mutex<Papers>,
    peers: Mutex<BTreeMap<NodeId, Arc<Peer>>>,
    inboxes: Mutex<Inboxes>,
    /// Who was a member once and is not any more, as far as this process has seen. Certainty where
    /// [`Members::known_until`] gives none: a node that is removed seconds after it was vouched for.
    removed: Mutex<BTreeSet<NodeId>>,
    /// The socket is ours to let go of.
    owns_socket: AtomicBool,
    pub(crate) cancel: CancellationToken,
    pub(crate) tasks: TaskTracker,
}

/// Readers of one-way messages, by lane.
type Inboxes = [Option<mpsc::Sender<(NodeId, Bytes)>>; Lane::ALL.len()];

/// What a reload replaces.
struct Papers {
    authority: Vec<u8>,
    ours: Certificate,
    client: quinn::ClientConfig,
}

impl Papers {
    fn new(identity: &Identity, client: quinn::ClientConfig) -> Self {
        let authority = identity.authority_der().to_vec();
        Self { authority, ours: identity.certificate().clone(), client }
    }
}

impl Mesh {
    /// Listens, and serves members and strangers from now on.
    pub async fn start(config: MeshConfig, identity: Identity, ports: Ports) -> Result<Self, MeshStartError> {
        let listen = |source| MeshStartError::Listen { address: config.listen, source };
        let runtime: Arc<dyn Runtime> = Arc::new(quinn::TokioRuntime);
        let socket = std::net::UdpSocket::bind(config.listen).map_err(listen)?;
        let socket = runtime.wrap_udp_socket(socket).map_err(listen)?;
        let mesh = Self::start_on(socket, runtime, identity, ports)?;
        mesh.shared.owns_socket.store(true, Ordering::Relaxed);
        Ok(mesh)
    }

    /// As [`Mesh::start`], on a socket and runtime of the caller's: a simulated network, for one.
    pub fn start_on(
        socket: Arc<dyn AsyncUdpSocket>,
        runtime: Arc<dyn Runtime>,
        identity: Identity,
        ports: Ports,
    ) -> Result<Self, MeshStartError> {
        let (server, client) = tls_configs(&identity)?;
        let endpoint = quinn::Endpoint::new_with_abstract_socket(
            restart::endpoint_config(&identity.key),
            Some(server),
            socket,
            runtime,
        );
        let unspecified = SocketAddr::from(([0, 0, 0, 0], 0));
        let endpoint = endpoint.map_err(|source| MeshStartError::Listen { address: unspecified, source })?;
        let shared = Arc::new(Shared {
            key: identity.key.clone(),
            endpoint,
            ports,
            papers: Mutex::new(Papers::new(&identity, client)),
            peers: Mutex::default(),
            inboxes: Mutex::default(),
            removed: Mutex::default(),
            owns_socket: AtomicBool::new(false),
            cancel: CancellationToken::new(),
            tasks: TaskTracker::new(),
        });
        shared.spawn(serve::accept(shared.clone()));
        shared.spawn(follow_members(shared.clone()));
        shared.spawn(pulse::watch(shared.clone()));
        Ok(Self { shared })
    }

    pub fn local_address(&self) -> SocketAddr {
        self.shared.endpoint.local_addr().expect("a bound socket has an address")
    }

    /// Where a peer listens now; `None` forgets it. A new address is tried at once.
    pub fn set_address(&self, peer: NodeId, address: Option<SocketAddr>) {
        if peer == self.shared.us() {
            return;
        }
        for link in self.shared.peer(peer).set_address(address) {
            self.shared.spawn(retire(link));
        }
    }

    /// Takes a renewed certificate into use for new connections; those that are open stay, but for those
    /// that only renewed.
    pub fn reload(&self, identity: Identity) -> Result<(), MeshStartError> {
        if identity.id() != self.shared.us() {
            return Err(MeshStartError::Tls { why: "the certificate is another node's".into() });
        }
        let (server, client) = tls_configs(&identity)?;
        self.shared.endpoint.set_server_config(Some(server));
        *self.shared.papers() = Papers::new(&identity, client);
        for link in self.shared.links().into_iter().filter(|link| link.standing == Standing::RenewOnly) {
            link.close(CloseCode::Reauthenticate, "the certificate was renewed");
        }
        Ok(())
    }

    /// Peers with an open connection.
    pub fn connected(&self) -> Vec<NodeId> {
        let mut peers: Vec<_> = self.shared.links().iter().map(|link| link.peer).collect();
        peers.dedup();
        peers
    }

    /// Says goodbye to all peers, stops and frees the port. Requests under way fail.
    pub async fn shutdown(&self) {
        let shared = &self.shared;
        shared.cancel.cancel();
        shared.endpoint.close(CloseCode::Goodbye.number().into(), b"the node stops");
        shared.tasks.close();
        let gone = async {
            shared.tasks.wait().await;
            shared.endpoint.wait_idle().await;
        };
        // A peer that is dead does not confirm; it is not waited for.
        let _ = tokio::time::timeout(GOODBYE, gone).await;
        if shared.owns_socket.load(Ordering::Relaxed) {
            shared.let_go_of_the_port();
        }
    }
}

#[async_trait]
impl Transport for Mesh {
    fn node(&self) -> NodeId {
        self.shared.us()
    }

    async fn request(
        &self,
        peer: NodeId,
        lane: Lane,
        request: Bytes,
        timeout: Duration,
    ) -> Result<Bytes, MeshError> {
        call::request(&self.shared, call::Call { peer, lane, timeout }, request).await
    }

    async fn open(&self, peer: NodeId, opening: Bytes, timeout: Duration) -> Result<Duplex, MeshError> {
        call::open(&self.shared, call::Call { peer, lane: Lane::Bulk, timeout }, opening).await
    }

    fn send(&self, peer: NodeId, lane: Lane, message: Bytes) -> Result<(), MeshError> {
        call::send(&self.shared, peer, lane, message)
    }

    fn inbox(&self, lane: Lane) -> mpsc::Receiver<(NodeId, Bytes)> {
        let (sender, receiver) = mpsc::channel(INBOX_MAX);
        self.shared.inboxes()[lane.index()] = Some(sender);
        receiver
    }
}

impl Shared {
    pub(crate) fn us(&self) -> NodeId {
        self.key.id()
    }

    fn papers(&self) -> MutexGuard<'_, Papers> {
        self.papers.lock().expect("nothing panics while it holds this lock")
    }

    fn inboxes(&self) -> MutexGuard<'_, Inboxes> {
        self.inboxes.lock().expect("nothing panics while it holds this lock")
    }

    pub(crate) fn client_config(&self) -> quinn::ClientConfig {
        self.papers().client.clone()
    }

    /// The peer's entry; made when it is new.
    pub(crate) fn peer(&self, id: NodeId) -> Arc<Peer> {
        self.peers().entry(id).or_insert_with(|| Peer::new(self.us(), id)).clone()
    }

    pub(crate) fn known_peer(&self, id: NodeId) -> Option<Arc<Peer>> {
        self.peers().get(&id).cloned()
    }

    fn peers(&self) -> MutexGuard<'_, BTreeMap<NodeId, Arc<Peer>>> {
        self.peers.lock().expect("nothing panics while it holds this lock")
    }

    fn removed(&self) -> MutexGuard<'_, BTreeSet<NodeId>> {
        self.removed.lock().expect("nothing panics while it holds this lock")
    }

    /// The member that is known to listen at the address.
    pub(crate) fn peer_at(&self, address: SocketAddr) -> Option<NodeId> {
        let members = self.ports.members.borrow().clone();
        let is_member = |id: &NodeId| members.as_ref().is_none_or(|members| members.contains_key(id));
        let peers = self.peers();
        let mut there = peers.values().filter(|peer| peer.address() == Some(address)).map(|peer| peer.id);
        there.find(is_member)
    }

    pub(crate) fn links(&self) -> Vec<Arc<Link>> {
        let peers: Vec<_> = self.peers().values().cloned().collect();
        peers.iter().flat_map(|peer| peer.links()).collect()
    }

    /// Judges the key that a handshake proved; and our own certificate, which binds both ends alike.
    pub(crate) fn judge(
        &self,
        connection: &quinn::Connection,
    ) -> Result<(Certificate, Standing), tls::Outsider> {
        let chain = peer_chain(connection).unwrap_or_default();
        let leaf = chain.first().map(|leaf| leaf.as_ref()).unwrap_or_default();
        let members = self.ports.members.borrow().clone();
        let now = self.ports.clock.now();
        let (authority, we_are_valid) = {
            let papers = self.papers();
            (papers.authority.clone(), papers.ours.is_valid_at(now))
        };
        let (facts, standing) = tls::judge(leaf, &authority, members.as_deref(), now)?;
        if self.removed().contains(&facts.node()) {
            return Err(tls::Outsider::NotAMember(facts.node()));
        }
        Ok((facts, if we_are_valid { standing } else { Standing::RenewOnly }))
    }

    /// A one-way message came in. A full inbox drops it: both lanes repeat themselves.
    pub(crate) fn deliver(&self, from: NodeId, lane: Lane, message: Bytes) {
        if let Some(inbox) = &self.inboxes()[lane.index()] {
            let _ = inbox.try_send((from, message));
        }
    }

    /// quinn closes its socket when the last handle is dropped, and handles like ours may live on. Moving
    /// the closed endpoint elsewhere frees the port for the next mesh at once.
    pub(crate) fn let_go_of_the_port(&self) {
        // Connections hold the socket too.
        self.peers().clear();
        // quinn keeps the previous socket for packets that are under way: the second move drops ours.
        for _ in 0..2 {
            let elsewhere = std::net::UdpSocket::bind((std::net::Ipv4Addr::LOCALHOST, 0));
            if let Err(error) = elsewhere.and_then(|socket| self.endpoint.rebind(socket)) {
                tracing::warn!(%error, "the mesh's port stays taken until the process ends");
            }
        }
    }

    /// Runs a task until it is done or the mesh is shut down.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let cancel = self.cancel.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                () = cancel.cancelled() => {}
                () = task => {}
            }
        });
    }
}

/// The certificates that the peer sent, its own first.
pub(crate) fn peer_chain(
    connection: &quinn::Connection,
) -> Option<Vec<rustls::pki_types::CertificateDer<'static>>> {
    let identity = connection.peer_identity()?;
    identity.downcast::<Vec<rustls::pki_types::CertificateDer<'static>>>().ok().map(|chain| *chain)
}

/// Cuts off whoever the state no longer knows.
async fn follow_members(shared: Arc<Shared>) {
    let mut members = shared.ports.members.clone();
    let mut before: Option<Arc<Members>> = None;
    loop {
        let now = members.borrow_and_update().clone();
        if let Some(now) = &now {
            let gone = before.iter().flat_map(|before| before.keys()).filter(|id| !now.contains_key(id));
            let mut removed = shared.removed();
            removed.extend(gone);
            removed.retain(|id| !now.contains_key(id));
            let removed = removed.clone();
            let is_out = |link: &Arc<Link>| {
                removed.contains(&link.peer) || now.look_up(&link.certificate) == Known::Removed
            };
            for link in shared.links().into_iter().filter(is_out) {
                link.close(CloseCode::NotAMember, "the node was removed from the city");
            }
            // One with an address may be a member by the next change; the node forgets it by itself.
            shared.peers().retain(|id, peer| now.contains_key(id) || peer.address().is_some());
        }
        before = now.or(before);
        if members.changed().await.is_err() {
            return;
        }
    }
}

fn tls_configs(identity: &Identity) -> Result<(quinn::ServerConfig, quinn::ClientConfig), rustls::Error> {
    let server = tls::server(identity.chain(), identity.key.to_tls())?;
    let mut server = quinn::ServerConfig::with_crypto(Arc::new(server));
    let transport = Arc::new(between_members());
    server.transport_config(transport.clone());
    let client = tls::client(identity.chain(), identity.key.to_tls(), tls::ALPN_MESH)?;
    let mut client = quinn::ClientConfig::new(Arc::new(client));
    client.transport_config(transport);
    Ok((server, client))
}

/// A quiet connection is kept for long and says nothing: whether the peer lives is watched by [`pulse`].
fn between_members() -> TransportConfig {
    let mut transport = transport_config(DATAGRAM_BYTES_MAX);
    let rest = IdleTimeout::try_from(pulse::REST).expect("minutes fit into a QUIC varint");
    transport.max_idle_timeout(Some(rest)).keep_alive_interval(None);
    transport
}

/// For who dials and is no member: it keeps its connection up. Datagrams grow up to `datagram_bytes_max` where
/// the path takes them.
pub(crate) fn transport_config(datagram_bytes_max: u16) -> TransportConfig {
    let requests: usize = Lane::ALL.iter().map(|lane| lane.limits().requests_max).sum();
    let streams = u32::try_from(requests + STREAMS_MAX).expect("the limits are small");
    let messages = u32::try_from(Lane::Gossip.limits().requests_max + 1).expect("the limits are small");
    let mut datagrams = MtuDiscoveryConfig::default();
    datagrams.upper_bound(datagram_bytes_max).interval(PATH_INTERVAL);
    let mut acknowledging = AckFrequencyConfig::default();
    // A gap is told at once, as without the extension: what was lost is sent again no later.
    acknowledging.ack_eliciting_threshold(UNACKNOWLEDGED_MAX.into()).reordering_threshold(1u32.into());
    let mut transport = TransportConfig::default();
    transport
        .ack_frequency_config(Some(acknowledging))
        .mtu_discovery_config(Some(datagrams))
        .max_idle_timeout(Some(IdleTimeout::try_from(pulse::IDLE).expect("5 s fit into a QUIC varint")))
        .keep_alive_interval(Some(pulse::KEEP_ALIVE))
        .initial_rtt(INITIAL_RTT)
        .max_concurrent_bidi_streams(streams.into())
        .max_concurrent_uni_streams(messages.into())
        .stream_receive_window(STREAM_WINDOW_BYTES.into())
        .receive_window(CONNECTION_WINDOW_BYTES.into());
    transport
}
