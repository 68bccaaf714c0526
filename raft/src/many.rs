//! Many writes at once: one message to the core, one group in the log, answers in order.
//!
//! Each command is an entry of its own, with its own index and answer: being written together says
//! nothing about being committed together. What is saved is the way: one hand-over to the core instead
//! of one a command.

use bytes::Bytes;
use futures::StreamExt;
use openraft::errors::ClientWriteError;
use tokio::time::timeout;

use crate::{
    config::COMMAND_BYTES_MAX,
    core::Core,
    error::WriteError,
    raft::{Applied, LEADER_ATTEMPTS, LEADER_PAUSE, Raft},
    types::Command,
};

/// What became of one command.
pub type Written = Result<Applied, WriteError>;

impl Raft {
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
        match timeout(inner.parts.config.write_timeout, self.submit_many(&core, commands)).await {
            Ok(result) => result,
            Err(_) => {
                let why = "no quorum confirmed it in time";
                Ok((0..count).map(|_| Err(WriteError::Unknown { why: why.into() })).collect())
            }
        }
    }

    async fn submit_many(&self, core: &Core, commands: Vec<Bytes>) -> Result<Vec<Written>, WriteError> {
        let stopped = |error: &dyn std::fmt::Display| WriteError::Unknown { why: error.to_string() };
        let mut attempts = 0;
        loop {
            let submitted = core.raft.client_write_many(commands.iter().cloned().map(Command)).await;
            let mut answers = submitted.map_err(|error| stopped(&error))?;
            let mut written: Vec<Written> = Vec::with_capacity(commands.len());
            let mut forward = None;
            while let Some(answer) = answers.next().await {
                written.push(match answer {
                    Ok(Ok(response)) => {
                        Ok(Applied { index: response.log_id.index, answer: response.response.0 })
                    }
                    Ok(Err(ClientWriteError::ForwardToLeader(to))) => {
                        forward = Some(to.leader_id);
                        Err(WriteError::NotLeader { leader: to.leader_id })
                    }
                    Ok(Err(error)) => Err(stopped(&error)),
                    Err(error) => Err(stopped(&error)),
                });
            }
            // The core ended half way: nothing more comes.
            written.resize(commands.len(), Err(WriteError::Unknown { why: "agreement stopped".into() }));
            let Some(leader) = forward else { return Ok(written) };
            attempts += 1;
            let here = core.raft.current_leader().await == Some(self.inner.parts.config.node);
            if !here || attempts == LEADER_ATTEMPTS {
                return Err(WriteError::NotLeader { leader });
            }
            tokio::time::sleep(LEADER_PAUSE).await;
        }
    }
}
