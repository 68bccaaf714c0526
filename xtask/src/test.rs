//! `cargo xtask test`: everything, on real parts, the demo last.
//!
//! Every step is counted; a failed one does not keep the others from running, so that one run tells
//! everything. The last line says how many passed and failed.

use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{
    args,
    cargo::{self, cargo},
    demo::{self, City},
    fuzz,
    packages::{self, Step},
    talk,
    verify::{self, Tree, commands_in},
};

/// Fuzzing here is a smoke test: the long runs are `cargo xtask fuzz --seconds 3600`.
const FUZZ_SECONDS: u64 = 5;

type TestStep = (&'static str, fn() -> Result<()>);

const STEPS: &[TestStep] = &[
    ("verify", verify::verify),
    ("tests", tests),
    ("doc tests", doc_tests),
    ("fuzz smoke", || fuzz::fuzz(FUZZ_SECONDS)),
    ("documented commands", documented_commands),
    ("demo", || demo::demo(args::Demo { keep: true, json: false })),
    ("the README's story", story),
];

/// Runs all steps.
pub fn test() -> Result<()> {
    packages::install(&[Step::Build, Step::Guest, Step::Servers, Step::Fuzz])?;
    let mut failed = Vec::new();
    for (name, step) in STEPS {
        talk!("=== {name}");
        match step() {
            Ok(()) => talk!("=== {name}: passed"),
            Err(error) => {
                talk!("=== {name}: FAILED: {error:#}");
                failed.push(*name);
            }
        }
    }
    let _ = demo::end();
    println!("{} passed, {} failed", STEPS.len() - failed.len(), failed.len());
    match failed.is_empty() {
        true => Ok(()),
        false => bail!("failed: {}", failed.join(", ")),
    }
}

fn tests() -> Result<()> {
    let guest = crate::guest::image()?;
    // nextest runs each test in its own process and tells the slow ones; cargo's own runner does too.
    let has_nextest = scp_servers::output(&mut cargo(&["nextest", "--version"])).is_ok();
    let mut command = match has_nextest {
        true => cargo(&["nextest", "run", "--locked", "--workspace", "--no-fail-fast"]),
        false => cargo(&["test", "--locked", "--workspace", "--all-targets", "--no-fail-fast"]),
    };
    cargo::run(command.env("SCP_GUEST_IMAGE", guest))
}

fn doc_tests() -> Result<()> {
    cargo::run(&mut cargo(&["test", "--quiet", "--locked", "--workspace", "--doc"]))
}

/// Every `scpctl …` in a document is a command that scpctl has.
fn documented_commands() -> Result<()> {
    let binaries = cargo::build_binaries()?;
    let tree = Tree::read(cargo::root())?;
    let mut wrong = Vec::new();
    for (path, file) in tree.markdown() {
        for (line, words) in commands_in(&file.text, "scpctl") {
            let nouns =
                words.split_whitespace().take_while(|word| word.chars().all(|c| c.is_ascii_lowercase()));
            // A noun and a verb; what follows is a name or an option.
            let mut command = Command::new(&binaries.scpctl);
            command.args(nouns.take(2)).arg("--help");
            if scp_servers::output(&mut command).is_err() {
                wrong.push(format!("{path}:{line}: scpctl {words}"));
            }
        }
    }
    match wrong.is_empty() {
        true => Ok(()),
        false => bail!("scpctl has no such command:\n    {}", wrong.join("\n    ")),
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
