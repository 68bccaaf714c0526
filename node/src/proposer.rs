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
use serde::de::DeserializeOwned;
use tokio::time::Instant;
use uuid::Uuid;

use crate::{
    machine::{self, Published},
    together::Together,
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
    pub together: Together,
}

/// Why one try did not give an answer.
#[derive(Debug, thiserror::Error)]
pub enum Try {
    /// Worth repeating.
    #[error("{0}")]
    Again(String),
    /// The leader does not hold this node to be a member: not yet, or not any more.
    #[error("{0}")]
    NotAMember(String),
    /// Repeating changes nothing.
    #[error("{0}")]
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
        let mut proposal = proposal;
        let entry = machine::to_entry(&proposal).map_err(|error| internal(&error))?;
        let mut entry = Bytes::from(entry);
        let deadline = Instant::now() + PROPOSE_TIMEOUT;
        loop {
            if scp_mutant::on("retry-makes-a-new-id") {
                proposal.request = RequestId(Uuid::new_v4());
                entry = Bytes::from(machine::to_entry(&proposal).map_err(|error| internal(&error))?);
            }
            let why = match self.together.attempt(entry.clone()).await {
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
            Some(leader) => ask_leader((&self.raft, &*self.transport), leader, &Ask::Propose(entry)).await?,
        };
        judge(proposed)
    }

    /// Has proposals committed and applied, in this order unless some have to be repeated. Each is answered
    /// by its place.
    pub async fn propose_many(&self, proposals: &[Proposal]) -> Vec<Result<Answer, ClusterError>> {
        let mut answers: Vec<Option<Result<Answer, ClusterError>>> = Vec::with_capacity(proposals.len());
        let mut open: Vec<(usize, Bytes)> = Vec::with_capacity(proposals.len());
        for (place, proposal) in proposals.iter().enumerate() {
            match machine::to_entry(proposal) {
                Ok(entry) => {
                    open.push((place, entry.into()));
                    answers.push(None);
                }
                Err(error) => answers.push(Some(Err(internal(&error)))),
            }
        }
        let deadline = Instant::now() + PROPOSE_TIMEOUT;
        while !open.is_empty() {
            let entries = open.iter().map(|(_, entry)| entry.clone()).collect();
            let tried = attempt_many(&self.raft, &*self.transport, entries).await;
            let last = Instant::now() + PAUSE >= deadline;
            let mut again = Vec::new();
            for ((place, entry), outcome) in open.into_iter().zip(tried) {
                answers[place] = match outcome {
                    Ok(answer) => Some(Ok(answer)),
                    Err(Try::Never(error)) => Some(Err(error)),
                    Err(Try::Again(why) | Try::NotAMember(why)) if last => {
                        Some(Err(ClusterError::NoQuorum { why }))
                    }
                    Err(Try::Again(_) | Try::NotAMember(_)) => {
                        again.push((place, entry));
                        None
                    }
                };
            }
            open = again;
            if !open.is_empty() {
                self.pause().await;
            }
        }
        let written = answers.iter().filter_map(|answer| Some(answer.as_ref()?.as_ref().ok()?.index));
        if let Some(index) = written.max() {
            // The caller reads its own writes from this node.
            let _ = tokio::time::timeout_at(deadline, self.raft.wait_applied(index)).await;
        }
        answers.into_iter().map(|answer| answer.expect("the loop ends when every place has one")).collect()
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

/// Proposes many once, without repeating; answered one by one.
pub(crate) async fn attempt_many(
    raft: &Raft,
    transport: &dyn Transport,
    entries: Vec<Bytes>,
) -> Vec<Result<Answer, Try>> {
    let count = entries.len();
    let leader = raft.status().borrow().leader;
    let proposed = match leader {
        None => Err(Try::Again("no leader is known".into())),
        Some(leader) if leader == transport.node() => Ok(propose_many_here(raft, entries).await),
        Some(leader) => ask_leader((raft, transport), leader, &Ask::ProposeMany(entries)).await,
    };
    let proposed: Vec<Proposed> = match proposed {
        Ok(proposed) => proposed,
        Err(Try::Never(error)) if count == 1 => return vec![Err(Try::Never(error))],
        Err(failure) => {
            let why = failure.to_string();
            let same = |_| match failure {
                Try::Never(ClusterError::Overloaded) => Err(Try::Never(ClusterError::Overloaded)),
                Try::Never(_) => Err(Try::Never(ClusterError::Internal { why: why.clone() })),
                Try::Again(_) | Try::NotAMember(_) => Err(Try::Again(why.clone())),
            };
            return (0..count).map(same).collect();
        }
    };
    if proposed.len() != count {
        let why = "the leader answered another number of proposals";
        return (0..count).map(|_| Err(Try::Again(why.into()))).collect();
    }
    let is_hidden = scp_mutant::on("rejection-hidden") && leader != Some(transport.node());
    let hide = |answer: Answer| if is_hidden { Answer { result: Ok(()), ..answer } } else { answer };
    proposed.into_iter().map(|proposed| judge(proposed).map(hide)).collect()
}

async fn ask_leader<T: DeserializeOwned>(
    (raft, transport): (&Raft, &dyn Transport),
    leader: NodeId,
    ask: &Ask,
) -> Result<T, Try> {
    let ask = wire::pack_ask(ask).map_err(|refusal| Try::Never(internal(&refusal)))?;
    // A leader that is dead answers nothing, and its connection ends long after it was replaced.
    let answer = tokio::select! {
        answer = transport.request(leader, Lane::Forward, ask, TRY_TIMEOUT) => answer,
        () = replaced(raft, leader) => return Err(Try::Again(format!("{leader} leads no more"))),
    };
    match answer {
        Ok(reply) => wire::unpack(Lane::Forward, &reply).map_err(|refusal| Try::Never(internal(&refusal))),
        Err(error @ MeshError::TooLarge { .. }) => Err(Try::Never(internal(&error))),
        Err(MeshError::Busy { .. }) => Err(Try::Never(ClusterError::Overloaded)),
        Err(error @ MeshError::NotAMember { .. }) => Err(Try::NotAMember(error.to_string())),
        Err(error) => Err(Try::Again(format!("the leader {error}"))),
    }
}

/// Returns when another node is known to lead.
async fn replaced(raft: &Raft, leader: NodeId) {
    let mut status = raft.status();
    let is_another = |status: &scp_raft::Status| status.leader.is_some_and(|now| now != leader);
    let ended = status.wait_for(is_another).await.is_err();
    if ended {
        // Agreement ended here: the request has its own end.
        std::future::pending().await
    }
}

/// What an outcome means to who proposed.
fn judge(proposed: Proposed) -> Result<Answer, Try> {
    match proposed {
        Proposed::Applied(answer) => {
            machine::from_answer(&answer).map_err(|error| Try::Never(internal(&error)))
        }
        Proposed::Unknown(_) if scp_mutant::on("unknown-is-success") => {
            Ok(Answer { index: 0, result: Ok(()) })
        }
        Proposed::NotLeader(_) => Err(Try::Again("leadership is changing hands".into())),
        Proposed::Unknown(why) => Err(Try::Again(why)),
        Proposed::ReadOnly(why) => Err(Try::Never(ClusterError::ReadOnly { why })),
        Proposed::Overloaded => Err(Try::Never(ClusterError::Overloaded)),
    }
}

/// Writes on this node, which has to be the leader.
pub async fn propose_here(raft: &Raft, entry: Bytes) -> Proposed {
    outcome(raft.write(entry).await)
}

/// Writes many on this node, which has to be the leader; answered one by one.
pub async fn propose_many_here(raft: &Raft, entries: Vec<Bytes>) -> Vec<Proposed> {
    let count = entries.len();
    match raft.write_many(entries).await {
        Ok(written) => written.into_iter().map(outcome).collect(),
        Err(error) => (0..count).map(|_| outcome(Err(error.clone()))).collect(),
    }
}

fn outcome(written: scp_raft::Written) -> Proposed {
    match written {
        Ok(applied) => Proposed::Applied(applied.answer.into()),
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
