//! Reads the segments back after a stop, orderly or not.
//!
//! # The torn-tail rule
//! Each group is synced before the next one is written, so at most the last group of the last segment
//! may be incomplete, and it was never acknowledged. The first place where the expected group does not
//! stand is therefore either the end of the log, or damage:
//!
//! - nothing valid follows in the segment, and no segment follows: the tail is *cut* (zeroed);
//! - a later group, a seal of the missing one, or a segment that begins with a later one follows: the
//!   missing group had been synced, and acknowledged data is damaged. That is [`LogError::Corrupt`];
//!   nothing is touched.
//!
//! A segment that follows tells where the groups of the one before it end: what stands behind them there is
//! a seal, whole or torn, since it was never synced.
//!
//! What remains undecidable: damage to the very last group when its seal did not reach the disk (it is
//! written right after the sync but not synced itself, so the kernel may hold it back for its usual
//! half minute). Such a group is cut like a torn one.

use std::{collections::VecDeque, sync::Arc};

use super::{
    LogError,
    format::{ALIGN, FORMAT, Group, HEAD_BYTES, HeadError, SegmentHead, parse_seal},
    record::{Base, LogEntry, Position, Record},
};
use crate::disk::{Disk, DiskFile};

const SEGMENT_PREFIX: &str = "segment-";

pub(crate) fn segment_name(sequence: u64) -> String {
    format!("{SEGMENT_PREFIX}{sequence:016x}")
}

fn parse_segment_name(name: &str) -> Option<u64> {
    let digits = name.strip_prefix(SEGMENT_PREFIX)?;
    (digits.len() == 16).then(|| u64::from_str_radix(digits, 16).ok()).flatten()
}

/// What the log held.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Recovered {
    pub(crate) base: Base,
    /// Consecutive, behind `base.purged`.
    pub(crate) entries: VecDeque<LogEntry>,
    /// An unfinished write was removed from the end.
    pub(crate) cut: bool,
}

/// A segment that was read.
pub(crate) struct ReadSegment {
    pub(crate) file: Arc<dyn DiskFile>,
    pub(crate) head: SegmentHead,
    pub(crate) size: u64,
    /// Where the next group goes.
    pub(crate) end: u64,
    /// Highest index of an entry in it.
    pub(crate) index_max: Option<u64>,
}

/// Segments, oldest first, and what they hold. `void_from`: groups from this number on failed to sync
/// in this process and are void, whatever the page cache says.
pub(crate) fn recover(
    disk: &dyn Disk,
    void_from: Option<u64>,
) -> Result<(Vec<ReadSegment>, u64, Recovered), LogError> {
    // A name that only memory holds must not carry acknowledged data.
    disk.sync_dir()?;
    let mut sequences: Vec<u64> = disk.list()?.iter().filter_map(|name| parse_segment_name(name)).collect();
    sequences.sort_unstable();
    let mut segments: Vec<ReadSegment> = Vec::with_capacity(sequences.len());
    let mut replay = Replay::default();
    let mut next_group = None;
    let last = sequences.last().copied();
    for sequence in sequences {
        let name = segment_name(sequence);
        let corrupt = |offset: u64, why: &str| corrupt(&name, offset, why);
        let file = disk.open(&name)?;
        let size = file.size()?;
        let mut bytes = vec![0; usize::try_from(size).map_err(|_| corrupt(0, "is larger than memory"))?];
        file.read_at(0, &mut bytes)?;
        let head = read_head(&name, &bytes)?;
        if head.size != size {
            return Err(corrupt(size, "the file does not have the size it was made with"));
        }
        let before = segments.last();
        if head.sequence != sequence || before.is_some_and(|before| before.head.sequence + 1 != sequence) {
            return Err(corrupt(0, "a segment is missing before it"));
        }
        if let Some(before) = before.filter(|_| next_group != Some(head.first_group)) {
            let name = segment_name(before.head.sequence);
            return Err(self::corrupt(&name, before.end, "a synced group is damaged: segments follow"));
        }
        if segments.is_empty() {
            replay.base = head.base;
        }
        let scan = Scan { name: &name, bytes: &bytes, head: &head, void_from };
        let found = scan.run(&mut replay)?;
        if Some(sequence) == last {
            replay.cut = mend(&*file, &bytes, &found)?;
        }
        next_group = Some(found.next_group);
        segments.push(ReadSegment { file, head, size, end: found.end as u64, index_max: found.index_max });
    }
    let recovered = replay.finish()?;
    Ok((segments, next_group.unwrap_or(1), recovered))
}

fn corrupt(file: &str, offset: u64, why: &str) -> LogError {
    LogError::Corrupt { file: file.to_owned(), offset, why: why.to_owned() }
}

fn read_head(name: &str, bytes: &[u8]) -> Result<SegmentHead, LogError> {
    SegmentHead::decode(bytes).map_err(|error| match error {
        HeadError::NotASegment => corrupt(name, 0, "does not start like a segment"),
        HeadError::Checksum => corrupt(name, 0, "the head's checksum does not match"),
        HeadError::Malformed => corrupt(name, 0, "the head is malformed"),
        HeadError::Format(found) => LogError::Version { file: name.to_owned(), found, supported: FORMAT },
    })
}

struct Found {
    /// Where the groups end.
    end: usize,
    last_group_at: Option<usize>,
    next_group: u64,
    index_max: Option<u64>,
    /// Something other than a seal or zeroes stands at the end.
    torn: bool,
}

struct Scan<'a> {
    name: &'a str,
    bytes: &'a [u8],
    head: &'a SegmentHead,
    void_from: Option<u64>,
}

impl Scan<'_> {
    fn run(&self, replay: &mut Replay) -> Result<Found, LogError> {
        let salt = self.head.salt;
        let mut found = Found {
            end: HEAD_BYTES,
            last_group_at: None,
            next_group: self.head.first_group,
            index_max: None,
            torn: false,
        };
        while let Some(group) = Group::parse(salt, &self.bytes[found.end..]) {
            if group.number != found.next_group || self.void_from.is_some_and(|void| group.number >= void) {
                break;
            }
            let records = group
                .records()
                .ok_or_else(|| corrupt(self.name, found.end as u64, "a group holds no records"))?;
            for record in records {
                if let Record::Entry(entry) = &record {
                    found.index_max = found.index_max.max(Some(entry.at.index));
                }
                replay.step(record).map_err(|why| corrupt(self.name, found.end as u64, why))?;
            }
            found.last_group_at = Some(found.end);
            found.end = (found.end + group.size).min(self.bytes.len());
            found.next_group += 1;
        }
        self.judge_tail(&mut found)?;
        Ok(found)
    }

    /// Applies the torn-tail rule to what stands behind the last good group.
    fn judge_tail(&self, found: &mut Found) -> Result<(), LogError> {
        let tail = &self.bytes[found.end..];
        let sealed = parse_seal(self.head.salt, tail).is_some_and(|number| number + 1 == found.next_group);
        found.torn = !sealed && tail.iter().any(|&byte| byte != 0);
        if self.void_from.is_some() {
            return Ok(());
        }
        for at in (0..tail.len()).step_by(ALIGN) {
            let later = Group::parse(self.head.salt, &tail[at..]).is_some()
                || parse_seal(self.head.salt, &tail[at..]).is_some_and(|number| number >= found.next_group);
            if later {
                let why = "a synced group is damaged: what was written after its sync follows";
                return Err(corrupt(self.name, found.end as u64, why));
            }
        }
        Ok(())
    }
}

/// Removes what is behind the last good group, and writes that group again: a process that was killed
/// between a write and its sync, or whose sync failed, leaves bytes that only memory holds, and openraft
/// takes what it reads for durable.
fn mend(file: &dyn DiskFile, bytes: &[u8], found: &Found) -> Result<bool, LogError> {
    let dirty = bytes[found.end..].iter().rposition(|&byte| byte != 0);
    if let Some(last) = dirty {
        file.write_at(found.end as u64, &vec![0; last + 1])?;
    }
    if let Some(at) = found.last_group_at {
        file.write_at(at as u64, &bytes[at..found.end])?;
    }
    file.sync()?;
    Ok(found.torn)
}

/// Follows the records.
#[derive(Default)]
struct Replay {
    base: Base,
    entries: VecDeque<LogEntry>,
    /// Index that the next entry must have; none before the first one.
    next: Option<u64>,
    cut: bool,
}

impl Replay {
    fn step(&mut self, record: Record) -> Result<(), &'static str> {
        match record {
            Record::Vote(ballot) => self.base.vote = Some(ballot),
            Record::Entry(entry) => {
                if self.next.is_some_and(|next| next != entry.at.index) {
                    return Err("an entry does not follow the one before it");
                }
                self.next = Some(entry.at.index + 1);
                self.entries.push_back(entry);
            }
            Record::TruncateAfter(at) => {
                while self.entries.back().is_some_and(|entry| at.is_none_or(|at| entry.at.index > at.index)) {
                    self.entries.pop_back();
                }
                self.next = at.map(|at| at.index + 1);
            }
            Record::Purge(at) => {
                while self.entries.front().is_some_and(|entry| entry.at.index <= at.index) {
                    self.entries.pop_front();
                }
                if self.base.purged.is_none_or(|purged| purged.index < at.index) {
                    self.base.purged = Some(at);
                }
                // Without a position so far (this is the first segment left) none can be concluded:
                // entries behind the purged ones may stand in segments that are gone.
                self.next = self.next.map(|next| next.max(at.index + 1));
            }
            Record::Committed(at) => self.base.committed = Some(at),
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Recovered, LogError> {
        // Entries of a first segment that a later purge covers, though it still stands.
        if let Some(purged) = self.base.purged {
            while self.entries.front().is_some_and(|entry| entry.at.index <= purged.index) {
                self.entries.pop_front();
            }
        }
        let first = self.entries.front().map(|entry| entry.at.index);
        if let (Some(first), Some(purged)) = (first, self.base.purged)
            && first != purged.index + 1
        {
            return Err(corrupt("log", 0, "entries are missing behind the purged ones"));
        }
        self.base.committed = self.base.committed.filter(|at| self.holds(at));
        Ok(Recovered { base: self.base, entries: self.entries, cut: self.cut })
    }

    /// Whether the log has, or had, this very entry.
    fn holds(&self, at: &Position) -> bool {
        if self.base.purged.is_some_and(|purged| at.index <= purged.index) {
            return true;
        }
        let first = self.entries.front().map_or(0, |entry| entry.at.index);
        at.index
            .checked_sub(first)
            .and_then(|offset| self.entries.get(usize::try_from(offset).ok()?))
            .is_some_and(|entry| entry.at == *at)
    }
}
