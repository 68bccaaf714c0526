//! Snapshot files: written, received, verified, replaced.
//!
//! ```text
//! snapshot:  | head frame | body frames (up to BODY_BYTES each) ... | empty frame |
//! ```
//! Frames are the codec's: version, length, checksum. One file, `snapshot`, is current; a new one is
//! written beside it, synced, and renamed over it, so that power loss leaves the old or the new one.
//! A reader that holds the old one open reads on undisturbed.
//!
//! A snapshot on its way from a peer gathers in `snapshot.incoming`, at the offset it stopped at when
//! the peer comes back, and is verified whole before it is installed.

use std::{
    io::{self, Read, Write},
    sync::{Arc, Mutex},
};

use scp_codec::{HEADER_BYTES, Header};
use serde::{Deserialize, Serialize};

use crate::{
    disk::{Disk, DiskError, DiskFile},
    error::StartError,
    log::record::{PlacedMembers, Position},
    machine::MachineSnapshot,
    types::{LogId, SnapshotMeta},
};

/// Format of snapshot files.
const VERSION: u16 = 1;
const CURRENT: &str = "snapshot";
const NEW: &str = "snapshot.new";
const INCOMING: &str = "snapshot.incoming";
/// Bytes of state in one frame.
const BODY_BYTES: usize = 256 << 10;
/// Limit of the head frame: the membership of some ten thousand nodes.
const HEAD_BYTES_MAX: usize = 1 << 20;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Head {
    last: Option<Position>,
    members: PlacedMembers,
}

/// What a peer is told before the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Offer {
    pub(crate) last: Option<Position>,
    pub(crate) bytes: u64,
    /// CRC32C of the whole file.
    pub(crate) crc: u32,
}

/// A complete, verified snapshot file.
#[derive(Clone)]
pub(crate) struct SnapshotFile {
    pub(crate) meta: SnapshotMeta,
    pub(crate) offer: Offer,
    file: Arc<dyn DiskFile>,
}

impl std::fmt::Debug for SnapshotFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SnapshotFile({:?})", self.offer)
    }
}

impl SnapshotFile {
    /// Up to `length` bytes of the file from `offset` on.
    pub(crate) fn chunk(&self, offset: u64, length: usize) -> Result<Vec<u8>, DiskError> {
        let length = length.min(usize::try_from(self.offer.bytes.saturating_sub(offset)).unwrap_or(length));
        let mut bytes = vec![0; length];
        self.file.read_at(offset, &mut bytes)?;
        Ok(bytes)
    }

    /// The machine's state in it.
    pub(crate) fn state(&self) -> io::Result<impl Read + use<>> {
        let mut frames = Frames { file: self.file.clone(), at: 0, end: self.offer.bytes };
        frames.next(HEAD_BYTES_MAX)?;
        Ok(State { frames, buffer: Vec::new(), at: 0, ended: false })
    }

    /// Reads all of `file`, checking every frame.
    fn verify(file: Arc<dyn DiskFile>) -> io::Result<Self> {
        let bytes = file.size()?;
        let mut frames = Frames { file: file.clone(), at: 0, end: bytes };
        let head: Head = scp_codec::from_payload(&frames.next(HEAD_BYTES_MAX)?).map_err(invalid)?;
        while !frames.next(BODY_BYTES)?.is_empty() {}
        if frames.at != bytes {
            return Err(invalid("bytes follow the last frame"));
        }
        let crc = checksum(&*file, bytes)?;
        let meta =
            SnapshotMeta { last_log_id: head.last.map(LogId::from), last_membership: head.members.into() };
        Ok(Self { meta, offer: Offer { last: head.last, bytes, crc }, file })
    }
}

fn invalid(why: impl ToString) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.to_string())
}

fn checksum(file: &dyn DiskFile, bytes: u64) -> Result<u32, DiskError> {
    let mut crc = 0;
    let mut buffer = vec![0; BODY_BYTES];
    let mut at = 0;
    while at < bytes {
        let length = buffer.len().min((bytes - at) as usize);
        file.read_at(at, &mut buffer[..length])?;
        crc = crc32c::crc32c_append(crc, &buffer[..length]);
        at += length as u64;
    }
    Ok(crc)
}

/// Reads frames one after the other.
struct Frames {
    file: Arc<dyn DiskFile>,
    at: u64,
    end: u64,
}

impl Frames {
    fn next(&mut self, limit: usize) -> io::Result<Vec<u8>> {
        let mut head = [0; HEADER_BYTES];
        if self.end - self.at < HEADER_BYTES as u64 {
            return Err(invalid("the snapshot is cut short"));
        }
        self.file.read_at(self.at, &mut head)?;
        let header = Header::parse(&head, limit).map_err(invalid)?;
        if header.version != VERSION {
            return Err(invalid(format!("format {} is not known", header.version)));
        }
        let end = self.at + HEADER_BYTES as u64 + header.length as u64;
        if end > self.end {
            return Err(invalid("the snapshot is cut short"));
        }
        let mut payload = vec![0; header.length];
        self.file.read_at(self.at + HEADER_BYTES as u64, &mut payload)?;
        header.verify(&payload).map_err(invalid)?;
        self.at = end;
        Ok(payload)
    }
}

struct State {
    frames: Frames,
    buffer: Vec<u8>,
    at: usize,
    ended: bool,
}

impl Read for State {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.at == self.buffer.len() && !self.ended {
            self.buffer = self.frames.next(BODY_BYTES)?;
            self.at = 0;
            self.ended = self.buffer.is_empty();
        }
        let length = into.len().min(self.buffer.len() - self.at);
        into[..length].copy_from_slice(&self.buffer[self.at..self.at + length]);
        self.at += length;
        Ok(length)
    }
}

/// Cuts what is written into frames.
struct Body<'a> {
    file: &'a dyn DiskFile,
    at: u64,
    buffer: Vec<u8>,
}

impl Body<'_> {
    fn write_frame(&mut self, payload: &[u8]) -> io::Result<()> {
        let frame = scp_codec::frame(VERSION, payload).map_err(invalid)?;
        self.file.write_at(self.at, &frame)?;
        self.at += frame.len() as u64;
        Ok(())
    }
}

impl Write for Body<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let length = bytes.len().min(BODY_BYTES - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..length]);
        if self.buffer.len() == BODY_BYTES {
            self.flush()?;
        }
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        if !self.buffer.is_empty() {
            let buffer = std::mem::take(&mut self.buffer);
            self.write_frame(&buffer)?;
        }
        Ok(())
    }
}

/// All snapshots of this node. Calls block.
pub(crate) struct Snapshots {
    disk: Arc<dyn Disk>,
    current: Mutex<Option<SnapshotFile>>,
    incoming: Mutex<Option<Incoming>>,
}

struct Incoming {
    offer: Offer,
    file: Arc<dyn DiskFile>,
    received: u64,
}

impl Snapshots {
    /// Verifies the current snapshot. A damaged one is an error: the log it covers is gone.
    pub(crate) fn open(disk: Arc<dyn Disk>) -> Result<Self, StartError> {
        disk.remove(NEW)?;
        disk.remove(INCOMING)?;
        let current = match disk.open(CURRENT) {
            Ok(file) => Some(
                SnapshotFile::verify(file)
                    .map_err(|error| StartError::Snapshot { file: CURRENT.into(), why: error.to_string() })?,
            ),
            Err(DiskError::NotFound(_)) => None,
            Err(error) => return Err(error.into()),
        };
        Ok(Self { disk, current: Mutex::new(current), incoming: Mutex::new(None) })
    }

    pub(crate) fn current(&self) -> Option<SnapshotFile> {
        self.current.lock().expect("no one panics while holding it").clone()
    }

    /// Writes a new snapshot and makes it current.
    pub(crate) fn save(&self, meta: &SnapshotMeta, state: &dyn MachineSnapshot) -> io::Result<SnapshotFile> {
        self.disk.remove(NEW)?;
        let file = self.disk.create(NEW, 0)?;
        let written = self.write(&*file, meta, state).and_then(|()| {
            if !scp_mutant::on("snapshot-not-synced") {
                file.sync()?;
            }
            Ok(())
        });
        let saved =
            written.and_then(|()| SnapshotFile::verify(file)).and_then(|file| self.publish(NEW, file));
        if saved.is_err() {
            // Its space is wanted, all the more when there was too little.
            let _ = self.disk.remove(NEW);
        }
        saved
    }

    fn write(&self, file: &dyn DiskFile, meta: &SnapshotMeta, state: &dyn MachineSnapshot) -> io::Result<()> {
        let head = Head {
            last: meta.last_log_id.map(Position::from),
            members: PlacedMembers::from(&meta.last_membership),
        };
        let mut body = Body { file, at: 0, buffer: Vec::with_capacity(BODY_BYTES) };
        body.write_frame(&scp_codec::to_payload(&head).map_err(invalid)?)?;
        state.write(&mut body)?;
        body.flush()?;
        body.write_frame(&[])
    }

    fn publish(&self, name: &str, file: SnapshotFile) -> io::Result<SnapshotFile> {
        self.disk.rename(name, CURRENT)?;
        if !scp_mutant::on("snapshot-name-not-synced") {
            self.disk.sync_dir()?;
        }
        *self.current.lock().expect("no one panics while holding it") = Some(file.clone());
        Ok(file)
    }

    /// Makes `snapshot` current here. It is so already, or has just been received, or comes from
    /// another disk.
    pub(crate) fn adopt(&self, snapshot: &SnapshotFile) -> io::Result<SnapshotFile> {
        if let Some(current) = self.current().filter(|current| Arc::ptr_eq(&current.file, &snapshot.file)) {
            return Ok(current);
        }
        let incoming = self.incoming.lock().expect("no one panics while holding it").take();
        if incoming.is_some_and(|incoming| Arc::ptr_eq(&incoming.file, &snapshot.file)) {
            return self.publish(INCOMING, snapshot.clone());
        }
        self.disk.remove(NEW)?;
        let file = self.disk.create(NEW, 0)?;
        let mut at = 0;
        while at < snapshot.offer.bytes {
            let bytes = snapshot.chunk(at, BODY_BYTES)?;
            file.write_at(at, &bytes)?;
            at += bytes.len() as u64;
        }
        file.sync()?;
        let file = SnapshotFile::verify(file)?;
        self.publish(NEW, file)
    }

    /// Where a peer may go on with what it offers: at 0, or where it stopped.
    pub(crate) fn offered(&self, offer: Offer) -> Result<u64, DiskError> {
        let mut incoming = self.incoming.lock().expect("no one panics while holding it");
        if let Some(incoming) = incoming.as_ref().filter(|incoming| incoming.offer == offer) {
            return Ok(incoming.received);
        }
        *incoming = None;
        self.disk.remove(INCOMING)?;
        // Allocated whole: a full disk refuses the offer, not the last chunk.
        let file = self.disk.create(INCOMING, offer.bytes)?;
        *incoming = Some(Incoming { offer, file, received: 0 });
        Ok(0)
    }

    /// Takes a chunk when it is the next one; says from where on bytes are missing.
    pub(crate) fn received(&self, offer: Offer, offset: u64, bytes: &[u8]) -> Result<Option<u64>, DiskError> {
        let mut incoming = self.incoming.lock().expect("no one panics while holding it");
        let Some(incoming) = incoming.as_mut().filter(|incoming| incoming.offer == offer) else {
            return Ok(None);
        };
        if offset == incoming.received && offset + bytes.len() as u64 <= offer.bytes {
            incoming.file.write_at(offset, bytes)?;
            incoming.received += bytes.len() as u64;
        }
        Ok(Some(incoming.received))
    }

    /// The offered snapshot, whole, synced and verified.
    pub(crate) fn complete(&self, offer: Offer) -> io::Result<SnapshotFile> {
        let mut slot = self.incoming.lock().expect("no one panics while holding it");
        let Some(incoming) = slot.as_ref().filter(|incoming| incoming.offer == offer) else {
            return Err(invalid("this snapshot was not offered"));
        };
        if incoming.received != offer.bytes {
            return Err(invalid("chunks are missing"));
        }
        incoming.file.sync()?;
        let verified = SnapshotFile::verify(incoming.file.clone());
        match verified {
            Ok(file) if file.offer == offer => Ok(file),
            Ok(_) => {
                *slot = None;
                Err(invalid("the checksum does not match the offer"))
            }
            Err(error) => {
                *slot = None;
                Err(error)
            }
        }
    }
}
