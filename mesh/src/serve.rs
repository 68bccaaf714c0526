//! The acceptor's side: who comes in, and what they may ask.

use std::{pin::Pin, sync::Arc, task, time::Duration};

use bytes::Bytes;
use scp_model::PROTOCOL;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use crate::{
    join::server,
    lane::Lane,
    mesh::Shared,
    peer::{CloseCode, Link, Peer, retire},
    tls::{ALPN_CLIENT, ALPN_JOIN, Standing},
    transport::{Duplex, Refusal, RefusalKind},
    wire::{self, Hello, Kind, PREAMBLE_BYTES, Preamble, WireError},
};

/// Handshakes under way. Each costs two signatures (some 100 µs); a whole city reconnecting at once is
/// served within a second, and a flood cannot take more than this.
const HANDSHAKES_MAX: usize = 256;
/// From here on, who dials must first prove that packets reach the address it claims.
const HANDSHAKES_UNPROVEN_MAX: usize = 64;
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Strangers served at once: a rack of servers joining together.
const STRANGERS_MAX: usize = 64;
/// Connections of users' programs at once: each costs a task and its windows.
const CLIENTS_MAX: usize = 1024;
/// Beyond the caller's deadline, so that its own timer ends first and it knows a timeout from a break.
const DEADLINE_GRACE: Duration = Duration::from_secs(1);
/// A caller that opened a stream has this long to say what it wants.
const OPENING_TIMEOUT: Duration = Duration::from_secs(10);

/// Takes connections in until the endpoint is closed.
pub(crate) async fn accept(shared: Arc<Shared>) {
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    let guests =
        Arc::new(Guests { strangers: Semaphore::new(STRANGERS_MAX), clients: Semaphore::new(CLIENTS_MAX) });
    while let Some(incoming) = shared.endpoint.accept().await {
        let free = handshakes.available_permits();
        if HANDSHAKES_MAX - free >= HANDSHAKES_UNPROVEN_MAX && !incoming.remote_address_validated() {
            // An error here means that this was an answer to a retry already; then it is validated.
            let _ = incoming.retry();
            continue;
        }
        let Ok(permit) = handshakes.clone().try_acquire_owned() else {
            incoming.refuse();
            continue;
        };
        shared.spawn(greet(shared.clone(), incoming, permit, guests.clone()));
    }
}

/// Room for those who are not members.
struct Guests {
    strangers: Semaphore,
    clients: Semaphore,
}

async fn greet(
    shared: Arc<Shared>,
    incoming: quinn::Incoming,
    handshake: OwnedSemaphorePermit,
    guests: Arc<Guests>,
) {
    let Ok(connecting) = incoming.accept() else { return };
    let Ok(Ok(connection)) = timeout(HANDSHAKE_TIMEOUT, connecting).await else { return };
    drop(handshake);
    match alpn(&connection).as_deref() {
        Some(ALPN_JOIN) => match guests.strangers.try_acquire() {
            Ok(_permit) => server::serve(&shared, &connection).await,
            Err(_) => connection.close(CloseCode::Busy.number().into(), b"too many servers join at once"),
        },
        Some(ALPN_CLIENT) => match guests.clients.try_acquire() {
            Ok(_permit) => client(&shared, &connection).await,
            Err(_) => connection.close(CloseCode::Busy.number().into(), b"too many clients are connected"),
        },
        Some(_) | None => member(&shared, connection).await,
    }
}

/// One stream a client: requests of many callers share it, as answers do.
async fn client(shared: &Arc<Shared>, connection: &quinn::Connection) {
    let Ok(Ok(streams)) = timeout(OPENING_TIMEOUT, connection.accept_bi()).await else { return };
    shared.ports.service.client(duplex(streams, Arc::new(()))).await;
    // What was said last has to arrive before the connection ends.
    connection.close(CloseCode::Goodbye.number().into(), b"the session is over");
}

async fn member(shared: &Arc<Shared>, connection: quinn::Connection) {
    match shared.judge(&connection) {
        Ok((facts, standing)) => welcome(shared, Link::new(connection, facts, false, standing)).await,
        Err(outsider) => {
            tracing::info!(address = %connection.remote_address(), why = %outsider, "connection refused");
            connection.close(CloseCode::NotAMember.number().into(), outsider.to_string().as_bytes());
        }
    }
}

fn alpn(connection: &quinn::Connection) -> Option<Vec<u8>> {
    let data = connection.handshake_data()?;
    data.downcast::<quinn::crypto::rustls::HandshakeData>().ok()?.protocol
}

async fn welcome(shared: &Arc<Shared>, link: Arc<Link>) {
    let hello = Hello {
        protocol: PROTOCOL,
        clock: shared.ports.clock.now(),
        renew_only: link.standing == Standing::RenewOnly,
    };
    let said = async {
        let frame = scp_codec::encode(wire::VERSION, &hello).map_err(std::io::Error::other)?;
        let mut stream = link.connection.open_uni().await?;
        AsyncWriteExt::write_all(&mut stream, &frame).await?;
        stream.finish().map_err(std::io::Error::from)
    };
    if !matches!(timeout(HANDSHAKE_TIMEOUT, said).await, Ok(Ok(()))) {
        return;
    }
    let peer = shared.peer(link.peer);
    if let Some(loser) = peer.adopt(link.clone()) {
        shared.spawn(retire(loser));
    }
    serve(shared.clone(), peer, link).await;
}

/// Serves a member's connection until it ends. Both ends of a connection do.
pub(crate) async fn serve(shared: Arc<Shared>, peer: Arc<Peer>, link: Arc<Link>) {
    tokio::join!(requests(&shared, &peer, &link), messages(&shared, &peer, &link), datagrams(&shared, &link));
}

async fn requests(shared: &Arc<Shared>, peer: &Arc<Peer>, link: &Arc<Link>) {
    while let Ok((send, receive)) = link.connection.accept_bi().await {
        shared.spawn(request(shared.clone(), peer.clone(), link.clone(), (send, receive)));
    }
}

type Streams = (quinn::SendStream, quinn::RecvStream);

async fn request(shared: Arc<Shared>, peer: Arc<Peer>, link: Arc<Link>, mut streams: Streams) {
    let used = link.enter();
    let opening = timeout(OPENING_TIMEOUT, read_opening(&peer, &link, &mut streams.1));
    let opened = match opening.await {
        Ok(Ok(opened)) => opened,
        Ok(Err(refusal)) => return refuse(streams, &refusal).await,
        Err(_) => return give_up(streams),
    };
    let Opened { preamble, body, permit, room: _room } = opened;
    let deadline = preamble.deadline + DEADLINE_GRACE;
    match preamble.kind {
        Kind::Request => {
            // Nobody would read an answer after the deadline.
            let answering = shared.ports.service.answer(link.peer, preamble.lane, body);
            let Ok(answer) = timeout(deadline, answering).await else { return give_up(streams) };
            let answer = wire::bounded_answer(preamble.lane, answer);
            reply(&mut streams.0, answer.as_deref()).await;
            let _ = streams.0.finish();
        }
        Kind::Stream => {
            let accepting = shared.ports.service.stream(link.peer, body);
            let Ok(accepted) = timeout(deadline, accepting).await else { return give_up(streams) };
            match accepted {
                Ok(handler) => {
                    reply(&mut streams.0, Ok(&[])).await;
                    handler(duplex(streams, Arc::new((permit, used)))).await;
                }
                Err(refusal) => refuse(streams, &refusal).await,
            }
        }
    }
}

/// A request that was read and may be served.
struct Opened {
    preamble: Preamble,
    body: Bytes,
    permit: OwnedSemaphorePermit,
    /// The body's share of what the connection may hold.
    room: OwnedSemaphorePermit,
}

async fn read_opening(
    peer: &Arc<Peer>,
    link: &Arc<Link>,
    receive: &mut quinn::RecvStream,
) -> Result<Opened, Refusal> {
    let invalid = |error: WireError| Refusal::new(RefusalKind::Invalid, error.to_string());
    let mut bytes = [0; PREAMBLE_BYTES];
    AsyncReadExt::read_exact(receive, &mut bytes).await.map_err(|error| invalid(error.into()))?;
    let preamble = Preamble::decode(bytes).map_err(invalid)?;
    allowed(link.standing, preamble)?;
    let serving = match preamble.kind {
        Kind::Request => peer.serving(preamble.lane),
        Kind::Stream => peer.streams_in.clone(),
    };
    let busy =
        |_| Refusal::new(RefusalKind::Busy, format!("too much of lane {:?} is under way", preamble.lane));
    let permit = serving.try_acquire_owned().map_err(busy)?;
    let header = wire::read_header(receive, preamble.lane.limits().bytes_max).await.map_err(invalid)?;
    let kib = u32::try_from(header.length.div_ceil(1024)).unwrap_or(u32::MAX);
    let room = link
        .inflight_kib
        .clone()
        .acquire_many_owned(kib)
        .await
        .map_err(|_| Refusal::new(RefusalKind::Busy, "the connection is closing"))?;
    let body = wire::read_payload(receive, header).await.map_err(invalid)?;
    Ok(Opened { preamble, body: body.into(), permit, room })
}

/// Which lanes are open for requests to whom.
fn allowed(standing: Standing, preamble: Preamble) -> Result<(), Refusal> {
    let forbidden = |why: &str| Err(Refusal::new(RefusalKind::Forbidden, why));
    match (preamble.lane, standing, preamble.kind) {
        (Lane::Renew, _, Kind::Request) => Ok(()),
        (_, Standing::RenewOnly, _) => {
            forbidden("the certificate has expired: only the renew lane is open until it is renewed")
        }
        (Lane::Bulk, Standing::Full, _)
        | (Lane::Raft | Lane::Forward | Lane::Probe, Standing::Full, Kind::Request) => Ok(()),
        (Lane::Join, Standing::Full, _) => forbidden("the join lane is for strangers"),
        (Lane::Gossip, Standing::Full, _) => forbidden("the gossip lane carries messages only"),
        (Lane::Raft | Lane::Forward | Lane::Probe | Lane::Renew, Standing::Full, Kind::Stream) => {
            forbidden("streams belong on the bulk lane")
        }
    }
}

async fn reply(send: &mut quinn::SendStream, answer: Result<&[u8], &Refusal>) {
    // An error means that the caller is gone.
    if let Ok(bytes) = wire::answer_bytes(answer) {
        let _ = send.write_all(&bytes).await;
    }
}

async fn refuse(mut streams: Streams, refusal: &Refusal) {
    // The rest of what the caller would send is not wanted.
    let _ = streams.1.stop(0u32.into());
    reply(&mut streams.0, Err(refusal)).await;
    let _ = streams.0.finish();
}

/// Tells the caller that no answer comes; a stream that is merely dropped would look like an empty one.
fn give_up(mut streams: Streams) {
    // An error means that the caller is gone already.
    let _ = streams.0.reset(0u32.into());
}

async fn messages(shared: &Arc<Shared>, peer: &Arc<Peer>, link: &Arc<Link>) {
    while let Ok(stream) = link.connection.accept_uni().await {
        if link.standing != Standing::Full {
            continue;
        }
        // A stream that is dropped here is lost like any other message.
        let Ok(permit) = peer.serving(Lane::Gossip).try_acquire_owned() else { continue };
        let (shared, from) = (shared.clone(), link.peer);
        let inner = shared.clone();
        shared.spawn(async move {
            if let Ok(Ok((lane, message))) = timeout(OPENING_TIMEOUT, read_message(stream)).await {
                inner.deliver(from, lane, message);
            }
            drop(permit);
        });
    }
}

async fn read_message(mut stream: quinn::RecvStream) -> Result<(Lane, Bytes), WireError> {
    let code = stream.read_u8().await?;
    let lane = Lane::from_code(code).filter(|lane| lane.is_one_way()).ok_or(WireError::Lane(code))?;
    let payload = wire::read_frame(&mut stream, lane.limits().bytes_max).await?;
    Ok((lane, payload.into()))
}

async fn datagrams(shared: &Arc<Shared>, link: &Arc<Link>) {
    while let Ok(mut datagram) = link.connection.read_datagram().await {
        let is_probe = datagram.first() == Some(&Lane::Probe.code());
        if is_probe && link.standing == Standing::Full {
            shared.deliver(link.peer, Lane::Probe, datagram.split_off(1));
        }
    }
}

/// A stream pair as a duplex; `held` (permits, uses) lives as long as either half.
pub(crate) fn duplex<T: Send + Sync + 'static>((send, receive): Streams, held: Arc<T>) -> Duplex {
    Duplex {
        reader: Box::new(Held { stream: receive, _held: held.clone() }),
        writer: Box::new(Held { stream: send, _held: held }),
    }
}

/// A stream that keeps something alive.
struct Held<S, T> {
    stream: S,
    _held: Arc<T>,
}

impl<S: AsyncRead + Unpin, T> AsyncRead for Held<S, T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut task::Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> task::Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin, T> AsyncWrite for Held<S, T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut task::Context<'_>,
        buf: &[u8],
    ) -> task::Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> task::Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(
        mut self: Pin<&mut Self>,
        cx: &mut task::Context<'_>,
    ) -> task::Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
