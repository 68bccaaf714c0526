//! The caller's side: from a peer's id to an answer.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use quinn::{ConnectionError, VarInt, WriteError};
use scp_model::NodeId;
use tokio::{
    io::AsyncWriteExt,
    sync::OwnedSemaphorePermit,
    time::{sleep_until, timeout},
};

use crate::{
    lane::Lane,
    mesh::Shared,
    peer::{CloseCode, Dial, Link, LinkUse, Peer, Way, retire},
    serve,
    tls::{self, Standing},
    transport::{Duplex, MeshError},
    wire::{self, Hello, Kind, Preamble, WireError},
};

/// An attempt that takes longer has met a dead peer, a firewall or a lossy path; the next one may not.
const DIAL_TIMEOUT: Duration = Duration::from_secs(2);
/// A gossip message that did not leave within this, connecting included, is worth nothing any more.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(5);
/// Nor is a heartbeat or an alarm after this.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// Whom to ask, on which lane, and how long to wait.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Call {
    pub(crate) peer: NodeId,
    pub(crate) lane: Lane,
    pub(crate) timeout: Duration,
}

/// How far a call had come when its time was over.
#[derive(Default)]
struct Progress(AtomicU8);

impl Progress {
    const QUEUED: u8 = 0;
    const CONNECTING: u8 = 1;
    const SENT: u8 = 2;

    fn is(&self, stage: u8) {
        self.0.store(stage, Ordering::Relaxed);
    }

    fn timed_out(&self, call: Call) -> MeshError {
        let timeout_ms = u64::try_from(call.timeout.as_millis()).unwrap_or(u64::MAX);
        match self.0.load(Ordering::Relaxed) {
            Self::QUEUED => MeshError::Busy { peer: call.peer },
            Self::CONNECTING => {
                let why = format!("no connection within {timeout_ms} ms");
                MeshError::Unreachable { peer: call.peer, why }
            }
            Self::SENT.. => MeshError::Timeout { peer: call.peer, timeout_ms },
        }
    }
}

pub(crate) async fn request(shared: &Arc<Shared>, call: Call, body: Bytes) -> Result<Bytes, MeshError> {
    let progress = Progress::default();
    let asking = async {
        let peer = checked_peer(shared, call, &body)?;
        let _permit = permit(peer.asking(call.lane)).await;
        let (mut streams, _used) = begin(shared, (call, Kind::Request), &body, &progress).await?;
        let broken = |error| broken(call.peer, &error);
        streams.0.finish().map_err(|_| broken(WireError::Read(std::io::ErrorKind::NotConnected.into())))?;
        let answer = wire::read_answer(&mut streams.1, call.lane.limits().bytes_max).await;
        let answer = answer.map_err(broken)?;
        answer.map(Bytes::from).map_err(|refusal| MeshError::Refused { peer: call.peer, refusal })
    };
    run(shared, call, &progress, asking).await
}

pub(crate) async fn open(shared: &Arc<Shared>, call: Call, opening: Bytes) -> Result<Duplex, MeshError> {
    let progress = Progress::default();
    let opening = async {
        let peer = checked_peer(shared, call, &opening)?;
        let permit = permit(peer.streams_out.clone()).await;
        let (mut streams, used) = begin(shared, (call, Kind::Stream), &opening, &progress).await?;
        let answer = wire::read_answer(&mut streams.1, call.lane.limits().bytes_max).await;
        let answer = answer.map_err(|error| broken(call.peer, &error))?;
        answer.map_err(|refusal| MeshError::Refused { peer: call.peer, refusal })?;
        let held = Arc::new((permit, used));
        Ok(serve::duplex(streams, held))
    };
    run(shared, call, &progress, opening).await
}

async fn run<T>(
    shared: &Arc<Shared>,
    call: Call,
    progress: &Progress,
    asking: impl Future<Output = Result<T, MeshError>>,
) -> Result<T, MeshError> {
    tokio::select! {
        // First, because after the end everything else is unreachable too.
        biased;
        () = shared.cancel.cancelled() => Err(MeshError::ShutDown),
        result = timeout(call.timeout, asking) => result.unwrap_or_else(|_| Err(progress.timed_out(call))),
    }
}

async fn permit(semaphore: Arc<tokio::sync::Semaphore>) -> OwnedSemaphorePermit {
    semaphore.acquire_owned().await.expect("these semaphores are never closed")
}

fn checked_peer(shared: &Arc<Shared>, call: Call, body: &Bytes) -> Result<Arc<Peer>, MeshError> {
    let limit = call.lane.limits().bytes_max;
    if body.len() > limit {
        return Err(MeshError::TooLarge { lane: call.lane, length: body.len(), limit });
    }
    let unreachable = |why: &str| MeshError::Unreachable { peer: call.peer, why: why.into() };
    if call.peer == shared.us() {
        return Err(unreachable("it is this node itself"));
    }
    shared.known_peer(call.peer).ok_or_else(|| unreachable("its address is not known"))
}

type Streams = (quinn::SendStream, quinn::RecvStream);

/// Gets a link, opens a stream on it and sends the opening words.
async fn begin(
    shared: &Arc<Shared>,
    (call, kind): (Call, Kind),
    body: &[u8],
    progress: &Progress,
) -> Result<(Streams, LinkUse), MeshError> {
    progress.is(Progress::CONNECTING);
    let peer = shared.peer(call.peer);
    let frame = scp_codec::frame(wire::VERSION, body)
        .map_err(|error| MeshError::Unreachable { peer: call.peer, why: error.to_string() })?;
    let preamble = Preamble { lane: call.lane, kind, deadline: call.timeout };
    loop {
        let link = link(shared, &peer).await?;
        if link.standing == Standing::RenewOnly && call.lane != Lane::Renew {
            return Err(MeshError::CertificateExpired { peer: call.peer });
        }
        let used = link.enter();
        // A link that has just broken fails here, before anything was sent: the next turn finds another.
        let Ok((mut send, receive)) = link.connection.open_bi().await else { continue };
        progress.is(Progress::SENT);
        let written = async {
            send.write_all(&preamble.encode()).await?;
            send.write_all(&frame).await
        };
        return match written.await {
            Ok(()) => Ok(((send, receive), used)),
            // Refused before all was written: the answer says why.
            Err(WriteError::Stopped(_)) => Ok(((send, receive), used)),
            Err(error) => Err(MeshError::Broken { peer: call.peer, why: error.to_string() }),
        };
    }
}

fn broken(peer: NodeId, error: &WireError) -> MeshError {
    MeshError::Broken { peer, why: error.to_string() }
}

/// An open link to the peer; dials, or waits for who dials.
async fn link(shared: &Arc<Shared>, peer: &Arc<Peer>) -> Result<Arc<Link>, MeshError> {
    let mut outcomes = peer.outcomes();
    let asked_at = outcomes.borrow().count;
    loop {
        match peer.way() {
            Way::Link(link) => return Ok(link),
            Way::NoAddress => {
                let why = "its address is not known".into();
                return Err(MeshError::Unreachable { peer: peer.id, why });
            }
            Way::Dial(attempt) => shared.spawn(dial(shared.clone(), peer.clone(), attempt)),
            Way::Wait => {}
        }
        // The sender lives in `peer`, which we hold.
        let _ = outcomes.changed().await;
        let outcome = outcomes.borrow_and_update().clone();
        if let (true, Some(failure)) = (outcome.count > asked_at, outcome.failure) {
            return Err(failure);
        }
    }
}

/// Starts a dial when there is no link and none is under way; for those who do not wait.
fn link_now(shared: &Arc<Shared>, id: NodeId) -> Result<Arc<Link>, MeshError> {
    let unreachable = |why: &str| MeshError::Unreachable { peer: id, why: why.into() };
    let Some(peer) = shared.known_peer(id) else { return Err(unreachable("its address is not known")) };
    match peer.way() {
        Way::Link(link) if link.standing == Standing::Full => Ok(link),
        Way::Link(_) => Err(MeshError::CertificateExpired { peer: id }),
        Way::NoAddress => Err(unreachable("its address is not known")),
        Way::Wait => Err(unreachable("a connection is being made")),
        Way::Dial(attempt) => {
            shared.spawn(dial(shared.clone(), peer, attempt));
            Err(unreachable("a connection is being made"))
        }
    }
}

/// One attempt; a peer that moves meanwhile is dialed where it went.
async fn dial(shared: Arc<Shared>, peer: Arc<Peer>, attempt: Dial) {
    let mut moved = peer.moved.subscribe();
    if let Some(at) = attempt.not_before {
        tokio::select! {
            () = sleep_until(at) => {}
            _ = moved.changed() => {}
        }
    }
    let result = loop {
        let Some(address) = peer.address() else {
            let why = "its address was forgotten".into();
            break Err(MeshError::Unreachable { peer: peer.id, why });
        };
        tokio::select! {
            result = timeout(DIAL_TIMEOUT, connect(&shared, peer.id, address)) => {
                let late = || format!("{address} does not answer");
                break result.unwrap_or_else(|_| Err(MeshError::Unreachable { peer: peer.id, why: late() }));
            }
            _ = moved.changed() => {}
        }
    };
    let link = result.as_ref().ok().cloned();
    if let Some(loser) = peer.dialed(result) {
        shared.spawn(retire(loser));
    }
    if let Some(link) = link {
        shared.spawn(serve::serve(shared.clone(), peer, link));
    }
}

async fn connect(shared: &Arc<Shared>, peer: NodeId, address: SocketAddr) -> Result<Arc<Link>, MeshError> {
    let unreachable = |why: String| MeshError::Unreachable { peer, why: format!("{address}: {why}") };
    let connecting = shared
        .endpoint
        .connect_with(shared.client_config(), address, &tls::server_name(peer))
        .map_err(|error| unreachable(error.to_string()))?;
    let connection = connecting.await.map_err(|error| unreachable(error.to_string()))?;
    let (certificate, theirs) = shared.judge(&connection).map_err(|outsider| {
        connection.close(CloseCode::NotAMember.number().into(), outsider.to_string().as_bytes());
        MeshError::NotAMember { peer, why: outsider.to_string() }
    })?;
    let hello = hello(&connection).await.map_err(|error| match closed_as_outsider(&connection) {
        Some(why) => MeshError::NotAMember { peer, why },
        None => unreachable(error),
    })?;
    let standing = match (theirs, hello.renew_only) {
        (Standing::Full, false) => Standing::Full,
        (Standing::RenewOnly, _) | (_, true) => Standing::RenewOnly,
    };
    Ok(Link::new(connection, certificate, true, standing))
}

async fn hello(connection: &quinn::Connection) -> Result<Hello, String> {
    let mut stream = connection.accept_uni().await.map_err(|error| error.to_string())?;
    let payload = wire::read_frame(&mut stream, wire::HELLO_BYTES_MAX).await;
    let payload = payload.map_err(|error| error.to_string())?;
    scp_codec::from_payload(&payload).map_err(|error| error.to_string())
}

/// The peer's sentence, if it closed the connection because we are not a member.
fn closed_as_outsider(connection: &quinn::Connection) -> Option<String> {
    match connection.close_reason()? {
        ConnectionError::ApplicationClosed(close)
            if close.error_code == VarInt::from_u32(CloseCode::NotAMember.number()) =>
        {
            Some(String::from_utf8_lossy(&close.reason).into_owned())
        }
        _ => None,
    }
}

pub(crate) fn send(shared: &Arc<Shared>, peer: NodeId, lane: Lane, message: Bytes) -> Result<(), MeshError> {
    let limit = lane.limits().bytes_max;
    if message.len() > limit || !lane.is_one_way() {
        return Err(MeshError::TooLarge { lane, length: message.len(), limit });
    }
    if shared.cancel.is_cancelled() {
        return Err(MeshError::ShutDown);
    }
    let link = link_now(shared, peer);
    if let (Lane::Probe, Ok(link)) = (lane, &link) {
        return probe_out(link, &message).map_err(|why| MeshError::Broken { peer, why });
    }
    let known = shared.known_peer(peer).filter(|known| known.address().is_some());
    let (link, known) = match (link, known) {
        (Ok(link), _) => (Some(link), shared.peer(peer)),
        // News that is lost is lost to all that would have heard it from there.
        (Err(MeshError::Unreachable { .. }), Some(known)) => (None, known),
        (Err(error), _) => return Err(error),
    };
    let permit = known.asking(lane).try_acquire_owned().map_err(|_| MeshError::Busy { peer })?;
    let waits = shared.clone();
    shared.spawn(async move {
        // Best effort: whoever misses a message is told the same again in the next round.
        if lane == Lane::Probe {
            if let Ok(Ok(link)) = timeout(PROBE_TIMEOUT, self::link(&waits, &known)).await {
                let _ = probe_out(&link, &message);
            }
        } else {
            let _ = timeout(MESSAGE_TIMEOUT, message_to(&waits, (&known, link), (lane, &message))).await;
        }
        drop(permit);
    });
    Ok(())
}

fn probe_out(link: &Link, message: &[u8]) -> Result<(), String> {
    if link.standing == Standing::RenewOnly {
        return Ok(());
    }
    let datagram = [&[Lane::Probe.code()][..], message].concat();
    link.connection.send_datagram(datagram.into()).map_err(|error| error.to_string())
}

async fn message_to(
    shared: &Arc<Shared>,
    (peer, now): (&Arc<Peer>, Option<Arc<Link>>),
    (lane, message): (Lane, &[u8]),
) -> std::io::Result<()> {
    if let Some(link) = now
        && message_out(&link, lane, message).await.is_ok()
    {
        return Ok(());
    }
    // There was none, or it was of an earlier life of the peer's: the first packet showed it.
    let link = link(shared, peer).await.map_err(std::io::Error::other)?;
    message_out(&link, lane, message).await
}

async fn message_out(link: &Arc<Link>, lane: Lane, message: &[u8]) -> std::io::Result<()> {
    if link.standing == Standing::RenewOnly {
        return Ok(());
    }
    let _use = link.enter();
    let frame = scp_codec::frame(wire::VERSION, message).map_err(std::io::Error::other)?;
    let mut stream = link.connection.open_uni().await?;
    stream.write_u8(lane.code()).await?;
    AsyncWriteExt::write_all(&mut stream, &frame).await?;
    stream.finish()?;
    // Until it has arrived.
    stream.stopped().await?;
    Ok(())
}
