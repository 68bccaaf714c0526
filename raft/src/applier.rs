//! Carries committed entries to the machine, and the machine's state to snapshots.
//!
//! A snapshot that is taken because the log grew is written *before* openraft is asked for one, and
//! openraft is handed what is there: a snapshot that cannot be written (the disk is full) is then no
//! storage error to it, which would stop it for good, but simply not taken.

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard},
};

use futures::{Stream, StreamExt};
use openraft::{
    EntryPayload, OptionalSend, RaftSnapshotBuilder,
    storage::{ApplyResponder, EntryResponder, RaftStateMachine},
};
use tokio::sync::watch;

use crate::{
    machine::{Machine, MachineSnapshot},
    snapshot::{SnapshotFile, Snapshots},
    types::{Answer, LogId, SnapshotMeta, StoredMembership, Types},
    worker::Worker,
};

/// Entries applied between two publications of the state.
const BATCH_MAX: usize = 1024;

type Snapshot = openraft::alias::SnapshotOf<Types, SnapshotFile>;

/// Cheap to clone; all clones are the same machine.
#[derive(Clone)]
pub(crate) struct Applier {
    machine: Arc<Mutex<Applied>>,
    snapshots: Arc<Snapshots>,
    worker: Worker,
    applied: Arc<watch::Sender<Option<u64>>>,
}

struct Applied {
    machine: Box<dyn Machine>,
    last: Option<LogId>,
    membership: StoredMembership,
    /// The log is being read again: nobody looks at the machine before that is done.
    replaying: bool,
}

impl Applier {
    pub(crate) fn new(machine: Box<dyn Machine>, snapshots: Snapshots, worker: Worker) -> Self {
        let membership = StoredMembership::default();
        let applied = Applied { machine, last: None, membership, replaying: false };
        Self {
            machine: Arc::new(Mutex::new(applied)),
            snapshots: Arc::new(snapshots),
            worker,
            applied: Arc::new(watch::channel(None).0),
        }
    }

    pub(crate) fn snapshots(&self) -> Arc<Snapshots> {
        self.snapshots.clone()
    }

    pub(crate) fn worker(&self) -> Worker {
        self.worker.clone()
    }

    /// Index of the last entry applied.
    pub(crate) fn applied(&self) -> watch::Receiver<Option<u64>> {
        self.applied.subscribe()
    }

    pub(crate) fn last(&self) -> Option<LogId> {
        self.lock().last
    }

    /// Writes a snapshot of the machine as it is now and makes it current.
    pub(crate) async fn save_snapshot(&self) -> io::Result<SnapshotFile> {
        let (meta, state) = self.capture();
        self.save(meta, state).await
    }

    fn capture(&self) -> (SnapshotMeta, Box<dyn MachineSnapshot>) {
        let applied = self.lock();
        let mut meta =
            SnapshotMeta { last_log_id: applied.last, last_membership: applied.membership.clone() };
        if let Some(last) = meta.last_log_id.as_mut().filter(|_| scp_mutant::on("snapshot-claims-too-much")) {
            last.index += 1;
        }
        if scp_mutant::on("snapshot-without-membership") {
            meta.last_membership = StoredMembership::default();
        }
        (meta, applied.machine.snapshot())
    }

    async fn save(&self, meta: SnapshotMeta, state: Box<dyn MachineSnapshot>) -> io::Result<SnapshotFile> {
        let snapshots = self.snapshots.clone();
        let saved = self.worker.run(move || {
            match snapshots.current() {
                // One that was asked for earlier but is older must not replace a newer one.
                Some(current) if current.meta.last_log_id >= meta.last_log_id => Ok(current),
                _ => snapshots.save(&meta, &*state),
            }
        });
        saved.await.unwrap_or_else(|_| Err(io::Error::other("the snapshot worker is gone")))
    }

    fn lock(&self) -> MutexGuard<'_, Applied> {
        self.machine.lock().expect("a machine that panicked is not used again")
    }

    /// From here on what is applied is shown only at the [end](Self::end_replay): a state that is shown is
    /// shared, and each piece of it is copied at its next change.
    pub(crate) fn begin_replay(&self) {
        self.lock().replaying = true;
    }

    pub(crate) fn end_replay(&self) {
        let mut applied = self.lock();
        applied.replaying = false;
        self.show(applied);
    }

    /// Shows what was applied: the state first, then that it is there.
    fn show(&self, mut applied: MutexGuard<'_, Applied>) {
        if applied.replaying {
            return;
        }
        applied.machine.settle();
        let last = applied.last;
        drop(applied);
        self.applied.send_replace(last.map(|last| last.index));
    }

    /// Applies a batch; answers go out after the new state is published.
    fn apply_batch(&self, batch: &mut Vec<EntryResponder<Types>>) {
        let mut answers: Vec<(ApplyResponder<Types>, Answer)> = Vec::new();
        let mut applied = self.lock();
        if scp_mutant::on("apply-skips-an-entry") && batch.len() > 1 {
            batch.remove(batch.len() - 2);
        }
        for (entry, responder) in batch.drain(..) {
            let id = entry.log_id;
            let answer = match entry.payload {
                EntryPayload::Blank => Answer::default(),
                EntryPayload::Normal(command) => Answer(applied.machine.apply(id.index, &command.0)),
                EntryPayload::Membership(membership) => {
                    applied.membership = StoredMembership::new(Some(id), membership);
                    Answer::default()
                }
            };
            applied.last = Some(id);
            answers.extend(responder.map(|responder| (responder, answer)));
        }
        self.show(applied);
        for (responder, answer) in answers {
            responder.send(answer);
        }
    }
}

/// Hands openraft a snapshot: one that exists, or a new one.
pub(crate) enum Builder {
    Ready(SnapshotFile),
    Capture { applier: Applier, captured: Option<(SnapshotMeta, Box<dyn MachineSnapshot>)> },
}

impl RaftSnapshotBuilder<Types> for SyncBuilder {
    type SnapshotData = SnapshotFile;

    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        let taken = {
            let mut builder = self.0.lock().expect("no one panics while holding it");
            match &mut *builder {
                Builder::Ready(file) => return Ok(snapshot(file.clone())),
                Builder::Capture { applier, captured } => captured.take().map(|it| (applier.clone(), it)),
            }
        };
        let Some((applier, (meta, state))) = taken else {
            return Err(io::Error::other("a snapshot builder builds once"));
        };
        applier.save(meta, state).await.map(snapshot)
    }
}

/// openraft wants builders to be `Sync`; a machine's snapshot need not be.
pub(crate) struct SyncBuilder(Mutex<Builder>);

fn snapshot(file: SnapshotFile) -> Snapshot {
    Snapshot { meta: file.meta.clone(), snapshot: file }
}

impl RaftStateMachine<Types> for Applier {
    type SnapshotData = SnapshotFile;
    type SnapshotBuilder = SyncBuilder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        let applied = self.lock();
        Ok((applied.last, applied.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> Result<(), io::Error>
    where
        S: Stream<Item = Result<EntryResponder<Types>, io::Error>> + Unpin + OptionalSend,
    {
        let mut batch = Vec::new();
        while let Some(entry) = entries.next().await {
            batch.push(entry?);
            if batch.len() == BATCH_MAX {
                self.apply_batch(&mut batch);
            }
        }
        if !batch.is_empty() {
            self.apply_batch(&mut batch);
        }
        Ok(())
    }

    async fn try_create_snapshot_builder(&mut self, force: bool) -> Option<SyncBuilder> {
        if force {
            return Some(self.get_snapshot_builder().await);
        }
        self.snapshots.current().map(|file| SyncBuilder(Mutex::new(Builder::Ready(file))))
    }

    async fn get_snapshot_builder(&mut self) -> SyncBuilder {
        let captured = Some(self.capture());
        SyncBuilder(Mutex::new(Builder::Capture { applier: self.clone(), captured }))
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, file: SnapshotFile) -> Result<(), io::Error> {
        let applier = self.clone();
        let meta = meta.clone();
        let installed = self.worker.run(move || {
            let file = applier.snapshots.adopt(&file)?;
            let mut applied = applier.lock();
            applied.machine.restore(&mut file.state()?)?;
            applied.last = meta.last_log_id;
            if !scp_mutant::on("install-without-membership") {
                applied.membership = meta.last_membership;
            }
            applier.show(applied);
            Ok(())
        });
        installed.await.unwrap_or_else(|_| Err(io::Error::other("the snapshot worker is gone")))
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        Ok(self.snapshots.current().map(snapshot))
    }
}
