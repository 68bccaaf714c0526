//! `scpctl login`: get a token and remember the city.

use std::path::PathBuf;

use scp_api::{
    client::{Client, collect},
    v1,
};

use crate::{
    app::{App, address},
    contexts::Context,
    error::{CliError, Exit, Result},
    output::fields,
    quantity, terminal,
};

/// Get a token and remember the city
///
/// The password is asked for at the terminal, or read from a file or pipe; it is never an argument and
/// never kept. The token is kept in the context.
///
/// Examples:
///   scpctl login --node 10.0.0.1 --ca city.pem --user ana      the first time
///   scpctl login                                               when the token has expired
///
/// The city's certificate: on a server of the city, as root, scpctl context show --ca
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    /// The user; that of the context when absent
    #[arg(long, short)]
    user: Option<String>,
    /// The certificate of the city's authority (PEM); that of the context when absent
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// The password from this file (- for stdin) instead of the terminal
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
    /// How long the token is good for, for example 8h; 12h when absent, at most 90d
    #[arg(long, value_name = "TIME", value_parser = quantity::seconds)]
    lifetime: Option<u64>,
}

/// What a login gives, without the token itself.
#[derive(serde::Serialize)]
struct LoggedIn {
    context: String,
    city: String,
    user: String,
    expires_at: v1::Time,
    nodes: Vec<String>,
}

pub async fn run(args: &Args, app: &App) -> Result<()> {
    let mut store = app.store()?;
    let wanted = app.global.context.as_deref().or(store.contexts.current.as_deref()).map(str::to_owned);
    let known = wanted.as_ref().and_then(|name| store.contexts.contexts.get(name)).cloned();
    // A new address with a new authority is a new city, not the current one.
    let fresh = app.global.context.is_none() && app.global.node.is_some() && args.ca.is_some();
    let mut context = if fresh { Context::default() } else { known.unwrap_or_default() };
    if let Some(path) = &args.ca {
        context.ca = Some(std::fs::read_to_string(path).map_err(|error| CliError::file(path, &error))?);
    }
    if let Some(node) = &app.global.node {
        let node = address(node);
        context.nodes.retain(|known| *known != node);
        context.nodes.insert(0, node);
    }
    let client = client(&context, wanted.as_deref())?.with_deadline(app.deadline());
    let user =
        args.user.clone().or(context.user.clone()).ok_or_else(|| {
            CliError::usage("who logs in?").remedy("name the user: scpctl login --user NAME")
        })?;
    let password = terminal::password(&format!("Password of {user}"), args.password_file.as_deref())?;
    let request = v1::TokenRequest { user: user.clone(), password, lifetime_s: args.lifetime };
    let token = client.login(&request).await.map_err(|error| refused(error.into(), &user))?;
    let client = client.with_token(&token.token);
    let city = client.status().await.map_or_else(|_| "city".to_owned(), |status| status.city);
    learn_nodes(&client, &mut context).await;
    let name = match (app.global.context.clone(), fresh) {
        (Some(name), _) => name,
        (None, true) => city.clone(),
        (None, false) => wanted.unwrap_or_else(|| city.clone()),
    };
    // From here on this is the user, not root on a server.
    context.socket = None;
    context.user = Some(user.clone());
    context.token = Some(token.token);
    context.token_expires_at = Some(token.expires_at.to_string());
    context.project = app.global.project.clone().or(context.project);
    let nodes = context.nodes.clone();
    store.put(&name, context)?;
    let done = LoggedIn { context: name, city, user, expires_at: token.expires_at, nodes };
    app.out.data(&done, |done| {
        fields([
            ("context", done.context.clone()),
            ("city", done.city.clone()),
            ("user", done.user.clone()),
            ("until", done.expires_at.to_string()),
            ("nodes", done.nodes.join("\n")),
        ])
    })
}

fn client(context: &Context, wanted: Option<&str>) -> Result<Client> {
    if context.nodes.is_empty() {
        return Err(CliError::usage("which city? No node's address is known")
            .remedy("name one of its nodes: scpctl login --node ADDRESS --ca FILE --user NAME"));
    }
    let Some(ca) = &context.ca else {
        return Err(CliError::new(
            Exit::Usage,
            "no_authority",
            "the city's certificate authority is not known here",
        )
        .because(format!("the context {} does not have it", wanted.unwrap_or("(none)")))
        .remedy(
            "on a server of the city, as root: scpctl context show --ca > city.pem; then here: --ca city.pem",
        ));
    };
    Ok(Client::https(context.nodes.iter().cloned(), ca)?)
}

fn refused(mut error: CliError, user: &str) -> CliError {
    if error.exit == Exit::Denied {
        error.remedy =
            Some(format!("try again; an administrator can set a new password: scpctl user password {user}"));
    }
    error
}

/// Further nodes to ask when the first is gone. Those who may not see machines keep what they have.
async fn learn_nodes(client: &Client, context: &mut Context) {
    if let Ok(nodes) = collect(v1::ListQuery::default(), |query| client.list_nodes(query)).await {
        for node in nodes {
            if !context.nodes.contains(&node.api_address) {
                context.nodes.push(node.api_address);
            }
        }
    }
}
