//! `scpctl status`: one sentence first, then details.

use scp_api::{
    client::{Client, collect},
    v1,
};

use crate::{
    app::App,
    commands::{node, overcommit},
    error::{CliError, Exit, Result},
    output::{clean, mib, table},
};

/// How the city is, in one sentence and then in detail
///
/// When the city cannot agree, the asked node says what it last knew.
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {}

pub async fn run(_: &Args, app: &App) -> Result<()> {
    let client = app.client().await?;
    let (status, client) = ask(app, client).await?;
    // Tenants may not see machines; the brief list in the status is all there is then.
    let mut nodes =
        collect(v1::ListQuery::default(), |query| client.list_nodes(query)).await.unwrap_or_default();
    nodes.sort_by(|a, b| a.name.cmp(&b.name));
    app.out.data(&status, |status| render(status, &nodes))
}

/// The status as fresh as the city can give it.
async fn ask(app: &App, client: &Client) -> Result<(v1::Status, Client)> {
    match client.status().await {
        // The node answered from what it has; the rest of what is asked must not wait for a majority.
        Ok(status) if status.health == v1::Health::Unavailable => {
            Ok((status, client.clone().with_consistency(v1::Consistency::Stale)))
        }
        Ok(status) => Ok((status, client.clone())),
        Err(error) => {
            let error = CliError::from(error);
            if error.exit != Exit::Unavailable || app.global.stale {
                return Err(error);
            }
            let stale = client.clone().with_consistency(v1::Consistency::Stale);
            let Ok(status) = stale.status().await else { return Err(error) };
            app.out.talk(format!("The city cannot be asked ({}); this is what one node knows.", error.what));
            Ok((status, stale))
        }
    }
}

/// The sentence, after a command that changed what the city survives. Worth no error of its own.
pub async fn say(app: &App) {
    if let Ok(client) = Client::unix(app.socket())
        && let Ok(status) = client.status().await
    {
        app.out.talk(&status.sentence);
    }
}

pub fn render(status: &v1::Status, nodes: &[v1::Node]) -> String {
    let mut text = format!("{}\n\n", clean(&status.sentence));
    let vms = &status.vms;
    let moving = vms.pending + vms.bound + vms.starting + vms.stopping + vms.deleting;
    let mut parts = vec![format!("{} running", vms.running)];
    for (number, what) in [(moving, "on the way"), (vms.stopped, "stopped"), (vms.crashed, "crashed")] {
        if number > 0 {
            parts.push(format!("{number} {what}"));
        }
    }
    let leader = status.leader.as_ref().map(|id| name_of(status, id)).unwrap_or("none".into());
    text.push_str(&clean(&format!(
        "City {} ({}), leader {leader}, term {}, index {}. VMs: {}. Memory: {} of {} promised{}.\n",
        status.city,
        status.country,
        status.term,
        status.applied_index,
        parts.join(", "),
        mib(status.allocated.memory_mib),
        mib(status.offered.memory_mib),
        overcommitted(status.overcommit.as_ref()),
    )));
    if !nodes.is_empty() {
        text.push('\n');
        text.push_str(&node::rows(nodes));
    } else if !status.nodes.is_empty() {
        text.push('\n');
        let mut nodes = status.nodes.clone();
        nodes.sort_by(|a, b| a.name.cmp(&b.name));
        text.push_str(&brief(&nodes));
    }
    if !status.warnings.is_empty() {
        text.push('\n');
        for warning in &status.warnings {
            text.push_str(&clean(&format!("Warning: {}\n", warning.message)));
            if let Some(remedy) = &warning.remedy {
                text.push_str(&clean(&format!("  Remedy: {remedy}\n")));
            }
        }
    }
    for node in nodes.iter().filter(|node| node.down.is_some()) {
        text.push_str(&clean(&format!("Why {0} is down: scpctl node explain {0}\n", node.name)));
    }
    text
}

/// The ratios, for who may see them.
fn overcommitted(ratios: Option<&v1::Overcommit>) -> String {
    match ratios {
        Some(ratios) => format!("; overcommit: {}", overcommit::ratios(ratios)),
        None => String::new(),
    }
}

fn name_of(status: &v1::Status, id: &str) -> String {
    status.nodes.iter().find(|node| node.id == id).map_or_else(|| id.to_owned(), |node| node.name.clone())
}

fn brief(nodes: &[v1::NodeBrief]) -> String {
    table(
        ["NAME", "ZONE", "STATE", "ROLE", "VMS", "API ADDRESS"],
        nodes.iter().map(|it| {
            [
                it.name.clone(),
                it.zone.clone(),
                node::phase(it.phase).into(),
                node::role(it.role).into(),
                it.vms.to_string(),
                it.api_address.clone(),
            ]
        }),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    fn example() -> v1::Status {
        v1::Status {
            sentence: "Degraded: n2 is down since 12 s, 1 VM waiting.".into(),
            health: v1::Health::Degraded,
            city: "lisboa".into(),
            country: "PT".into(),
            answered_by: "00000000000000a1".into(),
            software: "0.1.0".into(),
            leader: Some("00000000000000a1".into()),
            term: 3,
            applied_index: 120,
            voters: 3,
            survives: 0,
            nodes_total: 3,
            nodes_up: 2,
            nodes: vec![v1::NodeBrief {
                id: "00000000000000a1".into(),
                name: "n1".into(),
                zone: "rack-1".into(),
                phase: v1::NodePhase::Up,
                role: v1::NodeRole::Leader,
                vms: 2,
                offered: v1::Resources::default(),
                allocated: v1::Resources::default(),
                api_address: "10.0.0.1:8443".into(),
            }],
            warnings: vec![v1::Warning {
                code: "node_down".into(),
                message: "n2 is down".into(),
                remedy: Some("bring it back".into()),
            }],
            vms: v1::VmCounts { running: 4, pending: 1, ..v1::VmCounts::default() },
            offered: v1::Resources { vcpus: 8, memory_mib: 4096, disk_mib: 0 },
            allocated: v1::Resources { vcpus: 1, memory_mib: 1024, disk_mib: 0 },
            overcommit: Some(testing::overcommit()),
            time: v1::Time(scp_model::Timestamp(1_764_000_012_000)),
        }
    }

    #[test]
    fn the_sentence_comes_first_and_warnings_have_remedies() {
        assert_eq!(
            render(&example(), &[]),
            "Degraded: n2 is down since 12 s, 1 VM waiting.\n\
             \n\
             City lisboa (PT), leader n1, term 3, index 120. VMs: 4 running, 1 on the way. Memory: 1 GiB of 4 GiB promised; overcommit: vCPUs 400 %, memory 100 %, disk 100 %.\n\
             \n\
             NAME  ZONE    STATE  ROLE    VMS  API ADDRESS\n\
             n1    rack-1  up     leader  2    10.0.0.1:8443\n\
             \n\
             Warning: n2 is down\n\
             \x20 Remedy: bring it back\n"
        );
    }

    #[test]
    fn operators_see_whole_nodes_and_where_to_ask_why() {
        let mut down = testing::node("n2");
        down.down = Some(v1::NodeDown { since: testing::time(), leader_silence_ms: 2500, observers: vec![] });
        down.phase = v1::NodePhase::Down;
        let text = render(&example(), &[testing::node("n1"), down]);
        assert!(text.contains("n2    rack-1  down"), "{text}");
        assert!(text.ends_with("Why n2 is down: scpctl node explain n2\n"), "{text}");
    }
}
