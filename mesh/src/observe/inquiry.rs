//! What the leader asks by itself: whom, since when without an answer, and when it calls the roll.
//!
//! ```text
//!   alarm of an observer ──▶ question, repeated every tick ──any word of the node──▶ closed
//!                                │ 500 ms
//!                                ▼
//!                            roll call: everyone is asked; who does not answer is under question, too
//! ```
//! Silence at the leader is the age of its oldest question without an answer. So a node that stood still
//! for 2 s can never be silent here for so long: it has our questions before it when it goes on.
//!
//! Why the roll: the scheduler's brake counts those that vanished together, and those that are left. An
//! observer may have vanished with its subject, and then nobody would tell of it.

use std::collections::{BTreeMap, BTreeSet};

use scp_model::NodeId;

use super::hearing::OwnTime;
use crate::gossip::cell::CELL_MEMBERS_MAX;

/// A question as old as this is no matter of a lost packet.
const SERIOUS_MS: u64 = 500;
/// In a city beyond this, one node alone under question is no reason to ask all: the brake is about
/// dozens there, of which hardly all but one lost all their observers.
const ROLL_MEMBERS_MAX: usize = CELL_MEMBERS_MAX;

#[derive(Debug, Clone, Copy)]
struct Question {
    /// Asked first, less lost time.
    since: u64,
    /// It is the roll's.
    is_roll: bool,
}

#[derive(Debug, Default)]
pub(super) struct Inquiry {
    /// Who may be asked: members that are up, but ourselves. Empty: we do not lead.
    members: BTreeSet<NodeId>,
    questions: BTreeMap<NodeId, Question>,
    /// The last roll call: questions that are no younger have led to it.
    rolled: Option<u64>,
}

impl Inquiry {
    /// Who may be asked from now on; nobody, when we do not lead.
    pub(super) fn of(&mut self, members: BTreeSet<NodeId>) {
        self.questions.retain(|node, _| members.contains(node));
        self.members = members;
    }

    /// Whether this is a new question.
    pub(super) fn open(&mut self, node: NodeId, now: u64) -> bool {
        if !self.members.contains(&node) {
            return false;
        }
        let is_new = !self.questions.contains_key(&node);
        self.questions.entry(node).or_insert(Question { since: now, is_roll: false }).is_roll = false;
        is_new
    }

    pub(super) fn heard(&mut self, node: NodeId) {
        self.questions.remove(&node);
    }

    /// Our loop turned, after it lost so much time: whom to ask now.
    pub(super) fn tick(&mut self, own: &OwnTime, (now, lost): (u64, u64)) -> Vec<NodeId> {
        for question in self.questions.values_mut() {
            question.since = (question.since + lost).min(now);
        }
        if self.is_roll_due(now) {
            self.rolled = Some(now);
            for node in &self.members {
                self.questions.entry(*node).or_insert(Question { since: now, is_roll: true });
            }
        }
        let due =
            self.questions.iter().filter(|(_, question)| own.is_turn(now.saturating_sub(question.since)));
        due.map(|(node, _)| *node).collect()
    }

    fn is_roll_due(&self, now: u64) -> bool {
        let serious = |question: &&Question| {
            !question.is_roll && Some(question.since) > self.rolled && now - question.since >= SERIOUS_MS
        };
        let enough = if self.members.len() < ROLL_MEMBERS_MAX { 1 } else { 2 };
        self.questions.values().filter(serious).count() >= enough
    }

    /// How long our question to the node has had no answer; `None`: there is none.
    pub(super) fn silence(&self, node: NodeId, now: u64) -> Option<u64> {
        self.questions.get(&node).map(|question| now.saturating_sub(question.since))
    }

    pub(super) fn silences(&self, now: u64) -> Vec<(NodeId, u64)> {
        let silence = |question: &Question| now.saturating_sub(question.since);
        self.questions.iter().map(|(node, question)| (*node, silence(question))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::{super::TICK_MS, *};

    struct Loop {
        own: OwnTime,
        inquiry: Inquiry,
    }

    impl Loop {
        fn new(members: u64) -> Self {
            let mut inquiry = Inquiry::default();
            inquiry.of((1..=members).map(NodeId).collect());
            Self { own: OwnTime::new(0), inquiry }
        }

        /// Whom the last of the ticks asks.
        fn tick_until(&mut self, from: u64, to: u64) -> Vec<NodeId> {
            let mut asked = vec![];
            for now in (from..=to).step_by(TICK_MS as usize) {
                let lost = self.own.tick(now);
                asked = self.inquiry.tick(&self.own, (now, lost));
            }
            asked
        }
    }

    #[test]
    fn silence_counts_from_the_first_question_and_ends_with_any_word() {
        let mut turns = Loop::new(3);
        assert!(turns.inquiry.open(NodeId(2), 10) && !turns.inquiry.open(NodeId(2), 50));
        assert_eq!(turns.tick_until(TICK_MS, 300), [NodeId(2)]);
        assert_eq!(turns.inquiry.silence(NodeId(2), 310), Some(300));
        turns.inquiry.heard(NodeId(2));
        assert_eq!(turns.inquiry.silence(NodeId(2), 310), None);
        assert_eq!(turns.tick_until(400, 400), []);
    }

    #[test]
    fn who_does_not_lead_asks_nobody_and_nobody_asks_for_strangers() {
        let mut turns = Loop::new(3);
        assert!(!turns.inquiry.open(NodeId(9), 0));
        assert!(turns.inquiry.open(NodeId(1), 0));
        turns.inquiry.of(BTreeSet::new());
        assert_eq!(turns.inquiry.silences(10), []);
    }

    #[test]
    fn a_serious_question_calls_the_roll_once() {
        let mut turns = Loop::new(5);
        turns.inquiry.open(NodeId(1), 0);
        assert_eq!(turns.tick_until(TICK_MS, SERIOUS_MS - TICK_MS), [NodeId(1)]);
        let all: Vec<_> = (1..=5).map(NodeId).collect();
        assert_eq!(turns.tick_until(SERIOUS_MS, SERIOUS_MS), all);
        (3..=5).map(NodeId).for_each(|node| turns.inquiry.heard(node));
        assert_eq!(turns.tick_until(SERIOUS_MS + TICK_MS, 2_000), [NodeId(1), NodeId(2)]);
        assert_eq!(turns.inquiry.silences(2_000), [(NodeId(1), 2_000), (NodeId(2), 2_000 - SERIOUS_MS)]);
    }

    #[test]
    fn in_a_large_city_one_silent_node_alone_calls_no_roll() {
        let mut turns = Loop::new(1_000);
        turns.inquiry.open(NodeId(1), 0);
        assert_eq!(turns.tick_until(TICK_MS, 1_000).len(), 1);
        turns.inquiry.open(NodeId(2), 1_000);
        assert_eq!(turns.tick_until(1_000 + TICK_MS, 1_000 + SERIOUS_MS).len(), 1_000);
    }

    #[test]
    fn a_leader_that_was_late_takes_its_own_time_off() {
        let mut turns = Loop::new(3);
        turns.inquiry.open(NodeId(1), 0);
        turns.tick_until(TICK_MS, 300);
        turns.tick_until(5_300, 5_300);
        assert_eq!(turns.inquiry.silence(NodeId(1), 5_300), Some(300 + TICK_MS));
    }
}
