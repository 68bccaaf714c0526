//! `scp-chaos`: plays scenarios. See the crate's documentation for what they look like.

use std::{path::PathBuf, process::ExitCode};

use clap::Parser;
use scp_chaos::{Options, play};

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
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    let seed = flags.seed.unwrap_or_else(rand::random);
    let options =
        Options { short: flags.short, seed, binaries: flags.binaries, guest: flags.guest, out: flags.out };
    let mut is_good = true;
    for path in &flags.scenarios {
        match play(path, &options) {
            Ok(report) => {
                eprint!("{report}");
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
