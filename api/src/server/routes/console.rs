//! The serial console: a WebSocket with binary messages both ways, and the log of what was written.

use std::time::Duration;

use axum::{
    body::Bytes,
    extract::{
        Path,
        ws::{
            CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code,
            rejection::WebSocketUpgradeRejection,
        },
    },
    http::{HeaderValue, header},
    response::IntoResponse,
};
use scp_model::vm::Vm;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf, split},
    sync::OwnedSemaphorePermit,
    time::{Instant, sleep_until},
};

use crate::{
    cluster::Duplex,
    server::{
        Code,
        authorize::Action,
        body::Params,
        call::{Answer, Call},
        invalid::Invalid,
    },
    v1::{self, CONSOLE_LOG_BYTES_DEFAULT, CONSOLE_LOG_BYTES_MAX, Problem},
};

/// A pasted script in one message; more is cut up by the client.
const MESSAGE_BYTES_MAX: usize = 64 << 10;
const READ_BYTES: usize = 16 << 10;
/// Proxies and firewalls forget connections that are silent for a minute.
const PING_EVERY: Duration = Duration::from_secs(30);

/// The serial console: WebSocket, binary both ways, as if at the machine.
#[utoipa::path(get, path = "/v1/vms/{vm}/console", tag = "vms", params(("vm", description = "id or name"), v1::OneQuery),
    responses(
        (status = 101, description = "a WebSocket"),
        (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn open(
    call: Call,
    Path(vm): Path<String>,
    Params(query): Params<v1::OneQuery>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Answer {
    // Readers see the VM; that it has a console which they may not use is no secret.
    let vm: &Vm = call.find(Action::VmRead, &vm, query.project.as_deref())?;
    call.may(Action::VmConsole, crate::server::Scope::Project(vm.spec.project))?;
    let upgrade = upgrade.map_err(|rejection| {
        Problem::new(Code::MalformedRequest, format!("the console is a WebSocket: {}", rejection.body_text()))
            .remedy("Open it with a WebSocket client, or scpctl vm console VM.")
    })?;
    let place = call.server.shared.consoles.clone().try_acquire_owned();
    let place =
        place.map_err(|_| Problem::new(Code::Overloaded, "too many consoles are open on this node"))?;
    let console = call.cluster().console(vm.id).await?;
    let now = call.cluster().now();
    let good_for = call.token.as_ref().map(|token| token.claims.expires_at.since_ms(now));
    let until = Instant::now() + good_for.map_or(Duration::from_secs(24 * 3600), Duration::from_millis);
    let upgrade = upgrade.max_message_size(MESSAGE_BYTES_MAX).max_frame_size(MESSAGE_BYTES_MAX);
    Ok(upgrade.on_upgrade(move |socket| joined(socket, console, (until, place))))
}

/// Carries bytes until either side ends, or the token does.
async fn joined(
    mut socket: WebSocket,
    console: Box<dyn Duplex>,
    (until, _place): (Instant, OwnedSemaphorePermit),
) {
    let (mut from_guest, mut to_guest): (ReadHalf<_>, WriteHalf<_>) = split(console);
    let mut buffer = vec![0; READ_BYTES];
    let mut ping = tokio::time::interval(PING_EVERY);
    let why = loop {
        tokio::select! {
            message = socket.recv() => match message {
                Some(Ok(Message::Binary(bytes))) => {
                    if to_guest.write_all(&bytes).await.is_err() || to_guest.flush().await.is_err() {
                        break "the guest is gone";
                    }
                }
                Some(Ok(Message::Text(_))) => break "the console takes binary messages only",
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                Some(Ok(Message::Close(_)) | Err(_)) | None => break "",
            },
            read = from_guest.read(&mut buffer) => match read {
                Ok(0) => break "",
                Ok(count) => {
                    let bytes = Bytes::copy_from_slice(&buffer[..count]);
                    if socket.send(Message::Binary(bytes)).await.is_err() {
                        break "";
                    }
                }
                Err(_) => break "the guest is gone",
            },
            _ = ping.tick() => {
                if socket.send(Message::Ping(Bytes::new())).await.is_err() {
                    break "";
                }
            }
            () = sleep_until(until) => break "the access token has expired",
        }
    };
    let code = if why.is_empty() { close_code::NORMAL } else { close_code::POLICY };
    let _ = socket.send(Message::Close(Some(CloseFrame { code, reason: why.into() }))).await;
}

/// The end of what the guest wrote to its console. It survives the guest's crash.
#[utoipa::path(get, path = "/v1/vms/{vm}/console-log", tag = "vms",
    params(("vm", description = "id or name"), v1::ConsoleLogQuery),
    responses(
        (status = 200, body = Vec<u8>, content_type = "application/octet-stream"),
        (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn log(
    call: Call,
    Path(vm): Path<String>,
    Params(query): Params<v1::ConsoleLogQuery>,
) -> Answer {
    let mut invalid = Invalid::default();
    let range = (1, CONSOLE_LOG_BYTES_DEFAULT, CONSOLE_LOG_BYTES_MAX);
    let bytes_max = invalid.number("bytes", query.bytes, range);
    invalid.finish()?;
    let vm: &Vm = call.find(Action::VmRead, &vm, query.project.as_deref())?;
    call.may(Action::VmConsole, crate::server::Scope::Project(vm.spec.project))?;
    let bytes = call.cluster().console_log(vm.id, bytes_max).await?;
    let media = [
        (header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream")),
        // It is the guest's: no browser may take it for a page of ours.
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    ];
    Ok(call.stamp((media, bytes).into_response()))
}
