//! What a run found out: the verdict, and how long the city took for what.

use std::{fmt, path::PathBuf};

use serde_json::{Value, json};

use crate::history::{Micros, seconds};

/// One fault, once.
#[derive(Debug, Clone, Default)]
pub struct Blow {
    pub fault: &'static str,
    /// In a picture; none: nothing goes wrong by it.
    pub seen: Option<scp_chronicle::Fault>,
    pub targets: Vec<String>,
    pub at: Micros,
    /// When it had been taken back.
    pub back: Micros,
    /// When the city was healthy again; none when nobody waited for it.
    pub healthy: Option<Micros>,
    /// The longest time without an acknowledged change, from the fault until healthy.
    pub unavailable: Micros,
    /// From the fault to the city's saying that a target is down; none when it never did.
    pub declared: Option<Micros>,
    /// From the fault to the first new process of a VM; none where there are no VMs, or none was started.
    pub restarted: Option<Micros>,
    /// How long a VM had two processes that could run, until the city was healthy; none where there are no VMs.
    pub ran_twice: Option<Micros>,
    pub note: Option<String>,
}

/// The report of a run.
#[derive(Debug, Default)]
pub struct Report {
    pub scenario: String,
    pub seed: u64,
    pub took: Micros,
    pub writes: usize,
    pub reads: usize,
    pub creations: usize,
    /// Changes whose answer never came.
    pub unknown: usize,
    pub blows: Vec<Blow>,
    /// Everything that is wrong.
    pub violations: Vec<String>,
    /// Where history and logs are, when something is.
    pub kept: Option<PathBuf>,
}

/// Of a set of measures, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Spread {
    count: usize,
    p50: u64,
    p99: u64,
    max: u64,
}

impl Spread {
    /// None of nothing.
    fn of(measures: impl Iterator<Item = Micros>) -> Option<Self> {
        let mut sorted: Vec<_> = measures.map(|micros| micros / 1000).collect();
        sorted.sort_unstable();
        let max = *sorted.last()?;
        // The nearest rank: a measure that was taken.
        let rank = |percent: usize| sorted[(sorted.len() * percent).div_ceil(100).max(1) - 1];
        Some(Self { count: sorted.len(), p50: rank(50), p99: rank(99), max })
    }

    fn json(spread: Option<Self>) -> Value {
        spread
            .map_or(Value::Null, |it| json!({"count": it.count, "p50": it.p50, "p99": it.p99, "max": it.max}))
    }
}

/// A measure's name, and its value of a blow.
type Measure = (&'static str, fn(&Blow) -> Option<Micros>);

const MEASURES: [Measure; 5] = [
    ("unavailable_ms", |blow| Some(blow.unavailable)),
    ("declared_dead_ms", |blow| blow.declared),
    ("vm_restarted_ms", |blow| blow.restarted),
    ("vm_ran_twice_ms", |blow| blow.ran_twice),
    ("healthy_again_ms", |blow| blow.healthy.map(|healthy| healthy.saturating_sub(blow.back))),
];

/// More are summed up only.
const BLOWS_SHOWN_MAX: usize = 20;

impl Report {
    pub fn is_good(&self) -> bool {
        self.violations.is_empty()
    }

    /// Kinds of faults, in the order of their first.
    fn faults(&self) -> Vec<&'static str> {
        let mut faults = Vec::new();
        for blow in &self.blows {
            if !faults.contains(&blow.fault) {
                faults.push(blow.fault);
            }
        }
        faults
    }

    fn spread(&self, fault: &str, of: fn(&Blow) -> Option<Micros>) -> Option<Spread> {
        Spread::of(self.blows.iter().filter(|blow| blow.fault == fault).filter_map(of))
    }

    pub fn json(&self) -> Value {
        let measures: serde_json::Map<_, _> = self
            .faults()
            .into_iter()
            .map(|fault| {
                let spreads = MEASURES
                    .iter()
                    .map(|(name, of)| ((*name).to_string(), Spread::json(self.spread(fault, *of))));
                (fault.to_string(), Value::Object(spreads.collect()))
            })
            .collect();
        let blows: Vec<_> = self
            .blows
            .iter()
            .map(|blow| {
                let mut told = json!({"fault": blow.fault, "targets": blow.targets,
                    "at_s": seconds(blow.at), "held_ms": (blow.back - blow.at) / 1000, "note": blow.note});
                for (name, of) in MEASURES {
                    told[name] = json!(of(blow).map(|micros| micros / 1000));
                }
                told
            })
            .collect();
        json!({"scenario": self.scenario, "passed": self.is_good(), "seed": self.seed,
            "took_s": seconds(self.took), "writes": self.writes, "reads": self.reads,
            "creations": self.creations, "unknown": self.unknown, "violations": self.violations,
            "measures": measures, "faults": blows, "kept": self.kept})
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = if self.is_good() { "PASSED" } else { "FAILED" };
        writeln!(f, "\n{}: {verdict} in {:.1} s, seed {}", self.scenario, seconds(self.took), self.seed)?;
        writeln!(
            f,
            "  {} writes, {} reads, {} creations; {} changes without an answer",
            self.writes, self.reads, self.creations, self.unknown
        )?;
        let ms = |value: Option<Micros>| value.map_or("-".into(), |micros| (micros / 1000).to_string());
        writeln!(
            f,
            "\n     at s  fault       unavailable  declared dead  VM elsewhere  VM twice  healthy again  target"
        )?;
        for blow in self.blows.iter().take(BLOWS_SHOWN_MAX) {
            let [unavailable, declared, restarted, twice, healthy] = MEASURES.map(|(_, of)| ms(of(blow)));
            writeln!(
                f,
                "{:9.2}  {:<10} {unavailable:>12}  {declared:>13}  {restarted:>12}  {twice:>8}  {healthy:>13}  {}",
                seconds(blow.at),
                blow.fault,
                blow.targets.join(" ")
            )?;
            if let Some(note) = &blow.note {
                writeln!(f, "{:11}{note}", "")?;
            }
        }
        if self.blows.len() > BLOWS_SHOWN_MAX {
            writeln!(f, "           and {} more", self.blows.len() - BLOWS_SHOWN_MAX)?;
        }
        writeln!(
            f,
            "\n  {:<10}  {:<18} {:>5} {:>8} {:>8} {:>8}   in ms",
            "fault", "measure", "count", "p50", "p99", "max"
        )?;
        for fault in self.faults() {
            for (name, of) in MEASURES {
                if let Some(it) = self.spread(fault, of) {
                    writeln!(
                        f,
                        "  {fault:<10}  {:<18} {:>5} {:>8} {:>8} {:>8}",
                        name.trim_end_matches("_ms"),
                        it.count,
                        it.p50,
                        it.p99,
                        it.max
                    )?;
                }
            }
        }
        for violation in &self.violations {
            writeln!(f, "\n  WRONG: {violation}")?;
        }
        if let Some(kept) = &self.kept {
            writeln!(f, "\n  history and logs: {}", kept.display())?;
        }
        Ok(())
    }
}

/// The longest time without an acknowledgement between two moments. `times` are in order.
pub fn longest_gap(times: &[Micros], from: Micros, to: Micros) -> Micros {
    let within = times.iter().copied().filter(|time| (from..to).contains(time));
    let mut last = from;
    let mut longest = 0;
    for time in within.chain([to]) {
        longest = longest.max(time.saturating_sub(last));
        last = time;
    }
    longest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_gap_counts_both_ends() {
        assert_eq!(longest_gap(&[5, 12, 14, 50], 10, 20), 6);
        assert_eq!(longest_gap(&[5, 50], 10, 20), 10);
        assert_eq!(longest_gap(&[18], 10, 20), 8);
    }

    #[test]
    fn percentiles_are_measures_that_were_taken() {
        let spread = Spread::of((1..=100).map(|ms| ms * 1000)).expect("there are some");
        assert_eq!(spread, Spread { count: 100, p50: 50, p99: 99, max: 100 });
        let one = Spread::of([7000].into_iter()).expect("there is one");
        assert_eq!((one.p50, one.p99, one.max), (7, 7, 7));
        assert_eq!(Spread::of([].into_iter()), None);
    }

    #[test]
    fn the_report_tells_the_same_to_people_and_programs() {
        let blow = Blow {
            fault: "kill",
            targets: vec!["n1".into()],
            at: 1_000_000,
            back: 2_000_000,
            healthy: Some(2_500_000),
            unavailable: 700_000,
            declared: Some(900_000),
            ..Blow::default()
        };
        let report = Report {
            scenario: "x".into(),
            blows: vec![blow],
            violations: vec!["something".into()],
            ..Report::default()
        };
        let shown = report.to_string();
        for words in ["FAILED", "WRONG: something", "unavailable", "700", "900", "500"] {
            assert!(shown.contains(words), "{words}: {shown}");
        }
        let json = report.json();
        assert_eq!(json["passed"], false);
        assert_eq!(json["measures"]["kill"]["unavailable_ms"]["p99"], 700);
        assert_eq!(json["faults"][0]["healthy_again_ms"], 500);
    }
}
