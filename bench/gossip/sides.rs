//! The two sides: their processes, and what they say, in one language.

use std::{
    collections::BTreeSet,
    env, fs,
    path::Path,
    process::{Command, Stdio},
    sync::mpsc::Sender,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use tokio::time::Instant;

use crate::{member, network, process::Process};

const SERF_PORT: u16 = 7946;
const SERF_RPC_PORT: u16 = 7373;
/// Any key: what is measured is that both sides encrypt.
const SERF_KEY: &str = "c2NwLWJlbmNoLWdvc3NpcC1iZXNpZGUtc2VyZi0zMiE=";

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Which {
    Ours,
    Serf,
}

impl Which {
    pub const BOTH: [Self; 2] = [Self::Ours, Self::Serf];

    pub fn name(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::Serf => "serf",
        }
    }
}

/// What a member noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// Facts of so many members, its own included.
    Knows(usize),
    /// Gossip's own opinion of how many live, on our side: nothing is decided by it.
    Lives(usize),
    /// This one is there (serf says it of each).
    Joined(usize),
    /// An update of this one; of itself: it is on its way.
    Updated(usize),
    Failed(usize),
    Back(usize),
}

#[derive(Debug, Clone, Copy)]
pub struct Line {
    pub side: Which,
    pub by: usize,
    pub when: Instant,
    pub heard: Heard,
}

/// The processes of one side.
pub struct Side {
    pub which: Which,
    pub processes: Vec<Process>,
    /// Those that were not killed.
    pub alive: BTreeSet<usize>,
}

impl Side {
    pub fn start(which: Which, count: usize, (dir, lines): (&Path, &Sender<Line>)) -> Result<Self> {
        if which == Which::Ours {
            member::prepare(dir, count)?;
        }
        let mut processes = Vec::new();
        for at in 0..count {
            let mut command = match which {
                Which::Ours => ours(dir, at)?,
                Which::Serf => serf(at),
            };
            let log = fs::File::create(dir.join(format!("{}{at}.log", which.name())))?;
            command.stderr(Stdio::from(log));
            let lines = lines.clone();
            processes.push(Process::spawn(&mut command, move |when, line| {
                let heard = match which {
                    Which::Ours => from_ours(at, line),
                    Which::Serf => from_serf(line),
                };
                heard.is_none_or(|heard| lines.send(Line { side: which, by: at, when, heard }).is_ok())
            })?);
        }
        Ok(Self { which, processes, alive: (0..count).collect() })
    }

    /// Changes what one member tells of itself.
    pub fn update(&mut self, origin: usize, value: usize) -> Result<()> {
        match self.which {
            Which::Ours => self.processes[origin].tell(&format!("set {value}")),
            Which::Serf => {
                let rpc = format!("-rpc-addr={}:{SERF_RPC_PORT}", network::address(Which::Serf, origin));
                let mut command = Command::new("serf");
                command.args(["tags", &rpc, "-set", &format!("mark={value}")]).stdout(Stdio::null());
                if !command.status()?.success() {
                    bail!("serf tags failed at agent {origin}");
                }
            }
        }
        Ok(())
    }

    /// What the log would bring to every node.
    pub fn tell_all(&mut self, line: &str) {
        for at in &self.alive {
            self.processes[*at].tell(line);
        }
    }

    pub fn cpu(&self) -> Duration {
        self.alive.iter().map(|at| self.processes[*at].cpu()).sum()
    }

    /// Of a member, the mean.
    pub fn memory_kib(&self) -> u64 {
        let all: u64 = self.alive.iter().map(|at| self.processes[*at].memory_kib()).sum();
        all / self.alive.len().max(1) as u64
    }

    /// A process that ended by itself is a failure of the run, not a death to be measured.
    pub fn check(&mut self, dir: &Path) -> Result<()> {
        for at in &self.alive {
            if !self.processes[*at].is_running() {
                let log = dir.join(format!("{}{at}.log", self.which.name()));
                bail!("{} {at} ended by itself:\n{}", self.which.name(), fs::read_to_string(log)?);
            }
        }
        Ok(())
    }
}

fn ours(dir: &Path, at: usize) -> Result<Command> {
    let mut command = Command::new(env::current_exe().context("this program has a path")?);
    command.arg("member").arg(dir).arg(at.to_string());
    Ok(command)
}

fn serf(at: usize) -> Command {
    let (address, first) = (network::address(Which::Serf, at), network::address(Which::Serf, 0));
    let mut command = Command::new("serf");
    command.arg("agent").args([
        format!("-node=m{at}"),
        format!("-bind={address}:{SERF_PORT}"),
        format!("-rpc-addr={address}:{SERF_RPC_PORT}"),
        format!("-encrypt={SERF_KEY}"),
        format!("-retry-join={first}:{SERF_PORT}"),
        "-retry-interval=1s".into(),
        "-log-level=info".into(),
        format!("-profile={}", env::var("SCP_BENCH_SERF_PROFILE").unwrap_or_else(|_| "lan".into())),
    ]);
    command
}

fn from_ours(by: usize, line: &str) -> Option<Heard> {
    let mut words = line.split(' ');
    let (word, number) = (words.next()?, words.next()?);
    match word {
        "set" => Some(Heard::Updated(by)),
        "knows" => number.parse().ok().map(Heard::Knows),
        "lives" => number.parse().ok().map(Heard::Lives),
        "seen" => number.parse().ok().map(Heard::Updated),
        "down" => number.parse().ok().map(Heard::Failed),
        "up" => number.parse().ok().map(Heard::Back),
        _ => None,
    }
}

/// From an agent's log: `…[INFO] serf: EventMemberFailed: m17 127.2.0.18`.
fn from_serf(line: &str) -> Option<Heard> {
    let (_, event) = line.split_once("] serf: EventMember")?;
    let (event, rest) = event.split_once(": m")?;
    let number = rest.split(' ').next()?.parse().ok()?;
    match event {
        "Join" => Some(Heard::Joined(number)),
        "Update" => Some(Heard::Updated(number)),
        "Failed" => Some(Heard::Failed(number)),
        _ => None,
    }
}

/// A bench target has no tests of its own: a line that is misread would pass for a silence.
pub fn check_parsers() {
    let serf = "    2026/11/24 11:55:40 [INFO] serf: EventMemberFailed: m17 127.2.0.18";
    assert_eq!(from_serf(serf), Some(Heard::Failed(17)));
    assert_eq!(from_serf("[INFO] serf: EventMemberUpdate: m3"), Some(Heard::Updated(3)));
    assert_eq!(from_serf("[INFO] serf: EventMemberJoin: m0 127.2.0.1"), Some(Heard::Joined(0)));
    assert_eq!(from_serf("[INFO] agent: Received event: member-failed"), None);
    assert_eq!(from_ours(4, "set 9"), Some(Heard::Updated(4)));
    assert_eq!(from_ours(4, "seen 8 9"), Some(Heard::Updated(8)));
    assert_eq!(from_ours(0, "down 8"), Some(Heard::Failed(8)));
}
