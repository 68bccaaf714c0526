//! The log as openraft sees it.

use std::{
    collections::VecDeque,
    fmt::Debug,
    io,
    ops::{Bound, RangeBounds},
    sync::{Arc, Mutex, MutexGuard},
};

use openraft::{
    EntryPayload, OptionalSend, RaftLogReader,
    storage::{IOFlushed, LogState, RaftLogStorage},
};
use tokio::sync::{Notify, mpsc, oneshot, watch};

use super::{
    LogError,
    record::{LogEntry, Record},
    writer::Writer,
    writer_loop::{Done, Job, Space, spawn},
};
use crate::{
    disk::{Disk, DiskError},
    types::{Entry, LogId, Types, Vote},
};

/// Bytes of entries in one append request; a single entry may be larger.
const APPEND_BYTES_MAX: u64 = 4 << 20;
/// So many times the bytes that call for a snapshot, and none was taken: something is wrong, and the
/// entries fill the memory.
const OVERGROWN_FACTOR: u64 = 8;
/// What an entry costs beside its command, in memory and on disk, roughly.
const ENTRY_OVERHEAD_BYTES: u64 = 64;

/// Cheap to clone: storage and readers are the same thing.
#[derive(Clone)]
pub(crate) struct Log {
    memory: Arc<Mutex<Memory>>,
    jobs: mpsc::Sender<Job>,
    space: watch::Receiver<Space>,
    grown: Arc<Notify>,
}

#[derive(Default)]
struct Memory {
    vote: Option<Vote>,
    purged: Option<LogId>,
    committed: Option<LogId>,
    /// `committed` is not in any record yet.
    committed_is_new: bool,
    entries: VecDeque<Held>,
    /// Bytes of all entries ever held in this run.
    end: u64,
    /// Index that the last snapshot covers, and bytes behind it that call for the next one.
    snapshot: Option<u64>,
    snapshot_bytes: u64,
}

struct Held {
    entry: Entry,
    /// Where the entry ends when all are laid end to end.
    end: u64,
}

impl Log {
    /// Opens the log; says whether an unfinished write was cut.
    pub(crate) fn open(
        disk: Arc<dyn Disk>,
        segment_bytes: u64,
        void_from: Option<u64>,
    ) -> Result<(Self, bool), LogError> {
        let place = disk.place();
        let (writer, recovered) = Writer::open(disk, segment_bytes, void_from)?;
        let (space_out, space) =
            watch::channel(Space { reserve: writer.reserve(), full: None, failed: None });
        let mut memory = Memory {
            vote: recovered.base.vote.map(Vote::from),
            purged: recovered.base.purged.map(LogId::from),
            committed: recovered.base.committed.map(LogId::from),
            ..Memory::default()
        };
        recovered.entries.into_iter().for_each(|entry| memory.push(entry.into()));
        let jobs = spawn(writer, place, space_out)
            .map_err(|error| DiskError::Failed(format!("the log's thread did not start: {error}")))?;
        let memory = Arc::new(Mutex::new(memory));
        Ok((Self { memory, jobs, space, grown: Arc::new(Notify::new()) }, recovered.cut))
    }

    pub(crate) fn space(&self) -> watch::Receiver<Space> {
        self.space.clone()
    }

    /// Tries again to get space; the outcome shows in [`Self::space`].
    pub(crate) async fn replenish(&self) {
        let _ = self.jobs.send(Job::Replenish).await;
    }

    /// Ends the writer after everything queued. Returns the first group that is not known to be synced.
    pub(crate) async fn close(&self) -> Option<u64> {
        let committed = {
            let mut memory = self.lock();
            std::mem::take(&mut memory.committed_is_new).then_some(memory.committed).flatten()
        };
        if let Some(at) = committed {
            let _ = self.write(vec![Record::Committed(at.into())]).await;
        }
        let (done, closed) = oneshot::channel();
        self.jobs.send(Job::Close { done }).await.ok()?;
        closed.await.ok()
    }

    /// A snapshot is due.
    pub(crate) fn has_outgrown_snapshot(&self) -> bool {
        self.lock().outgrown()
    }

    /// A snapshot is long overdue.
    pub(crate) fn is_overgrown(&self) -> bool {
        let memory = self.lock();
        memory.snapshot_bytes > 0 && memory.uncovered() >= OVERGROWN_FACTOR * memory.snapshot_bytes
    }

    /// Whoever takes part has voted for a leader, or follows one: either is a vote on disk.
    pub(crate) fn has_vote(&self) -> bool {
        self.lock().vote.is_some()
    }

    pub(crate) fn last(&self) -> Option<LogId> {
        self.lock().last()
    }

    /// Notified when the log outgrew its snapshot.
    pub(crate) fn grown(&self) -> Arc<Notify> {
        self.grown.clone()
    }

    /// Which entry the last snapshot covers.
    pub(crate) fn snapshot(&self) -> Option<u64> {
        self.lock().snapshot
    }

    /// From now on growth is counted behind `index`.
    pub(crate) fn set_snapshot(&self, index: Option<u64>, snapshot_bytes: u64) {
        let mut memory = self.lock();
        memory.snapshot = index;
        memory.snapshot_bytes = snapshot_bytes;
        if memory.outgrown() {
            self.grown.notify_one();
        }
    }

    /// The entry up to which the log can be purged when a snapshot covers `covered`, and `keep` bytes
    /// before that are to stay.
    pub(crate) fn purge_point(&self, covered: u64, keep: u64) -> Option<u64> {
        let memory = self.lock();
        let limit = memory.end_of(covered)?.checked_sub(keep)?;
        let kept_from = memory.entries.partition_point(|held| held.end <= limit);
        Some(memory.entries.get(kept_from.checked_sub(1)?)?.entry.log_id.index.min(covered))
    }

    fn lock(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().expect("no one panics while holding the log's memory")
    }

    async fn write(&self, records: Vec<Record>) -> Result<(), io::Error> {
        let (reply, written) = oneshot::channel();
        let job = Job::Write { records, done: Done::Reply(reply) };
        self.jobs.send(job).await.map_err(|_| closed())?;
        written.await.map_err(|_| closed())?.map_err(io::Error::from)
    }

    fn read(&self, range: impl RangeBounds<u64>, bytes_max: u64) -> Vec<Entry> {
        let start = match range.start_bound() {
            Bound::Included(&at) => at,
            Bound::Excluded(&at) => at + 1,
            Bound::Unbounded => 0,
        };
        let memory = self.lock();
        let Some(first) = memory.first() else { return Vec::new() };
        let skip = usize::try_from(start.saturating_sub(first)).unwrap_or(usize::MAX);
        let mut entries = Vec::new();
        let mut bytes = 0;
        for held in memory.entries.iter().skip(skip) {
            if !range.contains(&held.entry.log_id.index) {
                break;
            }
            bytes += entry_bytes(&held.entry);
            if bytes > bytes_max && !entries.is_empty() {
                break;
            }
            entries.push(held.entry.clone());
        }
        entries
    }
}

fn closed() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the log is closed")
}

fn entry_bytes(entry: &Entry) -> u64 {
    let payload = match &entry.payload {
        EntryPayload::Blank => 0,
        EntryPayload::Normal(command) => command.0.len() as u64,
        EntryPayload::Membership(membership) => 16 * membership.nodes().count() as u64,
    };
    payload + ENTRY_OVERHEAD_BYTES
}

impl Memory {
    fn first(&self) -> Option<u64> {
        self.entries.front().map(|held| held.entry.log_id.index)
    }

    fn last(&self) -> Option<LogId> {
        self.entries.back().map(|held| held.entry.log_id).or(self.purged)
    }

    fn push(&mut self, entry: Entry) {
        self.end += entry_bytes(&entry);
        self.entries.push_back(Held { entry, end: self.end });
    }

    /// Where the entry at `index` ends; what is not held any more ended before everything held.
    fn end_of(&self, index: u64) -> Option<u64> {
        let at = usize::try_from(index.checked_sub(self.first()?)?).ok()?;
        self.entries.get(at).map(|held| held.end)
    }

    /// Bytes of entries behind the last snapshot.
    fn uncovered(&self) -> u64 {
        let start = || self.entries.front().map_or(self.end, |held| held.end - entry_bytes(&held.entry));
        self.end - self.snapshot.and_then(|index| self.end_of(index)).unwrap_or_else(start)
    }

    fn outgrown(&self) -> bool {
        self.snapshot_bytes > 0 && self.uncovered() >= self.snapshot_bytes
    }
}

impl RaftLogReader<Types> for Log {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        Ok(self.read(range, u64::MAX))
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, io::Error> {
        Ok(self.read(start..end, APPEND_BYTES_MAX))
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.lock().vote)
    }
}

impl RaftLogStorage<Types> for Log {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, io::Error> {
        let memory = self.lock();
        Ok(LogState { last_purged_log_id: memory.purged, last_log_id: memory.last() })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        if !scp_mutant::on("vote-not-persisted") {
            self.write(vec![Record::Vote((*vote).into())]).await?;
        }
        self.lock().vote = Some(*vote);
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        let mut memory = self.lock();
        memory.committed = committed;
        memory.committed_is_new = committed.is_some();
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        Ok(self.lock().committed)
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut records = Vec::new();
        {
            let mut memory = self.lock();
            if std::mem::take(&mut memory.committed_is_new) {
                records.extend(memory.committed.map(|at| Record::Committed(at.into())));
            }
            for entry in entries {
                let index = entry.log_id.index;
                if memory.last().is_some_and(|last| last.index + 1 != index) {
                    let last = memory.last();
                    return Err(io::Error::other(format!("entry {index} does not follow {last:?}")));
                }
                records.push(Record::Entry(LogEntry::from(&entry)));
                memory.push(entry);
            }
            if memory.outgrown() {
                self.grown.notify_one();
            }
        }
        let job = Job::Write { records, done: Done::Flushed(callback) };
        self.jobs.send(job).await.map_err(|_| closed())
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> Result<(), io::Error> {
        {
            let mut memory = self.lock();
            let stays = |held: &Held| last.is_some_and(|last| held.entry.log_id.index <= last.index);
            while memory.entries.back().is_some_and(|held| !stays(held)) {
                memory.entries.pop_back();
            }
        }
        if scp_mutant::on("truncation-not-logged") {
            return Ok(());
        }
        self.write(vec![Record::TruncateAfter(last.map(Into::into))]).await
    }

    async fn purge(&mut self, upto: LogId) -> Result<(), io::Error> {
        {
            let mut memory = self.lock();
            while memory.first().is_some_and(|first| first <= upto.index) {
                memory.entries.pop_front();
            }
            if memory.purged.is_none_or(|purged| purged.index < upto.index) {
                memory.purged = Some(upto);
            }
        }
        self.write(vec![Record::Purge(upto.into())]).await
    }
}
