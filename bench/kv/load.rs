//! Closed loops: so many clients, each with one request under way, for a while.

use std::{future::Future, time::Duration};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tokio::{task::JoinSet, time::Instant};

/// One stretch of load on one side.
#[derive(Debug, Clone, Copy)]
pub struct Run {
    pub per_second: f64,
    /// CPU time of an operation, of all processes of the side.
    pub server_cpu_us: f64,
    /// The same of this process, which is the clients.
    pub client_cpu_us: f64,
    pub p50_ms: f64,
    pub p99_ms: f64,
}

/// Puts load on a side. `operation` is given the client's number.
pub async fn run<F, Fut>(
    (clients, window): (usize, Duration),
    server_cpu: impl Fn() -> Duration,
    operation: F,
) -> Result<Run>
where
    F: Fn(usize) -> Fut + Clone + Send + 'static,
    Fut: Future<Output = Result<()>> + Send,
{
    let (server, own) = (server_cpu(), crate::process::cpu_of("self"));
    let begin = Instant::now();
    let end = begin + window;
    let mut tasks = JoinSet::new();
    for client in 0..clients {
        let operation = operation.clone();
        tasks.spawn(async move {
            let mut latencies = Vec::new();
            while Instant::now() < end {
                let asked = Instant::now();
                operation(client).await?;
                latencies.push(asked.elapsed());
            }
            anyhow::Ok(latencies)
        });
    }
    let mut latencies = Vec::new();
    while let Some(done) = tasks.join_next().await {
        latencies.extend(done.context("a client panicked")??);
    }
    let elapsed = begin.elapsed();
    let count = latencies.len().max(1) as f64;
    let us = |before: Duration, after: Duration| (after - before).as_secs_f64() * 1e6 / count;
    latencies.sort();
    let at = |percent: usize| latencies[(latencies.len() * percent / 100).min(latencies.len() - 1)];
    Ok(Run {
        per_second: count / elapsed.as_secs_f64(),
        server_cpu_us: us(server, server_cpu()),
        client_cpu_us: us(own, crate::process::cpu_of("self")),
        p50_ms: at(50).as_secs_f64() * 1e3,
        p99_ms: at(99).as_secs_f64() * 1e3,
    })
}

pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        count if count % 2 == 1 => values[count / 2],
        count => f64::midpoint(values[count / 2 - 1], values[count / 2]),
    }
}

fn rounded(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

/// Pairs (etcd, ours), told as a measure: the median of the pairs' ratios, and all that is behind it.
pub fn report(name: &str, regime: &str, pairs: &[(Run, Run)], goal: Option<f64>) {
    let mut ratios: Vec<f64> = pairs.iter().map(|(etcd, ours)| ours.per_second / etcd.per_second).collect();
    ratios.sort_by(f64::total_cmp);
    let ratio = median(ratios.iter().copied());
    let side = |pick: fn(&(Run, Run)) -> Run| -> Value {
        let of = |value: fn(Run) -> f64| rounded(median(pairs.iter().map(|pair| value(pick(pair)))));
        json!({
            "per_second": of(|run| run.per_second).round(),
            "server_cpu_us": of(|run| run.server_cpu_us),
            "client_cpu_us": of(|run| run.client_cpu_us),
            "p50_ms": of(|run| run.p50_ms),
            "p99_ms": of(|run| run.p99_ms),
        })
    };
    let mut measure = json!({
        "name": name,
        "regime": regime,
        "value": rounded(ratio),
        "unit": "times etcd",
        "low": rounded(ratios.first().copied().unwrap_or(f64::NAN)),
        "high": rounded(ratios.last().copied().unwrap_or(f64::NAN)),
        "pairs": pairs.len(),
        "ours": side(|pair| pair.1),
        "etcd": side(|pair| pair.0),
    });
    if let Some(goal) = goal {
        measure["goal"] = json!(format!(">= {goal}"));
        measure["met"] = json!(ratio >= goal);
    }
    println!("{measure}");
}
