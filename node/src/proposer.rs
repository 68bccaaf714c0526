//! The way of a write: from any node to the leader, and back with its answer. And of a read: up to
//! date on any node.
//!
//! ```text
//!   propose ─▶ leader here? ─yes─▶ raft.write ─────────────┐
//!                 │no                                       ├─▶ answer ─▶ wait until applied here too
//!                 └─▶ leader, over the forward lane ────────┘
//!                      (not the leader any more, unreachable, unknown: wait for one and repeat)
//! ```
//!
//! Repeating is safe: the proposal carries its request id, and the state answers a repeated one with
//! the first answer.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use scp_api::cluster::ClusterError;
use scp_mesh::{Lane, MeshError, Transport};
use scp_model::{Actor, Answer, Command, NodeId, Proposal, RequestId};
use scp_raft::{Raft, WriteError};
use tokio::time::Instant;
use uuid::Uuid;

use crate::{
    machine::{self, Published},
    wire::{self, Ask, Proposed},
};

/// How long a write is tried in all. A leader lost at the worst moment is replaced in about a second;
/// a client that waits longer than this wants to know.
pub const PROPOSE_TIMEOUT: Duration = Duration::from_secs(10);
/// One try, so that a leader that hangs does not use up the whole time.
const TRY_TIMEOUT: Duration = Duration::from_secs(4);
/// Pause between tries unless a new leader is heard of first.
const PAUSE: Duration = Duration::from_millis(50);

/// Proposes to, and reads from, the city's one log. Cheap to clone.
#[derive(Clone)]
pub struct Proposer {
    pub raft: Raft,
    pub transport: Arc<dyn Transport>,
    pub published: Published,
    pub clock: Arc<dyn scp_mesh::Clock>,
}

/// Why one try did not give an answer.
#[derive(Debug)]
pub enum Try {
    /// Worth repeating.
    Again(String),
    /// The leader does not hold this node to be a member: not yet, or not any more.
    NotAMember(String),
    /// Repeating changes nothing.
    Never(ClusterError),
}

impl Proposer {
    pub fn me(&self) -> NodeId {
        self.transport.node()
    }

    /// Proposes a command of this node's own.
    pub async fn command(&self, actor: Actor, command: Command) -> Result<Answer, ClusterError> {
        let request = RequestId(Uuid::new_v4());
        self.propose(Proposal { request, actor, time: self.clock.now(), command }).await
    }

    /// Has a proposal committed and applied, wherever the leader is.
    pub async fn propose(&self, proposal: Proposal) -> Result<Answer, ClusterError> {
        let entry = machine::to_entry(&proposal).map_err(|error| internal(&error))?;
        let entry = Bytes::from(entry);
        let deadline = Instant::now() + PROPOSE_TIMEOUT;
        loop {
            let why = match self.attempt(entry.clone()).await {
                Ok(answer) => {
                    // The caller reads its own write from this node.
                    let _ = tokio::time::timeout_at(deadline, self.raft.wait_applied(answer.index)).await;
                    return Ok(answer);
                }
                Err(Try::Never(error)) => return Err(error),
                Err(Try::Again(why) | Try::NotAMember(why)) => why,
            };
            if Instant::now() + PAUSE >= deadline {
                return Err(ClusterError::NoQuorum { why });
            }
            self.pause().await;
        }
    }

    /// Proposes once, without repeating.
    pub async fn attempt(&self, entry: Bytes) -> Result<Answer, Try> {
        let leader = self.raft.status().borrow().leader;
        let proposed = match leader {
            None => return Err(Try::Again("no leader is known".into())),
            Some(leader) if leader == self.me() => propose_here(&self.raft, entry).await,
            Some(leader) => self.propose_there(leader, entry).await?,
        };
        match proposed {
            Proposed::Applied(answer) => {
                machine::from_answer(&answer).map_err(|error| Try::Never(internal(&error)))
            }
            Proposed::NotLeader(_) => Err(Try::Again("leadership is changing hands".into())),
            Proposed::Unknown(why) => Err(Try::Again(why)),
            Proposed::ReadOnly(why) => Err(Try::Never(ClusterError::ReadOnly { why })),
            Proposed::Overloaded => Err(Try::Never(ClusterError::Overloaded)),
        }
    }

    async fn propose_there(&self, leader: NodeId, entry: Bytes) -> Result<Proposed, Try> {
        let ask =
            wire::pack(&Ask::Propose(entry.to_vec())).map_err(|refusal| Try::Never(internal(&refusal)))?;
        let reply = tokio::select! {
            reply = self.transport.request(leader, Lane::Forward, ask, TRY_TIMEOUT) => reply,
            () = self.replaced(leader) => return Err(Try::Again("leadership has changed hands".into())),
        };
        match reply {
            Ok(reply) => {
                wire::unpack(Lane::Forward, &reply).map_err(|refusal| Try::Never(internal(&refusal)))
            }
            Err(error @ MeshError::TooLarge { .. }) => Err(Try::Never(internal(&error))),
            Err(MeshError::Busy { .. }) => Err(Try::Never(ClusterError::Overloaded)),
            Err(error @ MeshError::NotAMember { .. }) => Err(Try::NotAMember(error.to_string())),
            Err(error) => Err(Try::Again(format!("the leader {error}"))),
        }
    }

    /// Until another leads than the one that was asked: it may be cut off, and never answer.
    async fn replaced(&self, asked: NodeId) {
        let mut status = self.raft.status();
        let other = status.wait_for(|status| status.leader.is_some_and(|leader| leader != asked));
        if other.await.is_err() {
            std::future::pending().await
        }
    }

    /// Until something about the agreement changes, at most [`PAUSE`].
    async fn pause(&self) {
        let mut status = self.raft.status();
        status.mark_unchanged();
        let _ = tokio::time::timeout(PAUSE, status.changed()).await;
        // Status also changes with every entry: do not spin on it.
        tokio::time::sleep(PAUSE / 5).await;
    }
}

/// Writes on this node, which has to be the leader.
pub async fn propose_here(raft: &Raft, entry: Bytes) -> Proposed {
    match raft.write(entry).await {
        Ok(applied) => Proposed::Applied(applied.answer),
        Err(WriteError::NotLeader { leader }) => Proposed::NotLeader(leader),
        Err(WriteError::ReadOnly { why }) => Proposed::ReadOnly(why),
        Err(WriteError::Overloaded) => Proposed::Overloaded,
        Err(error @ WriteError::TooLarge { .. }) => Proposed::ReadOnly(error.to_string()),
        Err(WriteError::Unknown { why }) => Proposed::Unknown(why),
        Err(error @ WriteError::Stopped) => Proposed::Unknown(error.to_string()),
    }
}

fn internal(error: &dyn std::fmt::Display) -> ClusterError {
    ClusterError::Internal { why: error.to_string() }
}
