//! Clocks, percentiles, and the lines that `cargo xtask bench` reads.

use std::{
    fs,
    time::{Duration, Instant},
};

use serde_json::json;

/// Runs it; how long it took on the wall, added to `total`.
#[allow(clippy::disallowed_methods)] // What is measured here is real time.
pub fn timed<T>(total: &mut Duration, run: impl FnOnce() -> T) -> T {
    let begin = Instant::now();
    let done = run();
    *total += begin.elapsed();
    done
}

/// CPU time of this thread so far; there is only one.
pub fn cpu() -> Duration {
    let text = fs::read_to_string("/proc/self/schedstat").unwrap_or_default();
    let nanos = text.split(' ').next().and_then(|nanos| nanos.parse().ok());
    Duration::from_nanos(nanos.unwrap_or_default())
}

/// The most memory that the process ever had, in MiB.
pub fn memory_mib_max() -> u64 {
    let text = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().next()).and_then(|kib| kib.parse::<u64>().ok());
    kib.unwrap_or_default() / 1024
}

/// The value that so many in a hundred do not exceed.
pub fn percentile(values: &mut [f64], percent: usize) -> f64 {
    values.sort_by(f64::total_cmp);
    let at = (values.len() * percent).div_ceil(100).clamp(1, values.len().max(1)) - 1;
    values.get(at).copied().unwrap_or(f64::NAN)
}

/// One measure, and what it is to be, if that was promised.
pub fn print(name: &str, value: f64, unit: &str) {
    println!("{}", json!({ "name": name, "value": value, "unit": unit }));
}

pub fn print_goal(name: &str, value: f64, (goal, unit): (Goal, &str)) {
    let (bound, met) = match goal {
        Goal::AtMost(most) => (format!("<= {most}"), value <= most),
        Goal::AtLeast(least) => (format!(">= {least}"), value >= least),
    };
    println!("{}", json!({ "name": name, "value": value, "unit": unit, "goal": bound, "met": met }));
}

#[derive(Debug, Clone, Copy)]
pub enum Goal {
    AtMost(f64),
    AtLeast(f64),
}
