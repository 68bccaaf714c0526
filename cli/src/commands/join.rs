//! `scpctl join ADDRESS TOKEN`: make this server a node of a city.

use std::time::Duration;

use scp_api::{
    client::{Client, ClientError},
    local::{LocalJoin, LocalJoined},
    v1,
};
use tokio::time::Instant;

use crate::{
    app::{App, MESH_PORT, with_port},
    commands::{init, node, status},
    contexts::Context,
    error::{CliError, Exit, Result},
    output::fields,
};

/// Make this server a node of a city
///
/// ADDRESS and TOKEN come from scpctl init, or from scpctl token create on any node. Starts scpd if it is
/// not running, and returns when the node has caught up with the city.
///
/// Example:
///   scpctl join 10.0.0.1:7600 SCP-… --zone rack-2
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    /// Any node of the city
    #[arg(value_name = "ADDRESS[:PORT]")]
    address: String,
    /// A join token; good for one server
    #[arg(value_name = "TOKEN", env = "SCP_JOIN_TOKEN", hide_env_values = true)]
    token: String,
    #[command(flatten)]
    server: init::Server,
}

const POLL: Duration = Duration::from_millis(200);
/// A node that has all the state but is not known to the group by then follows the log as a subscriber.
const ROLE_TIMEOUT: Duration = Duration::from_secs(10);

pub async fn run(args: &Args, app: &App) -> Result<()> {
    let local = args.server.daemon(app).ensure(app.out).await?;
    init::not_in_a_city(&local).await?;
    let order = LocalJoin {
        address: with_port(&args.address, MESH_PORT),
        token: args.token.clone(),
        node_name: args.server.node_name.clone(),
        zone: args.server.zone.clone(),
    };
    let spinner = app.spinner(format!("joining the city at {}", args.address));
    let joined = local.join(&order).await;
    spinner.finish_and_clear();
    let mut joined = joined?;
    if joined.node_name.is_empty() {
        // Its own admission has not reached it yet.
        joined.node_name = joined.node.clone();
    }
    for warning in &joined.warnings {
        app.out.talk(format!("warning: {warning}"));
    }
    app.remember(
        &joined.city,
        Context {
            nodes: vec![joined.api_address.clone()],
            socket: Some(app.socket()),
            project: Some("default".into()),
            ca: Some(joined.ca_certificate.clone()),
            ..Context::default()
        },
    );
    caught_up(app, &joined).await?;
    app.out.data(&joined, show)?;
    status::say(app).await;
    Ok(())
}

/// Until this node answers a linearizable read (it has every write acknowledged before) and the city
/// counts it as up.
async fn caught_up(app: &App, joined: &LocalJoined) -> Result<()> {
    let client = Client::unix(app.socket())?.with_deadline(POLL);
    let spinner = app.spinner(format!("{} catches up with {}", joined.node_name, joined.city));
    let begun = Instant::now();
    let deadline = begun + Duration::from_secs(app.global.timeout);
    let mut last = None;
    loop {
        match client.get_node(&joined.node).await {
            Ok(it) if it.phase != v1::NodePhase::Down => {
                let known = it.role != v1::NodeRole::Subscriber;
                if known || begun.elapsed() >= ROLE_TIMEOUT {
                    spinner.finish_and_clear();
                    app.out.detail(format!("{} is a {}", it.name, node::role(it.role)));
                    return Ok(());
                }
            }
            Ok(_) => {}
            // Asked again, it would say the same.
            Err(error @ ClientError::BadAnswer { .. }) => {
                spinner.finish_and_clear();
                let mut error = CliError::from(error);
                error.why.push(format!("{} has joined {} all the same", joined.node_name, joined.city));
                return Err(error.remedy(
                    "scpctl and scpd are of different releases: install the same, then see scpctl node list",
                ));
            }
            Err(error) => last = Some(CliError::from(error)),
        }
        if Instant::now() >= deadline {
            spinner.finish_and_clear();
            let mut error = CliError::new(
                Exit::Timeout,
                "timeout",
                format!("{} has joined {} and is still catching up", joined.node_name, joined.city),
            );
            error.why.extend(last.map(|last| last.what));
            return Err(error.remedy("it goes on by itself; see how far it is: scpctl node list"));
        }
        tokio::time::sleep(POLL).await;
    }
}

fn show(joined: &LocalJoined) -> String {
    fields([
        ("city", joined.city.clone()),
        ("node", format!("{} ({})", joined.node_name, joined.node)),
        ("console", format!("https://{}/", joined.api_address)),
    ])
}
