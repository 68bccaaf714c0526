//! `scpctl node`: servers of the city.

use scp_api::{client::Client, v1};

use crate::{
    app::App,
    commands::overcommit::ratios,
    error::Result,
    output::{count, duration_ms, fields, mib, table},
    terminal, wait,
};

/// Servers: list, cordon, drain, remove
///
/// Examples:
///   scpctl node list
///   scpctl node drain n2 --wait       before maintenance
///   scpctl node uncordon n2           after it
///   scpctl node remove n2 --force     it is down and will not come back
#[derive(Debug, clap::Subcommand)]
#[command(verbatim_doc_comment)]
pub enum Command {
    /// All nodes
    #[command(visible_alias = "ls")]
    List,
    /// Everything about a node
    #[command(visible_aliases = ["get", "info"])]
    Show(Name),
    /// Place no further VMs on it
    Cordon(Name),
    /// Place VMs on it again; ends a drain
    Uncordon(Name),
    /// Move its VMs to other nodes, and place no further ones on it
    #[command(visible_alias = "evacuate")]
    Drain(Name),
    /// End a node's membership
    #[command(visible_aliases = ["rm", "delete"])]
    Remove {
        #[command(flatten)]
        name: Name,
        /// It is down and will not come back: what was placed on it is placed elsewhere
        #[arg(long)]
        force: bool,
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
    },
    /// Why a node is down, or takes no VMs
    #[command(visible_alias = "why")]
    Explain(Name),
}

#[derive(Debug, clap::Args)]
pub struct Name {
    /// Name or id of the node
    #[arg(id = "node_name", value_name = "NODE")]
    pub name: String,
}

pub async fn run(command: &Command, app: &App) -> Result<()> {
    let client = app.client().await?;
    match command {
        Command::List => {
            let nodes = all(app, client).await?;
            app.out.data(&nodes, |nodes| rows(nodes))
        }
        Command::Show(Name { name }) => {
            let node = client.get_node(name).await?;
            app.out.data(&node, show)
        }
        Command::Cordon(Name { name }) => {
            let node = client.cordon_node(name).await?;
            app.out.talk(format!("{} takes no further VMs; those that run there stay.", node.name));
            Ok(())
        }
        Command::Uncordon(Name { name }) => {
            let node = client.uncordon_node(name).await?;
            app.out.talk(format!("{} takes VMs again.", node.name));
            Ok(())
        }
        Command::Drain(Name { name }) => {
            let node = client.drain_node(name).await?;
            app.out.talk(format!("{} is being drained: {} to move.", node.name, vms(&node)));
            if app.global.wait {
                wait::drained(app, client, &node.id).await?;
                app.out
                    .talk(format!("{} is empty. After the maintenance: scpctl node uncordon {0}", node.name));
            }
            Ok(())
        }
        Command::Remove { name: Name { name }, force, yes } => {
            let node = client.get_node(name).await?;
            if *force {
                let question = format!(
                    "Remove {} for good? Its {} begin again elsewhere from their images.",
                    node.name,
                    vms(&node)
                );
                terminal::confirm(&question, *yes)?;
            }
            client.remove_node(&node.id, *force).await?;
            app.out.talk(format!("{} is no member any more.", node.name));
            Ok(())
        }
        Command::Explain(Name { name }) => {
            let node = client.get_node(name).await?;
            let names = all(app, client).await?;
            app.out.data(&node, |node| explain(node, &names))
        }
    }
}

async fn all(app: &App, client: &Client) -> Result<Vec<v1::Node>> {
    app.all(v1::ListQuery::default(), |query| client.list_nodes(query), |it| &it.name).await
}

fn vms(node: &v1::Node) -> String {
    count(usize::try_from(node.vms).unwrap_or(usize::MAX), "VM")
}

pub fn phase(phase: v1::NodePhase) -> &'static str {
    match phase {
        v1::NodePhase::Down => "down",
        v1::NodePhase::Draining => "draining",
        v1::NodePhase::Cordoned => "cordoned",
        v1::NodePhase::Up => "up",
    }
}

pub fn role(role: v1::NodeRole) -> &'static str {
    match role {
        v1::NodeRole::Leader => "leader",
        v1::NodeRole::Voter => "voter",
        v1::NodeRole::Learner => "learner",
        v1::NodeRole::Subscriber => "subscriber",
    }
}

fn compute(node: &v1::Node) -> &'static str {
    match node.compute {
        v1::ComputeKind::Kvm => "kvm",
        v1::ComputeKind::Tcg => "tcg",
        v1::ComputeKind::None => "none",
        v1::ComputeKind::Off => "off",
    }
}

pub fn rows(nodes: &[v1::Node]) -> String {
    table(
        ["NAME", "ZONE", "STATE", "ROLE", "COMPUTE", "VMS", "FREE MEMORY", "VERSION", "API ADDRESS"],
        nodes.iter().map(|node| {
            [
                node.name.clone(),
                node.zone.clone(),
                phase(node.phase).into(),
                role(node.role).into(),
                compute(node).into(),
                node.vms.to_string(),
                format!("{} of {}", mib(node.free.memory_mib), mib(node.offered.memory_mib)),
                node.software.clone(),
                node.api_address.clone(),
            ]
        }),
    )
}

fn resources(amount: &v1::Resources) -> String {
    format!("{} vCPUs, {} memory, {} disk", amount.vcpus, mib(amount.memory_mib), mib(amount.disk_mib))
}

pub fn show(node: &v1::Node) -> String {
    let compute = match &node.compute_reason {
        Some(reason) => format!("{}: {reason}", compute(node)),
        None => compute(node).into(),
    };
    let orphans: Vec<_> = node.orphans.iter().map(|it| format!("{}: {}", it.name, it.detail)).collect();
    let down = node.down.as_ref().map(|down| format!("since {}", down.since));
    fields([
        ("name", node.name.clone()),
        ("id", node.id.clone()),
        ("zone", node.zone.clone()),
        ("country", node.country.clone()),
        ("state", phase(node.phase).into()),
        ("down", down.unwrap_or_default()),
        ("role", role(node.role).into()),
        ("compute", compute),
        ("VMs", node.vms.to_string()),
        ("capacity", resources(&node.capacity)),
        ("reserved", resources(&node.reserved)),
        ("offered", format!("{} (overcommit: {})", resources(&node.offered), ratios(&node.overcommit))),
        ("allocated", resources(&node.allocated)),
        ("free", resources(&node.free)),
        ("API", node.api_address.clone()),
        ("mesh", node.mesh_address.clone()),
        ("version", format!("{} (protocol {})", node.software, node.protocol)),
        ("orphans", orphans.join("\n")),
        ("key", node.public_key.clone()),
        ("joined", node.joined_at.to_string()),
    ])
}

/// In words: why it is down and by whose witness, or why it takes no VMs, and what to do.
fn explain(node: &v1::Node, all: &[v1::Node]) -> String {
    let name = &node.name;
    let mut lines = Vec::new();
    if let Some(down) = &node.down {
        lines.push(format!(
            "{name} was declared down at {}: the leader had not heard of it for {}.",
            down.since,
            duration_ms(down.leader_silence_ms)
        ));
        for observer in &down.observers {
            let who = all.iter().find(|it| it.id == observer.node).map_or(&observer.node, |it| &it.name);
            lines.push(match observer.silence_ms {
                Some(ms) => format!("  {who} had not heard of it for {} either.", duration_ms(ms)),
                None => format!("  {who} was asked and did not answer; it does not count."),
            });
        }
        lines.push(format!(
            "Bring the server back, or, if it will never come back: scpctl node remove {name} --force"
        ));
    }
    match node.phase {
        v1::NodePhase::Draining => lines.push(format!(
            "{name} is being drained, {} to go. It takes VMs again after: scpctl node uncordon {name}",
            vms(node)
        )),
        v1::NodePhase::Cordoned => lines.push(format!(
            "{name} is cordoned: it keeps its VMs and takes no further ones, until: scpctl node uncordon {name}"
        )),
        v1::NodePhase::Up | v1::NodePhase::Down => {}
    }
    if let Some(reason) = &node.compute_reason {
        lines.push(format!("{name} runs no VMs: {reason}."));
    }
    for orphan in &node.orphans {
        lines.push(format!(
            "{name} runs {} that nobody asked for ({}). It is never deleted by the platform; look at it on the server: virsh dominfo {0}",
            orphan.name, orphan.detail
        ));
    }
    if lines.is_empty() {
        lines.push(format!(
            "{name} is up and takes VMs: {} free of {} memory.",
            mib(node.free.memory_mib),
            mib(node.offered.memory_mib)
        ));
    }
    let mut text = String::new();
    for line in lines {
        text.push_str(&crate::output::clean(&line));
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn a_list_of_nodes_as_people_see_it() {
        let mut leader = testing::node("n1");
        leader.role = v1::NodeRole::Leader;
        leader.free.memory_mib = 12 << 10;
        assert_eq!(
            rows(&[leader, testing::node("n2")]),
            "NAME  ZONE    STATE  ROLE    COMPUTE  VMS  FREE MEMORY       VERSION  API ADDRESS\n\
             n1    rack-1  up     leader  tcg      2    12 GiB of 16 GiB  0.1.0    10.0.0.1:8443\n\
             n2    rack-1  up     voter   tcg      2    16 GiB of 16 GiB  0.1.0    10.0.0.1:8443\n"
        );
    }

    #[test]
    fn a_node_that_is_down_is_explained_with_its_witnesses() {
        let mut node = testing::node("n2");
        node.phase = v1::NodePhase::Down;
        node.down = Some(v1::NodeDown {
            since: testing::time(),
            leader_silence_ms: 2500,
            observers: vec![
                v1::Observer { node: "00000000000000a1".into(), silence_ms: Some(2400) },
                v1::Observer { node: "unknown".into(), silence_ms: None },
            ],
        });
        assert_eq!(
            explain(&node, &[testing::node("n1")]),
            "n2 was declared down at 2025-11-24T16:00:00.000Z: the leader had not heard of it for 2 s.\n\
             \x20 n1 had not heard of it for 2 s either.\n\
             \x20 unknown was asked and did not answer; it does not count.\n\
             Bring the server back, or, if it will never come back: scpctl node remove n2 --force\n"
        );
    }

    #[test]
    fn a_node_that_takes_no_vms_says_why_and_what_to_do() {
        let mut node = testing::node("n3");
        node.phase = v1::NodePhase::Cordoned;
        node.compute = v1::ComputeKind::None;
        node.compute_reason = Some("libvirtd does not answer".into());
        node.orphans = vec![v1::Orphan { name: "scp-x".into(), detail: "running".into() }];
        let text = explain(&node, &[]);
        assert!(text.contains("scpctl node uncordon n3"), "{text}");
        assert!(text.contains("n3 runs no VMs: libvirtd does not answer."), "{text}");
        assert!(text.contains("never deleted by the platform"), "{text}");
        assert!(explain(&testing::node("n1"), &[]).starts_with("n1 is up and takes VMs"));
    }
}
