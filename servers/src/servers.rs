//! Builds a set of servers and takes them down again.

use std::{collections::BTreeMap, process::Command};

use anyhow::{Context, Result, bail};

use crate::{
    command,
    run::{self, Reaper, Run},
    server::Server,
};

/// How many servers fit: addresses run from .11 on in one /24.
const COUNT_MAX: usize = 200;
const FIRST_ADDRESS: usize = 11;

/// What to build.
#[derive(Debug, Clone)]
pub struct Options {
    pub count: usize,
    /// Whether each gets its own libvirt.
    pub libvirt: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { count: 3, libvirt: true }
    }
}

/// A set of servers, switched off at first. Dropping it ends them.
#[derive(Debug)]
pub struct Servers {
    pub run: Run,
    pub servers: Vec<Server>,
    /// None for a kept run that was opened again: it has no owner.
    reaper: Option<Reaper>,
}

impl Servers {
    /// Removes what dead owners left, then makes the network and the servers.
    pub fn build(options: &Options) -> Result<Self> {
        if options.count == 0 || options.count > COUNT_MAX {
            bail!("{} servers were asked for; 1 to {COUNT_MAX} can be built", options.count);
        }
        Run::sweep()?;
        let (run, reaper) = Run::begin()?;
        let network = run.namespace("net");
        ip(&["netns", "add", &network])?;
        ip(&["-n", &network, "link", "set", "lo", "up"])?;
        ip(&["-n", &network, "link", "add", "br0", "mtu", "1500", "type", "bridge"])?;
        ip(&["-n", &network, "link", "set", "br0", "up"])?;
        let mut table = String::new();
        for number in 1..=options.count {
            let (name, address) = (format!("n{number}"), format!("10.77.0.{}", FIRST_ADDRESS + number - 1));
            connect(&run, &name, &address)?;
            table.push_str(&format!("{name} {address} {}\n", options.libvirt));
        }
        run::write(&run.dir.join("servers"), &table)?;
        Ok(Self { servers: read_table(&run)?, run, reaper: Some(reaper) })
    }

    /// A kept run.
    pub fn open(run: Run) -> Result<Self> {
        Ok(Self { servers: read_table(&run)?, run, reaper: None })
    }

    /// The server of that name.
    pub fn get(&mut self, name: &str) -> Result<&mut Server> {
        let known: Vec<_> = self.servers.iter().map(|server| server.name.clone()).collect();
        let found = self.servers.iter_mut().find(|server| server.name == name);
        found.with_context(|| format!("there is no server {name}; there are {}", known.join(", ")))
    }

    /// Names of servers by their namespace, for [`crate::VmProcess::namespace`].
    pub fn names(&self) -> BTreeMap<u64, String> {
        self.servers.iter().map(|server| (server.namespace_inode(), server.name.clone())).collect()
    }

    /// Leaves everything running.
    pub fn keep(mut self) -> Result<Run> {
        self.run.mark_kept()?;
        if let Some(reaper) = self.reaper.take() {
            reaper.dismiss()?;
        }
        Ok(self.run.clone())
    }

    /// Takes everything down.
    pub fn end(mut self) -> Result<()> {
        self.take_down()
    }

    fn take_down(&mut self) -> Result<()> {
        for server in &mut self.servers {
            server.kill_everything()?;
        }
        self.run.end()?;
        match self.reaper.take() {
            Some(reaper) => reaper.dismiss(),
            None => Ok(()),
        }
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        // Without a reaper they were kept, ended, or opened by someone who does not own them.
        if self.reaper.is_some()
            && let Err(error) = self.take_down()
        {
            eprintln!("run {} could not be taken down: {error:#}", self.run.id);
        }
    }
}

fn ip(args: &[&str]) -> Result<()> {
    command::run(Command::new("ip").args(args))
}

/// A namespace with an address, joined to the bridge.
fn connect(run: &Run, name: &str, address: &str) -> Result<()> {
    let (network, own) = (run.namespace("net"), run.namespace(name));
    ip(&["netns", "add", &own])?;
    ip(&[
        "-n", &network, "link", "add", name, "mtu", "1500", "type", "veth", "peer", "name", "eth0", "netns",
        &own,
    ])?;
    ip(&["-n", &network, "link", "set", name, "master", "br0", "up"])?;
    ip(&["-n", &own, "link", "set", "lo", "up"])?;
    ip(&["-n", &own, "address", "add", &format!("{address}/24"), "dev", "eth0"])?;
    ip(&["-n", &own, "link", "set", "eth0", "up"])?;
    std::fs::create_dir(run.dir.join(name)).with_context(|| format!("the disks of {name} cannot be made"))
}

fn read_table(run: &Run) -> Result<Vec<Server>> {
    let path = run.dir.join("servers");
    let table =
        std::fs::read_to_string(&path).with_context(|| format!("{} cannot be read", path.display()))?;
    let parse = |line: &str| {
        let [name, address, libvirt] = line.split(' ').collect::<Vec<_>>()[..] else {
            bail!("{} holds a line that is not a server: {line:?}", path.display());
        };
        Server::new(run, name, address, libvirt == "true")
    };
    table.lines().map(parse).collect()
}
