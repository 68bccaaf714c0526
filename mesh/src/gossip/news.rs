//! News: a fact that changed, told at once to the whole cell.
//!
//! ```text
//!   the member ─┬─▶ +1, +2, +4, … +2ⁿ ─▶ from +4 on to +5, +6 ─▶ …   the cell as a ring in the order of ids
//!               └─▶ −1, −2, −4, … −2ⁿ ─▶ …                           the same backwards
//!                    ambassadors ──▶ voters of other cells
//! ```
//! Every member hears twice, by two trees: what passes a message on one way round lies before a member, the
//! other way behind it, so one that is dead but not declared so yet cuts nobody off from both. Whoever begins,
//! a member passes on to the same few ([`super::ring`]): connections do not grow with the cell.
//! What is lost all the same comes with chitchat's exchanges. Nothing is chosen by chance, so an update costs
//! two messages a member and no more.
//!
//! News carry all facts of their member and a version, chitchat's own: the newer of both is believed.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use scp_model::NodeId;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::{Facts, cell::Roster, ring};

/// News of one member that may follow each other at once: a start, and a few changes of an operator's.
const BURST: u32 = 4;
/// Each member of the cell adds this to the time between two pieces of news of one member, so that the
/// cell has one a second at most; a piece costs every member two messages.
const INTERVAL_PER_MEMBER: Duration = Duration::from_secs(1);

/// Which way news travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) enum Way {
    Up,
    Down,
    /// From an ambassador to a voter, and no further.
    Abroad,
}

/// All facts of a member at one of its versions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct News {
    pub(super) way: Way,
    pub(super) node: NodeId,
    pub(super) version: Version,
    pub(super) facts: BTreeMap<String, String>,
}

/// Orders what is known of one member.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Version {
    pub(super) incarnation: u64,
    /// chitchat's: it grows with every change of a fact.
    pub(super) number: u64,
}

impl News {
    pub(super) fn encode(&self) -> Vec<u8> {
        scp_codec::to_payload(self).expect("facts are bounded and encode")
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        scp_codec::from_payload(bytes).ok()
    }

    /// Whom `us` passes it on to.
    pub(super) fn next(&self, us: NodeId, roster: &Roster) -> Vec<NodeId> {
        let cell = roster.cell_of(self.node);
        let mut order: Vec<NodeId> = roster.members_of(cell).collect();
        match self.way {
            Way::Up => {}
            Way::Down => order.reverse(),
            Way::Abroad => return Vec::new(),
        }
        let position = |node: NodeId| order.iter().position(|other| *other == node);
        let (Some(origin), Some(ours)) = (position(self.node), position(us)) else { return Vec::new() };
        let mut ranks = ring::children((ours + order.len() - origin) % order.len(), order.len());
        let mut next = Vec::new();
        while let Some(rank) = ranks.pop() {
            let node = order[(origin + rank) % order.len()];
            if roster.members.get(&node).copied().unwrap_or(false) {
                next.push(node);
            } else {
                // Nobody is there to pass it on.
                ranks.extend(ring::children(rank, order.len()));
            }
        }
        next
    }

    /// The voters that an ambassador tells.
    pub(super) fn abroad(&self, us: NodeId, roster: &Roster) -> Vec<NodeId> {
        let cell = roster.cell_of(self.node);
        if !roster.ambassadors(cell).contains(&us) {
            return Vec::new();
        }
        roster.voters.iter().copied().filter(|voter| !cell.contains(*voter)).collect()
    }
}

/// The latest news of each member, until chitchat knows as much.
#[derive(Debug, Default)]
pub(super) struct Latest {
    news: BTreeMap<NodeId, (Version, Arc<Facts>)>,
    /// The last version that came each way: it is passed on once.
    passed: BTreeMap<(NodeId, Way), Version>,
}

impl Latest {
    /// Whether this came this way for the first time.
    pub(super) fn take(&mut self, news: &News) -> bool {
        let passed = self.passed.entry((news.node, news.way)).or_default();
        if *passed >= news.version {
            return false;
        }
        *passed = news.version;
        if self.news.get(&news.node).is_none_or(|(version, _)| *version < news.version) {
            let facts = super::circle::bounded(news.facts.iter().map(|(key, value)| (&**key, &**value)));
            self.news.insert(news.node, (news.version, Arc::new(facts)));
        }
        true
    }

    /// Facts newer than this version.
    pub(super) fn newer(&self, node: NodeId, than: Version) -> Option<&Arc<Facts>> {
        self.news.get(&node).filter(|(version, _)| *version > than).map(|(_, facts)| facts)
    }

    pub(super) fn all(&self) -> impl Iterator<Item = (NodeId, &Arc<Facts>)> {
        self.news.iter().map(|(node, (_, facts))| (*node, facts))
    }

    /// Forgets who is no member.
    pub(super) fn keep(&mut self, roster: &Roster) {
        self.news.retain(|node, _| roster.members.contains_key(node));
        self.passed.retain(|(node, _), _| roster.members.contains_key(node));
    }
}

/// How many pieces of news this member may still tell.
#[derive(Debug)]
pub(super) struct Allowance {
    left: u32,
    counted: Instant,
}

impl Allowance {
    pub(super) fn new() -> Self {
        Self { left: BURST, counted: Instant::now() }
    }

    /// Takes one, if there is one.
    pub(super) fn take(&mut self, members: usize) -> bool {
        let interval = INTERVAL_PER_MEMBER * u32::try_from(members.max(1)).unwrap_or(u32::MAX);
        while self.left < BURST && self.counted.elapsed() >= interval {
            self.left += 1;
            self.counted += interval;
        }
        if self.left == BURST {
            self.counted = Instant::now();
        }
        match self.left.checked_sub(1) {
            Some(left) => {
                self.left = left;
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::gossip::cell::mix;

    fn roster(members: u64) -> Roster {
        let members = (0..members).map(|number| (NodeId(mix(number + 1)), true)).collect();
        Roster { members, ..Roster::default() }
    }

    fn news(node: NodeId, way: Way) -> News {
        let version = Version { incarnation: 1, number: 1 };
        News { way, node, version, facts: BTreeMap::new() }
    }

    /// Who hears it, and over how many hops at most, while `dead` pass nothing on.
    fn heard(news: &News, roster: &Roster, dead: Option<NodeId>) -> (BTreeSet<NodeId>, usize) {
        let (mut heard, mut front, mut hops) = (BTreeSet::from([news.node]), vec![news.node], 0);
        while !front.is_empty() {
            let next = front.iter().filter(|node| Some(**node) != dead);
            front = next.flat_map(|node| news.next(*node, roster)).collect();
            hops += usize::from(!front.is_empty());
            assert!(front.iter().all(|node| heard.insert(*node)), "nobody hears it twice one way");
        }
        (heard, hops)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn everyone_hears_it_each_way_in_eight_hops(members in 1u64..=200, at: prop::sample::Index) {
            let roster = roster(members);
            let node = *at.get(&roster.members.keys().copied().collect::<Vec<_>>());
            for way in [Way::Up, Way::Down] {
                let (heard, hops) = heard(&news(node, way), &roster, None);
                prop_assert_eq!(heard.len() as u64, members);
                prop_assert!(hops <= 8);
            }
        }

        #[test]
        fn one_dead_member_cuts_nobody_off(members in 3u64..=200, dead in 0u64..200) {
            let roster = roster(members);
            let ids: Vec<_> = roster.members.keys().copied().collect();
            let (node, dead) = (ids[0], ids[1 + (dead % (members - 1)) as usize]);
            let (up, _) = heard(&news(node, Way::Up), &roster, Some(dead));
            let (down, _) = heard(&news(node, Way::Down), &roster, Some(dead));
            let both: BTreeSet<_> = up.union(&down).collect();
            prop_assert_eq!(both.len() as u64, members);
        }

        #[test]
        fn those_that_count_as_down_are_passed_over(members in 3u64..=200, down: u64) {
            let mut roster = roster(members);
            let ids: Vec<_> = roster.members.keys().copied().collect();
            for (node, is_up) in roster.members.iter_mut().skip(1) {
                *is_up = !mix(node.0 ^ down).is_multiple_of(3);
            }
            let up: BTreeSet<_> = ids.iter().copied().filter(|node| roster.members[node]).collect();
            for way in [Way::Up, Way::Down] {
                prop_assert_eq!(&heard(&news(ids[0], way), &roster, None).0, &up);
            }
        }

        #[test]
        fn whoever_begins_a_member_passes_on_to_its_neighbours(members in 2u64..=200, at: prop::sample::Index) {
            let roster = roster(members);
            let ids: Vec<_> = roster.members.keys().copied().collect();
            let us = *at.get(&ids);
            let neighbours: BTreeSet<_> = ring::neighbours(us, &ids).into_iter().collect();
            for origin in ids {
                let next = [Way::Up, Way::Down].map(|way| news(origin, way).next(us, &roster));
                prop_assert!(next.iter().flatten().all(|node| neighbours.contains(node)));
            }
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
            let _ = News::decode(&bytes);
        }
    }

    #[test]
    fn it_is_passed_on_once_each_way_and_the_newest_is_kept() {
        let (mut latest, node) = (Latest::default(), NodeId(1));
        let old = news(node, Way::Up);
        let mut new = News { version: Version { incarnation: 1, number: 2 }, ..news(node, Way::Up) };
        new.facts.insert("load".into(), "2".into());
        assert!(latest.take(&new) && !latest.take(&new) && !latest.take(&old));
        assert!(latest.take(&News { way: Way::Down, ..new.clone() }));
        assert_eq!(latest.newer(node, old.version).map(|facts| facts["load"].as_str()), Some("2"));
        assert_eq!(latest.newer(node, new.version), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_member_tells_a_few_at_once_and_then_one_per_interval() {
        let mut allowance = Allowance::new();
        assert_eq!((0..9).filter(|_| allowance.take(10)).count(), BURST as usize);
        tokio::time::advance(10 * INTERVAL_PER_MEMBER).await;
        assert!(allowance.take(10) && !allowance.take(10));
    }
}
