//! The servers' clocks: `scpd` with libfaketime, which adds to the wall clock what a file says.
//!
//! Only the wall clock is moved. The monotonic one, which timers and elections use, is the kernel's: no
//! administrator and no NTP server moves that.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result};
use rustls::{pki_types::UnixTime, time_provider::TimeProvider};

/// Where Debian's package `libfaketime` puts it.
const LIBRARY: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";

/// All clocks of a run, that of the clients included.
#[derive(Debug)]
pub struct Clocks {
    dir: PathBuf,
    clients: Arc<ClientClock>,
}

impl Clocks {
    /// Clocks that are right until they are moved; their files lie in `dir`.
    pub fn new(dir: &Path) -> Self {
        Self { dir: dir.into(), clients: Arc::default() }
    }

    fn file(&self, server: &str) -> PathBuf {
        self.dir.join(format!("{server}.clock"))
    }

    /// Has a program that is not started yet follow the server's clock.
    pub fn govern(&self, server: &str, command: &mut Command) -> Result<()> {
        let file = self.file(server);
        if !file.exists() {
            self.shift(server, 0)?;
        }
        command.env("LD_PRELOAD", LIBRARY).env("FAKETIME_TIMESTAMP_FILE", file);
        command.env("FAKETIME_NO_CACHE", "1").env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        Ok(())
    }

    /// From now on the server's clock is so many seconds ahead of this machine's.
    pub fn shift(&self, server: &str, seconds: i64) -> Result<()> {
        let (file, new) = (self.file(server), self.file(&format!("{server}.new")));
        // Never half a word: it is read at each look at the clock.
        fs::write(&new, format!("{seconds:+}\n"))
            .and_then(|()| fs::rename(&new, &file))
            .with_context(|| format!("{} cannot be written", file.display()))
    }

    /// What clients judge certificates by.
    pub fn of_clients(&self) -> Arc<ClientClock> {
        self.clients.clone()
    }
}

/// The wall clock of those who use the city; it moves when all servers' clocks do.
#[derive(Debug, Default)]
pub struct ClientClock {
    ahead_s: AtomicI64,
}

impl ClientClock {
    pub fn shift(&self, seconds: i64) {
        self.ahead_s.store(seconds, Ordering::Relaxed);
    }
}

impl TimeProvider for ClientClock {
    #[allow(clippy::disallowed_methods)] // Real processes are judged by real time.
    fn current_time(&self) -> Option<UnixTime> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
        let seconds = now.as_secs().checked_add_signed(self.ahead_s.load(Ordering::Relaxed))?;
        Some(UnixTime::since_unix_epoch(Duration::from_secs(seconds)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_follows_the_clock_that_is_moved_under_it() {
        let dir = std::env::temp_dir().join(format!("scp-chaos-clocks-{}", std::process::id()));
        fs::create_dir_all(&dir).expect("writable");
        let clocks = Clocks::new(&dir);
        let year = || {
            let mut date = Command::new("date");
            date.args(["-u", "+%s"]);
            clocks.govern("n1", &mut date).expect("writable");
            let printed = scp_servers::output(&mut date).expect("date runs");
            printed.trim().parse::<i64>().expect("a number")
        };
        let real = clocks.of_clients().current_time().expect("after 1970").as_secs().cast_signed();
        assert!((year() - real).abs() < 60);
        clocks.shift("n1", 86_400 * 400).expect("writable");
        assert!((year() - real - 86_400 * 400).abs() < 60);
        clocks.shift("n1", -86_400).expect("writable");
        assert!((year() - real + 86_400).abs() < 60);
        fs::remove_dir_all(&dir).expect("it is ours");
    }
}
