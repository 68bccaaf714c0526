//! `scpctl vm console` and `scpctl vm log`.

use std::{io::IsTerminal, time::Duration};

use bytes::Bytes;
use scp_api::{
    client::{ClientError, ConsoleInput, ConsoleOutput},
    v1,
};
use tokio::{
    io::AsyncReadExt,
    signal::unix::{Signal, SignalKind, signal},
};

use crate::{
    app::App,
    error::{CliError, Result},
    output::Out,
    terminal,
};

/// Ctrl-]: leaves the console, as in telnet, virsh and incus.
const ESCAPE: u8 = 0x1d;
/// After the end of piped input: when the guest has been silent for this long, it has answered.
const QUIET: Duration = Duration::from_secs(2);
/// How often `log --follow` looks.
const FOLLOW: Duration = Duration::from_secs(1);

pub async fn run(vm: &str, app: &App) -> Result<()> {
    let project = app.within(vm);
    let console = app.client().await?.console(vm, project.as_deref()).await?;
    let interactive = std::io::stdin().is_terminal();
    if interactive {
        app.out.talk(format!("Console of {vm}. Ctrl-] leaves it; Enter shows a prompt."));
    }
    let ended = {
        let stdin = std::os::fd::AsFd::as_fd(&std::io::stdin()).try_clone_to_owned();
        let _restored = match stdin {
            Ok(stdin) if interactive => Some(terminal::raw(stdin).map_err(|error| {
                CliError::failed(format!("the terminal cannot be put into raw mode: {error}"))
            })?),
            _ => None,
        };
        relay(console.input, console.output, app.out).await
    };
    if interactive {
        app.out.talk("\nLeft the console; the VM runs on.");
    }
    ended
}

/// Bytes both ways until one side has enough.
async fn relay(mut input: ConsoleInput, mut output: ConsoleOutput, out: Out) -> Result<()> {
    let mut stdin = tokio::io::stdin();
    let mut signals = Signals::new()?;
    let mut typed = [0u8; 1024];
    let mut at_end = false;
    loop {
        tokio::select! {
            received = output.receive() => match received.map_err(closed)? {
                Some(bytes) => out.raw(&bytes)?,
                None => return Ok(()),
            },
            read = stdin.read(&mut typed), if !at_end => match read {
                Ok(0) => at_end = true,
                Ok(count) => {
                    let (keys, leave) = until_escape(&typed[..count]);
                    if !keys.is_empty() {
                        input.send(Bytes::copy_from_slice(keys)).await?;
                    }
                    if leave {
                        let _ = input.close().await;
                        return Ok(());
                    }
                }
                Err(error) => return Err(CliError::failed(format!("stdin cannot be read: {error}"))),
            },
            () = tokio::time::sleep(QUIET), if at_end => {
                let _ = input.close().await;
                return Ok(());
            }
            () = signals.next() => {
                let _ = input.close().await;
                return Err(CliError::failed("broken off by a signal"));
            }
        }
    }
}

fn closed(error: ClientError) -> CliError {
    CliError::from(error)
        .remedy("the VM may have moved or ended: scpctl vm show, then scpctl vm console again")
}

/// What goes to the guest, and whether the person wants out.
fn until_escape(typed: &[u8]) -> (&[u8], bool) {
    match typed.iter().position(|key| *key == ESCAPE) {
        Some(at) => (&typed[..at], true),
        None => (typed, false),
    }
}

/// Signals that end us: caught, so that the terminal is put back first.
struct Signals([Signal; 3]);

impl Signals {
    fn new() -> Result<Self> {
        let catch = |kind| {
            signal(kind).map_err(|error| CliError::failed(format!("signals cannot be caught: {error}")))
        };
        Ok(Self([
            catch(SignalKind::interrupt())?,
            catch(SignalKind::terminate())?,
            catch(SignalKind::hangup())?,
        ]))
    }

    async fn next(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}

pub async fn log(vm: &str, follow: bool, bytes: Option<u64>, app: &App) -> Result<()> {
    let client = app.client().await?;
    // By id from here on: a VM that is made anew under the name is another one.
    let id = client.get_vm(vm, app.within(vm).as_deref()).await?.id;
    let query = v1::ConsoleLogQuery { bytes, ..v1::ConsoleLogQuery::default() };
    let mut seen = client.console_log(&id, &query).await?;
    app.out.raw(&seen)?;
    if !follow {
        return Ok(());
    }
    let query = v1::ConsoleLogQuery::default();
    loop {
        tokio::time::sleep(FOLLOW).await;
        let now = match client.console_log(&id, &query).await.map_err(CliError::from) {
            Ok(now) => now,
            // Its node may just be lost: the log goes on where the VM does.
            Err(error) if error.exit == crate::error::Exit::Unavailable => {
                app.out.detail(error.what);
                continue;
            }
            Err(error) => return Err(error),
        };
        app.out.raw(unseen(&seen, &now))?;
        seen = now;
    }
}

/// What of `now`, the end of a growing log, comes after `seen`, an earlier end of it: what is left after
/// the longest end of `seen` that `now` begins with. All of it when a gap lies between them.
fn unseen<'a>(seen: &[u8], now: &'a [u8]) -> &'a [u8] {
    // Knuth, Morris and Pratt: `border[i]` is the longest proper border of `now[..=i]`.
    let mut border = vec![0usize; now.len()];
    for at in 1..now.len() {
        let mut length = border[at - 1];
        while length > 0 && now[at] != now[length] {
            length = border[length - 1];
        }
        border[at] = length + usize::from(now[at] == now[length]);
    }
    let mut matched = 0;
    for byte in seen {
        while matched > 0 && (matched == now.len() || now[matched] != *byte) {
            matched = border[matched - 1];
        }
        matched += usize::from(now.get(matched) == Some(byte));
    }
    &now[matched..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_escape_key_ends_the_console_and_is_not_sent() {
        assert_eq!(until_escape(b"ls\r"), (b"ls\r".as_slice(), false));
        assert_eq!(until_escape(b"ls\x1dmore"), (b"ls".as_slice(), true));
        assert_eq!(until_escape(b"\x03"), (b"\x03".as_slice(), false), "Ctrl-C is the guest's");
    }

    #[test]
    fn following_a_log_shows_each_byte_once() {
        let log: Vec<u8> = (0..400u32).flat_map(|line| format!("line {line}\n").into_bytes()).collect();
        for window in [50, 500, 5000] {
            let end = |at: usize| &log[at.saturating_sub(window)..at];
            let mut shown = end(100).to_vec();
            let from = shown.len();
            let mut at = 100;
            while at < log.len() {
                let next = (at + window.min(33)).min(log.len());
                shown.extend(unseen(end(at), end(next)));
                at = next;
            }
            assert_eq!(&shown[from..], &log[100..], "window {window}");
        }
    }

    #[test]
    fn a_gap_or_a_new_log_is_shown_whole() {
        assert_eq!(unseen(b"old boot\n", b"new start\n"), b"new start\n");
        assert_eq!(unseen(b"", b"first"), b"first");
        assert_eq!(unseen(b"same", b"same"), b"");
        assert_eq!(unseen(b"same", b""), b"");
        assert_eq!(unseen(b"longer than now", b"now"), b"");
    }
}
