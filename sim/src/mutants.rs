//! The campaign against seeded bugs: each mutation alone, seed after seed, until the simulator finds it.

use std::{
    fmt::Write as _,
    process::Command,
    sync::{Mutex, PoisonError},
};

use anyhow::{Context, Result};
use scp_mutant::Mutation;

/// A run takes less than a second; one that takes this long has hung, which is found, too.
const SECONDS_MAX: &str = "60";

/// What became of one mutation.
pub struct Outcome {
    pub mutation: Mutation,
    pub seeds_tried: u64,
    /// At which seed, and how.
    pub found: Option<(u64, String)>,
}

/// Runs every mutation over seeds from 1 on, at most `seeds` of them, on all cores.
pub fn campaign(seeds: u64) -> Result<Vec<Outcome>> {
    let program = std::env::current_exe().context("cannot find this program")?;
    let sound = |seed: &u64| matches!(run(&program, *seed, None), Ok(None));
    let seeds: Vec<u64> = (1..=seeds).filter(sound).collect();
    let next = Mutex::new(scp_mutant::ALL.iter());
    let outcomes = Mutex::new(Vec::new());
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let taken = next.lock().unwrap_or_else(PoisonError::into_inner).next();
                    let Some(mutation) = taken else { return };
                    let outcome = hunt(&program, *mutation, &seeds);
                    eprintln!("{:<30} {}", mutation.name, how(&outcome));
                    outcomes.lock().unwrap_or_else(PoisonError::into_inner).push(outcome);
                }
            });
        }
    });
    let mut outcomes = outcomes.into_inner().unwrap_or_else(PoisonError::into_inner);
    let place = |outcome: &Outcome| scp_mutant::ALL.iter().position(|known| *known == outcome.mutation);
    outcomes.sort_by_key(place);
    Ok(outcomes)
}

fn hunt(program: &std::path::Path, mutation: Mutation, seeds: &[u64]) -> Outcome {
    let mut seeds_tried = 0;
    for seed in seeds {
        seeds_tried += 1;
        match run(program, *seed, Some(mutation.name)) {
            Ok(None) => {}
            Ok(Some(how)) => return Outcome { mutation, seeds_tried, found: Some((*seed, how)) },
            Err(error) => eprintln!("seed {seed} of {} did not run: {error:#}", mutation.name),
        }
    }
    Outcome { mutation, seeds_tried, found: None }
}

/// One run; what it found.
fn run(program: &std::path::Path, seed: u64, mutation: Option<&str>) -> Result<Option<String>> {
    let mut command = Command::new("timeout");
    command.arg(SECONDS_MAX).arg(program).args(["--seed", &seed.to_string(), "--json"]);
    if let Some(name) = mutation {
        command.args(["--mutation", name]);
    }
    let output = command.output().context("the simulator does not start")?;
    if output.status.success() {
        return Ok(None);
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let verdict: Option<serde_json::Value> =
        text.lines().last().and_then(|line| serde_json::from_str(line).ok());
    let violation = verdict.and_then(|verdict| Some(verdict["violation"].as_str()?.to_owned()));
    Ok(Some(violation.unwrap_or_else(|| match output.status.code() {
        Some(124) => "the run hangs".into(),
        _ => panicked(&String::from_utf8_lossy(&output.stderr)),
    })))
}

fn panicked(stderr: &str) -> String {
    let mut lines = stderr.lines().skip_while(|line| !line.contains("panicked at"));
    lines.next();
    format!("panic: {}", lines.next().unwrap_or("the process ended by itself"))
}

fn how(outcome: &Outcome) -> String {
    match &outcome.found {
        Some((seed, how)) => format!("seed {seed} ({} tried): {}", outcome.seeds_tried, short(how)),
        None => format!("not found with {} seeds", outcome.seeds_tried),
    }
}

/// One line of a table: ids and lists of operations are for the one who repeats the run.
fn short(how: &str) -> String {
    let how = how.split([';', '{', '[']).next().unwrap_or(how).trim().replace('|', "/");
    match how.char_indices().nth(110) {
        Some((at, _)) => format!("{} …", &how[..at]),
        None => how,
    }
}

/// The table of docs/mutations.md.
pub fn table(outcomes: &[Outcome]) -> String {
    let mut out = String::from("| mutation | where | the bug | found by |\n|---|---|---|---|\n");
    for outcome in outcomes {
        let Mutation { name, place, bug } = outcome.mutation;
        let _ = writeln!(out, "| {name} | {place} | {bug} | {} |", how(outcome));
    }
    out
}
