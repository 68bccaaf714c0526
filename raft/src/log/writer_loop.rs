//! Drains jobs into groups: while one sync is under way the next group gathers.

use std::io;

use openraft::storage::IOFlushed;
use tokio::sync::{mpsc, oneshot, watch};

use super::{record::Record, writer::Writer};
use crate::{
    disk::{DiskError, Place},
    types::Types,
};

/// Jobs waiting for the writer. A follower's leader has one batch under way, and a leader's own writes
/// are bounded by count and bytes; this only has to be larger than what comes in during one sync.
pub(crate) const JOBS_MAX: usize = 1024;
/// Records of one group, roughly. Larger groups would delay their first member for the last.
const GROUP_RECORDS_MAX: usize = 8192;

/// What the disk still takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Space {
    /// Bytes that fit without new space from the disk.
    pub(crate) reserve: u64,
    /// Why no spare segment could be made.
    pub(crate) full: Option<DiskError>,
    /// Why the writer gave up; it must be opened anew.
    pub(crate) failed: Option<DiskError>,
}

pub(crate) enum Job {
    Write {
        records: Vec<Record>,
        done: Done,
    },
    /// Try again to make a spare segment.
    Replenish,
    /// Seal, sync, and end; answers with the number of the first group that is not known to be synced.
    Close {
        done: oneshot::Sender<u64>,
    },
}

/// Whom to tell.
pub(crate) enum Done {
    Flushed(IOFlushed<Types>),
    Reply(oneshot::Sender<Result<(), DiskError>>),
}

impl Done {
    fn tell(self, result: Result<(), DiskError>) {
        match self {
            Self::Flushed(callback) => callback.io_completed(result.map_err(io::Error::from)),
            // Whoever asked may have been cancelled; the records are written all the same.
            Self::Reply(reply) => drop(reply.send(result)),
        }
    }
}

/// Starts the loop where the disk wants it.
pub(crate) fn spawn(
    writer: Writer,
    place: Place,
    space: watch::Sender<Space>,
) -> io::Result<mpsc::Sender<Job>> {
    let (jobs, mut queue) = mpsc::channel(JOBS_MAX);
    // A spare that is made aside is a thread's; a simulation has none.
    let wake = matches!(place, Place::Thread).then(|| jobs.downgrade());
    let mut log = WriterLoop { writer, space, wake };
    match place {
        Place::Thread => {
            std::thread::Builder::new().name("raft-log".into()).spawn(move || {
                log.finish_start();
                while let Some(first) = queue.blocking_recv() {
                    if log.turn(first, &mut queue).is_break() {
                        break;
                    }
                }
            })?;
        }
        Place::Task(gate) => {
            tokio::spawn(async move {
                gate().await;
                log.finish_start();
                while let Some(first) = queue.recv().await {
                    gate().await;
                    if log.turn(first, &mut queue).is_break() {
                        break;
                    }
                }
            });
        }
    }
    Ok(jobs)
}

struct WriterLoop {
    writer: Writer,
    space: watch::Sender<Space>,
    /// Where a thread that made a spare reports; none: spares are made in line.
    wake: Option<mpsc::WeakSender<Job>>,
}

impl WriterLoop {
    /// The spare is made here, so that a start need not wait for it.
    fn finish_start(&mut self) {
        self.replenish();
    }

    /// One group: the first job and all that wait behind it.
    fn turn(&mut self, first: Job, queue: &mut mpsc::Receiver<Job>) -> std::ops::ControlFlow<()> {
        let mut records = Vec::new();
        let mut waiting = Vec::new();
        let mut closing = None;
        // A full disk is tried again when the keeper says so, not at every write.
        let mut try_spare = self.space.borrow().full.is_none();
        let mut next = Some(first);
        while let Some(job) = next {
            match job {
                Job::Write { records: more, done } => {
                    records.extend(more);
                    waiting.push(done);
                }
                Job::Replenish => try_spare = true,
                Job::Close { done } => {
                    closing = Some(done);
                    break;
                }
            }
            next = if records.len() < GROUP_RECORDS_MAX { queue.try_recv().ok() } else { None };
        }
        let result = self.commit(&records);
        for done in waiting {
            done.tell(result.clone());
        }
        if let Some(done) = closing {
            if self.failed().is_none() {
                // A failure is kept; the answer says what is synced.
                let _ = self.keep_failure(|writer| writer.seal(true));
            }
            self.writer.settle();
            let _ = done.send(self.writer.next_group());
            return std::ops::ControlFlow::Break(());
        }
        if try_spare {
            self.replenish();
        } else {
            let reserve = self.writer.reserve();
            self.space.send_if_modified(|space| {
                space.reserve = reserve;
                false
            });
        }
        if queue.is_empty() && self.failed().is_none() {
            let _ = self.keep_failure(|writer| writer.seal(false));
        }
        std::ops::ControlFlow::Continue(())
    }

    fn failed(&self) -> Option<DiskError> {
        self.space.borrow().failed.clone()
    }

    fn commit(&mut self, records: &[Record]) -> Result<(), DiskError> {
        if let Some(error) = self.failed() {
            return Err(error);
        }
        self.keep_failure(|writer| writer.commit(records))
    }

    /// After a failed write nothing else may be written: its place in the file is unknown.
    fn keep_failure(
        &mut self,
        act: impl FnOnce(&mut Writer) -> Result<(), DiskError>,
    ) -> Result<(), DiskError> {
        let result = act(&mut self.writer);
        if let Err(error) = &result {
            tracing::error!(%error, "the Raft log cannot be written");
            self.space.send_modify(|space| space.failed = Some(error.clone()));
        }
        result
    }

    fn replenish(&mut self) {
        if self.failed().is_some() {
            return;
        }
        let before = self.space.borrow().full.clone();
        let full = match self.wake.clone() {
            None => self.writer.replenish().err(),
            Some(wake) => {
                let asked = self.writer.replenish_aside(move || {
                    if let Some(jobs) = wake.upgrade() {
                        // The loop may have ended.
                        let _ = jobs.blocking_send(Job::Replenish);
                    }
                });
                // While another attempt is under way nothing has changed for the better yet.
                asked.err().or(before.filter(|_| !self.writer.has_spare()))
            }
        };
        let reserve = self.writer.reserve();
        self.space.send_if_modified(|space| {
            let changed = space.full != full;
            space.reserve = reserve;
            space.full = full;
            changed
        });
    }
}
