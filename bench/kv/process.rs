//! Processes under test: what they used, and their end.

use std::{
    fs::{self, File},
    net::{SocketAddr, TcpListener, UdpSocket},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};

/// One process and its log; killed when it is dropped.
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    pub fn spawn(command: &mut Command, log: &Path) -> Result<Self> {
        let file = File::options().create(true).append(true).open(log)?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let name = command.get_program().to_string_lossy().into_owned();
        let child = command.spawn().with_context(|| format!("{name} cannot be started"))?;
        Ok(Self { child, log: log.into() })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// As `kill -9`, and gone when this returns.
    pub fn kill(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    pub fn cpu(&self) -> Duration {
        cpu_of(&self.pid().to_string())
    }

    /// The end of what it said, for who has to explain a failure.
    pub fn log_end(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// CPU time of a process so far, all threads; `self` for this one.
pub fn cpu_of(pid: &str) -> Duration {
    // Linux counts in hundredths of a second here, whatever its own clock does.
    const TICK_MS: u64 = 10;
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<_> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
    Duration::from_millis((ticks(11) + ticks(12)) * TICK_MS)
}

/// Ports that are free now, for TCP and UDP; another process may be faster, then the start fails.
pub fn free_ports(count: usize) -> Result<Vec<u16>> {
    let mut held = Vec::new();
    while held.len() < count {
        let tcp = TcpListener::bind("127.0.0.1:0")?;
        let port = tcp.local_addr()?.port();
        if let Ok(udp) = UdpSocket::bind(SocketAddr::from(([127, 0, 0, 1], port))) {
            held.push((port, tcp, udp));
        }
    }
    Ok(held.iter().map(|(port, ..)| *port).collect())
}

/// A process that keeps a core awake, and yields to everything else.
pub fn spinner() -> Result<Process> {
    let mut command = Command::new("nice");
    command.args(["-n", "19", "sh", "-c", "while :; do :; done"]);
    Process::spawn(&mut command, Path::new("/dev/null"))
}

/// Counts the syncs of some processes until it is asked.
pub struct Syncs {
    strace: Process,
    report: PathBuf,
}

impl Syncs {
    pub fn count(pids: &[u32], dir: &Path) -> Result<Self> {
        let report = dir.join("syncs");
        let mut command = Command::new("strace");
        command.args(["-f", "-q", "-e", "trace=fdatasync,fsync,sync_file_range,msync", "-o"]).arg(&report);
        pids.iter().for_each(|pid| {
            command.args(["-p", &pid.to_string()]);
        });
        Ok(Self { strace: Process::spawn(&mut command, &dir.join("strace.log"))?, report })
    }

    /// `fsync` and `fdatasync` that succeeded.
    pub fn end(self) -> Result<usize> {
        let pid = i32::try_from(self.strace.pid()).ok().and_then(rustix::process::Pid::from_raw);
        let pid = pid.context("a pid is a positive i32")?;
        rustix::process::kill_process(pid, rustix::process::Signal::INT)?;
        let mut strace = self.strace;
        strace.child.wait()?;
        let text = fs::read_to_string(&self.report)?;
        ensure!(!text.is_empty(), "strace saw nothing: {}", strace.log_end());
        let is_sync = |line: &&str| {
            (line.contains("fdatasync") || line.contains("fsync")) && line.trim_end().ends_with("= 0")
        };
        Ok(text.lines().filter(is_sync).count())
    }
}
