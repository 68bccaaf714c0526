//! Who knows whom: members in the order of their ids are a ring, and each knows those at distances of powers
//! of two, either way.
//!
//! So a member has a dozen neighbours, the same for everything that gossip sends, and everyone is a few steps
//! away: each step at least halves the distance. A member that joins or leaves shifts others by one place;
//! one that is down keeps its place.

use scp_model::NodeId;

/// All at distances of powers of two, the farthest first.
pub(super) fn neighbours(us: NodeId, ring: &[NodeId]) -> Vec<NodeId> {
    let Some(ours) = ring.iter().position(|node| *node == us) else { return Vec::new() };
    let mut neighbours = Vec::new();
    for step in steps(ring.len()).collect::<Vec<_>>().into_iter().rev() {
        for at in [ours + step, ours + ring.len() - step] {
            let node = ring[at % ring.len()];
            if !neighbours.contains(&node) {
                neighbours.push(node);
            }
        }
    }
    neighbours
}

/// Whom the member at this distance from where a message began passes it on to: as distances. Everyone has one
/// parent: its own distance without the lowest bit.
pub(super) fn children(rank: usize, members: usize) -> Vec<usize> {
    let below = if rank == 0 { members } else { 1 << rank.trailing_zeros() };
    steps(below).map(|step| rank + step).filter(|rank| *rank < members).collect()
}

fn steps(below: usize) -> impl Iterator<Item = usize> {
    (0..usize::BITS).map(|bit| 1 << bit).take_while(move |step| *step < below)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn neighbours_are_mutual_few_and_never_ourselves() {
        for members in 1..=200u64 {
            let ring: Vec<_> = (0..members).map(NodeId).collect();
            for us in &ring {
                let ours = neighbours(*us, &ring);
                assert!(!ours.contains(us) && ours.len() <= 16);
                assert!(ours.iter().all(|other| neighbours(*other, &ring).contains(us)));
            }
        }
    }

    #[test]
    fn the_tree_holds_everyone_once() {
        for members in 1..=200 {
            let mut seen = BTreeSet::from([0]);
            let mut ahead = children(0, members);
            while let Some(rank) = ahead.pop() {
                assert!(seen.insert(rank));
                ahead.extend(children(rank, members));
            }
            assert!(seen.into_iter().eq(0..members));
        }
    }
}
