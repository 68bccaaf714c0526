//! Pairs of measures of both sides, told as lines of JSON.

use serde_json::{Value, json};

/// The value that so many in a hundred do not exceed.
pub fn percentile(values: &[f64], percent: usize) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    let rank = (values.len() * percent).div_ceil(100).max(1) - 1;
    values.get(rank).copied().unwrap_or(f64::NAN)
}

pub fn rounded(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

/// What is promised of our side.
pub struct Goal {
    pub text: &'static str,
    pub met: bool,
}

/// One measure of both sides: ours over serf's, pair by pair; the less the better.
pub fn pairs(name: &str, pairs: &[(f64, f64)], (sides, goal): (Value, Option<Goal>)) {
    let ratios: Vec<f64> = pairs.iter().map(|(ours, serf)| ours / serf).collect();
    let mut measure = json!({
        "name": name,
        "value": rounded(percentile(&ratios, 50)),
        "unit": "times serf",
        "low": rounded(percentile(&ratios, 0)),
        "high": rounded(percentile(&ratios, 100)),
        "pairs": pairs.len(),
    });
    for (key, value) in sides.as_object().into_iter().flatten() {
        measure[key] = value.clone();
    }
    finish(measure, goal);
}

/// A count of ours beside serf's.
pub fn counts(name: &str, (ours, serf): (usize, usize), of: usize) {
    let measure = json!({ "name": name, "value": ours, "unit": "members", "of": of, "serf": serf });
    finish(measure, Some(Goal { text: "<= 0", met: ours == 0 }));
}

fn finish(mut measure: Value, goal: Option<Goal>) {
    if let Some(Goal { text, met }) = goal {
        measure["goal"] = json!(text);
        measure["met"] = json!(met);
    }
    println!("{measure}");
}

/// `p50`, `p99` and the largest, in milliseconds.
pub fn spread(values_ms: &[f64]) -> Value {
    let at = |percent| percentile(values_ms, percent).round();
    json!({ "p50_ms": at(50), "p99_ms": at(99), "max_ms": at(100) })
}
