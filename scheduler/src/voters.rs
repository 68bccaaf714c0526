//! Who agrees: the voters of the city's Raft group.
//!
//! # How many
//! | nodes | voters | because |
//! |---|---|---|
//! | 1 | 1 | |
//! | 2 | 1 | with two, the death of *either* ends agreement; with one, only the death of that one does, and the other is a learner that holds all but perhaps the last moment. Two would never lose an acknowledged write together with one disk, but never survive a death either. A third node mends both |
//! | 3 to 6 | 3 | any one may die |
//! | 7 and more | 5 | any two may die; more voters make every write slower |
//!
//! The number is always odd: an even one tolerates no more deaths than the odd one below it.
//!
//! # Which
//! Taken one by one by [`Candidate`]'s order: those that stay before those that leave, the leader
//! first (replacing it costs an election), then zones not taken yet, then present voters. Within its
//! zone a present voter is never exchanged for an equal.
//!
//! A voter is replaced when it has been down for [`DEAD_MS`], drains, or is no longer of the city.
//! One that is dead and has no replacement is kept: two voters of two are no better than two of three,
//! and when it comes back three are. A set of which less than a majority is up now is never proposed.

use std::collections::BTreeSet;

use scp_model::{
    NodeId,
    node::{Liveness, Node},
};
use scp_state::State;

use crate::view::VoterView;

/// How long a voter is down before it is replaced, in milliseconds: a server restarts in about this
/// time, and catching a new voter up costs more than waiting for an old one.
pub const DEAD_MS: u64 = 60_000;

/// From so many nodes on there are five voters.
pub const NODES_FOR_FIVE: usize = 7;

/// The voters that there should be; none when the present ones are right or no better is possible now.
pub fn choose_voters(state: &State, view: &VoterView) -> Option<BTreeSet<NodeId>> {
    let known = state.nodes.values();
    let candidates: Vec<&Node> = known
        .filter(|node| view.voters.contains(&node.id) || (node.is_up() && view.caught_up.contains(&node.id)))
        .collect();
    let size = largest_odd(target(state.nodes.len()).min(candidates.len()))?;
    let mut chosen: Vec<&Node> = Vec::with_capacity(size);
    while chosen.len() < size {
        let left = candidates.iter().filter(|node| chosen.iter().all(|taken| taken.id != node.id));
        chosen.push(left.min_by_key(|node| Candidate::new(node, view, &chosen))?);
    }
    let up = chosen.iter().filter(|node| node.is_up()).count();
    let chosen: BTreeSet<NodeId> = chosen.iter().map(|node| node.id).collect();
    (up * 2 > chosen.len() && chosen != view.voters).then_some(chosen)
}

fn target(nodes: usize) -> usize {
    match nodes {
        0..=2 => 1,
        3..NODES_FOR_FIVE => 3,
        NODES_FOR_FIVE.. => 5,
    }
}

fn largest_odd(most: usize) -> Option<usize> {
    match most {
        0 => None,
        odd if odd % 2 == 1 => Some(odd),
        even => Some(even - 1),
    }
}

/// Which of two nodes is the better next voter. The order of the fields is the policy; the smallest
/// wins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    dead: bool,
    leaves: bool,
    not_leader: bool,
    /// Voters chosen already in its zone.
    zone_mates: usize,
    not_voter: bool,
    down: bool,
    node: NodeId,
}

impl Candidate {
    fn new(node: &Node, view: &VoterView, chosen: &[&Node]) -> Self {
        let zone = &node.profile.zone;
        let dead = match node.liveness {
            Liveness::Up => false,
            Liveness::Down { since, .. } => view.now.since_ms(since) >= DEAD_MS,
        };
        Self {
            dead,
            leaves: node.draining,
            not_leader: node.id != view.me,
            zone_mates: chosen.iter().filter(|taken| taken.profile.zone == *zone).count(),
            not_voter: !view.voters.contains(&node.id),
            down: !node.is_up(),
            node: node.id,
        }
    }
}
