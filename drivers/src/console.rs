//! Serial consoles: interactive, and the log that survives the guest.
//!
//! ```text
//! guest ◀─▶ QEMU ──▶ virtlogd ──▶ console.log, .0, .1, .2      (a ring; log_tail reads its end)
//!             │ unix socket, one connection
//!           hub ◀──▶ viewer, viewer, …                         (all see the same, each may type)
//! ```
//! QEMU's socket serves one connection at a time, so viewers share one. The guest is never held up: a
//! viewer that does not keep up is told how much it missed. The connection is there only while
//! someone looks; what is said meanwhile is in the log.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

use bytes::Bytes;
use scp_model::VmId;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    sync::{broadcast, mpsc},
};

/// Bytes from and to a guest's serial console. Ends when the guest does.
pub type ConsoleStream = tokio::io::DuplexStream;

/// An operator, a few tenants, a recording: more is a leak in some client.
pub const VIEWERS_MAX: usize = 8;
/// Read from the guest at a time.
const BLOCK_BYTES: usize = 4 << 10;
/// What a viewer may be behind: 256 blocks, at most 1 MiB.
const BLOCKS_BEHIND_MAX: usize = 256;
/// Keystrokes on their way to a guest that does not read.
const INPUT_MAX: usize = 64;
/// virtlogd keeps three files beside the current one (`max_backups`).
const LOG_BACKUPS: usize = 3;

/// Why there is no console.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConsoleError {
    #[error("VM {vm} is not on this node")]
    NotHere { vm: VmId },
    #[error("VM {vm} is not running; its log is there: scpctl vm log")]
    NotRunning { vm: VmId },
    #[error("the console of VM {vm} has {viewers} viewers already, the most there may be")]
    TooManyViewers { vm: VmId, viewers: usize },
    #[error("the console of VM {vm} cannot be opened: {why}")]
    Failed { vm: VmId, why: String },
}

/// What a viewer needs of its hub. The hub ends when the last viewer's is dropped.
struct Seat {
    input: mpsc::Sender<Bytes>,
    output: broadcast::Sender<Bytes>,
}

/// A hub that is open as long as anyone has a seat at it.
struct Hub {
    input: mpsc::WeakSender<Bytes>,
    output: broadcast::WeakSender<Bytes>,
}

impl Hub {
    fn seat(&self) -> Option<Seat> {
        Some(Seat { input: self.input.upgrade()?, output: self.output.upgrade()? })
    }
}

/// The consoles that are looked at.
#[derive(Default)]
pub struct Consoles {
    hubs: tokio::sync::Mutex<BTreeMap<VmId, Hub>>,
}

impl Consoles {
    /// Takes a seat at a VM's console.
    pub async fn attach(&self, vm: VmId, socket: &Path) -> Result<ConsoleStream, ConsoleError> {
        let mut hubs = self.hubs.lock().await;
        hubs.retain(|_, hub| hub.input.strong_count() > 0);
        let seat = match hubs.get(&vm).and_then(Hub::seat) {
            Some(seat) if seat.output.receiver_count() >= VIEWERS_MAX => {
                return Err(ConsoleError::TooManyViewers { vm, viewers: VIEWERS_MAX });
            }
            Some(seat) => seat,
            None => {
                let failed = |error: io::Error| ConsoleError::Failed { vm, why: error.to_string() };
                let seat = open_hub(UnixStream::connect(socket).await.map_err(failed)?);
                let hub = Hub { input: seat.input.downgrade(), output: seat.output.downgrade() };
                hubs.insert(vm, hub);
                seat
            }
        };
        let (ours, theirs) = tokio::io::duplex(BLOCK_BYTES);
        let output = seat.output.subscribe();
        tokio::spawn(view(ours, seat.input, output));
        Ok(theirs)
    }
}

/// Connects one guest with its viewers until it ends or nobody looks any more.
fn open_hub(guest: UnixStream) -> Seat {
    let (input, mut typed) = mpsc::channel::<Bytes>(INPUT_MAX);
    let (output, _) = broadcast::channel(BLOCKS_BEHIND_MAX);
    let said = output.clone();
    tokio::spawn(async move {
        let (mut from_guest, mut to_guest) = guest.into_split();
        let listen = async move {
            let mut block = vec![0u8; BLOCK_BYTES];
            while let Ok(count @ 1..) = from_guest.read(&mut block).await {
                // Nobody listening is no error: the last one is just leaving.
                let _ = said.send(Bytes::copy_from_slice(&block[..count]));
            }
        };
        let talk = async move {
            while let Some(bytes) = typed.recv().await {
                if to_guest.write_all(&bytes).await.is_err() {
                    return;
                }
            }
        };
        tokio::select! { () = listen => {} () = talk => {} }
    });
    Seat { input, output }
}

/// Serves one viewer until it or the guest leaves.
async fn view(viewer: ConsoleStream, input: mpsc::Sender<Bytes>, mut output: broadcast::Receiver<Bytes>) {
    let (mut from_viewer, mut to_viewer) = tokio::io::split(viewer);
    let show = async move {
        loop {
            let written = match output.recv().await {
                Ok(bytes) => to_viewer.write_all(&bytes).await,
                Err(broadcast::error::RecvError::Lagged(blocks)) => {
                    let notice = format!("\r\n[{blocks} blocks of output were missed: too slow]\r\n");
                    to_viewer.write_all(notice.as_bytes()).await
                }
                Err(broadcast::error::RecvError::Closed) => return,
            };
            if written.is_err() {
                return;
            }
        }
    };
    let hear = async move {
        let mut block = vec![0u8; BLOCK_BYTES];
        while let Ok(count @ 1..) = from_viewer.read(&mut block).await {
            if input.send(Bytes::copy_from_slice(&block[..count])).await.is_err() {
                return;
            }
        }
    };
    tokio::select! { () = show => {} () = hear => {} }
}

/// The end of a log that virtlogd rotates (`log`, `log.0`, `log.1`, …), at most `bytes_max` long.
pub fn log_tail(log: &Path, bytes_max: u64) -> io::Result<Bytes> {
    let backups = (0..LOG_BACKUPS).map(|number| {
        let mut name = log.as_os_str().to_owned();
        name.push(format!(".{number}"));
        PathBuf::from(name)
    });
    let mut parts = Vec::new();
    let mut left = bytes_max;
    for path in std::iter::once(log.to_owned()).chain(backups) {
        if left == 0 {
            break;
        }
        let mut file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => break,
            Err(error) => return Err(error),
        };
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(left)))?;
        let mut part = Vec::new();
        file.take(left).read_to_end(&mut part)?;
        left -= part.len() as u64;
        parts.push(part);
    }
    parts.reverse();
    Ok(parts.concat().into())
}

#[cfg(test)]
mod tests {
    use std::{fs, sync::Arc};

    use tokio::net::{UnixListener, unix::OwnedWriteHalf};

    use super::*;

    const VM: VmId = VmId::from_u128(1);

    #[test]
    fn the_tail_reaches_back_over_rotated_files_and_no_further_than_asked() {
        let dir = tempfile::tempdir().expect("a directory");
        let log = dir.path().join("console.log");
        assert_eq!(&log_tail(&log, 10).expect("nothing was said yet")[..], b"");
        for (name, said) in [("console.log.1", "abc"), ("console.log.0", "def"), ("console.log", "gh")] {
            fs::write(dir.path().join(name), said).expect("writes");
        }
        for (asked, told) in [(0, ""), (1, "h"), (2, "gh"), (4, "efgh"), (8, "abcdefgh"), (99, "abcdefgh")] {
            assert_eq!(&log_tail(&log, asked).expect("reads")[..], told.as_bytes());
        }
    }

    /// A guest's end of the socket.
    struct Guest {
        dir: tempfile::TempDir,
        listener: UnixListener,
    }

    impl Guest {
        fn new() -> Self {
            let dir = tempfile::tempdir().expect("a directory");
            let listener = UnixListener::bind(dir.path().join("sock")).expect("listens");
            Self { dir, listener }
        }

        fn socket(&self) -> PathBuf {
            self.dir.path().join("sock")
        }

        async fn accept(&self) -> (tokio::net::unix::OwnedReadHalf, OwnedWriteHalf) {
            self.listener.accept().await.expect("the hub connects").0.into_split()
        }
    }

    #[tokio::test]
    async fn a_viewer_that_sleeps_holds_up_neither_the_guest_nor_the_others() {
        let (guest, consoles) = (Guest::new(), Consoles::default());
        let mut sleeper = consoles.attach(VM, &guest.socket()).await.expect("has room");
        let mut awake = consoles.attach(VM, &guest.socket()).await.expect("has room");
        let (_from, mut to) = guest.accept().await;
        let block = Arc::new(vec![b'x'; BLOCK_BYTES]);
        let mut seen = vec![0; BLOCK_BYTES];
        for _ in 0..4 * BLOCKS_BEHIND_MAX {
            to.write_all(&block).await.expect("the hub always reads");
            awake.read_exact(&mut seen).await.expect("one that reads misses nothing");
            assert_eq!(seen, *block);
        }
        drop(to);
        let mut late = String::new();
        sleeper.read_to_string(&mut late).await.expect("it ends with the guest");
        assert!(late.contains("were missed: too slow"), "it is told that it missed something");
        assert!(late.len() < 2 * BLOCKS_BEHIND_MAX * BLOCK_BYTES, "and what is kept for it is bounded");
    }

    #[tokio::test]
    async fn seats_are_limited_and_are_free_again_when_left() {
        let (guest, consoles) = (Guest::new(), Consoles::default());
        let mut viewers = Vec::new();
        for _ in 0..VIEWERS_MAX {
            viewers.push(consoles.attach(VM, &guest.socket()).await.expect("has room"));
        }
        let (mut from, _to) = guest.accept().await;
        let full = Err(ConsoleError::TooManyViewers { vm: VM, viewers: VIEWERS_MAX });
        assert_eq!(consoles.attach(VM, &guest.socket()).await.map(drop), full);
        viewers.pop();
        let mut again = loop {
            match consoles.attach(VM, &guest.socket()).await {
                Ok(seat) => break seat,
                Err(_) => tokio::task::yield_now().await,
            }
        };
        again.write_all(b"hello").await.expect("the guest reads");
        let mut heard = [0; 5];
        from.read_exact(&mut heard).await.expect("what is typed arrives");
        assert_eq!(&heard, b"hello");
        // When the last one leaves, so does the connection.
        drop((viewers, again));
        assert_eq!(from.read(&mut heard).await.expect("the connection ends in order"), 0);
        let mut next = consoles.attach(VM, &guest.socket()).await.expect("has room");
        let (_, mut to) = guest.accept().await;
        to.write_all(b"hi").await.expect("the hub reads");
        next.read_exact(&mut heard[..2]).await.expect("a new one is opened");
    }
}
