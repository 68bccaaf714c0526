//! `scpctl overcommit`: how much more than there is may be promised to VMs.

use scp_api::v1;

use crate::{
    app::App,
    error::Result,
    output::{fields, mib},
    quantity,
};

/// How much more than there is may be promised to VMs
///
/// In percent of what the nodes have after their reserve, from 100 (what is there, and no more) to 3200.
/// One setting for all nodes. What runs stays, also where a node has then promised more than it offers: it
/// takes no further VMs until there is room again.
///
/// Examples:
///   scpctl overcommit show
///   scpctl overcommit set --vcpus 800
#[derive(Debug, clap::Subcommand)]
#[command(verbatim_doc_comment)]
pub enum Command {
    /// The ratios, and what they make of the city's capacity
    #[command(visible_aliases = ["get", "info"])]
    Show,
    /// Change what is given and leave the rest
    Set(Ratios),
}

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = true)]
pub struct Ratios {
    /// Virtual processors, in percent of the real ones
    #[arg(long, value_name = "PERCENT", value_parser = quantity::percent)]
    vcpus: Option<u32>,
    /// Memory; beyond 100, guests are killed when the node runs out of it
    #[arg(long, value_name = "PERCENT", value_parser = quantity::percent)]
    memory: Option<u32>,
    /// Disk; beyond 100, guests stop when the node's disk is full
    #[arg(long, value_name = "PERCENT", value_parser = quantity::percent)]
    disk: Option<u32>,
}

impl Ratios {
    fn over(&self, now: v1::Overcommit) -> v1::Overcommit {
        v1::Overcommit {
            vcpus_percent: self.vcpus.unwrap_or(now.vcpus_percent),
            memory_percent: self.memory.unwrap_or(now.memory_percent),
            disk_percent: self.disk.unwrap_or(now.disk_percent),
        }
    }
}

pub async fn run(command: &Command, app: &App) -> Result<()> {
    let client = app.client().await?;
    let set = match command {
        Command::Show => client.get_overcommit().await?,
        Command::Set(ratios) => client.set_overcommit(&ratios.over(client.get_overcommit().await?)).await?,
    };
    let status = client.status().await?;
    app.out.data(&set, |set| show(set, &status))?;
    for node in status.nodes.iter().filter(|node| promises_too_much(node)) {
        app.out.talk(format!(
            "{} has promised more than it offers now: it takes no further VMs until there is room again.",
            node.name
        ));
    }
    Ok(())
}

fn promises_too_much(node: &v1::NodeBrief) -> bool {
    let (offered, allocated) = (&node.offered, &node.allocated);
    allocated.vcpus > offered.vcpus
        || allocated.memory_mib > offered.memory_mib
        || allocated.disk_mib > offered.disk_mib
}

/// In one line.
pub fn ratios(it: &v1::Overcommit) -> String {
    format!("vCPUs {} %, memory {} %, disk {} %", it.vcpus_percent, it.memory_percent, it.disk_percent)
}

fn show(it: &v1::Overcommit, status: &v1::Status) -> String {
    let (used, all) = (&status.allocated, &status.offered);
    let of = |percent: u32, used: String, all: String| format!("{percent} %: {used} of {all} promised");
    fields([
        ("vCPUs", of(it.vcpus_percent, used.vcpus.to_string(), all.vcpus.to_string())),
        ("memory", of(it.memory_percent, mib(used.memory_mib), mib(all.memory_mib))),
        ("disk", of(it.disk_percent, mib(used.disk_mib), mib(all.disk_mib))),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_given_stays() {
        let ratios = Ratios { vcpus: Some(800), memory: None, disk: Some(150) };
        let now = v1::Overcommit { vcpus_percent: 400, memory_percent: 100, disk_percent: 100 };
        let then = v1::Overcommit { vcpus_percent: 800, memory_percent: 100, disk_percent: 150 };
        assert_eq!(ratios.over(now), then);
    }
}
