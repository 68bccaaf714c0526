//! What the leader does, and nobody else: hear who is silent, let the scheduler plan, propose its plan.
//!
//! ```text
//!   observer ─ silences ─▶ evidence ─┐
//!   state ───────────────────────────┴─▶ scheduler::plan ─▶ commands, in order ─▶ raft
//!      ▲                                                                           │
//!      └───────────────────────────── applied ◀────────────────────────────────────┘
//! ```
//!
//! Every node runs this loop; on all but the leader it waits. Nothing is remembered from round to
//! round but since when we lead: a new leader goes on where the old one ended.

use std::{collections::BTreeSet, time::Duration};

use bytes::Bytes;
use futures::future::join_all;
use scp_mesh::Observer;
use scp_model::{Actor, Answer, Command, NodeId, Proposal, RequestId, Timestamp, node::Evidence};
use scp_raft::Role;
use scp_scheduler::{Suspicion, View};
use scp_state::State;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    machine,
    proposer::{Proposer, propose_here},
    wire::Proposed,
};

/// The scheduler is asked at least this often; a death is noticed at this resolution.
pub const ROUND: Duration = Duration::from_millis(200);
/// Between the beginnings of two rounds, so that a busy log does not call for one at each of its entries.
const PACE: Duration = Duration::from_millis(10);
/// Silence from which on the observers are asked: several questions without an answer, so not on every
/// lost packet.
const SUSPECT_MS: u64 = 1_000;
/// A node that counts as down and spoke so recently is there: two of its heartbeats to the leader.
const HEARD_MS: u64 = 500;
/// What observers get to answer in. Longer would only delay the verdict by those that are dead, too.
const ASK_TIMEOUT: Duration = Duration::from_millis(400);

/// The leader's loop of this node.
pub struct Leader {
    pub proposer: Proposer,
    pub observer: Observer,
}

impl Leader {
    pub async fn run(self, stop: CancellationToken) {
        let mut status = self.proposer.raft.status();
        let mut applied = self.proposer.published.applied();
        let mut since: Option<(u64, Timestamp)> = None;
        loop {
            let (role, term) = {
                let status = status.borrow_and_update();
                (status.role, status.term)
            };
            if role != Role::Leader {
                since = None;
                tokio::select! {
                    () = stop.cancelled() => return,
                    _ = status.changed() => continue,
                }
            }
            let leader_since = match since {
                Some((known, at)) if known == term => at,
                Some(_) | None => self.now(),
            };
            since = Some((term, leader_since));
            let next = Instant::now() + PACE;
            applied.mark_unchanged();
            let proposed = self.round(leader_since).await;
            let wait = async {
                // A round that changed something is followed at once by the next.
                if proposed == 0 {
                    let _ = tokio::time::timeout(ROUND, applied.changed()).await;
                }
                tokio::time::sleep_until(next).await;
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = wait => {}
            }
        }
    }

    fn now(&self) -> Timestamp {
        self.proposer.clock.now()
    }

    /// One round; how many commands took effect.
    async fn round(&self, leader_since: Timestamp) -> usize {
        let state = self.proposer.published.state();
        if state.city.is_none() {
            return 0;
        }
        let silences = self.observer.silences();
        let view = View {
            now: self.now(),
            me: self.proposer.me(),
            leader_since,
            suspicions: suspicions(&self.observer, &state, &silences).await,
            heard: heard(&self.observer, &state),
        };
        let commands = scp_scheduler::plan(&state, &view);
        let answers = join_all(commands.into_iter().map(|command| self.propose(command))).await;
        answers.into_iter().filter(|effective| *effective).count()
    }

    /// Whether the command took effect.
    async fn propose(&self, command: Command) -> bool {
        let me = self.proposer.me();
        let proposal = Proposal {
            request: RequestId(Uuid::new_v4()),
            actor: Actor::Leader(me),
            time: self.now(),
            command,
        };
        let entry = match machine::to_entry(&proposal) {
            Ok(entry) => Bytes::from(entry),
            Err(error) => {
                tracing::error!(%error, "the scheduler made a command that does not encode");
                return false;
            }
        };
        match propose_here(&self.proposer.raft, entry).await {
            Proposed::Applied(answer) => effective(&proposal.command, machine::from_answer(&answer)),
            other => {
                tracing::debug!(?other, "a planned command was not written");
                false
            }
        }
    }
}

/// Nodes that count as up and have been silent for a while, with what their observers say of them.
pub async fn suspicions(observer: &Observer, state: &State, silences: &[(NodeId, u64)]) -> Vec<Suspicion> {
    let silent = silences.iter().filter(|(node, silence)| {
        *silence >= SUSPECT_MS && state.nodes.get(node).is_some_and(|node| node.is_up())
    });
    let suspicions = join_all(silent.map(async |(node, _)| {
        let observers = observer.ask(*node, ASK_TIMEOUT).await;
        // Read again: while the others were asked, it may have been heard.
        let leader_silence_ms = observer.silence(*node)?;
        Some(Suspicion { node: *node, evidence: Evidence { leader_silence_ms, observers } })
    }));
    suspicions.await.into_iter().flatten().collect()
}

/// Nodes that count as down and spoke to us a moment ago.
pub fn heard(observer: &Observer, state: &State) -> BTreeSet<NodeId> {
    let down = state.nodes.values().filter(|node| !node.is_up()).map(|node| node.id);
    let spoke = |node: &NodeId| observer.last_heard(*node).is_some_and(|ms| ms <= HEARD_MS);
    down.filter(|node| spoke(node) || scp_mutant::on("silence-taken-for-life")).collect()
}

fn effective(command: &Command, answer: Result<Answer, scp_codec::CodecError>) -> bool {
    match answer {
        Ok(Answer { result: Ok(()), .. }) => {
            tracing::info!(?command, "planned");
            true
        }
        Ok(Answer { result: Err(rejection), .. }) => {
            tracing::debug!(?command, %rejection, "a planned command was rejected");
            false
        }
        Err(error) => {
            tracing::error!(%error, "an answer does not decode");
            false
        }
    }
}
