//! Keeps a node's Raft going: publishes its status, takes snapshots when the log grew, waits out a full
//! disk, opens everything anew after a failed one.
//!
//! # When the disk is full
//! The writer could not allocate its next spare segment; most of the current one is still free. From
//! then on:
//! - this node refuses writes ([`WriteError::ReadOnly`](crate::WriteError)); a leader first hands over
//!   to a voter whose disk takes writes, if there is one;
//! - a follower takes the leader's entries until a quarter of the reserve is left, then refuses them;
//!   heartbeats, votes and reads go on;
//! - every [`Config::retry`](crate::Config) the spare is tried again; once it is there, all is as before.
//!
//! The same holds when the log has grown far beyond its bound because no snapshot could be taken.
//! openraft, to which a storage error is the end, never hears of it.
//!
//! # When the disk fails
//! Whatever the writer could not sync is void. openraft is stopped, and every `retry` the log is opened
//! anew, without the void groups, until that succeeds; then openraft starts again on it. The machine
//! keeps its state, so reads that need no quorum go on meanwhile.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use openraft::{
    Instant as _, ServerState, TokioInstant,
    async_runtime::WatchReceiver,
    errors::Fatal,
    metrics::{RaftMetrics, RaftServerMetrics},
};
use scp_model::NodeId;
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};

use crate::{
    core::Core,
    peers::ask,
    raft::Inner,
    status::{Peer, Role, Status},
    types::Types,
    wire::{Request, Response},
};

/// openraft learns of a finished snapshot within moments; if not, the next one will do.
const SNAPSHOT_SEEN_TIMEOUT: Duration = Duration::from_secs(5);

/// Between two publications of how far the log is, which changes with every entry. Who leads and who votes is
/// published at once.
const PACE: Duration = Duration::from_millis(10);

type Metrics = openraft::alias::WatchReceiverOf<Types, RaftMetrics<Types>>;
type Roles = openraft::alias::WatchReceiverOf<Types, RaftServerMetrics<Types>>;

/// Runs until the node is stopped.
pub(crate) async fn keep(inner: Arc<Inner>, mut stop: watch::Receiver<bool>) {
    let mut retry = interval(inner.parts.config.retry);
    retry.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let compacting = Arc::new(AtomicBool::new(false));
    while let Some(core) = inner.core() {
        let mut metrics = core.raft.metrics();
        let mut roles = core.raft.server_metrics();
        let mut space = core.log.space();
        let grown = core.log.grown();
        loop {
            let told = Told::now(&core);
            inner.publish(told.status(&inner, &core));
            match condition(&core) {
                Condition::Sound => {}
                Condition::Failed(why) => {
                    tokio::select! {
                        () = reopen(&inner, &core, &why) => break,
                        () = asked(&mut stop) => return,
                    }
                }
                Condition::Panicked => {
                    tracing::error!("Raft panicked: this node takes part no more until it is restarted");
                    inner.stopped("Raft panicked: restart scpd and report this");
                    return;
                }
            }
            tokio::select! {
                lasts = news(&core, (&mut roles, &mut metrics), &told) => {
                    if !lasts && condition(&core) == Condition::Sound {
                        return;
                    }
                }
                _ = space.changed() => {}
                () = grown.notified() => compact_aside(&inner, &core, &compacting),
                _ = retry.tick() => if core.read_only().is_some() {
                    core.log.replenish().await;
                    if core.log.has_outgrown_snapshot() {
                        compact_aside(&inner, &core, &compacting);
                    }
                    hand_over(&inner, &core).await;
                },
                () = asked(&mut stop) => return,
            }
        }
    }
}

/// Ends when a status would say something else than what was `told`: of the group at once, of the log at the `PACE`
/// at which it is looked at. False: openraft has ended.
async fn news(core: &Core, (roles, metrics): (&mut Roles, &mut Metrics), told: &Told) -> bool {
    loop {
        let next = Instant::now() + PACE;
        let paced = async {
            metrics.changed().await?;
            if Instant::now() < next {
                sleep_until(next).await;
            }
            Ok(())
        };
        let changed = tokio::select! {
            biased;
            changed = roles.changed() => changed,
            changed = paced => changed,
        };
        if changed.is_err() || told.is_old(core) {
            return changed.is_ok();
        }
    }
}

/// What a status is made of. openraft sends its metrics whenever it has done anything, a hundred times a second for
/// its clock alone; a status is made anew only when it would be another.
struct Told {
    metrics: RaftMetrics<Types>,
    overgrown: bool,
}

impl Told {
    fn now(core: &Core) -> Self {
        Self { metrics: core.raft.metrics().borrow_watched().clone(), overgrown: core.log.is_overgrown() }
    }

    /// A status that is made now would be another.
    fn is_old(&self, core: &Core) -> bool {
        let metrics = core.raft.metrics();
        let (told, now) = (&self.metrics, metrics.borrow_watched());
        let group = told.state == now.state
            && told.current_leader == now.current_leader
            && told.current_term == now.current_term
            && told.running_state == now.running_state
            && told.membership_config == now.membership_config;
        let log = told.last_log_index == now.last_log_index
            && told.local_committed == now.local_committed
            && told.last_applied == now.last_applied
            && told.snapshot == now.snapshot
            && self.overgrown == core.log.is_overgrown();
        let peers = told.last_quorum_acked == now.last_quorum_acked
            && told.heartbeat == now.heartbeat
            && told.replication == now.replication;
        !(group && log && peers)
    }

    /// In our words.
    fn status(&self, inner: &Inner, core: &Core) -> Status {
        let metrics = &self.metrics;
        let membership = metrics.membership_config.membership();
        let index = |id: Option<crate::types::LogId>| id.map_or(0, |id| id.index);
        Status {
            node: inner.parts.config.node,
            role: match metrics.state {
                ServerState::Learner => Role::Learner,
                ServerState::Follower => Role::Follower,
                ServerState::Candidate => Role::Candidate,
                ServerState::Leader => Role::Leader,
                ServerState::Shutdown => Role::Stopped,
            },
            leader: metrics.current_leader,
            term: metrics.current_term,
            voters: membership.voter_ids().collect(),
            learners: membership.learner_ids().collect(),
            joint: membership.get_joint_config().len() > 1,
            last_log: metrics.last_log_index.unwrap_or(0),
            committed: index(metrics.local_committed),
            applied: core.applier.applied().borrow().unwrap_or(0),
            snapshot: index(metrics.snapshot),
            read_only: core.read_only(),
            quorum_acked_at: metrics.last_quorum_acked.as_ref().map(|at| inner.clock.instant(**at)),
            peers: peers(inner, metrics),
        }
    }
}

async fn asked(stop: &mut watch::Receiver<bool>) {
    // An error means that the node is gone: just as good a reason.
    let _ = stop.wait_for(|stop| *stop).await;
}

#[derive(Debug, PartialEq, Eq)]
enum Condition {
    Sound,
    Failed(String),
    Panicked,
}

fn condition(core: &Core) -> Condition {
    let running = core.raft.metrics().borrow_watched().running_state.clone();
    match running {
        Ok(()) | Err(Fatal::Stopped) => {
            let space = core.log.space();
            let failed = space.borrow().failed.clone();
            failed.map_or(Condition::Sound, |error| Condition::Failed(error.to_string()))
        }
        Err(Fatal::StorageError(error)) => Condition::Failed(error.to_string()),
        Err(Fatal::Panicked) => Condition::Panicked,
    }
}

/// Replaces a core whose disk failed, as soon as the disk lets it.
async fn reopen(inner: &Arc<Inner>, core: &Core, why: &str) {
    tracing::error!(why, "the disk failed; Raft waits for it");
    inner.restarting(why);
    let void_from = core.close().await;
    loop {
        tokio::time::sleep(inner.parts.config.retry).await;
        match Core::open(&inner.parts, void_from).await {
            Ok(core) => {
                tracing::warn!("the disk works again; Raft goes on");
                inner.replace(core);
                return;
            }
            Err(error) => inner.restarting(&error.to_string()),
        }
    }
}

/// A leader that takes no writes looks for a voter that does.
async fn hand_over(inner: &Arc<Inner>, core: &Core) {
    let status = status(inner, core);
    if status.read_only.is_none() || status.role != Role::Leader {
        return;
    }
    for voter in status.voters.into_iter().filter(|&voter| voter != inner.parts.config.node) {
        let answer =
            ask(&*inner.parts.network, voter, &Request::Writable, inner.parts.config.election_timeout_max)
                .await;
        if matches!(answer, Ok(Response::Writable)) {
            tracing::warn!(%voter, "handing leadership over: the disk here takes no writes");
            if core.raft.trigger().transfer_leader(voter).await.is_err() {
                return;
            }
            // It shows within an election timeout whether that worked; the next retry looks again.
            return;
        }
    }
}

fn compact_aside(inner: &Arc<Inner>, core: &Core, compacting: &Arc<AtomicBool>) {
    if compacting.swap(true, Ordering::AcqRel) {
        return;
    }
    let (inner, core, compacting) = (inner.clone(), core.clone(), compacting.clone());
    tokio::spawn(async move {
        if let Err(error) = compact(&inner, &core).await {
            tracing::warn!(%error, "no snapshot was taken; the log keeps growing");
            // Full or failing: at the pace of retries, not of appends.
            tokio::time::sleep(inner.parts.config.retry).await;
        }
        compacting.store(false, Ordering::Release);
    });
}

/// Takes a snapshot and purges what it covers, but for what stays for followers a little behind.
pub(crate) async fn compact(inner: &Inner, core: &Core) -> io::Result<()> {
    let Some(applied) = core.applier.last() else { return Ok(()) };
    // What is too much waits to be committed: the same snapshot once more would change nothing, and call for
    // the next. The entry after asks again.
    if core.log.snapshot().is_some_and(|covered| covered >= applied.index) {
        return Ok(());
    }
    let file = core.applier.save_snapshot().await?;
    let Some(covered) = file.meta.last_log_id else { return Ok(()) };
    let stopped = |error: Fatal<Types>| io::Error::other(error.to_string());
    core.raft.trigger().snapshot().await.map_err(stopped)?;
    let mut metrics = core.raft.metrics();
    let seen = async {
        while metrics.borrow_watched().snapshot < Some(covered) && metrics.changed().await.is_ok() {}
    };
    let _ = tokio::time::timeout(SNAPSHOT_SEEN_TIMEOUT, seen).await;
    core.log.set_snapshot(Some(covered.index), inner.parts.config.snapshot_due(file.offer.bytes));
    if let Some(upto) = core.log.purge_point(covered.index, inner.parts.config.keep_log_bytes) {
        core.raft.trigger().purge_log(upto).await.map_err(stopped)?;
    }
    Ok(())
}

/// What openraft and the log say now, in our words.
pub(crate) fn status(inner: &Inner, core: &Core) -> Status {
    Told::now(core).status(inner, core)
}

/// openraft's instants in tokio's: the same clock, but the type keeps its inside to itself.
pub(crate) struct Clock {
    theirs: TokioInstant,
    ours: Instant,
}

impl Clock {
    pub(crate) fn start() -> Self {
        Self { theirs: TokioInstant::now(), ours: Instant::now() }
    }

    fn instant(&self, theirs: TokioInstant) -> Instant {
        self.ours + (theirs - self.theirs)
    }
}

fn peers(inner: &Inner, metrics: &RaftMetrics<Types>) -> std::collections::BTreeMap<NodeId, Peer> {
    let Some(replication) = &metrics.replication else { return Default::default() };
    let acked = |peer: &NodeId| {
        let at = metrics.heartbeat.as_ref()?.get(peer)?.as_ref()?;
        Some(inner.clock.instant(**at))
    };
    replication
        .iter()
        .filter(|&(&peer, _)| peer != inner.parts.config.node)
        .map(|(&peer, matched)| (peer, Peer { matched: matched.map(|id| id.index), acked_at: acked(&peer) }))
        .collect()
}
