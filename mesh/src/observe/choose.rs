//! Which nodes observe which: rendezvous hashing over zones, a pure function of the city's members.
//!
//! For each subject every other node draws a number from both ids. Within its zone a node has a rank by
//! that number; the observers are the first of all nodes ordered by rank, then other zones before the
//! subject's own, then the number. So the first observers stand in different zones, and a node that comes
//! or goes changes the observers of those only that it observed or now observes.
//!
//! All of this within the subject's cell ([`crate::gossip::cell`]): ids are hashes, so a cell of a hundred
//! nodes has all zones, and who observes whom costs a node the square of a cell, not of the city.

use std::collections::BTreeMap;

use scp_model::{Name, NodeId};

use crate::gossip::cell::{CELL_MEMBERS_MAX, CellId, mix};

/// Observers of a node in a small city.
pub const OBSERVERS_SMALL: usize = 3;
/// Observers of a node in a city of [`LARGE_CITY`] nodes or more.
pub const OBSERVERS_LARGE: usize = 5;
/// As with voters: from here on five are better than three.
pub const LARGE_CITY: usize = 7;

/// A node and its failure domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seat {
    pub node: NodeId,
    pub zone: Name,
    /// Whether the state holds it to be up: who is down observes nobody.
    pub is_up: bool,
}

/// Those of the subject's cell; the whole city as long as it is one cell.
pub fn neighbours(subject: NodeId, seats: &[Seat]) -> Vec<&Seat> {
    let mut cell: Vec<&Seat> = seats.iter().collect();
    for bits in 1..=u64::BITS as u8 {
        if cell.len() <= CELL_MEMBERS_MAX {
            break;
        }
        let half = CellId::of(subject, bits);
        cell.retain(|seat| half.contains(seat.node));
    }
    cell
}

/// The observers of a node, the first choice first; fewer than three only where fewer than four are up.
pub fn observers_of(subject: NodeId, seats: &[Seat]) -> Vec<NodeId> {
    observers_among(subject, &neighbours(subject, seats))
}

/// As [`observers_of`], for who has the subject's cell at hand.
pub(super) fn observers_among(subject: NodeId, seats: &[&Seat]) -> Vec<NodeId> {
    let count = if seats.len() >= LARGE_CITY { OBSERVERS_LARGE } else { OBSERVERS_SMALL };
    let own_zone = seats.iter().find(|seat| seat.node == subject).map(|seat| &seat.zone);
    // Nobody beyond the first `count` of a zone can be chosen, so no more of them are kept: one pass over
    // the city, not a sort of it.
    let mut zones: BTreeMap<&Name, Vec<(u64, NodeId)>> = BTreeMap::new();
    for seat in seats.iter().copied().filter(|seat| seat.is_up && seat.node != subject) {
        let first = zones.entry(&seat.zone).or_default();
        let candidate = (draw(subject, seat.node), seat.node);
        let rank = first.partition_point(|other| *other < candidate);
        if rank < count {
            first.insert(rank, candidate);
            first.truncate(count);
        }
    }
    let ranked = zones.into_iter().flat_map(|(zone, first)| {
        let is_own = own_zone == Some(zone);
        first.into_iter().enumerate().map(move |(rank, candidate)| (rank, is_own, candidate))
    });
    let mut ranked: Vec<_> = ranked.collect();
    ranked.sort_unstable();
    ranked.into_iter().take(count).map(|(_, _, (_, node))| node).collect()
}

fn draw(subject: NodeId, candidate: NodeId) -> u64 {
    mix(mix(subject.0) ^ candidate.0.rotate_left(32))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// Cities with up to six zones.
    fn cities() -> impl Strategy<Value = Vec<Seat>> {
        let zone = (0u8..6).prop_map(|zone| Name::new(format!("z{zone}")).expect("a good name"));
        let seats = prop::collection::btree_map(any::<u64>(), zone, 1..40);
        seats.prop_map(|seats| {
            seats.into_iter().map(|(id, zone)| Seat { node: NodeId(id), zone, is_up: true }).collect()
        })
    }

    fn zones<'a>(nodes: &[NodeId], seats: &'a [Seat]) -> BTreeSet<&'a Name> {
        seats.iter().filter(|seat| nodes.contains(&seat.node)).map(|seat| &seat.zone).collect()
    }

    proptest! {
        #[test]
        fn observers_are_others_as_many_as_wanted_and_in_as_many_zones_as_can_be(
            seats in cities(),
            at: prop::sample::Index,
        ) {
            let subject = at.get(&seats).node;
            let observers = observers_of(subject, &seats);
            let distinct: BTreeSet<_> = observers.iter().collect();
            let wanted = if seats.len() >= LARGE_CITY { OBSERVERS_LARGE } else { OBSERVERS_SMALL };
            prop_assert_eq!(observers.len(), wanted.min(seats.len() - 1));
            prop_assert_eq!(distinct.len(), observers.len());
            prop_assert!(!observers.contains(&subject));
            let others: Vec<_> = seats.iter().map(|seat| seat.node).filter(|node| *node != subject).collect();
            let spread = zones(&others, &seats).len().min(observers.len());
            prop_assert_eq!(zones(&observers, &seats).len(), spread);
        }

        #[test]
        fn the_order_of_members_does_not_matter(mut seats in cities(), at: prop::sample::Index) {
            let subject = at.get(&seats).node;
            let before = observers_of(subject, &seats);
            seats.reverse();
            prop_assert_eq!(observers_of(subject, &seats), before);
        }

        #[test]
        fn who_is_down_observes_nobody_and_others_take_its_place(
            mut seats in cities(),
            at: prop::sample::Index,
            down: prop::sample::Index,
        ) {
            let (subject, down) = (at.get(&seats).node, down.index(seats.len()));
            seats[down].is_up = false;
            let observers = observers_of(subject, &seats);
            prop_assert!(!observers.contains(&seats[down].node));
            let wanted = if seats.len() >= LARGE_CITY { OBSERVERS_LARGE } else { OBSERVERS_SMALL };
            let others = seats.iter().filter(|seat| seat.is_up && seat.node != subject).count();
            prop_assert_eq!(observers.len(), wanted.min(others));
        }

        #[test]
        fn a_node_that_goes_changes_only_those_it_observed(
            seats in cities(),
            at: prop::sample::Index,
            gone: prop::sample::Index,
        ) {
            let (subject, gone) = (at.get(&seats).node, gone.get(&seats).node);
            let before = observers_of(subject, &seats);
            prop_assume!(gone != subject && !before.contains(&gone) && seats.len() != LARGE_CITY);
            let left: Vec<_> = seats.into_iter().filter(|seat| seat.node != gone).collect();
            prop_assert_eq!(observers_of(subject, &left), before);
        }
    }

    #[test]
    fn the_work_is_spread() {
        let zone = Name::new("z").expect("a good name");
        let seats: Vec<_> =
            (0..100).map(|id| Seat { node: NodeId(mix(id + 1)), zone: zone.clone(), is_up: true }).collect();
        let mut load: BTreeMap<NodeId, usize> = BTreeMap::new();
        for seat in &seats {
            for observer in observers_of(seat.node, &seats) {
                *load.entry(observer).or_default() += 1;
            }
        }
        // 5 on average; a binomial tail beyond 16 has a chance of one in 100,000 per node.
        assert!(load.values().all(|watched| *watched <= 16), "{load:?}");
    }
}
