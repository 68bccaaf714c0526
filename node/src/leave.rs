//! Leaving a city in order: `scpctl leave`.
//!
//! ```text
//!   drained ─▶ another leads ─▶ our vote and key are not needed ─▶ RemoveNode ─▶ the leader no longer knows us
//!                                  └─ not within seconds ─▶ refused, no longer drained
//! ```
//! A node that is removed is cut off at once, so everything that needs it comes first: another leader, and
//! where it is the only voter another voter. The answer to the removal itself may be lost that way; that
//! the leader does not know us any more is then the answer.

use std::time::Duration;

use anyhow::{Context, anyhow};
use bytes::Bytes;
use scp_model::{
    Actor, Command, Proposal, RequestId,
    command::{DrainNode, RemoveNode, SetNodeSchedulable},
};
use tokio::time::Instant;
use uuid::Uuid;

use crate::{
    daemon::LifeError,
    issuer::Issuer,
    machine,
    proposer::{Proposer, Try},
    removal,
};

/// Another leader, and the removal, take seconds; a city that cannot do it by then has other troubles.
const TIMEOUT: Duration = Duration::from_secs(30);
/// A change of voters begins within half a second; a new voter fetches the city key within two.
const NEEDED_TIMEOUT: Duration = Duration::from_secs(8);
const PAUSE: Duration = Duration::from_millis(200);

/// Has this node removed from its city. When it cannot be, it is a member as before.
pub async fn leave(proposer: &Proposer, issuer: &Issuer) -> Result<(), LifeError> {
    let node = proposer.me();
    let state = proposer.published.state();
    if state.nodes.len() <= 1 {
        return remove(proposer).await;
    }
    let before = state.nodes.get(&node).map(|node| (node.draining, node.schedulable));
    change(proposer, Command::DrainNode(DrainNode { node })).await?;
    let gone = async {
        hand_over(proposer).await?;
        dispensable(proposer, issuer).await?;
        remove(proposer).await
    };
    let gone = gone.await;
    if gone.is_err() && before == Some((false, true)) {
        let stay = Command::SetNodeSchedulable(SetNodeSchedulable { node, schedulable: true });
        if let Err(error) = change(proposer, stay).await {
            tracing::warn!(%error, "this node stays, but is still cordoned: scpctl node uncordon");
        }
    }
    gone
}

async fn change(proposer: &Proposer, command: Command) -> Result<(), LifeError> {
    let answer = proposer.command(Actor::Local(proposer.me()), command).await.map_err(anyhow::Error::from)?;
    answer.result.map_err(LifeError::Leave)
}

/// Until another node leads.
async fn hand_over(proposer: &Proposer) -> Result<(), LifeError> {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        let status = proposer.raft.status().borrow().clone();
        if status.leader.is_some_and(|leader| leader != proposer.me()) {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(anyhow!("no other node takes over agreement; see scpctl status").into());
        }
        if status.voters.len() > 1 {
            // Refused while voters change; tried again.
            let _ = proposer.raft.transfer_leadership().await;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Until the city can do without this node: its voters may just be changing, or a new one fetch the key.
async fn dispensable(proposer: &Proposer, issuer: &Issuer) -> Result<(), LifeError> {
    let deadline = Instant::now() + NEEDED_TIMEOUT;
    loop {
        let refused = removal::refused(proposer, issuer, proposer.me()).await;
        let Some(rejection) = refused else { return Ok(()) };
        if Instant::now() > deadline {
            return Err(LifeError::Leave(rejection));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn remove(proposer: &Proposer) -> Result<(), LifeError> {
    let proposal = Proposal {
        request: RequestId(Uuid::new_v4()),
        actor: Actor::Local(proposer.me()),
        time: proposer.clock.now(),
        command: Command::RemoveNode(RemoveNode { node: proposer.me(), force: false }),
    };
    let entry = Bytes::from(machine::to_entry(&proposal).context("the removal does not encode")?);
    let deadline = Instant::now() + TIMEOUT;
    loop {
        let why = match proposer.attempt(entry.clone()).await {
            Ok(answer) => return answer.result.map_err(LifeError::Leave),
            Err(Try::NotAMember(_)) => return Ok(()),
            Err(Try::Never(error)) => return Err(anyhow::Error::from(error).into()),
            Err(Try::Again(why)) => why,
        };
        if Instant::now() > deadline {
            return Err(anyhow!("the city does not confirm the removal: {why}").into());
        }
        tokio::time::sleep(PAUSE).await;
    }
}
