//! The handle that the rest of the node holds.

use std::{
    collections::BTreeSet,
    sync::{Arc, RwLock},
};

use bytes::Bytes;
use openraft::{
    ChangeMembers,
    async_runtime::WatchReceiver,
    errors::{ChangeMembershipError, ClientWriteError, InitializeError, RaftError},
    raft::ClientWriteResponse,
};
use scp_model::NodeId;
use tokio::{
    sync::{Semaphore, oneshot, watch},
    time::{Instant, timeout, timeout_at},
};

use crate::{
    applier::Applier,
    config::Config,
    core::{Core, Parts},
    disk::{Disk, DiskError},
    error::{ChangeError, ReadError, StartError, TransferError},
    keeper,
    machine::Machine,
    network::Network,
    reads::{self, READ_PAUSE, Reads},
    snapshot::Snapshots,
    status::{Role, Status},
    types::{LogId, Types},
    wire::{self, Refusal, Response},
    worker::Worker,
    writes::{self, Writes},
};

/// Whose directory this is.
const IDENTITY: &str = "identity";
/// Format of the identity file.
const IDENTITY_VERSION: u16 = 1;
/// Entries that a node may be behind and still become a voter.
const LAG_MAX: u64 = 1000;

/// What a node brings.
pub struct Ports {
    pub machine: Box<dyn Machine>,
    pub network: Arc<dyn Network>,
    pub disk: Arc<dyn Disk>,
}

/// A committed and applied write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    pub index: u64,
    /// What the machine answered.
    pub answer: Vec<u8>,
}

/// Cheap to clone; all clones are the same node. Stopped by [`Raft::shutdown`], not by being dropped.
#[derive(Clone)]
pub struct Raft {
    pub(crate) inner: Arc<Inner>,
    reads: Reads,
    pub(crate) writes: Writes,
}

pub(crate) struct Inner {
    pub(crate) parts: Parts,
    pub(crate) clock: keeper::Clock,
    core: RwLock<Option<Core>>,
    status: watch::Sender<Status>,
    stop: watch::Sender<bool>,
    pub(crate) writes: Semaphore,
    /// Bytes of commands under way: a quarter of a segment, so that they fit the reserve.
    pub(crate) write_bytes: Semaphore,
}

impl Inner {
    pub(crate) fn core(&self) -> Option<Core> {
        self.core.read().expect("no one panics while holding the core").clone()
    }

    pub(crate) fn replace(&self, core: Core) {
        let mut slot = self.core.write().expect("no one panics while holding the core");
        if slot.is_some() {
            *slot = Some(core);
        }
    }

    pub(crate) fn publish(&self, status: Status) {
        self.status.send_if_modified(|published| {
            let changed = *published != status;
            if changed {
                *published = status;
            }
            changed
        });
    }

    pub(crate) fn restarting(&self, why: &str) {
        self.status.send_modify(|status| {
            status.role = Role::Restarting;
            status.leader = None;
            status.read_only = Some(why.to_owned());
        });
    }

    pub(crate) fn stopped(&self, why: &str) {
        *self.core.write().expect("no one panics while holding the core") = None;
        self.status.send_modify(|status| {
            status.role = Role::Stopped;
            status.leader = None;
            status.read_only = Some(why.to_owned());
        });
    }
}

impl Raft {
    /// Opens the log, restores the machine from snapshot and log, and starts taking part.
    pub async fn start(config: Config, ports: Ports) -> Result<Self, StartError> {
        let clock = keeper::Clock::start();
        let config = Arc::new(config);
        let worker = Worker::spawn(ports.disk.place())
            .map_err(|error| DiskError::Failed(format!("the snapshot thread did not start: {error}")))?;
        let (disk, node) = (ports.disk.clone(), config.node);
        let opened = worker.run(move || {
            check_identity(&*disk, node)?;
            Snapshots::open(disk)
        });
        let snapshots =
            opened.await.map_err(|_| StartError::Core("the runtime is shutting down".into()))??;
        let applier = Applier::new(ports.machine, snapshots, worker);
        let parts = Parts { config, disk: ports.disk, network: ports.network, applier };
        let core = Core::open(&parts, None).await?;
        let write_bytes = usize::try_from(parts.config.segment_bytes / 4).unwrap_or(Semaphore::MAX_PERMITS);
        let inner = Arc::new(Inner {
            clock,
            writes: Semaphore::new(parts.config.writes_max),
            write_bytes: Semaphore::new(write_bytes.min(Semaphore::MAX_PERMITS)),
            status: watch::channel(unknown(node)).0,
            stop: watch::channel(false).0,
            core: RwLock::new(Some(core.clone())),
            parts,
        });
        inner.publish(keeper::status(&inner, &core));
        let (reads, waiting) = reads::queue();
        tokio::spawn(reads::serve(Arc::downgrade(&inner), waiting));
        let (writes, waiting) = writes::queue(inner.parts.config.writes_max);
        tokio::spawn(writes::serve(Arc::downgrade(&inner), waiting));
        tokio::spawn(keeper::keep(inner.clone(), inner.stop.subscribe()));
        Ok(Self { inner, reads, writes })
    }

    /// Founds a group of this node alone, and returns once it leads. On a node that has a log already
    /// this changes nothing.
    pub async fn initialize(&self) -> Result<(), ChangeError> {
        let core = self.inner.core().ok_or(ChangeError::Stopped)?;
        match core.raft.initialize(BTreeSet::from([self.inner.parts.config.node])).await {
            Ok(()) => {}
            Err(RaftError::APIError(InitializeError::NotAllowed(_))) => return Ok(()),
            Err(RaftError::APIError(InitializeError::NotInMembers(error))) => {
                return Err(ChangeError::Impossible(error.to_string()));
            }
            Err(RaftError::Fatal(_)) => return Err(ChangeError::Stopped),
        }
        let mut status = self.status();
        let leads = status.wait_for(|status| status.role == Role::Leader && status.applied > 0);
        match timeout(self.inner.parts.config.write_timeout, leads).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(ChangeError::Stopped),
            Err(_) => Err(ChangeError::Unknown("this node did not become leader of itself".into())),
        }
    }

    /// Returns once everything that was acknowledged anywhere before the call is applied here: read
    /// the machine's state after it. On every node; followers and learners ask the leader.
    pub async fn linearizable(&self) -> Result<u64, ReadError> {
        if scp_mutant::on("read-without-asking") {
            return Ok(self.applied());
        }
        let deadline = Instant::now() + self.inner.parts.config.read_timeout;
        let index = loop {
            let failure = match timeout_at(deadline, self.confirm()).await {
                Ok(Ok(index)) => break index,
                Ok(Err(ReadError::Stopped)) => return Err(ReadError::Stopped),
                Ok(Err(failure)) => failure,
                Err(_) => ReadError::NoLeader,
            };
            if Instant::now() + READ_PAUSE >= deadline {
                return Err(failure);
            }
            tokio::time::sleep(READ_PAUSE).await;
        };
        if scp_mutant::on("read-before-applied") {
            return Ok(index);
        }
        tokio::select! {
            biased;
            there = self.await_applied(index, deadline) => there.map(|()| index),
            () = self.out_of_reach(index) => {
                Err(ReadError::Behind { applied: self.applied(), needed: index })
            }
        }
    }

    /// Ends when the entry that is `needed` is not in the log, and the log takes no more.
    async fn out_of_reach(&self, needed: u64) {
        let Some(core) = self.inner.core() else { return };
        let mut space = core.log.space();
        while core.stuck().is_none() || core.log.last().is_some_and(|last| last.index >= needed) {
            if space.changed().await.is_err() {
                return;
            }
        }
    }

    /// Why this node's log takes nothing more, not even what the others commit. What is written through
    /// another node then is not seen here.
    pub fn stuck(&self) -> Option<String> {
        self.inner.core()?.stuck()
    }

    async fn confirm(&self) -> Result<u64, ReadError> {
        let (answer, confirmed) = oneshot::channel();
        self.reads.send(answer).await.map_err(|_| ReadError::Stopped)?;
        confirmed.await.map_err(|_| ReadError::Stopped)?
    }

    /// Index of the last entry applied here.
    pub fn applied(&self) -> u64 {
        self.inner.parts.applier.applied().borrow().unwrap_or(0)
    }

    /// Waits until `index` is applied here.
    pub async fn wait_applied(&self, index: u64) -> Result<(), ReadError> {
        self.await_applied(index, Instant::now() + self.inner.parts.config.read_timeout).await
    }

    async fn await_applied(&self, needed: u64, deadline: Instant) -> Result<(), ReadError> {
        let mut applied = self.inner.parts.applier.applied();
        if applied.borrow().is_some_and(|applied| applied >= needed) {
            return Ok(());
        }
        let there = applied.wait_for(|applied| applied.is_some_and(|applied| applied >= needed));
        match timeout_at(deadline, there).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(ReadError::Stopped),
            Err(_) => Err(ReadError::Behind { applied: self.applied(), needed }),
        }
    }

    pub fn status(&self) -> watch::Receiver<Status> {
        self.inner.status.subscribe()
    }

    /// Answers a peer's request: what [`Network::call`] carries ends here.
    pub async fn answer(&self, from: NodeId, request: Bytes) -> Bytes {
        let response = match (wire::decode(&request), self.inner.core()) {
            (Err(error), _) => Response::Refused(Refusal::Invalid(error.to_string())),
            (Ok(_), None) => Response::Refused(Refusal::Stopped),
            (Ok(request), Some(core)) => core.answer(from, request).await,
        };
        wire::encode(&response).expect("answers are small")
    }

    /// Makes `node` receive the log. Returns when the change is committed, not when it has caught up.
    pub async fn add_learner(&self, node: NodeId) -> Result<u64, ChangeError> {
        let core = self.inner.core().ok_or(ChangeError::Stopped)?;
        let status = keeper::status(&self.inner, &core);
        if status.role == Role::Leader && (status.learners.contains(&node) || status.voters.contains(&node)) {
            return Ok(status.last_log);
        }
        changed(core.raft.add_learner(node, (), false).await)
    }

    /// Makes exactly these learners and voters the voters, through one joint step; the voters left
    /// out become learners. All of them must be caught up. When the leader fails half way,
    /// [`Status::joint`] stays true: ask the next one for the same again.
    pub async fn change_voters(&self, voters: BTreeSet<NodeId>) -> Result<u64, ChangeError> {
        let core = self.inner.core().ok_or(ChangeError::Stopped)?;
        let status = keeper::status(&self.inner, &core);
        if status.role != Role::Leader {
            return Err(ChangeError::NotLeader { leader: status.leader });
        }
        if !status.joint && status.voters == voters {
            return Ok(status.last_log);
        }
        for &voter in voters.iter().filter(|&&voter| voter != self.inner.parts.config.node) {
            let Some(peer) = status.peers.get(&voter) else {
                return Err(ChangeError::Impossible(format!("node {voter} is not a learner")));
            };
            let behind = status.last_log.saturating_sub(peer.matched.unwrap_or(0));
            if peer.matched.is_none() || behind > LAG_MAX {
                return Err(ChangeError::Impossible(format!("node {voter} is {behind} entries behind")));
            }
        }
        changed(core.raft.change_membership(ChangeMembers::ReplaceAllVoters(voters), true).await)
    }

    /// Takes a learner out of the group. A voter has to be made a learner first.
    pub async fn remove(&self, node: NodeId) -> Result<u64, ChangeError> {
        let core = self.inner.core().ok_or(ChangeError::Stopped)?;
        let status = keeper::status(&self.inner, &core);
        if status.role != Role::Leader {
            return Err(ChangeError::NotLeader { leader: status.leader });
        }
        if status.voters.contains(&node) {
            return Err(ChangeError::Impossible(format!("node {node} is a voter")));
        }
        if !status.learners.contains(&node) {
            return Ok(status.last_log);
        }
        let change = ChangeMembers::RemoveNodes(BTreeSet::from([node]));
        changed(core.raft.change_membership(change, false).await)
    }

    /// Hands leadership to the voter that is furthest, and returns it once it leads.
    pub async fn transfer_leadership(&self) -> Result<NodeId, TransferError> {
        let core = self.inner.core().ok_or(TransferError::Stopped)?;
        let status = keeper::status(&self.inner, &core);
        if status.role != Role::Leader {
            return Err(TransferError::NotLeader { leader: status.leader });
        }
        let reached = |voter: &NodeId| status.peers.get(voter).map(|peer| (peer.matched, peer.acked_at));
        let mut others: Vec<NodeId> =
            status.voters.iter().copied().filter(|voter| status.peers.contains_key(voter)).collect();
        others.sort_by_key(|voter| std::cmp::Reverse(reached(voter)));
        let mut failure = TransferError::NoCandidate;
        for voter in others {
            core.raft.trigger().transfer_leader(voter).await.map_err(|_| TransferError::Stopped)?;
            let mut metrics = core.raft.metrics();
            let takes_over = async {
                loop {
                    let leader = metrics.borrow_watched().current_leader;
                    match leader.filter(|&leader| leader != self.inner.parts.config.node) {
                        Some(leader) => return Some(leader),
                        None => metrics.changed().await.ok()?,
                    }
                }
            };
            match timeout(self.inner.parts.config.election_timeout_max * 2, takes_over).await {
                Ok(Some(leader)) => return Ok(leader),
                Ok(None) => return Err(TransferError::Stopped),
                Err(_) => failure = TransferError::TimedOut(voter),
            }
        }
        Err(failure)
    }

    /// Takes a snapshot now and drops the log that it covers, but for what is kept for followers.
    pub async fn compact(&self) -> Result<(), DiskError> {
        let core = self.inner.core().ok_or_else(|| DiskError::Failed("Raft is stopped".into()))?;
        keeper::compact(&self.inner, &core).await.map_err(|error| DiskError::Failed(error.to_string()))
    }

    /// Hands leadership over, then stops. Everything acknowledged is on disk.
    pub async fn shutdown(&self) {
        match self.transfer_leadership().await {
            Ok(leader) => tracing::info!(%leader, "handed leadership over"),
            Err(TransferError::NotLeader { .. } | TransferError::NoCandidate | TransferError::Stopped) => {}
            Err(error @ TransferError::TimedOut(_)) => tracing::warn!(%error, "stopping all the same"),
        }
        self.stop().await;
    }

    async fn stop(&self) {
        let core = self.inner.core.write().expect("no one panics while holding the core").take();
        self.inner.stop.send_replace(true);
        if let Some(core) = core {
            core.close().await;
        }
        self.inner.stopped("stopped");
    }
}

fn unknown(node: NodeId) -> Status {
    Status {
        node,
        role: Role::Learner,
        leader: None,
        term: 0,
        voters: BTreeSet::new(),
        learners: BTreeSet::new(),
        joint: false,
        last_log: 0,
        committed: 0,
        applied: 0,
        snapshot: 0,
        read_only: None,
        quorum_acked_at: None,
        peers: Default::default(),
    }
}

/// A directory is one node's for ever: another's votes and log would break what both promised.
fn check_identity(disk: &dyn Disk, expected: NodeId) -> Result<(), StartError> {
    let damaged = |why: String| StartError::Disk(DiskError::Failed(format!("{IDENTITY}: {why}")));
    let file = match disk.open(IDENTITY) {
        Ok(file) => file,
        Err(DiskError::NotFound(_)) => {
            let bytes = scp_codec::encode(IDENTITY_VERSION, &expected).expect("a number encodes");
            return Ok(disk.replace(IDENTITY, &bytes)?);
        }
        Err(error) => return Err(error.into()),
    };
    let mut bytes = vec![0; file.size()?.min(1024) as usize];
    file.read_at(0, &mut bytes)?;
    let found: NodeId =
        scp_codec::decode(IDENTITY_VERSION, &bytes, 1024).map_err(|error| damaged(error.to_string()))?;
    if found == expected { Ok(()) } else { Err(StartError::Identity { found, expected }) }
}

fn changed(
    result: Result<ClientWriteResponse<Types>, RaftError<Types, ClientWriteError<Types>>>,
) -> Result<u64, ChangeError> {
    match result {
        Ok(response) => Ok(index(response.log_id)),
        Err(RaftError::Fatal(error)) => Err(ChangeError::Unknown(error.to_string())),
        Err(RaftError::APIError(ClientWriteError::ForwardToLeader(forward))) => {
            Err(ChangeError::NotLeader { leader: forward.leader_id })
        }
        Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(error))) => Err(match error {
            ChangeMembershipError::InProgress(_) | ChangeMembershipError::UncommittedLeaderLog(_) => {
                ChangeError::InProgress
            }
            ChangeMembershipError::EmptyMembership(_)
            | ChangeMembershipError::LearnerNotFound(_)
            | ChangeMembershipError::UnsupportedMembershipTransition(_)
            | ChangeMembershipError::NodeMetadataChanged(_) => ChangeError::Impossible(error.to_string()),
        }),
        Err(RaftError::APIError(
            error @ (ClientWriteError::LogEntryDiscarded(_) | ClientWriteError::PreconditionFailed(_)),
        )) => Err(ChangeError::Unknown(error.to_string())),
    }
}

fn index(id: LogId) -> u64 {
    id.index
}
