//! A city on servers of this machine: `scpd` on each, and `scpctl` as an operator would type it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use scp_servers::{Options, Run, Server, Servers, VmProcess, wait_until};
use serde_json::Value;

use crate::cargo::Binaries;

/// Generous; what is waited for takes seconds on an idle machine.
pub const SOON: Duration = Duration::from_secs(90);

/// Where `scpd` listens for root on each server, as it does by default.
const SOCKET: &str = "/run/scp/scpd.sock";

/// Servers with the software on them.
#[derive(Debug)]
pub struct City {
    pub servers: Servers,
}

impl City {
    /// Builds the servers and puts software and guest image where all of them see it.
    pub fn build(binaries: &Binaries, guest: &Path) -> Result<Self> {
        let servers = Servers::build(&Options::default())?;
        let city = Self { servers };
        let bin = city.bin();
        fs::create_dir(&bin).context("the servers' bin directory cannot be made")?;
        fs::create_dir(city.share()).context("the servers' share cannot be made")?;
        for (from, to) in [(&binaries.scpd, "scpd"), (&binaries.scpctl, "scpctl")] {
            fs::copy(from, bin.join(to)).with_context(|| format!("{} cannot be copied", from.display()))?;
        }
        fs::copy(guest, city.share().join("guest.qcow2")).context("the guest image cannot be copied")?;
        Ok(city)
    }

    /// The one that `demo --keep` left running.
    pub fn kept() -> Result<Self> {
        let kept = Run::all()?.into_iter().find(Run::is_kept);
        let run = kept.context("no city was kept. Make one with: cargo xtask demo --keep")?;
        Ok(Self { servers: Servers::open(run)? })
    }

    fn bin(&self) -> PathBuf {
        self.servers.run.dir.join("bin")
    }

    /// Where operators' commands begin: every server sees the same files here.
    pub fn share(&self) -> PathBuf {
        self.servers.run.dir.join("share")
    }

    /// A command on a server, as its root would type it.
    pub fn command(&self, server: &str, words: &[&str]) -> Result<Command> {
        let found = self.servers.servers.iter().find(|it| it.name == server);
        command_on(
            found.with_context(|| format!("there is no server {server}"))?,
            &self.servers.run.dir,
            words,
        )
    }

    /// Switches a server on and starts `scpd` on it, as systemd would on a real one.
    pub fn start(&mut self, name: &str) -> Result<()> {
        let dir = self.servers.run.dir.clone();
        start_on(self.servers.get(name)?, &dir)
    }

    /// The same for all servers at once.
    pub fn start_all(&mut self) -> Result<()> {
        let dir = self.servers.run.dir.clone();
        let servers = self.servers.servers.iter_mut();
        let started: Vec<_> = std::thread::scope(|scope| {
            let starts: Vec<_> = servers.map(|server| scope.spawn(|| start_on(server, &dir))).collect();
            starts.into_iter().map(|start| start.join().expect("a start does not panic")).collect()
        });
        started.into_iter().collect()
    }

    /// The last lines of a server's `scpd.log`.
    pub fn log_end(&self, name: &str) -> String {
        log_end(&self.servers.run.dir.join(name))
    }

    /// `scpctl WORDS` on a server; gives its stdout.
    pub fn scpctl(&self, server: &str, words: &[&str]) -> Result<String> {
        let mut command = self.command(server, &[&["scpctl"], words].concat())?;
        let done = command.stdin(Stdio::null()).output().context("scpctl cannot be started")?;
        if !done.status.success() {
            let said = String::from_utf8_lossy(&done.stderr);
            bail!("`scpctl {}` on {server} failed ({}): {}", words.join(" "), done.status, said.trim());
        }
        Ok(String::from_utf8_lossy(&done.stdout).into_owned())
    }

    /// The same, read as JSON.
    pub fn ask(&self, server: &str, words: &[&str]) -> Result<Value> {
        let text = self.scpctl(server, &[words, &["--output", "json"]].concat())?;
        serde_json::from_str(&text).with_context(|| format!("`scpctl {}` wrote no JSON", words.join(" ")))
    }

    /// Where a VM's processes run: the servers' names.
    pub fn servers_of(&self, processes: &[VmProcess], uuid: &str) -> Vec<String> {
        let names = self.servers.names();
        let ours = processes.iter().filter(|process| process.uuid == uuid);
        ours.filter_map(|process| names.get(&process.namespace).cloned()).collect()
    }
}

fn command_on(server: &Server, dir: &Path, words: &[&str]) -> Result<Command> {
    // `env -C` because only inside is it known where to go.
    let mut command = server.command("env")?;
    command.arg("-C").arg(dir.join("share")).args(words);
    let path = std::env::var("PATH").unwrap_or_else(|_| "/usr/sbin:/usr/bin:/sbin:/bin".into());
    command.env("PATH", format!("{}:{path}", dir.join("bin").display()));
    // Each server's root has contexts of its own.
    command.env("SCP_CONFIG", server.disks().join("scpctl.toml"));
    Ok(command)
}

fn start_on(server: &mut Server, dir: &Path) -> Result<()> {
    server.start()?;
    let (name, address) = (server.name.clone(), server.address.clone());
    let zone = format!("z{}", name.trim_start_matches('n'));
    let words = [
        "scpd",
        "--data-dir",
        "/var/lib/scp",
        "--listen",
        &address,
        "--socket",
        SOCKET,
        "--name",
        &name,
        "--zone",
        &zone,
    ];
    let mut command = command_on(server, dir, &words)?;
    let pid = server.spawn("scpd", &mut command)?;
    let socket = server.path(SOCKET)?;
    let is_alive = || Path::new(&format!("/proc/{pid}/exe")).exists();
    let up = wait_until(SOON, || (socket.exists() || !is_alive()).then_some(socket.exists()));
    if up != Some(true) {
        bail!("scpd does not come up on {name}. The end of its log:\n{}", log_end(server.disks()));
    }
    Ok(())
}

fn log_end(disks: &Path) -> String {
    let text = fs::read_to_string(disks.join("scpd.log")).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(15)..].join("\n")
}
