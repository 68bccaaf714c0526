//! `cargo xtask fuzz`: every decoder against bytes that nobody wrote.
//!
//! The targets in fuzz/ have cargo-fuzz's layout, so cargo-fuzz runs them too. Here they are built with
//! the stable compiler: LLVM's coverage instrumentation is a pass that stable rustc can be told to run.
//! No address sanitizer, which needs a nightly compiler: our crates deny unsafe code.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result, bail};

use crate::{
    cargo::{self, cargo},
    packages::{self, Step},
    talk,
};

/// What cargo-fuzz passes, less what only nightly takes.
const RUSTFLAGS: &str = "-Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares \
    -Ccodegen-units=1 --cfg=fuzzing";

/// Given explicitly, so that the flags reach our crates and not the build scripts.
const TRIPLE: &str = "x86_64-unknown-linux-gnu";

/// Runs each target for that long; corpora are kept beside other build products and grow from run to
/// run. An input that crashes a target is kept in `fuzz/artifacts/TARGET/` and named.
pub fn fuzz(seconds: u64) -> Result<()> {
    packages::install(&[Step::Build, Step::Fuzz])?;
    let dir = cargo::target_dir()?.join("fuzz");
    talk!("compiling the fuzz targets");
    let mut build = cargo(&["build", "--target", TRIPLE, "--bins", "--target-dir"]);
    build.arg(&dir).current_dir(cargo::root().join("fuzz")).env("RUSTFLAGS", RUSTFLAGS);
    cargo::run(&mut build)?;
    let mut failed = Vec::new();
    for name in targets()? {
        if let Err(error) = run_target(&name, &dir, seconds) {
            talk!("fuzzing {name}: {error:#}");
            failed.push(name);
        } else {
            talk!("fuzzed: {name}");
        }
    }
    match failed.is_empty() {
        true => Ok(()),
        false => bail!("fuzzing found something in: {}", failed.join(", ")),
    }
}

/// Names of the targets: the files in fuzz/fuzz_targets.
fn targets() -> Result<Vec<String>> {
    let dir = cargo::root().join("fuzz/fuzz_targets");
    let entries = fs::read_dir(&dir).with_context(|| format!("{} cannot be read", dir.display()))?;
    let names = entries.flatten().filter_map(|entry| entry.file_name().to_str().map(String::from));
    let mut names: Vec<_> = names.filter_map(|name| name.strip_suffix(".rs").map(String::from)).collect();
    names.sort();
    if names.is_empty() {
        bail!("{} holds no target", dir.display());
    }
    Ok(names)
}

fn run_target(name: &str, dir: &std::path::Path, seconds: u64) -> Result<()> {
    let corpus = dir.join("corpus").join(name);
    let artifacts = cargo::root().join("fuzz/artifacts").join(name);
    for dir in [&corpus, &artifacts] {
        fs::create_dir_all(dir).with_context(|| format!("{} cannot be made", dir.display()))?;
    }
    let program: PathBuf = dir.join(TRIPLE).join("debug").join(name);
    let done = std::process::Command::new(&program)
        .arg(&corpus)
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-artifact_prefix={}/", artifacts.display()))
        // A decoder that takes a second for one small input, or half a gigabyte, is broken too.
        .args(["-timeout=10", "-rss_limit_mb=1024", "-print_final_stats=1"])
        .output()
        .with_context(|| format!("{} cannot be started", program.display()))?;
    let said = String::from_utf8_lossy(&done.stderr);
    if !done.status.success() {
        let end: Vec<_> = said.lines().rev().take(20).collect();
        bail!("{}\n{}", done.status, end.into_iter().rev().collect::<Vec<_>>().join("\n"));
    }
    let executed = said.lines().find_map(|line| line.strip_prefix("stat::number_of_executed_units:"));
    talk!("{name}: {} inputs", executed.unwrap_or(" an unknown number of").trim());
    Ok(())
}
