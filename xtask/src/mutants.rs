//! `cargo xtask mutants`: every seeded bug, one at a time, against the simulator.

use std::process::Stdio;

use anyhow::{Context, Result, bail};

use crate::{
    cargo::cargo,
    packages::{self, Step},
    talk,
};

/// Seeds for one bug before it counts as not found.
const SEEDS_MAX: &str = "60";

pub fn mutants(json: bool) -> Result<()> {
    packages::install(&[Step::Build])?;
    talk!("compiling the simulator with its seeded bugs; then some minutes of cities");
    let run = ["run", "--quiet", "--locked", "--profile", "sim", "--package", "scp-sim"];
    let mut command = cargo(&run);
    command.args(["--features", "mutations", "--", "--mutants", SEEDS_MAX]);
    if json {
        command.arg("--json");
    }
    let status = command.stdin(Stdio::null()).status().context("the simulator cannot be started")?;
    match status.success() {
        true => Ok(()),
        false => bail!("too many seeded bugs were not found"),
    }
}
