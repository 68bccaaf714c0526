//! `cargo xtask test`: everything, on real parts, the demo last.
//!
//! A failed step does not keep the others from running, so that one run tells everything. The last line
//! says how many passed and failed: every test of the runners, and every other step as one.

use std::{
    io::{BufRead, BufReader},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

use crate::{
    args,
    cargo::{self, cargo},
    demo::{self, City},
    fuzz,
    packages::{self, Step},
    talk, verify,
};

/// Fuzzing here is a smoke test: the long runs are `cargo xtask fuzz --seconds 3600`.
const FUZZ_SECONDS: u64 = 5;

type TestStep = (&'static str, fn() -> Result<Counts>);

/// In this order: what fails fast first, the demo and what needs its city last.
const STEPS: &[TestStep] = &[
    ("verify", || verify::verify().map(|()| ONE_PASSED)),
    ("tests", tests),
    ("doctests", doc_tests),
    ("fuzz", || fuzz::fuzz(FUZZ_SECONDS).map(|()| ONE_PASSED)),
    ("guest", || crate::guest::check().map(|()| ONE_PASSED)),
    ("chaos", || crate::chaos::smoke().map(|()| ONE_PASSED)),
    ("demo", || demo::demo(args::Demo { keep: true, json: false }).map(|()| ONE_PASSED)),
    ("story", || story().map(|()| ONE_PASSED)),
];

/// Names of the steps.
pub fn steps() -> impl Iterator<Item = &'static str> {
    STEPS.iter().map(|(name, _)| *name)
}

/// What ran, and how it ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Counts {
    passed: usize,
    failed: usize,
}

impl Counts {
    fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
    }

    /// From a line that a test runner prints at its end; none for any other line.
    fn of_summary(line: &str) -> Option<Self> {
        let summary = line.split_once("tests run:").map(|(_, summary)| summary);
        let summary = summary.or_else(|| line.strip_prefix("test result:"))?;
        let number = |word: &str| {
            let before = summary.split([',', ';', '.']).find_map(|part| part.trim().strip_suffix(word));
            before.and_then(|number| number.split('(').next()?.trim().parse().ok()).unwrap_or(0)
        };
        // nextest counts a test that timed out apart.
        Some(Self { passed: passed_of(summary), failed: number(" failed") + number(" timed out") })
    }
}

/// `12 passed`, also as `12 passed (1 slow)`.
fn passed_of(summary: &str) -> usize {
    let before = summary.split_once(" passed").map_or("", |(before, _)| before);
    before.rsplit(' ').next().and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// Runs the steps of these names, or all.
pub fn test(names: &[String]) -> Result<()> {
    packages::install(&[Step::Build, Step::Browser, Step::Guest, Step::Servers, Step::Fuzz])?;
    // What an earlier run, broken off, may have kept.
    end_kept()?;
    let mut counts = Counts::default();
    let mut failed = Vec::new();
    for (name, run) in STEPS.iter().filter(|(name, _)| names.is_empty() || names.iter().any(|it| it == name))
    {
        talk!("=== {name}");
        match run() {
            Ok(found) => {
                talk!("=== {name}: passed");
                counts.add(found);
            }
            Err(error) => {
                talk!("=== {name}: FAILED: {error:#}");
                counts.add(error.downcast_ref::<Failed>().map_or(ONE_FAILED, |failed| failed.0));
                failed.push(*name);
            }
        }
    }
    end_kept()?;
    println!("{} passed, {} failed", counts.passed, counts.failed);
    match failed.is_empty() {
        true => Ok(()),
        false => bail!("failed: {}", failed.join(", ")),
    }
}

fn end_kept() -> Result<()> {
    while City::kept().is_ok() {
        demo::end()?;
    }
    Ok(())
}

const ONE_PASSED: Counts = Counts { passed: 1, failed: 0 };
const ONE_FAILED: Counts = Counts { passed: 0, failed: 1 };

/// A test runner that ended badly, with what it counted.
#[derive(Debug)]
struct Failed(Counts);

impl std::fmt::Display for Failed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} tests failed", self.0.failed)
    }
}

impl std::error::Error for Failed {}

fn tests() -> Result<Counts> {
    let guest = crate::guest::image()?;
    // nextest runs each test in its own process and tells the slow ones; cargo's own runner does too.
    let has_nextest = scp_servers::output(&mut cargo(&["nextest", "--version"])).is_ok();
    let mut command = match has_nextest {
        true => cargo(&["nextest", "run", "--locked", "--workspace", "--no-fail-fast", "--color", "never"]),
        false => cargo(&["test", "--locked", "--workspace", "--all-targets", "--no-fail-fast"]),
    };
    run_counted(command.env("SCP_GUEST_IMAGE", guest))
}

fn doc_tests() -> Result<Counts> {
    run_counted(&mut cargo(&["test", "--quiet", "--locked", "--workspace", "--doc"]))
}

/// Runs a test runner, passes on what it says, and counts.
fn run_counted(command: &mut Command) -> Result<Counts> {
    // Both of its streams into one pipe: the runners disagree on which of them the summary belongs.
    let (reader, writer) = std::io::pipe().context("a pipe cannot be made")?;
    let errors = writer.try_clone().context("a pipe cannot be shared")?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(writer)
        .stderr(errors)
        .spawn()
        .context("cargo cannot be started")?;
    // The command holds the pipe's other end too; without this the end would never be read.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut counts = Counts::default();
    for line in BufReader::new(reader).split(b'\n') {
        let line =
            String::from_utf8_lossy(&line.context("the test runner's words cannot be read")?).into_owned();
        eprintln!("{line}");
        if let Some(found) = Counts::of_summary(&line) {
            counts.add(found);
        }
    }
    match child.wait().context("the test runner does not end")?.success() {
        true => Ok(counts),
        false => Err(Failed(Counts { failed: counts.failed.max(1), ..counts }).into()),
    }
}

/// The commands of the README's five-minute story, in order, on the city that the demo kept.
fn story() -> Result<()> {
    let city = City::kept()?;
    let readme =
        std::fs::read_to_string(cargo::root().join("README.md")).context("README.md cannot be read")?;
    let commands = verify::story(&readme);
    if commands.is_empty() {
        bail!("README.md has no block that begins with ```sh story");
    }
    for line in &commands {
        talk!("$ {line}");
        let mut command = city.command("n1", &["bash", "-c", line])?;
        let said =
            scp_servers::output(&mut command).with_context(|| format!("the story stops at: {line}"))?;
        for line in said.lines().take(STORY_LINES_MAX) {
            eprintln!("    {line}");
        }
    }
    Ok(())
}

/// How much of each answer is shown.
const STORY_LINES_MAX: usize = 12;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_runners_summaries_are_counted() {
        let counts = |line| Counts::of_summary(line).map(|counts| (counts.passed, counts.failed));
        assert_eq!(counts("     Summary [  15.6s] 7 tests run: 7 passed, 0 skipped"), Some((7, 0)));
        assert_eq!(
            counts("  Summary [ 78.0s] 9 tests run: 7 passed (1 slow), 2 failed, 0 skipped"),
            Some((7, 2))
        );
        assert_eq!(counts(" Summary [ 1s] 3 tests run: 2 passed, 1 timed out, 0 skipped"), Some((2, 1)));
        assert_eq!(counts("test result: FAILED. 3 passed; 1 failed; 0 ignored; 0 measured"), Some((3, 1)));
        assert_eq!(counts("test result: ok. 12 passed; 0 failed; 0 ignored"), Some((12, 0)));
        assert_eq!(counts("        PASS [   0.029s] (1/7) scp-servers processes"), None);
    }

    #[test]
    fn a_runner_that_fails_tells_what_it_counted() {
        let script = "echo 'test result: FAILED. 3 passed; 2 failed; 0 ignored' >&2; exit 1";
        let error = run_counted(Command::new("sh").args(["-c", script])).expect_err("it failed");
        assert_eq!(
            error.downcast_ref::<Failed>().map(|failed| failed.0),
            Some(Counts { passed: 3, failed: 2 })
        );
        let counts =
            run_counted(Command::new("sh").args(["-c", "echo 'test result: ok. 1 passed; 0 failed'"]));
        assert_eq!(counts.expect("it passed"), ONE_PASSED);
    }
}
