//! `scp-chaos`: plays scenarios. See the crate's documentation for what they look like.

use std::{
    io::IsTerminal as _,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result};
use clap::Parser;
use scp_chaos::{Options, Played, play};
use scp_chronicle::{
    columns::{self, Colours},
    page::page,
};

/// Plays scenarios of faults on a real city and judges what clients saw
#[derive(Debug, Parser)]
#[command(name = "scp-chaos", version)]
struct Flags {
    /// Scenarios, one after the other
    #[arg(required = true, value_name = "SCENARIO.toml")]
    scenarios: Vec<PathBuf>,
    /// Fewer repetitions and shorter faults, where the scenario says so
    #[arg(long)]
    short: bool,
    /// The reports as JSON on stdout, one object a line
    #[arg(long)]
    json: bool,
    /// Chooses random targets; printed, so that a run can be repeated
    #[arg(long)]
    seed: Option<u64>,
    /// Directory that holds `scpd`
    #[arg(long, env = "SCP_BINARIES", default_value = "target/debug", value_name = "DIR")]
    binaries: PathBuf,
    /// Image that VMs boot from; for scenarios with `vms`
    #[arg(long, env = "SCP_GUEST_IMAGE", value_name = "FILE")]
    guest: Option<PathBuf>,
    /// Where history and logs are kept when a scenario fails
    #[arg(long, default_value = "/var/tmp/scp-chaos", value_name = "DIR")]
    out: PathBuf,
    /// Who did what, when, in columns: a lane a node
    #[arg(long)]
    report: bool,
    /// Write each run into this directory, as a page for a browser: SCENARIO.html
    #[arg(long, value_name = "DIR")]
    html: Option<PathBuf>,
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    let seed = flags.seed.unwrap_or_else(rand::random);
    let options =
        Options { short: flags.short, seed, binaries: flags.binaries, guest: flags.guest, out: flags.out };
    let mut is_good = true;
    let (columns, pages) = (flags.report, flags.html.as_deref());
    for path in &flags.scenarios {
        let told = play(path, &options).and_then(|played| tell(&played, columns, pages).map(|()| played));
        match told {
            Ok(Played { report, .. }) => {
                if flags.json {
                    println!("{}", report.json());
                }
                is_good &= report.is_good();
            }
            Err(error) => {
                eprintln!("{}: cannot be played: {error:#}", path.display());
                is_good = false;
            }
        }
    }
    if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn tell(Played { report, record }: &Played, columns: bool, pages: Option<&Path>) -> Result<()> {
    if columns {
        let colours = if std::io::stderr().is_terminal() { Colours::Ansi } else { Colours::None };
        eprint!("\n{}", columns::report(record, colours));
    }
    eprint!("{report}");
    if let Some(dir) = pages {
        std::fs::create_dir_all(dir).with_context(|| format!("{} cannot be made", dir.display()))?;
        let path = dir.join(format!("{}.html", report.scenario));
        std::fs::write(&path, page(record))
            .with_context(|| format!("{} cannot be written", path.display()))?;
        eprintln!("\n  page: {}", path.display());
    }
    Ok(())
}
