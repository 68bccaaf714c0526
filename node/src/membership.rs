//! Who takes part in agreement: makes Raft's membership follow the state's nodes. On the leader only,
//! one change at a time.
//!
//! ```text
//!   node admitted ─▶ learner ─(caught up, chosen)─▶ voter ─(not chosen any more)─▶ learner ─▶ removed
//! ```
//! Who is to vote is the scheduler's choice ([`scp_scheduler::choose_voters`]); this only carries it out.

use std::{collections::BTreeSet, time::Duration};

use scp_model::NodeId;
use scp_raft::{ChangeError, Role, Status};
use scp_scheduler::VoterView;
use tokio_util::sync::CancellationToken;

use crate::proposer::Proposer;

const INTERVAL: Duration = Duration::from_millis(500);
/// A learner so many entries behind catches up within a round trip or two.
const CAUGHT_UP_ENTRIES: u64 = 200;

/// Keeps the membership right while this node leads.
pub async fn keep(proposer: Proposer, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let status = proposer.raft.status().borrow().clone();
        if status.role != Role::Leader || proposer.published.state().city.is_none() {
            continue;
        }
        if let Err(error) = step(&proposer, &status).await {
            tracing::debug!(%error, "a change of membership has to wait");
        }
    }
}

/// The first change that is due.
async fn step(proposer: &Proposer, status: &Status) -> Result<(), ChangeError> {
    let state = proposer.published.state();
    let known: BTreeSet<NodeId> = state.nodes.keys().copied().collect();
    let present: BTreeSet<NodeId> = status.voters.union(&status.learners).copied().collect();
    if let Some(node) = known.difference(&present).next() {
        tracing::info!(%node, "becomes a learner");
        return proposer.raft.add_learner(*node).await.map(drop);
    }
    if let Some(node) = status.learners.difference(&known).next() {
        tracing::info!(%node, "leaves the group");
        return proposer.raft.remove(*node).await.map(drop);
    }
    let view = VoterView {
        now: proposer.clock.now(),
        me: proposer.me(),
        voters: status.voters.clone(),
        caught_up: caught_up(status),
    };
    match scp_scheduler::choose_voters(&state, &view) {
        Some(voters) if voters != status.voters => {
            tracing::info!(?voters, "voters change");
            proposer.raft.change_voters(voters).await.map(drop)
        }
        Some(_) | None => Ok(()),
    }
}

fn caught_up(status: &Status) -> BTreeSet<NodeId> {
    let close = |node: &NodeId| {
        let matched = status.peers.get(node).and_then(|peer| peer.matched);
        matched.is_some_and(|matched| matched + CAUGHT_UP_ENTRIES >= status.last_log)
    };
    status.learners.iter().copied().filter(close).collect()
}
