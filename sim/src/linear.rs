//! Linearizability of a register's history: the algorithm of Wing and Gong with Lowe's memory of
//! configurations (G. Lowe, Testing for Linearizability, 2017), one register at a time.
//!
//! The worst case is exponential in the operations that overlap; it is bounded by [`STEPS_MAX`], beyond
//! which the verdict is [`Verdict::Unknown`], never "correct".

use std::collections::HashSet;

/// Configurations looked at before giving up; some seconds.
pub const STEPS_MAX: usize = 2_000_000;

/// One operation on one register, as its client saw it. Times are any clock that all clients share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation {
    pub begun: u64,
    /// None: no answer came. It may have taken effect at any time after, or never.
    pub ended: Option<u64>,
    pub kind: Kind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    Write(u64),
    /// What it read; None: nothing had been written.
    Read(Option<u64>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Linearizable,
    /// No order of the operations explains what was read.
    Violation,
    /// Too many overlap to say.
    Unknown,
}

/// Judges the history of one register that begins empty.
pub fn check(history: &[Operation]) -> Verdict {
    // A read without an answer tells nothing.
    let mut operations: Vec<&Operation> = history
        .iter()
        .filter(|operation| operation.ended.is_some() || matches!(operation.kind, Kind::Write(_)))
        .collect();
    operations.sort_by_key(|operation| operation.begun);
    Search { operations, seen: HashSet::new(), steps: 0 }.run()
}

struct Search<'a> {
    operations: Vec<&'a Operation>,
    seen: HashSet<(Vec<u64>, Option<u64>)>,
    steps: usize,
}

/// A partial order found so far: what was linearized, and what the register then holds.
#[derive(Clone)]
struct Configuration {
    done: Vec<u64>,
    /// All before this one are done.
    first: usize,
    value: Option<u64>,
}

impl Configuration {
    fn has(&self, at: usize) -> bool {
        self.done[at / 64] & (1 << (at % 64)) != 0
    }

    fn with(&self, at: usize, value: Option<u64>) -> Self {
        let mut next = Self { value, ..self.clone() };
        next.done[at / 64] |= 1 << (at % 64);
        while next.first < next.done.len() * 64 && next.has(next.first) {
            next.first += 1;
        }
        next
    }
}

impl Search<'_> {
    fn run(&mut self) -> Verdict {
        let words = self.operations.len() / 64 + 1;
        let mut stack = vec![Configuration { done: vec![0; words], first: 0, value: None }];
        while let Some(at) = stack.pop() {
            self.steps += 1;
            if self.steps > STEPS_MAX {
                return Verdict::Unknown;
            }
            if self.complete(&at) {
                return Verdict::Linearizable;
            }
            for next in self.successors(&at) {
                if self.seen.insert((next.done.clone(), next.value)) {
                    stack.push(next);
                }
            }
        }
        Verdict::Violation
    }

    /// Whether all that were answered are in the order; the rest may never have happened.
    fn complete(&self, at: &Configuration) -> bool {
        (at.first..self.operations.len()).all(|index| at.has(index) || self.operations[index].ended.is_none())
    }

    /// Every operation that may come next: none that is left ended before it began.
    fn successors(&self, at: &Configuration) -> Vec<Configuration> {
        let left = || (at.first..self.operations.len()).filter(|index| !at.has(*index));
        let earliest_end = left().filter_map(|index| self.operations[index].ended).min().unwrap_or(u64::MAX);
        left()
            .take_while(|index| self.operations[*index].begun <= earliest_end)
            .filter_map(|index| match self.operations[index].kind {
                Kind::Write(value) => Some(at.with(index, Some(value))),
                Kind::Read(value) => (value == at.value).then(|| at.with(index, at.value)),
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(begun: u64, ended: u64, value: u64) -> Operation {
        Operation { begun, ended: Some(ended), kind: Kind::Write(value) }
    }

    fn read(begun: u64, ended: u64, value: Option<u64>) -> Operation {
        Operation { begun, ended: Some(ended), kind: Kind::Read(value) }
    }

    #[test]
    fn a_read_that_overlaps_a_write_may_see_either() {
        for seen in [None, Some(1)] {
            assert_eq!(check(&[write(0, 10, 1), read(5, 6, seen)]), Verdict::Linearizable);
        }
    }

    #[test]
    fn a_stale_read_is_a_violation() {
        assert_eq!(check(&[write(0, 1, 1), write(2, 3, 2), read(4, 5, Some(1))]), Verdict::Violation);
    }

    #[test]
    fn two_reads_may_not_see_time_run_backwards() {
        let history = [write(0, 1, 1), write(2, 20, 2), read(3, 4, Some(2)), read(5, 6, Some(1))];
        assert_eq!(check(&history), Verdict::Violation);
    }

    #[test]
    fn a_write_without_an_answer_may_take_effect_late_or_never() {
        let lost = Operation { begun: 2, ended: None, kind: Kind::Write(2) };
        let seen = [write(0, 1, 1), lost.clone(), read(3, 4, Some(1)), read(50, 51, Some(2))];
        assert_eq!(check(&seen), Verdict::Linearizable);
        let never = [write(0, 1, 1), lost.clone(), read(50, 51, Some(1))];
        assert_eq!(check(&never), Verdict::Linearizable);
        let back = [write(0, 1, 1), lost, read(3, 4, Some(2)), read(50, 51, Some(1))];
        assert_eq!(check(&back), Verdict::Violation);
    }

    #[test]
    fn a_value_that_nobody_wrote_is_a_violation() {
        assert_eq!(check(&[write(0, 1, 1), read(2, 3, Some(9))]), Verdict::Violation);
    }
}
