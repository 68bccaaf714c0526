//! Writes groups of records; synchronous, single-threaded, no clock.
//!
//! ```text
//! segment-..1   segment-..2 (current)   spare
//! ```
//! When a group does not fit the current segment, the spare gets a head and its name, and becomes
//! current. A new spare is made afterwards, on a thread of its own where the disk allows it: zeroing a
//! segment takes tens of milliseconds, which no write should wait for. When it fails for want of space,
//! the writer still has the rest of the current segment as reserve, and says so.

use std::{
    collections::VecDeque,
    sync::{Arc, mpsc},
};

use super::{
    LogError,
    format::{ALIGN, GROUP_HEAD_BYTES, GroupBuilder, HEAD_BYTES, SEAL_BYTES, SegmentHead, encode_seal},
    record::{Base, Record},
    recover::{Recovered, recover, segment_name},
};
use crate::disk::{Disk, DiskError, DiskFile};

const SPARE: &str = "spare";
const SPARE_NEW: &str = "spare.new";

/// A segment that is only kept for its entries.
#[derive(Debug, Clone, Copy)]
struct Kept {
    sequence: u64,
    index_max: Option<u64>,
}

struct Current {
    file: Arc<dyn DiskFile>,
    sequence: u64,
    salt: u64,
    size: u64,
    end: u64,
    index_max: Option<u64>,
    sealed: bool,
}

type Made = Result<Arc<dyn DiskFile>, DiskError>;

enum Spare {
    Missing,
    /// A thread is at it.
    Making(mpsc::Receiver<Made>),
    Ready(Arc<dyn DiskFile>),
}

impl Spare {
    /// Waits for the thread that is making it.
    fn settle(&mut self) -> Result<(), DiskError> {
        let Self::Making(made) = self else { return Ok(()) };
        let made = made.recv().unwrap_or_else(|_| Err(thread_ended()));
        self.put(made)
    }

    fn put(&mut self, made: Made) -> Result<(), DiskError> {
        match made {
            Ok(file) => {
                *self = Self::Ready(file);
                Ok(())
            }
            Err(error) => {
                *self = Self::Missing;
                Err(error)
            }
        }
    }
}

fn thread_ended() -> DiskError {
    DiskError::Failed("the thread that makes segments ended".into())
}

pub(crate) struct Writer {
    disk: Arc<dyn Disk>,
    segment_bytes: u64,
    kept: VecDeque<Kept>,
    current: Current,
    spare: Spare,
    next_group: u64,
    base: Base,
}

impl Writer {
    /// Opens the log, or begins one. `void_from`: see [`recover`].
    pub(crate) fn open(
        disk: Arc<dyn Disk>,
        segment_bytes: u64,
        void_from: Option<u64>,
    ) -> Result<(Self, Recovered), LogError> {
        let (mut segments, next_group, recovered) = recover(&*disk, void_from)?;
        let base = recovered.base;
        let current = match segments.pop() {
            Some(segment) => Current {
                file: segment.file,
                sequence: segment.head.sequence,
                salt: segment.head.salt,
                size: segment.size,
                end: segment.end,
                index_max: segment.index_max,
                sealed: false,
            },
            None => {
                let file = make_spare(&*disk, segment_bytes)?;
                let head = SegmentHead {
                    sequence: 1,
                    salt: rand::random(),
                    first_group: next_group,
                    size: segment_bytes,
                    base,
                };
                begin_segment(&*disk, file, head)?
            }
        };
        let kept = segments
            .iter()
            .map(|segment| Kept { sequence: segment.head.sequence, index_max: segment.index_max })
            .collect();
        let spare = reuse_spare(&*disk, segment_bytes)?.map_or(Spare::Missing, Spare::Ready);
        let mut writer = Self { disk, segment_bytes, kept, current, spare, next_group, base };
        writer.drop_purged()?;
        Ok((writer, recovered))
    }

    /// Number of the next group: all before it are synced.
    pub(crate) fn next_group(&self) -> u64 {
        self.next_group
    }

    /// Bytes of records that fit without new space from the disk, at least.
    pub(crate) fn reserve(&self) -> u64 {
        let overhead = (GROUP_HEAD_BYTES + ALIGN) as u64;
        let rest = (self.current.size - self.current.end).saturating_sub(overhead);
        let spare = if self.has_spare() { self.segment_bytes - HEAD_BYTES as u64 - overhead } else { 0 };
        rest + spare
    }

    pub(crate) fn has_spare(&self) -> bool {
        matches!(self.spare, Spare::Ready(_))
    }

    /// Makes a spare segment when there is none.
    pub(crate) fn replenish(&mut self) -> Result<(), DiskError> {
        self.spare.settle()?;
        match self.spare {
            Spare::Ready(_) => Ok(()),
            Spare::Missing | Spare::Making(_) => {
                let made = make_spare(&*self.disk, self.segment_bytes);
                self.spare.put(made)
            }
        }
    }

    /// The same on a thread of its own, which calls `made` at its end: then ask again. An error is that
    /// of the attempt that ended.
    pub(crate) fn replenish_aside(&mut self, made: impl FnOnce() + Send + 'static) -> Result<(), DiskError> {
        match &self.spare {
            Spare::Ready(_) => Ok(()),
            Spare::Making(made) => match made.try_recv() {
                Ok(made) => self.spare.put(made),
                Err(mpsc::TryRecvError::Empty) => Ok(()),
                Err(mpsc::TryRecvError::Disconnected) => self.spare.put(Err(thread_ended())),
            },
            Spare::Missing => {
                let (disk, segment_bytes) = (self.disk.clone(), self.segment_bytes);
                let (put, get) = mpsc::sync_channel(1);
                let work = move || {
                    // Nobody takes it: the writer is gone, and had waited if it could have mattered.
                    let _ = put.send(make_spare(&*disk, segment_bytes));
                    made();
                };
                std::thread::Builder::new()
                    .name("raft-spare".into())
                    .spawn(work)
                    .map_err(|error| DiskError::Failed(format!("no thread for a new segment: {error}")))?;
                self.spare = Spare::Making(get);
                Ok(())
            }
        }
    }

    /// Waits until nothing but this writer's owner touches its files: another may open them then.
    pub(crate) fn settle(&mut self) {
        // A spare that could not be made is no loss to whoever closes.
        let _ = self.spare.settle();
    }

    /// Makes the records durable, in order. After an error the writer must be opened anew, with
    /// [`Self::next_group`] as `void_from`: what it was writing may or may not be there.
    pub(crate) fn commit(&mut self, records: &[Record]) -> Result<(), DiskError> {
        let mut group = GroupBuilder::with_room(records.iter().map(Record::room).sum());
        for record in records {
            let before = group.mark();
            group.push(record);
            if !self.fits(&group) {
                let next = group.split_last(before);
                self.write_group(std::mem::replace(&mut group, next))?;
            }
            if !self.fits(&group) {
                self.roll()?;
            }
            if !self.fits(&group) {
                return Err(DiskError::Failed(format!("a record of {} bytes fits no segment", group.size())));
            }
            self.note(record);
        }
        self.write_group(group)?;
        if records.iter().any(|record| matches!(record, Record::Purge(_))) {
            self.drop_purged()?;
        }
        Ok(())
    }

    /// Vouches for all groups so far. Not synced unless `sync`: it only tells damage from a torn write.
    pub(crate) fn seal(&mut self, sync: bool) -> Result<(), DiskError> {
        if !self.current.sealed && self.current.end + SEAL_BYTES as u64 <= self.current.size {
            let seal = encode_seal(self.current.salt, self.next_group - 1);
            self.current.file.write_at(self.current.end, &seal)?;
            self.current.sealed = true;
        }
        if sync { self.current.file.sync() } else { Ok(()) }
    }

    fn fits(&self, group: &GroupBuilder) -> bool {
        self.current.end + group.size() as u64 <= self.current.size
    }

    fn note(&mut self, record: &Record) {
        match record {
            Record::Vote(ballot) => self.base.vote = Some(*ballot),
            Record::Entry(entry) => {
                self.current.index_max = self.current.index_max.max(Some(entry.at.index));
            }
            Record::TruncateAfter(_) => {}
            Record::Purge(at) => self.base.purged = Some(*at),
            Record::Committed(at) => self.base.committed = Some(*at),
        }
    }

    fn write_group(&mut self, group: GroupBuilder) -> Result<(), DiskError> {
        if group.is_empty() {
            return Ok(());
        }
        let bytes = group.finish(self.current.salt, self.next_group);
        self.current.file.write_at(self.current.end, &bytes)?;
        if !scp_mutant::on("append-not-synced") {
            self.current.file.sync()?;
        }
        self.current.end += bytes.len() as u64;
        self.current.sealed = false;
        self.next_group += 1;
        Ok(())
    }

    /// Goes on in the spare segment.
    fn roll(&mut self) -> Result<(), DiskError> {
        self.replenish()?;
        let Spare::Ready(file) = std::mem::replace(&mut self.spare, Spare::Missing) else {
            unreachable!("replenish made one, or failed");
        };
        let head = SegmentHead {
            sequence: self.current.sequence + 1,
            salt: rand::random(),
            first_group: self.next_group,
            size: self.segment_bytes,
            base: self.base,
        };
        let next = begin_segment(&*self.disk, file, head)?;
        self.kept.push_back(Kept { sequence: self.current.sequence, index_max: self.current.index_max });
        self.current = next;
        Ok(())
    }

    /// Removes the oldest segments while a snapshot covers all their entries.
    fn drop_purged(&mut self) -> Result<(), DiskError> {
        let Some(purged) = self.base.purged else { return Ok(()) };
        let mut dropped = false;
        let early = scp_mutant::on("segment-dropped-early");
        let covered = |kept: &Kept| early || kept.index_max.is_none_or(|max| max <= purged.index);
        while self.kept.front().is_some_and(covered) {
            let kept = self.kept.pop_front().expect("the loop looked");
            self.disk.remove(&segment_name(kept.sequence))?;
            // In order: a hole in the sequence would be taken for damage.
            self.disk.sync_dir()?;
            dropped = true;
        }
        if dropped { self.disk.sync_dir() } else { Ok(()) }
    }
}

/// A zeroed file under the spare's name. Under another name until it is complete, so that a spare is
/// always whole.
fn make_spare(disk: &dyn Disk, segment_bytes: u64) -> Result<Arc<dyn DiskFile>, DiskError> {
    disk.remove(SPARE_NEW)?;
    let file = disk.create(SPARE_NEW, segment_bytes)?;
    file.sync()?;
    disk.rename(SPARE_NEW, SPARE)?;
    disk.sync_dir()?;
    Ok(file)
}

/// The spare that an earlier run left. Only its head may have been written to.
fn reuse_spare(disk: &dyn Disk, segment_bytes: u64) -> Result<Option<Arc<dyn DiskFile>>, DiskError> {
    disk.remove(SPARE_NEW)?;
    let file = match disk.open(SPARE) {
        Ok(file) => file,
        Err(DiskError::NotFound(_)) => return Ok(None),
        Err(error) => return Err(error),
    };
    if file.size()? != segment_bytes {
        disk.remove(SPARE)?;
        return Ok(None);
    }
    file.write_at(0, &[0; HEAD_BYTES])?;
    file.sync()?;
    Ok(Some(file))
}

fn begin_segment(disk: &dyn Disk, file: Arc<dyn DiskFile>, head: SegmentHead) -> Result<Current, DiskError> {
    file.write_at(0, &head.encode())?;
    file.sync()?;
    disk.rename(SPARE, &segment_name(head.sequence))?;
    disk.sync_dir()?;
    Ok(Current {
        file,
        sequence: head.sequence,
        salt: head.salt,
        size: head.size,
        end: HEAD_BYTES as u64,
        index_max: None,
        sealed: false,
    })
}
