//! Members of our gossip and failure detection beside as many `serf` agents, in one run.
//!
//! ```text
//!   this process ── unshare: a network and a process tree of its own ──▶ the coordinator
//!     ├─ 100 × itself as `member`: mesh (QUIC, TLS 1.3), gossip, observer of the production code
//!     └─ 100 × `serf agent -encrypt=…`: profile `lan`, its default
//!   each member a process and an address of 127.0.0.0/8; what it notices is a line on its stdout
//! ```
//!
//! # What is measured
//! - **Bytes, CPU and memory of a member at rest**, in windows that are the same for both sides. Bytes are
//!   counted by nftables where packets leave, IP headers included. Each member of ours says what `scpd` says:
//!   three facts and five gauges every 2 s.
//! - **Spread of an update**, sides in turns: a fact of one member changes, or a tag of one agent
//!   (`serf tags -set`), from the moment at which the origin itself has noted it until all others have.
//! - **Detection of a death**, in turns: from SIGKILL until our leader declares the node down, and until
//!   the first and the last serf agent do.
//! - **False deaths**, both sides at once: while some members stand still for 2 s, and while packets get lost.
//!
//! # Why members, not whole nodes
//! A member of ours is what corresponds to an agent of serf. A hundred whole `scpd` would add their Raft
//! learners, API and state, which serf does not have, and no view of gossip is seen from outside of `scpd`.
//! The first member leads as `scpd` does: its observer's silences, `leader::suspicions`, the scheduler's plan,
//! applied to a state of so many nodes. What the log then brings to all nodes, the coordinator tells them.
//!
//! When this process ends, however it ends, the kernel ends all others with their process tree.
//!
//! `SCP_BENCH_MEMBERS` (10 to 200); `SCP_BENCH_QUICK=1`: 40 members, three pairs.

mod city;
mod member;
mod network;
mod process;
mod report;
mod sides;
mod trials;

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};

/// Set inside of the namespaces.
const INSIDE: &str = "SCP_BENCH_GOSSIP_INSIDE";
const MEMBERS: usize = 100;
const MEMBERS_QUICK: usize = 40;
/// One cell of gossip, and one window of what a machine with two cores can start.
const MEMBERS_MAX: usize = 200;
/// Below this there would be nobody left to observe those that are killed.
const MEMBERS_MIN: usize = 10;

/// How much is measured.
pub struct Plan {
    pub members: usize,
    pub pairs: usize,
}

fn main() -> Result<()> {
    let words: Vec<_> = env::args().collect();
    if let [_, word, dir, at] = &words[..]
        && word == "member"
    {
        return member::run(Path::new(dir), at.parse().context("a member has a number")?);
    }
    if env::var_os(INSIDE).is_none() {
        return enter();
    }
    sides::check_parsers();
    network::check_parser();
    process::check_parsers();
    network::up()?;
    let load = std::fs::read_to_string("/proc/loadavg")?;
    eprintln!("gossip: load before it began: {}", load.trim());
    let dir = tempfile::Builder::new().prefix("scp-gossip-").tempdir()?;
    trials::run(&plan()?, dir.path())
}

fn plan() -> Result<Plan> {
    let quick = env::var("SCP_BENCH_QUICK").is_ok_and(|value| value != "0");
    let (members, pairs) = if quick { (MEMBERS_QUICK, 3) } else { (MEMBERS, 7) };
    let members = match env::var("SCP_BENCH_MEMBERS") {
        Ok(text) => text.parse().context("SCP_BENCH_MEMBERS is a number")?,
        Err(_) => members,
    };
    ensure!(
        (MEMBERS_MIN..=MEMBERS_MAX).contains(&members),
        "SCP_BENCH_MEMBERS is {MEMBERS_MIN} to {MEMBERS_MAX}"
    );
    Ok(Plan { members, pairs })
}

/// Runs this again where nothing else is: the packets counted and lost are its own, and whatever it starts
/// ends with it.
fn enter() -> Result<()> {
    let this: PathBuf = env::current_exe()?;
    let status = Command::new("unshare")
        .args(["--net", "--pid", "--fork", "--kill-child", "--mount-proc"])
        .arg(this)
        .env(INSIDE, "1")
        .status()
        .context("unshare (util-linux) cannot be started")?;
    if !status.success() {
        bail!("the benchmark in its own network failed ({status}); it needs root");
    }
    Ok(())
}
