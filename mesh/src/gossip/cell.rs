//! Which nodes gossip with each other: a pure function of the city's members, the same everywhere.
//!
//! chitchat's digest names every member in every message and overflows at some 700 to 1,100 of them. So
//! the city is cut into cells by the leading bits of node ids, which are hashes and thus spread evenly:
//!
//! ```text
//! a cell is an id prefix; the empty prefix is the whole city
//! a cell of more than 200 members is halved by the next bit of the id, as often as needed
//! ```
//!
//! So a small city is one cell; a joining node changes no cell but the one it splits, and all nodes see
//! the same cells as soon as they have the same state. With several cells, two members of each (the
//! *ambassadors*, the first two that are up in an order drawn by hash) and all voters also take part in a
//! city-wide cell, where ambassadors tell what they know of their own.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use scp_model::NodeId;

/// The most members of a cell: messages of 200 had 6.7 KB on average, measured before they were
/// compressed.
pub const CELL_MEMBERS_MAX: usize = 200;
/// Two, so that one may die.
pub const AMBASSADORS: usize = 2;

/// The city's members as the state has them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Roster {
    /// Whether the state holds the node to be up.
    pub members: BTreeMap<NodeId, bool>,
    /// Take part in the city-wide cell whatever their cell: one of them leads and wants to know all.
    pub voters: BTreeSet<NodeId>,
}

/// A prefix of node ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CellId {
    /// Its bits, at the top; the rest is zero.
    prefix: u64,
    bits: u8,
}

impl CellId {
    pub(crate) fn of(node: NodeId, bits: u8) -> Self {
        Self { prefix: node.0 & !Self::rest(bits), bits }
    }

    /// The bits of an id that the prefix does not fix.
    fn rest(bits: u8) -> u64 {
        u64::MAX.checked_shr(bits.into()).unwrap_or(0)
    }

    fn range(self) -> std::ops::RangeInclusive<NodeId> {
        NodeId(self.prefix)..=NodeId(self.prefix | Self::rest(self.bits))
    }

    /// Whether it is the only one.
    pub(crate) fn is_whole_city(self) -> bool {
        self.bits == 0
    }

    pub fn contains(self, node: NodeId) -> bool {
        self.range().contains(&node)
    }

    pub(crate) fn to_bytes(self) -> [u8; 9] {
        let mut bytes = [self.bits; 9];
        bytes[1..].copy_from_slice(&self.prefix.to_be_bytes());
        bytes
    }
}

impl fmt::Display for CellId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}/{}", self.prefix, self.bits)
    }
}

impl Roster {
    /// The node's cell: the shortest prefix of its id that at most [`CELL_MEMBERS_MAX`] members share.
    pub fn cell_of(&self, node: NodeId) -> CellId {
        let cells = (0..=64).map(|bits| CellId::of(node, bits));
        let mut small = cells.filter(|cell| self.members_of(*cell).nth(CELL_MEMBERS_MAX).is_none());
        small.next().expect("64 bits name one node")
    }

    pub fn members_of(&self, cell: CellId) -> impl Iterator<Item = NodeId> + '_ {
        self.members.range(cell.range()).map(|(node, _)| *node)
    }

    /// All cells, in the order of their prefixes.
    pub fn cells(&self) -> Vec<CellId> {
        let mut cells: Vec<CellId> = vec![];
        for node in self.members.keys() {
            if !cells.last().is_some_and(|last| last.contains(*node)) {
                cells.push(self.cell_of(*node));
            }
        }
        cells
    }

    /// The members that speak for a cell: the first that are up.
    pub fn ambassadors(&self, cell: CellId) -> Vec<NodeId> {
        let up = |node: &NodeId| self.members.get(node).copied().unwrap_or(false);
        let mut candidates: Vec<_> = self.members_of(cell).filter(up).collect();
        candidates.sort_unstable_by_key(|node| (mix(node.0), *node));
        candidates.truncate(AMBASSADORS);
        candidates
    }

    /// Who takes part in the city-wide cell; nobody as long as one cell holds all.
    pub fn correspondents(&self) -> BTreeSet<NodeId> {
        match self.cells().as_slice() {
            [] | [_] => BTreeSet::new(),
            cells => {
                let ambassadors = cells.iter().flat_map(|cell| self.ambassadors(*cell));
                ambassadors.chain(self.voters.iter().copied()).collect()
            }
        }
    }
}

/// SplitMix64's finaliser: an order that has nothing to do with the id's own.
pub(crate) fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn roster(ids: impl IntoIterator<Item = u64>) -> Roster {
        Roster { members: ids.into_iter().map(|id| (NodeId(id), true)).collect(), voters: BTreeSet::new() }
    }

    /// Ids as hashes give them, and a share that is bunched up.
    fn ids() -> impl Strategy<Value = BTreeSet<u64>> {
        let spread = prop::collection::btree_set(any::<u64>(), 1..900);
        let bunched = prop::collection::btree_set(0u64..600, 0..300);
        (spread, bunched).prop_map(|(mut a, b)| {
            a.extend(b);
            a
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(8))]

        #[test]
        fn cells_are_small_and_each_member_is_in_exactly_one(ids in ids()) {
            let roster = roster(ids.clone());
            let cells = roster.cells();
            let mut seen = 0;
            for cell in &cells {
                let members: Vec<_> = roster.members_of(*cell).collect();
                prop_assert!((1..=CELL_MEMBERS_MAX).contains(&members.len()));
                prop_assert!(members.iter().all(|node| roster.cell_of(*node) == *cell));
                prop_assert_eq!(roster.ambassadors(*cell).len(), members.len().min(AMBASSADORS));
                seen += members.len();
            }
            prop_assert_eq!(seen, ids.len());
            prop_assert_eq!(roster.correspondents().is_empty(), cells.len() == 1);
        }

        #[test]
        fn a_joining_node_changes_no_cell_but_its_own(ids in ids(), new: u64) {
            let before = roster(ids.clone());
            let after = roster(ids.iter().copied().chain([new]));
            let joined = before.cell_of(NodeId(new));
            for id in ids.into_iter().map(NodeId).filter(|id| !joined.contains(*id)) {
                prop_assert_eq!(before.cell_of(id), after.cell_of(id));
            }
        }
    }

    #[test]
    fn two_hundred_are_one_cell_and_one_more_splits_it() {
        let one = roster((0..200).map(|i| mix(i + 1)));
        assert_eq!(one.cells().len(), 1);
        let two = roster((0..201).map(|i| mix(i + 1)));
        assert_eq!(two.cells().len(), 2);
    }

    #[test]
    fn a_dead_ambassador_is_replaced() {
        let mut roster = roster((0..300).map(|i| mix(i + 1)));
        let cell = roster.cells()[0];
        let [first, second] = roster.ambassadors(cell)[..] else { panic!("two speak for a cell") };
        roster.members.insert(first, false);
        let now = roster.ambassadors(cell);
        assert!(now[0] == second && now.len() == 2 && now[1] != first);
        roster.voters.insert(first);
        assert!(roster.correspondents().contains(&first), "a voter takes part in any case");
    }
}
