//! The city under test: `scpd` on each server, driven as its root would, over the local socket.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use scp_api::{
    client::{Client, ClientError, Result as ClientResult},
    local::{LocalInit, LocalJoin},
    v1::{self, Consistency, JoinTokenCreate},
};
use scp_servers::{Options, Server, Servers, wait_until};
use tokio::runtime::Runtime;

use crate::{clocks::Clocks, delay::Delay, scenario::Scenario};

/// Where `scpd` listens for root on each server, as it does by default.
pub const SOCKET: &str = "/run/scp/scpd.sock";
pub const DATA_DIR: &str = "/var/lib/scp";
/// Generous; what is waited for takes seconds on an idle machine.
pub const SOON: Duration = Duration::from_secs(90);
/// A node that does not answer a question about itself within this time is stuck.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
const API_PORT: u16 = 8443;

/// What clients need to talk to the city.
#[derive(Debug, Clone, Default)]
pub struct Access {
    pub ca_certificate: String,
    pub user: String,
    pub password: String,
}

/// Servers with `scpd` on them.
pub struct City {
    pub servers: Servers,
    pub runtime: Runtime,
    scpd: PathBuf,
    disk_mib: Option<u64>,
    /// How VMs run, if any.
    accelerator: &'static str,
    /// Only in scenarios that move them: every look at the time costs a read of a file.
    pub clocks: Option<Clocks>,
    /// Pid of each server's `scpd`, as long as we have not seen it end.
    pids: BTreeMap<String, u32>,
    /// Servers of the city and their node ids.
    pub members: BTreeMap<String, String>,
    pub access: Access,
    /// Servers whose packets are late.
    pub delays: BTreeMap<String, Delay>,
}

impl City {
    /// Builds the servers and founds the city on the first ones.
    pub fn build(scenario: &Scenario, binaries: &Path) -> Result<Self> {
        let plan = &scenario.city;
        let servers = Servers::build(&Options { count: plan.nodes + plan.spare, libvirt: plan.vms > 0 })?;
        let scpd = servers.run.dir.join("scpd");
        let from = binaries.join("scpd");
        // A copy: one that is compiled meanwhile is not the one under test.
        fs::copy(&from, &scpd).with_context(|| format!("{} cannot be copied", from.display()))?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let clocks = scenario.moves_clocks().then(|| Clocks::new(&servers.run.dir));
        let mut city = Self {
            servers,
            runtime: runtime.context("the async runtime cannot be made")?,
            scpd,
            disk_mib: plan.disk_mib,
            accelerator: if plan.vms > 0 { "tcg" } else { "none" },
            clocks,
            pids: BTreeMap::new(),
            members: BTreeMap::new(),
            access: Access::default(),
            delays: BTreeMap::new(),
        };
        city.join_the_network()?;
        let names: Vec<_> = city.servers.servers.iter().map(|server| server.name.clone()).collect();
        for name in &names {
            city.switch_on(name)?;
        }
        for name in &names {
            city.wait_for_scpd(name)?;
        }
        city.found(&names[0])?;
        for name in &names[1..plan.nodes] {
            city.join(name)?;
        }
        Ok(city)
    }

    /// Clients have an address of their own on the servers' bridge.
    fn join_the_network(&self) -> Result<()> {
        let network = format!("scp-{}-net", self.servers.run.id);
        let words = ["-n", &network, "address", "add", "10.77.0.1/24", "dev", "br0"];
        scp_servers::run(Command::new("ip").args(words))
    }

    /// The network namespace that clients are in.
    pub fn network(&self) -> PathBuf {
        PathBuf::from(format!("/run/netns/scp-{}-net", self.servers.run.id))
    }

    pub fn server(&self, name: &str) -> Result<&Server> {
        let found = self.servers.servers.iter().find(|server| server.name == name);
        found.with_context(|| format!("there is no server {name}"))
    }

    /// Where clients reach a server.
    pub fn api_address(&self, name: &str) -> Result<String> {
        Ok(format!("{}:{API_PORT}", self.server(name)?.address))
    }

    /// Namespaces, data directory, `scpd`; waits for nothing.
    pub fn switch_on(&mut self, name: &str) -> Result<()> {
        self.servers.get(name)?.start()?;
        if let Some(mib) = self.disk_mib {
            let mut mount = self.server(name)?.command("mount")?;
            scp_servers::run(mount.args(["-t", "tmpfs", "-o", &format!("size={mib}m"), "tmpfs", DATA_DIR]))?;
        }
        self.spawn_scpd(name)
    }

    /// Waits until `scpd` answers its root.
    pub fn wait_for_scpd(&self, name: &str) -> Result<()> {
        let answered = wait_until(SOON, || {
            let answers = self.ask_local(name);
            (answers || !self.is_alive(name)).then_some(answers)
        });
        if answered != Some(true) {
            bail!("scpd does not come up on {name}. The end of its log:\n{}", self.log_end(name));
        }
        Ok(())
    }

    /// Starts `scpd` and waits for nothing.
    pub fn spawn_scpd(&mut self, name: &str) -> Result<()> {
        let scpd = self.scpd.clone();
        let accelerator = self.accelerator;
        let server = self.servers.get(name)?;
        let zone = format!("z{}", name.trim_start_matches('n'));
        let mut command = server.command(&scpd)?;
        command.args(["--data-dir", DATA_DIR, "--listen", &server.address, "--socket", SOCKET]);
        command.args(["--name", name, "--zone", &zone, "--accelerator", accelerator]);
        // Each request is in the history already.
        command.env("SCPD_LOG", "info,openraft=warn,scp_api::server::frame=warn").env("NO_COLOR", "1");
        if let Some(clocks) = &self.clocks {
            clocks.govern(name, &mut command)?;
        }
        let pid = server.spawn("scpd", &mut command)?;
        self.pids.insert(name.into(), pid);
        Ok(())
    }

    /// From now on these servers' clocks are so many seconds ahead; of all members, the clients' too.
    pub fn shift_clocks(&self, targets: &[String], seconds: i64) -> Result<()> {
        let clocks = self.clocks.as_ref().context("a scenario that moves clocks has them")?;
        if self.members.keys().all(|member| targets.contains(member)) {
            clocks.of_clients().shift(seconds);
        }
        targets.iter().try_for_each(|name| clocks.shift(name, seconds))
    }

    /// Whether its `scpd` runs, or is paused.
    pub fn is_alive(&self, name: &str) -> bool {
        // A zombie's exe leads nowhere.
        self.pids.get(name).is_some_and(|pid| Path::new(&format!("/proc/{pid}/exe")).exists())
    }

    /// Pid of its `scpd`.
    pub fn pid(&self, name: &str) -> Result<u32> {
        let pid = self.pids.get(name).copied().filter(|_| self.is_alive(name));
        pid.with_context(|| format!("scpd does not run on {name}"))
    }

    /// Sends its `scpd` a signal.
    pub fn signal(&self, name: &str, signal: Signal) -> Result<()> {
        let pid =
            i32::try_from(self.pid(name)?).ok().and_then(Pid::from_raw).context("a pid is a positive i32")?;
        kill_process(pid, signal).with_context(|| format!("scpd on {name} cannot be signalled"))
    }

    /// Waits until its `scpd` has ended.
    pub fn wait_for_end(&self, name: &str) -> Result<()> {
        let ended = wait_until(SOON, || (!self.is_alive(name)).then_some(()));
        ended.with_context(|| format!("scpd on {name} does not end"))
    }

    /// Its own local socket; connected to by path, so the network does not matter.
    fn local(&self, name: &str) -> Result<Client> {
        let client = Client::unix(self.server(name)?.path(SOCKET)?)?;
        Ok(client.with_deadline(ANSWER_WITHIN))
    }

    fn ask_local(&self, name: &str) -> bool {
        self.local(name).is_ok_and(|client| self.runtime.block_on(client.local_status()).is_ok())
    }

    /// Asks a node over its local socket.
    pub fn ask<T, F>(&self, name: &str, question: impl FnOnce(Client) -> F) -> Result<T>
    where
        F: Future<Output = ClientResult<T>>,
    {
        let client = self.local(name)?;
        let answer = self.runtime.block_on(question(client));
        answer.map_err(|error| anyhow::anyhow!("{name}: {}", tell(&error)))
    }

    fn found(&mut self, name: &str) -> Result<()> {
        let password = uuid::Uuid::new_v4().to_string();
        let order = LocalInit {
            city: "chaos".into(),
            country: "PT".into(),
            node_name: None,
            zone: None,
            admin_password: Some(password.clone()),
        };
        let made = self.ask(name, |client| async move { client.local_init(&order).await })?;
        self.members.insert(name.into(), made.node);
        self.access = Access { ca_certificate: made.ca_certificate, user: made.admin_user, password };
        Ok(())
    }

    /// Has a server join by way of any member.
    pub fn join(&mut self, name: &str) -> Result<()> {
        let member = self.members.keys().next().context("there is no city to join")?.clone();
        let made = self.ask(&member, |client| async move {
            client.with_deadline(SOON).create_join_token(&JoinTokenCreate::default()).await
        })?;
        let order = LocalJoin { address: made.join_address, token: made.token, node_name: None, zone: None };
        let joined = self.ask(name, |client| async move { client.local_join(&order).await })?;
        self.members.insert(name.into(), joined.node);
        Ok(())
    }

    pub fn leave(&mut self, name: &str) -> Result<()> {
        self.ask(name, |client| async move { client.local_leave().await })?;
        self.members.remove(name);
        Ok(())
    }

    /// What a node says of the city, without asking anyone else.
    pub fn status(&self, name: &str) -> Result<v1::Status> {
        self.ask(name, |client| async move { client.with_consistency(Consistency::Stale).status().await })
    }

    /// The server that leads: what the node with the highest term says, if that is a member.
    pub fn leader(&self) -> Option<String> {
        let statuses = self.members.keys().filter(|name| self.is_alive(name));
        let statuses = statuses.filter_map(|name| self.status(name).ok());
        let leader = statuses.filter(|status| status.leader.is_some()).max_by_key(|status| status.term)?;
        let id = leader.leader?;
        self.members.iter().find(|(_, member)| **member == id).map(|(name, _)| name.clone())
    }

    /// Why the city is not as it should be with all its members; None: it is.
    pub fn trouble(&self) -> Option<String> {
        let mut applied = BTreeMap::new();
        for name in self.members.keys() {
            let status = match self.status(name) {
                Ok(status) => status,
                Err(error) => return Some(format!("{error:#}")),
            };
            let members = self.members.len() as u64;
            if status.leader.is_none() || status.health == v1::Health::Unavailable {
                return Some(format!("{name} says: {}", status.sentence));
            }
            // No server here runs VMs, and that is as it was asked.
            if let Some(warning) = status.warnings.iter().find(|warning| warning.code != "no_compute") {
                return Some(format!("{name} warns: {}", warning.message));
            }
            if (status.nodes_total, status.nodes_up) != (members, members) {
                return Some(format!("{name} knows {} nodes, {} up", status.nodes_total, status.nodes_up));
            }
            applied.insert(name, status.applied_index);
        }
        let (least, most) = (applied.values().min()?, applied.values().max()?);
        // Nodes are asked one after the other, under load: what is applied meanwhile is no trouble.
        (most - least > APPLIED_APART_MAX).then(|| format!("applied indexes are {applied:?}"))
    }

    fn log(&self, name: &str) -> String {
        fs::read_to_string(self.servers.run.dir.join(name).join("scpd.log")).unwrap_or_default()
    }

    /// The last lines of a server's `scpd.log`.
    pub fn log_end(&self, name: &str) -> String {
        let text = self.log(name);
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }

    /// Why a server's `scpd` ended last, if it said so.
    pub fn last_error(&self, name: &str) -> Option<String> {
        last_error(&self.log(name))
    }
}

/// The last error and its causes, in one line.
fn last_error(log: &str) -> Option<String> {
    let (_, error) = log.rsplit_once("Error: ")?;
    let told = error.split("Stack backtrace:").next()?;
    let lines = told.lines().map(str::trim).filter(|line| !line.is_empty() && *line != "Caused by:");
    Some(lines.collect::<Vec<_>>().join(": "))
}

/// What a city under this crate's load applies while all its nodes are asked.
const APPLIED_APART_MAX: u64 = 2000;

/// The problem with its reason and remedy, where there is one.
pub fn tell(error: &ClientError) -> String {
    match error.problem() {
        Some(problem) => format!("{} ({}): {}", problem.code, problem.status, problem.detail),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_error_is_told_with_its_causes_and_without_its_trace() {
        let log = "Error: an earlier one\n2026-01-01 INFO scpd is up\nError: cannot start agreement\n\n\
                   Caused by:\n    log file segment-1 is damaged\n\nStack backtrace:\n   0: main\n";
        let told = last_error(log);
        assert_eq!(told.as_deref(), Some("cannot start agreement: log file segment-1 is damaged"));
        assert_eq!(last_error("INFO scpd is up"), None);
    }
}
