//! What a city cannot do without, before a node is removed from it.
//!
//! A removed node is cut off at once. So it is not let go
//! - while agreement needs its vote: the change of voters that follows a removal needs a majority of those
//!   before;
//! - while no other voter holds the city key: without it no node ever joins again, and no certificate is
//!   renewed.
//!
//! Both mend themselves within seconds where they can: other voters are chosen, and a new voter fetches the
//! key. A node that is down has neither vote nor key to lose; `RemoveNode` with force is for those.
//!
//! This is judged by the node that is asked, on what it knows; nothing in the log depends on it.

use std::{collections::BTreeSet, time::Duration};

use scp_mesh::Lane;
use scp_model::{NodeId, Rejection, Subject, node::Node};
use scp_state::State;

use crate::{
    issuer::Issuer,
    proposer::Proposer,
    wire::{self, Ask},
};

/// A question about one bit.
const ASK_TIMEOUT: Duration = Duration::from_secs(2);

/// Why this node cannot be removed now; `None`: the city goes on without it.
pub async fn refused(proposer: &Proposer, issuer: &Issuer, node: NodeId) -> Option<Rejection> {
    let state = proposer.published.state();
    // The last node is refused by the state, as is one that does not exist.
    if state.nodes.len() == 1 || !state.nodes.get(&node).is_some_and(Node::is_up) {
        return None;
    }
    let voters = proposer.raft.status().borrow().voters.clone();
    if let Some(rejection) = needs_vote_of(&state, &voters, node) {
        return Some(rejection);
    }
    for voter in voters.into_iter().filter(|voter| *voter != node) {
        if holds_key(proposer, issuer, voter).await {
            return None;
        }
    }
    let state = "the only one that is known to hold the city key; another voter is about to fetch it".into();
    Some(Rejection::WrongState { subject: Subject::Node(node), state })
}

/// Whether that node says that it holds the city key.
pub async fn holds_key(proposer: &Proposer, issuer: &Issuer, voter: NodeId) -> bool {
    if voter == proposer.me() {
        return issuer.has_key();
    }
    let Ok(ask) = wire::pack(&Ask::HoldsCityKey) else { return false };
    let answer = proposer.transport.request(voter, Lane::Forward, ask, ASK_TIMEOUT).await;
    answer.is_ok_and(|answer| wire::unpack(Lane::Forward, &answer) == Ok(true))
}

/// Why the city cannot do without this node's vote; `None`: it can. A node that is down has no vote to lose.
fn needs_vote_of(state: &State, voters: &BTreeSet<NodeId>, node: NodeId) -> Option<Rejection> {
    let is_up = |id: &NodeId| state.nodes.get(id).is_some_and(Node::is_up);
    let (up, down): (Vec<NodeId>, Vec<NodeId>) = voters.iter().copied().partition(is_up);
    let stays = up.iter().filter(|voter| **voter != node).count();
    if !up.contains(&node) || stays * 2 > voters.len() {
        return None;
    }
    let name =
        |id: &NodeId| state.nodes.get(id).map_or_else(|| id.to_string(), |it| it.profile.name.to_string());
    let down: Vec<String> = down.iter().map(name).collect();
    let remedy = if down.is_empty() {
        "wait until other voters are chosen, or drain it first".to_owned()
    } else {
        format!("bring back or remove first what is down ({})", down.join(", "))
    };
    let state = format!("needed: without its vote only {stays} of {} could agree; {remedy}", voters.len());
    Some(Rejection::WrongState { subject: Subject::Node(node), state })
}
