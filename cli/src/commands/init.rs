//! `scpctl init`: begin a city on this server.

use std::{path::PathBuf, time::Duration};

use scp_api::{
    client::Client,
    local::{LocalInit, LocalInitialised},
    v1,
};

use crate::{
    app::App,
    commands::status,
    contexts::Context,
    daemon::Daemon,
    error::{CliError, Exit, Result},
    output::fields,
    terminal,
};

/// Begin a city on this server
///
/// Starts scpd if it is not running, makes the city with this server as its first node, remembers it as
/// the current context, and prints the command that further servers join with.
///
/// Example:
///   scpctl init --city lisboa --country PT --zone rack-1
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    /// The city's name
    #[arg(long, value_name = "NAME")]
    city: String,
    /// Its country: two letters (ISO 3166-1)
    #[arg(long, value_name = "CC")]
    country: String,
    #[command(flatten)]
    server: Server,
    /// The password of the user admin, from this file (- for stdin); made up and shown once when absent
    #[arg(long, value_name = "FILE")]
    admin_password_file: Option<PathBuf>,
}

/// About this server; the same for `join`.
#[derive(Debug, clap::Args)]
pub struct Server {
    /// This server's name in the city; its hostname when absent
    #[arg(long, value_name = "NAME")]
    pub node_name: Option<String>,
    /// What dies together with this server: a rack, a room, a site
    #[arg(long, value_name = "NAME")]
    pub zone: Option<String>,
    /// This server's address, when scpd has to be started here
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// Where scpd keeps its data, when it has to be started here
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// The configuration of scpd, when it has to be started here
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Do not start scpd
    #[arg(long)]
    no_start: bool,
}

impl Server {
    pub fn daemon(&self, app: &App) -> Daemon {
        Daemon {
            socket: app.socket(),
            listen: self.listen.clone(),
            data_dir: self.data_dir.clone(),
            config: self.config.clone(),
            no_start: self.no_start,
        }
    }
}

/// Its own HTTPS is up when a node has begun a city; a token is a convenience and not worth a long wait.
const LOGIN_DEADLINE: Duration = Duration::from_secs(5);

pub async fn run(args: &Args, app: &App) -> Result<()> {
    let given = args.admin_password_file.as_deref();
    let admin_password = given.map(|file| terminal::password("Password of admin", Some(file))).transpose()?;
    let local = args.server.daemon(app).ensure(app.out).await?;
    not_in_a_city(&local).await?;
    let order = LocalInit {
        city: args.city.clone(),
        country: args.country.clone(),
        node_name: args.server.node_name.clone(),
        zone: args.server.zone.clone(),
        admin_password: admin_password.clone(),
    };
    let spinner = app.spinner(format!("{} begins", args.city));
    let made = local.init(&order).await;
    spinner.finish_and_clear();
    let made = made?;
    // Before anything else can fail: the password and the token are not told again.
    app.out.data(&made, show)?;
    remember(app, &made, admin_password.or(made.admin_password.clone())).await;
    if made.admin_password.is_some() {
        app.out.talk(format!("The password of {} is shown this once.", made.admin_user));
    }
    app.out.talk("The join command is for the next server, as root; for further ones: scpctl token create");
    status::say(app).await;
    Ok(())
}

pub fn join_command(made: &LocalInitialised) -> String {
    format!("scpctl join {} {}", made.join_address, made.join_token)
}

/// A server is in one city at most.
pub async fn not_in_a_city(local: &crate::local::Local) -> Result<()> {
    let status = local.status().await?;
    let Some(city) = status.city else { return Ok(()) };
    let name = status.node_name.unwrap_or(status.node);
    Err(CliError::new(
        Exit::Refused,
        "already_in_a_city",
        format!("this server is in the city {city} already, as {name}"),
    )
    .remedy("see how it is: scpctl status; to take it out: scpctl leave"))
}

/// The context of root on this server: its own socket, and a token for `--node`.
async fn remember(app: &App, made: &LocalInitialised, password: Option<String>) {
    let mut context = Context {
        nodes: vec![made.api_address.clone()],
        socket: Some(app.socket()),
        user: Some(made.admin_user.clone()),
        project: Some("default".into()),
        ca: Some(made.ca_certificate.clone()),
        ..Context::default()
    };
    if let Some(password) = password {
        let request = v1::TokenRequest { user: made.admin_user.clone(), password, lifetime_s: None };
        let login = async {
            let client = Client::https([made.api_address.clone()], &made.ca_certificate)?;
            client.with_deadline(LOGIN_DEADLINE).login(&request).await
        };
        match login.await {
            Ok(token) => {
                context.token = Some(token.token);
                context.token_expires_at = Some(token.expires_at.to_string());
            }
            // The socket works without it; only --node needs it.
            Err(error) => app.out.talk(format!("No token for --node yet ({error}); later: scpctl login")),
        }
    }
    app.remember(&made.city, context);
}

fn show(made: &LocalInitialised) -> String {
    let mut rows = vec![
        ("city", made.city.clone()),
        ("node", format!("{} ({})", made.node_name, made.node)),
        ("console", format!("https://{}/", made.api_address)),
        ("user", made.admin_user.clone()),
    ];
    if let Some(password) = &made.admin_password {
        rows.push(("password", password.clone()));
    }
    rows.push(("join", join_command(made)));
    fields(rows)
}
