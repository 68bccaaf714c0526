//! The serial console: bytes both ways over a WebSocket.

use std::pin::Pin;

use bytes::Bytes;
use futures::{SinkExt, StreamExt, stream::SplitSink, stream::SplitStream};
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
    time::timeout,
};
use tokio_rustls::TlsConnector;
use tokio_tungstenite::{
    WebSocketStream, client_async_with_config,
    tungstenite::{
        self, Message,
        client::IntoClientRequest,
        http::{HeaderValue, Request, header::AUTHORIZATION},
        protocol::WebSocketConfig,
    },
};

use super::{
    Client, ClientError, Door, Result,
    send::{describe, pairs, problem},
};
use crate::v1::OneQuery;

/// Console messages are small; a larger one is not a console's.
const MESSAGE_BYTES_MAX: usize = 1 << 20;

trait Stream: AsyncRead + AsyncWrite + Send {}
impl<T: AsyncRead + AsyncWrite + Send> Stream for T {}

type Socket = WebSocketStream<Pin<Box<dyn Stream>>>;

/// An open console.
pub struct Console {
    pub input: ConsoleInput,
    pub output: ConsoleOutput,
}

/// To the guest.
pub struct ConsoleInput(SplitSink<Socket, Message>);

/// From the guest.
pub struct ConsoleOutput(SplitStream<Socket>);

impl ConsoleInput {
    pub async fn send(&mut self, bytes: impl Into<Bytes>) -> Result<()> {
        self.0.send(Message::Binary(bytes.into())).await.map_err(lost)
    }

    pub async fn close(&mut self) -> Result<()> {
        self.0.close().await.map_err(lost)
    }
}

impl ConsoleOutput {
    /// What the guest wrote; `None` when the console was closed in order.
    pub async fn receive(&mut self) -> Result<Option<Bytes>> {
        loop {
            match self.0.next().await {
                Some(Ok(Message::Binary(bytes))) => return Ok(Some(bytes)),
                Some(Ok(Message::Close(Some(frame)))) if !frame.reason.is_empty() => {
                    return Err(ClientError::Lost { why: frame.reason.to_string(), request: None });
                }
                Some(Ok(Message::Close(_))) | None => return Ok(None),
                Some(Ok(Message::Text(_) | Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
                Some(Err(error)) => return Err(lost(error)),
            }
        }
    }
}

fn lost(error: tungstenite::Error) -> ClientError {
    ClientError::Lost { why: describe(&error), request: None }
}

impl Client {
    /// Opens the serial console of a VM, through whichever node answers first.
    pub async fn console(&self, vm: &str, project: Option<&str>) -> Result<Console> {
        let mut tried = Vec::new();
        for round in 0..self.address_count() {
            match timeout(self.deadline, self.open_console(vm, project, round)).await {
                Ok(Ok(console)) => {
                    self.prefer(round);
                    return Ok(console);
                }
                Ok(Err(ClientError::Unreachable { tried: more })) => tried.extend(more),
                Ok(Err(error)) => return Err(error),
                Err(_) => tried.push(format!("{}: no answer in time", self.address(round))),
            }
        }
        Err(ClientError::Unreachable { tried })
    }

    async fn open_console(&self, vm: &str, project: Option<&str>, round: usize) -> Result<Console> {
        let address = self.address(round);
        let query = OneQuery { project: project.map(Into::into), consistency: None };
        let mut url = self.url(&address, &["v1", "vms", vm, "console"])?;
        url.query_pairs_mut().extend_pairs(pairs(&query));
        let url = match &self.shared.door {
            Door::Https { .. } => url.as_str().replacen("https:", "wss:", 1),
            Door::Unix { .. } => url.as_str().replacen("http:", "ws:", 1),
        };
        let bad = |why: String| ClientError::Config { why };
        let mut request: Request<()> = url.into_client_request().map_err(|error| bad(error.to_string()))?;
        if let Some(token) = &self.token {
            let value = HeaderValue::from_str(&format!("Bearer {token}"));
            request.headers_mut().insert(AUTHORIZATION, value.map_err(|error| bad(error.to_string()))?);
        }
        let stream = self.open_stream(&address).await?;
        let config = WebSocketConfig::default()
            .max_message_size(Some(MESSAGE_BYTES_MAX))
            .max_frame_size(Some(MESSAGE_BYTES_MAX));
        match client_async_with_config(request, stream, Some(config)).await {
            Ok((socket, _)) => {
                let (input, output) = socket.split();
                Ok(Console { input: ConsoleInput(input), output: ConsoleOutput(output) })
            }
            Err(tungstenite::Error::Http(response)) => {
                let body = response.body().as_deref().unwrap_or_default();
                Err(ClientError::Problem(Box::new(problem(response.status(), body))))
            }
            Err(error) => Err(lost(error)),
        }
    }

    async fn open_stream(&self, address: &str) -> Result<Pin<Box<dyn Stream>>> {
        let unreachable = |error: std::io::Error| ClientError::Unreachable {
            tried: vec![format!("{address}: {}", describe(&error))],
        };
        match &self.shared.door {
            Door::Unix { path } => Ok(Box::pin(UnixStream::connect(path).await.map_err(unreachable)?)),
            Door::Https { tls, .. } => {
                let tcp = TcpStream::connect(address).await.map_err(unreachable)?;
                let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
                let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
                let name = ServerName::try_from(host)
                    .map_err(|error| ClientError::Config { why: format!("{address}: {error}") })?;
                let stream = TlsConnector::from(tls.clone()).connect(name, tcp).await.map_err(unreachable)?;
                Ok(Box::pin(stream))
            }
        }
    }
}
