//! `scpctl context`: the cities that scpctl knows.

use serde::Serialize;

use crate::{
    app::App,
    contexts::{Context, Store},
    error::{CliError, Result},
    output::{fields, table},
};

/// Cities that scpctl knows
///
/// Kept in ~/.config/scp/config.toml (or $SCP_CONFIG), readable by you only.
#[derive(Debug, clap::Subcommand)]
#[command(verbatim_doc_comment)]
pub enum Command {
    /// All contexts; the current one is marked
    #[command(visible_alias = "ls")]
    List,
    /// Make a context the current one
    #[command(visible_alias = "switch")]
    Use {
        /// The context
        name: String,
    },
    /// What a context holds, without its token
    #[command(visible_alias = "get")]
    Show {
        /// The context; the current one when absent
        name: Option<String>,
        /// Only the certificate of the city's authority, for another machine's scpctl login --ca
        #[arg(long)]
        ca: bool,
    },
    /// Forget a context and its token
    #[command(visible_aliases = ["rm", "remove"])]
    Delete {
        /// The context
        name: String,
    },
}

/// A context as it is shown: everything but the secret.
#[derive(Serialize)]
struct View<'a> {
    name: &'a str,
    current: bool,
    nodes: &'a [String],
    socket: Option<String>,
    user: Option<&'a str>,
    project: Option<&'a str>,
    has_token: bool,
    token_expires_at: Option<&'a str>,
    has_ca: bool,
}

fn view<'a>(store: &Store, name: &'a str, context: &'a Context) -> View<'a> {
    View {
        name,
        current: store.contexts.current.as_deref() == Some(name),
        nodes: &context.nodes,
        socket: context.socket.as_ref().map(|path| path.display().to_string()),
        user: context.user.as_deref(),
        project: context.project.as_deref(),
        has_token: context.token.is_some(),
        token_expires_at: context.token_expires_at.as_deref(),
        has_ca: context.ca.is_some(),
    }
}

pub fn run(command: &Command, app: &App) -> Result<()> {
    let mut store = app.store()?;
    match command {
        Command::List => list(app, &store),
        Command::Use { name } => {
            store.select(name)?;
            app.out.talk(format!("{name} is the current context."));
            Ok(())
        }
        Command::Show { name, ca } => {
            let wanted = name.as_deref().or(app.global.context.as_deref());
            let Some((name, context)) = store.find(wanted)? else {
                return Err(CliError::not_found("there is no current context").remedy("scpctl context list"));
            };
            if *ca {
                let missing =
                    || CliError::not_found(format!("the context {name} has no certificate authority"));
                return app.out.raw(context.ca.as_ref().ok_or_else(missing)?.as_bytes());
            }
            app.out.data(&view(&store, name, context), show)
        }
        Command::Delete { name } => {
            store.remove(name)?;
            app.out.talk(format!("{name} is forgotten."));
            Ok(())
        }
    }
}

fn list(app: &App, store: &Store) -> Result<()> {
    let views: Vec<_> = store.contexts.contexts.iter().map(|(name, it)| view(store, name, it)).collect();
    if views.is_empty() {
        app.out.talk("No contexts yet: scpctl login --node ADDRESS --ca FILE, or scpctl init on a server.");
    }
    app.out.data(&views, |views| {
        table(
            ["", "NAME", "USER", "PROJECT", "NODES"],
            views.iter().map(|view| {
                [
                    if view.current { "*" } else { " " }.into(),
                    view.name.into(),
                    view.user.unwrap_or_default().into(),
                    view.project.unwrap_or_default().into(),
                    view.nodes.join(","),
                ]
            }),
        )
    })
}

fn show(view: &View<'_>) -> String {
    let yes = |yes: bool| if yes { "yes" } else { "no" }.to_owned();
    let text = |text: Option<&str>| text.unwrap_or_default().to_owned();
    fields([
        ("name", view.name.to_owned()),
        ("current", yes(view.current)),
        ("nodes", view.nodes.join("\n")),
        ("socket", text(view.socket.as_deref())),
        ("user", text(view.user)),
        ("project", text(view.project)),
        ("token", yes(view.has_token)),
        ("token expires", text(view.token_expires_at)),
        ("authority", yes(view.has_ca)),
    ])
}
