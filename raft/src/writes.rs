//! Writes, many at a time.
//!
//! One group of commands is under way; those that arrive meanwhile gather and become the next: one message to
//! the core, one group in the log, one request to each follower, which has one under way at a time in any case. A
//! lone write never waits. Each command is an entry of its own, with its own index and answer: being written
//! together says nothing about being committed together.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use bytes::Bytes;
use futures::StreamExt;
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
    let mut group = Vec::new();
    // Bounded by the commands that may be under way at once.
    while waiting.recv_many(&mut group, usize::MAX).await > 0 {
        let Some(inner) = inner.upgrade() else { return };
        // Who has been told that the outcome is unknown need not have it carried out any more.
        group.retain(|waiting: &Waiting| !waiting.answer.is_closed());
        if group.is_empty() {
            continue;
        }
        let commands: Vec<Bytes> =
            group.iter().flat_map(|waiting| waiting.commands.iter().cloned()).collect();
        let written = carry_out(&inner, commands).await;
        tell(group.drain(..), written);
    }
}

async fn carry_out(inner: &Arc<Inner>, commands: Vec<Bytes>) -> Result<Vec<Written>, WriteError> {
    let core = inner.core().ok_or(WriteError::Stopped)?;
    let count = commands.len();
    let written = timeout(inner.parts.config.write_timeout, submit(inner, &core, commands)).await;
    written.unwrap_or_else(|_| Ok(unknown(count, "no quorum confirmed it in time")))
}

/// Hands each caller what became of its commands.
fn tell(group: impl Iterator<Item = Waiting>, written: Result<Vec<Written>, WriteError>) {
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
