//! One process under test: its lines as they come, what it used, and its end.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStdin, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal};
use tokio::time::Instant;

/// Killed when it is dropped.
pub struct Process {
    child: Child,
    stdin: ChildStdin,
}

impl Process {
    /// Each line goes to `heard` with the moment at which it was read, on a thread of its own.
    pub fn spawn(
        command: &mut Command,
        heard: impl Fn(Instant, &str) -> bool + Send + 'static,
    ) -> Result<Self> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("{command:?} cannot be started"))?;
        let stdin = child.stdin.take().context("stdin is a pipe")?;
        let mut lines = BufReader::new(child.stdout.take().context("stdout is a pipe")?);
        std::thread::Builder::new().stack_size(256 << 10).spawn(move || {
            let mut line = String::new();
            while lines.read_line(&mut line).is_ok_and(|bytes| bytes > 0) {
                if !heard(Instant::now(), line.trim_end()) {
                    return;
                }
                line.clear();
            }
        })?;
        Ok(Self { child, stdin })
    }

    /// Writes a line to it. A process that was killed does not read it.
    pub fn tell(&mut self, line: &str) {
        let _ = self.stdin.write_all(format!("{line}\n").as_bytes());
    }

    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        rustix::process::kill_process(pid.context("a pid is a positive i32")?, signal)?;
        Ok(())
    }

    /// As `kill -9`, and gone when this returns.
    pub fn kill(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// CPU time so far, of all threads.
    pub fn cpu(&self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id()));
        cpu(&stat.unwrap_or_default()).unwrap_or_default()
    }

    /// Memory that is in RAM, in KiB.
    pub fn memory_kib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()));
        memory_kib(&status.unwrap_or_default()).unwrap_or_default()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// User and system time from `/proc/PID/stat`: fields 14 and 15. The name of the process, in parentheses,
/// may hold anything.
fn cpu(stat: &str) -> Option<Duration> {
    // Linux counts in hundredths of a second here, whatever its own clock does.
    const TICK_MS: u64 = 10;
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut ticks = fields.split(' ').skip(11).map(str::parse::<u64>);
    Some(Duration::from_millis((ticks.next()?.ok()? + ticks.next()?.ok()?) * TICK_MS))
}

fn memory_kib(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// See [`crate::sides::check_parsers`].
pub fn check_parsers() {
    let stat = "42 (a) b) S 1 42 42 0 -1 4194560 1 0 0 0 150 25 0 0 20 0 4 0 100 1000 10";
    assert_eq!(cpu(stat), Some(Duration::from_millis(1_750)));
    assert_eq!(memory_kib("VmPeak:\t  9 kB\nVmRSS:\t   10140 kB\nThreads:\t8\n"), Some(10_140));
}
