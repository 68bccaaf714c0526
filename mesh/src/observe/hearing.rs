//! When each watched node was last heard of. A synchronous core: time comes in as milliseconds.
//!
//! ```text
//!   heard ──▶ quiet ──its turn was 100 ms ago──▶ late: asked ──no answer by the next tick──▶ alarm
//!     ▲                                                │                                       │
//!     └──────────────── any word of it ────────────────┴───────────────────────────────────────┘
//! ```
//! An observer that was late itself must not blame others (Lifeguard): whatever time its own loop lost is
//! taken off everyone's silence, and while it is late it gives no judgement at all.

use std::collections::BTreeMap;

use scp_model::NodeId;

use super::TICK_MS;

/// A tick later than this is our own stall. Below it, scheduling noise of a busy machine would slow every
/// verdict down.
pub(super) const LATE_MS: u64 = 200;

/// A heartbeat that is late by this much is asked for: far above what a network and a busy machine add.
pub(super) const GRACE_MS: u64 = 100;

/// Who was never heard since the watch began is not called silent before this: those that watched it
/// before know better.
const ACQUAINTANCE_MS: u64 = 2_000;

/// Whoever has been late for longer than this is asked, and told of, once a second only: it is dead to
/// us alone, or nobody can do anything about it.
pub(super) const INSISTING_MS: u64 = 5_000;
/// In ticks.
const RELAXED: u64 = 1_000 / TICK_MS;

/// Our own loop's time.
#[derive(Debug)]
pub(super) struct OwnTime {
    last_tick: u64,
    ticks: u64,
}

impl OwnTime {
    pub(super) fn new(now: u64) -> Self {
        Self { last_tick: now, ticks: 0 }
    }

    /// Our loop turns; called every [`TICK_MS`]. A gap between two calls was our own: what was lost.
    pub(super) fn tick(&mut self, now: u64) -> u64 {
        let lost = self.lateness(now);
        (self.last_tick, self.ticks) = (now, self.ticks + 1);
        lost
    }

    /// Milliseconds that our loop is behind; 0 within [`LATE_MS`].
    pub(super) fn lateness(&self, now: u64) -> u64 {
        let behind = now.saturating_sub(self.last_tick).saturating_sub(TICK_MS);
        if behind > LATE_MS { behind } else { 0 }
    }

    /// Whether something that has lasted so long is due at this tick.
    pub(super) fn is_turn(&self, lasted_ms: u64) -> bool {
        lasted_ms <= INSISTING_MS || self.ticks.is_multiple_of(RELAXED)
    }
}

#[derive(Debug, Clone, Copy)]
struct Heard {
    /// Silence counts from here: the last word, or the beginning of the watch, less lost time.
    since: u64,
    /// It speaks to us this often.
    interval: u64,
    spoke: bool,
    /// Since when it has owed us an answer, less lost time.
    asked: Option<u64>,
}

/// Whom an observer has to ask, and whom to tell of.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Late {
    pub(super) ask: Vec<NodeId>,
    pub(super) alarm: Vec<NodeId>,
}

#[derive(Debug, Default)]
pub(super) struct Hearing {
    watched: BTreeMap<NodeId, Heard>,
}

impl Hearing {
    /// Watches exactly these from now on, each of which speaks to us so often.
    pub(super) fn watch(&mut self, subjects: &BTreeMap<NodeId, u64>, now: u64) {
        self.watched.retain(|node, _| subjects.contains_key(node));
        for (node, interval) in subjects {
            let new = Heard { since: now, interval: *interval, spoke: false, asked: None };
            self.watched.entry(*node).or_insert(new).interval = *interval;
        }
    }

    /// A word of it came in.
    pub(super) fn heard(&mut self, node: NodeId, now: u64) {
        if let Some(heard) = self.watched.get_mut(&node) {
            *heard = Heard { since: now.max(heard.since), spoke: true, asked: None, ..*heard };
        }
    }

    /// Our loop turned, after it lost so much time.
    pub(super) fn tick(&mut self, own: &OwnTime, (now, lost): (u64, u64)) -> Late {
        let mut late = Late::default();
        for (node, heard) in &mut self.watched {
            heard.since = (heard.since + lost).min(now);
            heard.asked = heard.asked.map(|asked| (asked + lost).min(now));
            let silence = now.saturating_sub(heard.since);
            let Some(late_ms) = silence.checked_sub(heard.interval + GRACE_MS) else { continue };
            if own.is_turn(late_ms) {
                late.ask.push(*node);
                if heard.asked.is_some() {
                    late.alarm.push(*node);
                }
                heard.asked.get_or_insert(now);
            }
        }
        late
    }

    /// Since when our questions to the node have had no answer.
    pub(super) fn asked(&self, node: NodeId) -> Option<u64> {
        self.watched.get(&node)?.asked
    }

    /// How long the node has been silent; `None`: not watched, or not for long enough to know.
    pub(super) fn silence(&self, node: NodeId, now: u64) -> Option<u64> {
        let heard = self.watched.get(&node)?;
        let silence = now.saturating_sub(heard.since);
        (heard.spoke || silence >= ACQUAINTANCE_MS).then_some(silence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: NodeId = NodeId(1);
    const INTERVAL: u64 = 1_000;

    struct Loop {
        own: OwnTime,
        hearing: Hearing,
    }

    impl Loop {
        /// Watches A from 0 on, and has heard it then.
        fn new() -> Self {
            let mut hearing = Hearing::default();
            hearing.watch(&BTreeMap::from([(A, INTERVAL)]), 0);
            hearing.heard(A, 0);
            Self { own: OwnTime::new(0), hearing }
        }

        fn tick(&mut self, now: u64) -> Late {
            let lost = self.own.tick(now);
            self.hearing.tick(&self.own, (now, lost))
        }

        /// What the last tick asked for.
        fn tick_until(&mut self, from: u64, to: u64) -> Late {
            let ticks = (from..=to).step_by(TICK_MS as usize);
            ticks.map(|now| self.tick(now)).last().expect("there is a tick")
        }
    }

    #[test]
    fn silence_counts_from_the_last_word() {
        let mut turns = Loop::new();
        turns.tick(TICK_MS);
        turns.hearing.heard(A, 160);
        assert_eq!(turns.tick_until(2 * TICK_MS, 900), Late::default());
        assert_eq!(turns.hearing.silence(A, 960), Some(800));
        assert_eq!(turns.hearing.silence(NodeId(2), 960), None, "not watched");
    }

    #[test]
    fn who_is_late_is_asked_at_once_and_told_of_when_it_does_not_answer() {
        let mut turns = Loop::new();
        let due = INTERVAL + GRACE_MS;
        assert_eq!(turns.tick_until(TICK_MS, due - TICK_MS), Late::default());
        assert_eq!(turns.tick(due), Late { ask: vec![A], alarm: vec![] });
        assert_eq!(turns.tick(due + TICK_MS), Late { ask: vec![A], alarm: vec![A] });
        assert_eq!(turns.hearing.asked(A), Some(due));
        turns.hearing.heard(A, due + TICK_MS + 1);
        assert_eq!(turns.tick(due + 2 * TICK_MS), Late::default(), "it answered");
    }

    #[test]
    fn whoever_stays_silent_is_asked_ever_less() {
        let mut turns = Loop::new();
        let silent = INTERVAL + GRACE_MS + INSISTING_MS;
        turns.tick_until(TICK_MS, silent);
        let asked = (1..=100).filter(|tick| !turns.tick(silent + tick * TICK_MS).ask.is_empty()).count();
        assert_eq!(asked as u64, 100 / RELAXED);
    }

    #[test]
    fn of_a_node_that_was_just_added_nothing_is_said_until_it_was_given_time() {
        let mut turns = Loop::new();
        turns.hearing.watch(&BTreeMap::from([(A, INTERVAL), (NodeId(2), INTERVAL)]), 3_000);
        assert_eq!(turns.hearing.silence(NodeId(2), 3_000 + ACQUAINTANCE_MS - 1), None);
        assert_eq!(turns.hearing.silence(NodeId(2), 3_000 + ACQUAINTANCE_MS), Some(ACQUAINTANCE_MS));
        turns.hearing.heard(NodeId(2), 6_000);
        assert_eq!(turns.hearing.silence(NodeId(2), 6_010), Some(10));
    }
}
