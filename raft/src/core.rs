//! One run of openraft over one opening of the log. Replaced as a whole when the disk failed and came
//! back; the machine lives on.

use std::sync::Arc;

use openraft::{ReadPolicy, errors::LinearizableReadError, errors::RaftError};

use crate::{
    applier::Applier, config::Config, disk::Disk, error::StartError, log::Log, network::Network,
    peers::Peers, silence::Silence, types::Types, wire::Refusal,
};

pub(crate) type Openraft = openraft::Raft<Types, Applier>;

#[derive(Clone)]
pub(crate) struct Core {
    pub(crate) raft: Openraft,
    pub(crate) log: Log,
    pub(crate) applier: Applier,
    segment_bytes: u64,
}

/// What outlives a core.
#[derive(Clone)]
pub(crate) struct Parts {
    pub(crate) config: Arc<Config>,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) network: Arc<dyn Network>,
    pub(crate) applier: Applier,
}

impl Core {
    /// Opens the log and starts openraft. `void_from`: what an earlier run could not sync.
    pub(crate) async fn open(parts: &Parts, void_from: Option<u64>) -> Result<Self, StartError> {
        let Parts { config, disk, network, applier } = parts.clone();
        let segment_bytes = config.segment_bytes;
        let opened = applier.worker().run(move || Log::open(disk, segment_bytes, void_from)).await;
        let (log, cut) = opened.map_err(|_| StartError::Core("the runtime is shutting down".into()))??;
        if cut {
            tracing::warn!("an unfinished write was cut from the end of the log");
        }
        // A quorum may commit what this node could not sync, and it was applied here. Then the machine
        // is ahead of the log, and a snapshot has to take the place of what is missing.
        if applier.last() > log.last() {
            applier.save_snapshot().await.map_err(|error| StartError::Core(error.to_string()))?;
        }
        if config.has_taken_part && !log.has_vote() {
            log.close().await;
            return Err(StartError::Forgotten(config.node));
        }
        let snapshot = applier.snapshots().current();
        let covered = snapshot.as_ref().and_then(|file| file.meta.last_log_id);
        let due = config.snapshot_due(snapshot.map_or(0, |file| file.offer.bytes));
        log.set_snapshot(covered.map(|id| id.index), due);
        let openraft_config = Arc::new(config.openraft().map_err(StartError::Config)?);
        let node = config.node;
        let silence = Silence::new(&config);
        let peers = Peers { network, worker: applier.worker(), config, silence: silence.clone() };
        applier.begin_replay();
        let raft = Openraft::new(node, openraft_config, peers, log.clone(), applier.clone()).await;
        applier.end_replay();
        let raft = raft.map_err(|error| StartError::Core(error.to_string()))?;
        silence.watch(raft.metrics());
        Ok(Self { raft, log, applier, segment_bytes })
    }

    /// Ends openraft, then the log. Returns the first group that is not known to be synced.
    pub(crate) async fn close(&self) -> Option<u64> {
        if let Err(error) = self.raft.shutdown().await {
            tracing::error!(%error, "openraft did not end in order");
        }
        self.log.close().await
    }

    /// Why this node takes no writes.
    pub(crate) fn read_only(&self) -> Option<String> {
        let space = self.log.space();
        let space = space.borrow();
        let disk = space.failed.as_ref().or(space.full.as_ref()).map(ToString::to_string);
        disk.or_else(|| self.log.is_overgrown().then(|| "no snapshot could be taken for too long".to_owned()))
    }

    /// A follower takes entries into its reserve while three quarters of it last: the leader may have
    /// sent them before it knew. The rest is for votes and a new leader's first entries.
    pub(crate) fn takes_entries(&self) -> Result<(), Refusal> {
        self.used_up().map_or(Ok(()), |why| Err(Refusal::ReadOnly(why)))
    }

    fn used_up(&self) -> Option<String> {
        let space = self.log.space();
        let space = space.borrow();
        let full = space.full.as_ref().filter(|_| space.reserve < self.segment_bytes / 4);
        full.map(ToString::to_string)
    }

    /// Why the log here takes nothing more, not even what the others commit.
    pub(crate) fn stuck(&self) -> Option<String> {
        let failed = self.log.space().borrow().failed.as_ref().map(ToString::to_string);
        failed.or_else(|| self.used_up())
    }

    /// On the leader, confirmed by a quorum: the index that a read must see.
    pub(crate) async fn read_index(&self) -> Result<u64, Refusal> {
        let policy = match scp_mutant::on("lease-without-margin") {
            true => ReadPolicy::LeaseRead,
            false => ReadPolicy::ReadIndex,
        };
        match self.raft.get_read_log_id(policy).await {
            Ok((read, _)) => Ok(read.index()),
            Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(_))) => Err(Refusal::NotLeader),
            Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(_))) => Err(Refusal::NoQuorum),
            Err(RaftError::Fatal(_)) => Err(Refusal::Stopped),
        }
    }
}
