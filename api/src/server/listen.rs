//! Accept loops: HTTPS for the network, a unix socket for root. Each connection is a task; how many
//! there are, how long a handshake and a header may take, and how large a header may be is bounded.
//!
//! When `stop` resolves, no connection is taken any more and those that are open finish the request that
//! they are at.

use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, body::Body, extract::ConnectInfo};
use hyper::{Request, body::Incoming};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto::Builder,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt;

/// Connections at once: some 50 KiB each.
const CONNECTIONS_MAX: usize = 4096;
/// Whoever has not finished the TLS handshake by then is not coming.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Nor who has not sent its headers.
const HEADER_TIMEOUT: Duration = Duration::from_secs(15);
const HEADER_BYTES_MAX: usize = 64 << 10;
/// Requests at once on one HTTP/2 connection.
const STREAMS_MAX: u32 = 256;
/// After a failed accept (no file descriptors left), others get a chance to close.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Open connections have this long to finish when the server stops.
const DRAIN_MAX: Duration = Duration::from_secs(10);

/// What both loops share.
struct Connections {
    places: Arc<Semaphore>,
    stopping: watch::Sender<bool>,
}

impl Connections {
    fn new() -> Self {
        Self { places: Arc::new(Semaphore::new(CONNECTIONS_MAX)), stopping: watch::Sender::new(false) }
    }

    async fn place(&self) -> OwnedSemaphorePermit {
        self.places.clone().acquire_owned().await.expect("the semaphore is never closed")
    }

    async fn drain(&self) {
        self.stopping.send_replace(true);
        let all = self.places.acquire_many(CONNECTIONS_MAX as u32);
        let _ = timeout(DRAIN_MAX, all).await;
    }
}

/// Serves HTTPS until `stop`. `tls` is asked for its certificate at each handshake, so a renewed one
/// (through its resolver) takes effect at once. ALPN should offer `h2` and `http/1.1`.
pub async fn serve_tls(
    listener: TcpListener,
    tls: Arc<rustls::ServerConfig>,
    router: Router,
    stop: impl Future<Output = ()>,
) {
    let connections = Connections::new();
    let acceptor = TlsAcceptor::from(tls);
    tokio::pin!(stop);
    loop {
        let place = tokio::select! {
            place = connections.place() => place,
            () = &mut stop => break,
        };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut stop => break,
        };
        let Some((stream, peer)) = taken(accepted).await else { continue };
        let (acceptor, router) = (acceptor.clone(), router.clone());
        let stopping = connections.stopping.subscribe();
        tokio::spawn(async move {
            let _place = place;
            let _ = stream.set_nodelay(true);
            match timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
                Ok(Ok(stream)) => serve(stream, router, Some(peer), stopping).await,
                Ok(Err(error)) => tracing::debug!(%peer, %error, "TLS handshake failed"),
                Err(_) => tracing::debug!(%peer, "TLS handshake took too long"),
            }
        });
    }
    connections.drain().await;
}

/// Serves the local socket until `stop`. Who may open it is said by the socket file's mode.
pub async fn serve_unix(listener: UnixListener, router: Router, stop: impl Future<Output = ()>) {
    let connections = Connections::new();
    tokio::pin!(stop);
    loop {
        let place = tokio::select! {
            place = connections.place() => place,
            () = &mut stop => break,
        };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut stop => break,
        };
        let Some((stream, _)) = taken(accepted).await else { continue };
        let (router, stopping) = (router.clone(), connections.stopping.subscribe());
        tokio::spawn(async move {
            let _place = place;
            serve(stream, router, None, stopping).await;
        });
    }
    connections.drain().await;
}

async fn taken<T>(accepted: io::Result<T>) -> Option<T> {
    match accepted {
        Ok(accepted) => Some(accepted),
        Err(error) => {
            tracing::warn!(%error, "a connection could not be accepted");
            sleep(ACCEPT_PAUSE).await;
            None
        }
    }
}

async fn serve<S>(stream: S, router: Router, peer: Option<SocketAddr>, mut stopping: watch::Receiver<bool>)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let service = hyper::service::service_fn(move |mut request: Request<Incoming>| {
        if let Some(peer) = peer {
            request.extensions_mut().insert(ConnectInfo(peer));
        }
        let router = router.clone();
        async move { Ok::<_, Infallible>(answer(router, request.map(Body::new)).await) }
    });
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(HEADER_BYTES_MAX);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(HEADER_BYTES_MAX as u32)
        .keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(Duration::from_secs(20));
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let stop = async move { drop(stopping.wait_for(|stopping| *stopping).await) };
    let done = tokio::select! {
        done = connection.as_mut() => done,
        () = stop => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = done {
        tracing::debug!(?peer, %error, "a connection ended badly");
    }
}

async fn answer(router: Router, request: Request<Body>) -> axum::response::Response {
    match router.oneshot(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    }
}
