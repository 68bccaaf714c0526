//! The verdict on a silent node. Pure; the leader acts on it.
//!
//! ```text
//!   leader hears it ─────────────────────────────────────────▶ Alive
//!   silent at the leader, no observer besides the leader ─────▶ Dead      (a city of two)
//!   … and at a majority of the observers that answered ───────▶ Dead
//!   … no observer answered: Dead only after twice the time, and only while the leader hears more than
//!     half of the city; otherwise it may be the leader that is cut off
//!   anything else ────────────────────────────────────────────▶ Suspect, ask again
//! ```
//!
//! An observer that was late itself reports nothing and counts as one that did not answer.
//!
//! The brake (more than one node and more than 30 % of all silent at once) is the scheduler's: a verdict
//! says that a node is gone, not what is to be done about it.

use scp_model::{NodeId, node::Evidence};

/// Silence at the leader that calls for a verdict. A node that stalls for 2,000 ms is silent for up to
/// 2,150 ms (one heartbeat interval more) and the leader may be late by 200 ms unnoticed: 2,400 leaves a
/// rest. A killed node is declared dead within 3,000 ms: 2,400, a tick of 150, 250 for the observers'
/// answers, and the rest for agreement.
pub const SILENCE_MS_MAX: u64 = 2_400;

/// Silence at an observer that agrees. Asked when the leader's 2,400 ms are over, an observer that got
/// one heartbeat more than the leader agrees still; one that hears the node does not.
pub const OBSERVER_SILENCE_MS_MAX: u64 = 2_200;

/// Silence that the leader acts upon without any observer's word.
pub const LONE_SILENCE_MS_MAX: u64 = 2 * SILENCE_MS_MAX;

/// How the leader sees the city while it judges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CityView {
    /// Nodes that the state holds to be up, the leader included.
    pub nodes: usize,
    /// How many of them are silent at the leader, the subject included.
    pub silent: usize,
}

impl CityView {
    fn is_mostly_heard(self) -> bool {
        2 * self.silent < self.nodes
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The leader hears of it.
    Alive,
    /// Silent at the leader; not, or not enough, at its observers.
    Suspect,
    /// Propose `MarkNodeDown` with this.
    Dead(Evidence),
}

/// Judges one node from what the leader and the observers that were asked have (not) heard. `reports` has
/// one entry for each observer but the leader; `None`: no answer, or no judgement.
pub fn judge(leader_silence_ms: u64, reports: &[(NodeId, Option<u64>)], city: CityView) -> Verdict {
    if leader_silence_ms < SILENCE_MS_MAX {
        return Verdict::Alive;
    }
    let answered = reports.iter().filter_map(|(_, silence_ms)| *silence_ms);
    let silent = answered.clone().filter(|silence_ms| *silence_ms >= OBSERVER_SILENCE_MS_MAX).count();
    let is_dead = match answered.count() {
        0 if reports.is_empty() => true,
        0 => leader_silence_ms >= LONE_SILENCE_MS_MAX && city.is_mostly_heard(),
        answered => 2 * silent > answered,
    };
    if !is_dead {
        return Verdict::Suspect;
    }
    Verdict::Dead(Evidence { leader_silence_ms, observers: reports.to_vec() })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CITY: CityView = CityView { nodes: 5, silent: 1 };

    fn reports(silences: &[Option<u64>]) -> Vec<(NodeId, Option<u64>)> {
        (1..).map(NodeId).zip(silences.iter().copied()).collect()
    }

    fn is_dead(leader: u64, silences: &[Option<u64>], city: CityView) -> bool {
        match judge(leader, &reports(silences), city) {
            Verdict::Dead(evidence) => {
                assert_eq!(evidence.leader_silence_ms, leader);
                assert_eq!(evidence.observers, reports(silences), "the evidence tells all");
                true
            }
            Verdict::Alive | Verdict::Suspect => false,
        }
    }

    #[test]
    fn who_is_heard_by_the_leader_is_alive_whatever_observers_say() {
        assert_eq!(judge(2_399, &reports(&[Some(9_000); 5]), CITY), Verdict::Alive);
    }

    #[test]
    fn a_majority_of_the_observers_that_answered_decides() {
        assert!(is_dead(2_400, &[Some(2_300), Some(2_500), Some(100)], CITY));
        assert!(!is_dead(2_400, &[Some(2_300), Some(10), Some(100)], CITY));
        assert!(!is_dead(2_400, &[Some(2_300), Some(10)], CITY), "a tie is no majority");
        assert!(is_dead(2_400, &[Some(2_300), None, None], CITY), "who does not answer does not count");
    }

    #[test]
    fn a_leader_without_observers_decides_alone() {
        assert!(is_dead(2_400, &[], CityView { nodes: 2, silent: 1 }));
    }

    #[test]
    fn a_leader_that_hears_nobody_declares_nobody_dead() {
        assert!(!is_dead(60_000, &[None, None, None], CityView { nodes: 5, silent: 4 }));
        assert!(!is_dead(60_000, &[None], CityView { nodes: 2, silent: 1 }));
        assert!(!is_dead(2_400, &[None, None, None], CITY), "without a word it takes twice the time");
        assert!(is_dead(4_800, &[None, None, None], CITY), "while the rest of the city is heard");
    }

    proptest! {
        #[test]
        fn more_silence_never_brings_a_node_back_to_life(
            leader in 0u64..10_000,
            silences in prop::collection::vec(prop::option::of(0u64..10_000), 0..5),
            more in 0u64..10_000,
        ) {
            let later: Vec<_> = silences.iter().map(|silence| silence.map(|ms| ms + more)).collect();
            let (before, after) = (is_dead(leader, &silences, CITY), is_dead(leader + more, &later, CITY));
            prop_assert!(after || !before);
        }
    }
}
