//! Writes, many at a time.
//!
//! One group of commands is under way; those that arrive meanwhile gather and become the next: one message to
//! the core, one group in the log, one request to each follower. A lone write never waits. A group that has
//! [`COMPANY`] does not wait for the one before: one is replicated while the other is written and applied, in
//! the order in which they were handed over. Each command is an entry of its own, with its own index and answer:
//! being written together says nothing about being committed together.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use bytes::Bytes;
use futures::{StreamExt, stream::FuturesUnordered};
use openraft::{
    errors::{ClientWriteError, Fatal},
    raft::WriteResult,
};
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};

use crate::{
    config::COMMAND_BYTES_MAX,
    core::Core,
    error::WriteError,
    raft::{Applied, Inner, Raft},
    types::{Command, Types},
};

/// A new leader is known some milliseconds before it takes writes.
const LEADER_PAUSE: Duration = Duration::from_millis(5);
const LEADER_ATTEMPTS: u32 = 40;
/// Groups under way: one on the followers' disks, one on its way there. More would be smaller.
const GROUPS_MAX: usize = 2;
/// Commands of which a group travels beside another: what a group costs, whatever is in it, is then a small
/// part of it.
const COMPANY: usize = 64;

/// What became of one command.
pub type Written = Result<Applied, WriteError>;

/// Commands of one caller, which stay together and in order.
pub(crate) struct Waiting {
    commands: Vec<Bytes>,
    answer: oneshot::Sender<Result<Vec<Written>, WriteError>>,
}

pub(crate) type Writes = mpsc::Sender<Waiting>;

/// Ends when the last handle is gone.
pub(crate) fn queue(writes_max: usize) -> (Writes, mpsc::Receiver<Waiting>) {
    mpsc::channel(writes_max)
}

impl Raft {
    /// Replicates a command and waits until it is applied here. Only on the leader.
    pub async fn write(&self, command: Bytes) -> Written {
        let mut written = self.write_many(vec![command]).await?;
        written.pop().unwrap_or(Err(WriteError::Stopped))
    }

    /// Replicates commands in this order and waits until all are applied here. Only on the leader. An
    /// error as a whole means that none was written.
    pub async fn write_many(&self, commands: Vec<Bytes>) -> Result<Vec<Written>, WriteError> {
        let inner = &self.inner;
        let core = inner.core().ok_or(WriteError::Stopped)?;
        let limit = COMMAND_BYTES_MAX.min((inner.parts.config.segment_bytes / 4) as usize);
        if let Some(command) = commands.iter().find(|command| command.len() > limit) {
            return Err(WriteError::TooLarge { bytes: command.len(), limit });
        }
        if let Some(why) = core.read_only() {
            return Err(WriteError::ReadOnly { why });
        }
        let bytes: usize = commands.iter().map(Bytes::len).sum();
        let permits = |count: usize| u32::try_from(count).map_err(|_| WriteError::Overloaded);
        let overloaded = |_| WriteError::Overloaded;
        let _places = inner.writes.try_acquire_many(permits(commands.len())?).map_err(overloaded)?;
        let _bytes = inner.write_bytes.try_acquire_many(permits(bytes)?).map_err(overloaded)?;
        let count = commands.len();
        let (answer, answered) = oneshot::channel();
        self.writes.try_send(Waiting { commands, answer }).map_err(|_| WriteError::Overloaded)?;
        match timeout(inner.parts.config.write_timeout, answered).await {
            Ok(Ok(written)) => written,
            Ok(Err(_)) => Ok(unknown(count, "agreement stopped")),
            Err(_) => Ok(unknown(count, "no quorum confirmed it in time")),
        }
    }
}

fn unknown(count: usize, why: &str) -> Vec<Written> {
    (0..count).map(|_| Err(WriteError::Unknown { why: why.into() })).collect()
}

/// Hands group after group to the core.
pub(crate) async fn serve(inner: Weak<Inner>, mut waiting: mpsc::Receiver<Waiting>) {
    let mut next: Vec<Waiting> = Vec::new();
    let mut under_way = FuturesUnordered::new();
    loop {
        // Those under way are asked first: a group is handed over before the next one is made.
        tokio::select! {
            biased;
            Some(()) = under_way.next(), if !under_way.is_empty() => {}
            // Bounded by the commands that may be under way at once.
            count = waiting.recv_many(&mut next, usize::MAX) => if count == 0 { break },
        }
        // Who has been told that the outcome is unknown need not have it carried out any more.
        next.retain(|waiting| !waiting.answer.is_closed());
        let commands: usize = next.iter().map(|waiting| waiting.commands.len()).sum();
        let room = if commands < COMPANY { 1 } else { GROUPS_MAX };
        if next.is_empty() || under_way.len() >= room {
            continue;
        }
        let Some(inner) = inner.upgrade() else { return };
        under_way.push(carry_out(inner, std::mem::take(&mut next)));
    }
    while under_way.next().await.is_some() {}
}

async fn carry_out(inner: Arc<Inner>, group: Vec<Waiting>) {
    let commands = group.iter().flat_map(|waiting| waiting.commands.iter().cloned()).collect();
    let written = within_time(&inner, commands).await;
    tell(group, written);
}

async fn within_time(inner: &Arc<Inner>, commands: Vec<Bytes>) -> Result<Vec<Written>, WriteError> {
    let core = inner.core().ok_or(WriteError::Stopped)?;
    let count = commands.len();
    let written = timeout(inner.parts.config.write_timeout, submit(inner, &core, commands)).await;
    written.unwrap_or_else(|_| Ok(unknown(count, "no quorum confirmed it in time")))
}

/// Hands each caller what became of its commands.
fn tell(group: Vec<Waiting>, written: Result<Vec<Written>, WriteError>) {
    let mut written = written.map(Vec::into_iter);
    for Waiting { commands, answer } in group {
        let own = written.as_mut().map(|written| written.by_ref().take(commands.len()).collect());
        let own = own.map_err(|error| error.clone());
        // Whoever asked may have gone.
        let _ = answer.send(own);
    }
}

/// Hands commands to the core, again while it begins to lead.
async fn submit(inner: &Arc<Inner>, core: &Core, commands: Vec<Bytes>) -> Result<Vec<Written>, WriteError> {
    for _ in 0..LEADER_ATTEMPTS {
        let submitted = core.raft.client_write_many(commands.iter().cloned().map(Command)).await;
        let answers = submitted.map_err(|error| WriteError::Unknown { why: error.to_string() })?;
        let mut written: Vec<Written> = answers.map(outcome).collect().await;
        // The core ended half way: nothing more comes.
        written.resize(commands.len(), Err(WriteError::Unknown { why: "agreement stopped".into() }));
        if !written.iter().all(|written| matches!(written, Err(WriteError::NotLeader { .. }))) {
            return Ok(written);
        }
        if core.raft.current_leader().await != Some(inner.parts.config.node) {
            return Ok(written);
        }
        tokio::time::sleep(LEADER_PAUSE).await;
    }
    Err(WriteError::NotLeader { leader: Some(inner.parts.config.node) })
}

fn outcome(answer: Result<WriteResult<Types>, Fatal<Types>>) -> Written {
    let stopped = |error: &dyn std::fmt::Display| Err(WriteError::Unknown { why: error.to_string() });
    match answer {
        Ok(Ok(response)) => Ok(Applied { index: response.log_id.index, answer: response.response.0 }),
        Ok(Err(ClientWriteError::ForwardToLeader(to))) => Err(WriteError::NotLeader { leader: to.leader_id }),
        Ok(Err(error)) => stopped(&error),
        Err(error) => stopped(&error),
    }
}
