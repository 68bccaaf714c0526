//! `scp-sim`: whole cities under a seed, in virtual time.
//!
//! Each seed runs in a process of its own: what a process remembers (interned strings, counters of the
//! libraries) can then not differ between a seed run alone and the same seed run among others.

#[cfg(feature = "mutations")]
mod mutants;
mod told;

use std::{
    ops::Range,
    process::{Command, ExitCode, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use mimalloc::MiMalloc;
use rustix::time::ClockId;
use scp_sim::{
    city::{City, Settings, Verdict},
    curve, entropy,
    quic::Tier,
    recorder::SharedRecord,
};
use tracing::Dispatch;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// So many of the seeded bugs the simulator has to find, in percent.
#[cfg(feature = "mutations")]
const FOUND_PERCENT_MIN: usize = 95;

/// Simulates whole cities: the production code of node, agreement, state, scheduler and agent under
/// virtual time, with faults
#[derive(Debug, Parser)]
#[command(name = "scp-sim", version)]
struct Flags {
    #[command(subcommand)]
    part: Option<Part>,
    /// Run this seed
    #[arg(long)]
    seed: Option<u64>,
    /// Run seeds A (inclusive) to B (exclusive)
    #[arg(long, value_name = "A..B", value_parser = parse_range)]
    seeds: Option<Range<u64>>,
    /// Run seeds from this minute's on, for so many minutes
    #[arg(long)]
    minutes: Option<u64>,
    /// City of so many nodes, whatever the seed says
    #[arg(long, value_parser = clap::value_parser!(u64).range(3..=9))]
    nodes: Option<u64>,
    /// No faults, and so many virtual seconds of work: what the simulation itself costs
    #[arg(long, value_name = "SECONDS")]
    quiet: Option<u64>,
    /// What carries messages between hosts
    #[arg(long, value_enum, default_value_t)]
    transport: Tier,
    /// Run with this seeded bug (see mutant/)
    #[cfg(feature = "mutations")]
    #[arg(long, value_name = "NAME")]
    mutation: Option<String>,
    /// Hunt every seeded bug over at most so many seeds, and print the table
    #[cfg(feature = "mutations")]
    #[arg(long, value_name = "SEEDS")]
    mutants: Option<u64>,
    /// Print the verdict as JSON
    #[arg(long)]
    json: bool,
    /// Print what happens while it happens
    #[arg(long)]
    replay: bool,
    /// Print the digest of everything that happened
    #[arg(long)]
    trace_hash: bool,
    /// Print who did what, when, in columns: a lane a node
    #[arg(long, requires = "seed", conflicts_with_all = ["json", "replay"])]
    report: bool,
    /// Write the run into this file, as a page for a browser
    #[arg(long, value_name = "FILE", requires = "seed")]
    html: Option<std::path::PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Part {
    /// Gossip and failure detection alone, in cities of growing size
    Curve {
        /// Sizes, 6 or more each
        #[arg(long, value_name = "N,N,...", value_delimiter = ',', default_value = "10,100,1000")]
        members: Vec<usize>,
        /// What is drawn follows from this
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Print one JSON object a size
        #[arg(long)]
        json: bool,
    },
}

fn parse_range(text: &str) -> Result<Range<u64>, String> {
    let (from, to) = text.split_once("..").ok_or("a range is A..B")?;
    let number = |text: &str| text.parse().map_err(|_| format!("{text:?} is not a number"));
    Ok(number(from)?..number(to)?)
}

fn main() -> Result<ExitCode> {
    let flags = Flags::parse();
    // Nobody reads logs here. Left unsaid, every span would be told to the `log` crate, which drops it.
    tracing::dispatcher::set_global_default(Dispatch::none())
        .context("who listens to logs was told twice")?;
    if let Some(Part::Curve { members, seed, json }) = &flags.part {
        return measure_curve(members, *seed, if *json { Form::Json } else { Form::Table });
    }
    #[cfg(feature = "mutations")]
    {
        if let Some(seeds) = flags.mutants {
            return hunt(seeds, flags.json);
        }
        if let Some(name) = &flags.mutation
            && !scp_mutant::select(name)
        {
            bail!("there is no mutation {name:?}");
        }
    }
    match (flags.seed, &flags.seeds, flags.minutes) {
        (Some(seed), None, None) => one(seed, &flags),
        (None, Some(range), None) => many(range.clone(), None, flags.transport),
        (None, None, Some(minutes)) => {
            let first = u64::from(std::process::id()) << 20;
            many(first..u64::MAX, Some(Duration::from_secs(60 * minutes)), flags.transport)
        }
        _ => bail!("give one of --seed N, --seeds A..B, --minutes M"),
    }
}

enum Form {
    Table,
    Json,
}

/// Fails when a promise is broken; says which.
fn measure_curve(sizes: &[usize], seed: u64, form: Form) -> Result<ExitCode> {
    if let Some(small) = sizes.iter().find(|size| **size <= curve::VOTERS) {
        bail!("{small} members are too few: {} vote and none of those is killed", curve::VOTERS);
    }
    let mut code = ExitCode::SUCCESS;
    for size in sizes.iter().copied() {
        let run = std::thread::spawn(move || {
            let _seeded = entropy::seed(seed);
            curve::measure(size, seed)
        });
        let Ok(point) = run.join() else { bail!("the city of {size} panicked") };
        match form {
            Form::Json => println!("{}", point.to_json()),
            Form::Table => println!("{point}"),
        }
        if !point.misses().is_empty() {
            code = ExitCode::FAILURE;
        }
    }
    Ok(code)
}

#[cfg(feature = "mutations")]
fn hunt(seeds: u64, json: bool) -> Result<ExitCode> {
    let outcomes = mutants::campaign(seeds)?;
    let found = outcomes.iter().filter(|outcome| outcome.found.is_some()).count();
    let seeded = outcomes.len();
    if json {
        let missed: Vec<_> = outcomes.iter().filter(|outcome| outcome.found.is_none()).collect();
        let missed: Vec<_> = missed.iter().map(|outcome| outcome.mutation.name).collect();
        println!("{}", serde_json::json!({ "seeded": seeded, "found": found, "missed": missed }));
    } else {
        print!("{}", mutants::table(&outcomes));
        println!("\n{found} of {seeded} found.");
    }
    Ok(if found * 100 >= seeded * FOUND_PERCENT_MIN { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn one(seed: u64, flags: &Flags) -> Result<ExitCode> {
    if !flags.json {
        println!("seed {seed}");
    }
    let settings = Settings {
        seed,
        tier: flags.transport,
        nodes: flags.nodes.map(|nodes| nodes as usize),
        quiet_ms: flags.quiet.map(|seconds| seconds * 1000),
        aloud: flags.replay,
        record: (flags.report || flags.html.is_some()).then(SharedRecord::default),
    };
    let record = settings.record.clone();
    // A thread of its own: thread-local generators begin afresh.
    let run = std::thread::spawn(move || {
        let _seeded = entropy::seed(seed);
        let begun = [ClockId::Monotonic, ClockId::ThreadCPUTime].map(seconds);
        let verdict = City::new(&settings).run();
        let ended = [ClockId::Monotonic, ClockId::ThreadCPUTime].map(seconds);
        (verdict, [ended[0] - begun[0], ended[1] - begun[1]])
    });
    let Ok((verdict, [wall_s, cpu_s])) = run.join() else {
        told::tell(record, flags, None)?;
        println!("verdict: PANIC with seed {seed}");
        return Ok(ExitCode::FAILURE);
    };
    told::tell(record, flags, Some(&verdict))?;
    let code = if verdict.violation.is_none() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    if flags.json {
        println!("{}", as_json(seed, &verdict, [wall_s, cpu_s]));
        return Ok(code);
    }
    if flags.trace_hash {
        println!("trace {:016x}", verdict.digest);
    } else {
        let virtual_s = verdict.virtual_ms as f64 / 1000.0;
        println!(
            "{virtual_s:.1} s of the city in {wall_s:.3} s ({cpu_s:.3} s CPU): {:.0} times",
            virtual_s / wall_s
        );
    }
    let work = format!(
        "{} ms virtual, {} answered, {} rejected, {} repeated, {} VMs at the end",
        verdict.virtual_ms, verdict.answered, verdict.rejected, verdict.failed, verdict.vms
    );
    match verdict.violation {
        None => println!("verdict: ok ({work})"),
        Some(violation) => {
            if !flags.replay && !flags.report {
                println!("{}", verdict.report);
            }
            println!("verdict: VIOLATION with seed {seed}: {} ({work})", violation.0);
        }
    }
    Ok(code)
}

fn as_json(seed: u64, verdict: &Verdict, [wall_s, cpu_s]: [f64; 2]) -> serde_json::Value {
    serde_json::json!({
        "seed": seed,
        "ok": verdict.violation.is_none(),
        "violation": verdict.violation.as_ref().map(|violation| &violation.0),
        "trace": format!("{:016x}", verdict.digest),
        "packets": verdict.packets,
        "virtual_ms": verdict.virtual_ms,
        "wall_s": wall_s,
        "cpu_s": cpu_s,
        "times_real": verdict.virtual_ms as f64 / 1000.0 / wall_s,
        "answered": verdict.answered,
        "rejected": verdict.rejected,
        "repeated": verdict.failed,
        "vms": verdict.vms,
    })
}

/// What a clock says, for the measurement only: nothing in the city sees it.
fn seconds(clock: ClockId) -> f64 {
    let now = rustix::time::clock_gettime(clock);
    now.tv_sec as f64 + now.tv_nsec as f64 / 1e9
}

/// Runs seeds in processes of their own, as many at once as there are cores.
fn many(range: Range<u64>, at_most: Option<Duration>, tier: Tier) -> Result<ExitCode> {
    let program = std::env::current_exe().context("cannot find this program")?;
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    let next = std::sync::Mutex::new(range);
    let failed = std::sync::Mutex::new(Vec::new());
    let passed = std::sync::atomic::AtomicU64::new(0);
    let begun = std::fs::metadata("/proc/self").and_then(|meta| meta.modified()).ok();
    let over = || match (at_most, begun) {
        (Some(limit), Some(begun)) => begun.elapsed().is_ok_and(|elapsed| elapsed > limit),
        _ => false,
    };
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some(seed) = next.lock().ok().and_then(|mut range| range.next()) {
                    if over() {
                        return;
                    }
                    let run = Command::new(&program)
                        .args(["--seed", &seed.to_string(), "--trace-hash"])
                        .args(["--transport", tier.name()])
                        .stdout(Stdio::piped())
                        .output();
                    report(seed, run, &failed, &passed);
                }
            });
        }
    });
    let failed = failed.into_inner().context("a worker panicked")?;
    let passed = passed.into_inner();
    println!("{passed} passed, {} failed", failed.len());
    for seed in &failed {
        println!("again: scp-sim --seed {seed} --transport {} --report", tier.name());
    }
    Ok(if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn report(
    seed: u64,
    run: std::io::Result<std::process::Output>,
    failed: &std::sync::Mutex<Vec<u64>>,
    passed: &std::sync::atomic::AtomicU64,
) {
    let (ok, last) = match run {
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let last: Vec<&str> = text.lines().rev().take(2).collect();
            (output.status.success(), last.into_iter().rev().collect::<Vec<_>>().join("  "))
        }
        Err(error) => (false, error.to_string()),
    };
    println!("seed {seed:<8} {last}");
    if ok {
        passed.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    } else if let Ok(mut failed) = failed.lock() {
        failed.push(seed);
    }
}
