//! `cargo xtask chaos`: scenarios of faults on a real city, played by `scp-chaos`.

use std::{fs, process::Stdio};

use anyhow::{Context, Result, bail};

use crate::{
    args::Chaos,
    cargo::{self, cargo},
    packages::{self, Step},
    talk,
};

/// The short run of all, some four minutes, that belongs to the tests.
pub fn smoke() -> Result<()> {
    chaos(&Chaos { short: true, json: false, names: Vec::new() })
}

/// Plays the named scenarios, or all there are.
pub fn chaos(options: &Chaos) -> Result<()> {
    packages::install(&[Step::Build, Step::Servers])?;
    let guest = crate::guest::image()?;
    let known = scenarios()?;
    if let Some(name) = options.names.iter().find(|name| !known.contains(name)) {
        bail!("{name:?} is no scenario; there are: {}", known.join(", "));
    }
    talk!("compiling scpd and scp-chaos");
    let binaries = cargo::build_binaries()?;
    let dir = binaries.scpd.parent().context("scpd lies in a directory")?;
    let names = if options.names.is_empty() { &known } else { &options.names };
    let mut command = cargo(&["run", "--quiet", "--locked", "--package", "scp-chaos", "--"]);
    command.arg("--binaries").arg(dir).arg("--guest").arg(guest);
    if options.short {
        command.arg("--short");
    }
    if options.json {
        command.arg("--json");
    }
    for name in names {
        command.arg(cargo::root().join(SCENARIOS).join(format!("{name}.toml")));
    }
    let status = command.stdin(Stdio::null()).status().context("scp-chaos cannot be started")?;
    match status.success() {
        true => Ok(()),
        false => bail!("a scenario failed; its report is above"),
    }
}

const SCENARIOS: &str = "chaos/scenarios";

/// The names of all, in order.
fn scenarios() -> Result<Vec<String>> {
    let entries =
        fs::read_dir(cargo::root().join(SCENARIOS)).with_context(|| format!("{SCENARIOS} is not there"))?;
    let name = |name: String| name.strip_suffix(".toml").map(String::from);
    let mut names: Vec<_> = entries
        .flatten()
        .filter_map(|entry| name(entry.file_name().to_string_lossy().into_owned()))
        .collect();
    names.sort();
    Ok(names)
}
