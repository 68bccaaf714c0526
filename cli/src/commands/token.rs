//! `scpctl token`: join tokens for further servers.

use scp_api::{client::collect, v1};

use crate::{app::App, error::Result, output::table, quantity};

/// Join tokens for further servers
///
/// A token lets one server join, once.
#[derive(Debug, clap::Subcommand)]
#[command(verbatim_doc_comment)]
pub enum Command {
    /// Make a token and print the command for the new server
    #[command(visible_alias = "add")]
    Create {
        /// How long it is good for, for example 15m or 24h; one hour when absent, at most 7d
        #[arg(long, value_name = "TIME", value_parser = quantity::seconds)]
        expires: Option<u64>,
    },
    /// All tokens, without their secrets
    #[command(visible_alias = "ls")]
    List,
    /// Make a token useless
    #[command(visible_aliases = ["rm", "delete", "remove"])]
    Revoke {
        /// Id of the token
        #[arg(value_name = "TOKEN_ID")]
        id: String,
    },
}

pub async fn run(command: &Command, app: &App) -> Result<()> {
    let client = app.client().await?;
    match command {
        Command::Create { expires } => {
            let order =
                v1::JoinTokenCreate { id: Some(uuid::Uuid::now_v7().to_string()), lifetime_s: *expires };
            let made = client.create_join_token(&order).await?;
            app.out.talk("On the new server, as root:");
            app.out.data(&made, |made| format!("scpctl join {} {}\n", made.join_address, made.token))?;
            app.out.talk(format!("Good for one server, until {}. It is not shown again.", made.expires_at));
            Ok(())
        }
        Command::List => {
            let tokens = collect(v1::ListQuery::default(), |query| client.list_join_tokens(query)).await?;
            app.out.data(&tokens, |tokens| {
                table(
                    ["ID", "EXPIRES", "USED BY", "USED AT"],
                    tokens.iter().map(|it| {
                        [
                            it.id.clone(),
                            it.expires_at.to_string(),
                            it.used_by.clone().unwrap_or_default(),
                            it.used_at.map(|at| at.to_string()).unwrap_or_default(),
                        ]
                    }),
                )
            })
        }
        Command::Revoke { id } => {
            client.revoke_join_token(id).await?;
            app.out.talk(format!("Token {id} lets nobody join any more."));
            Ok(())
        }
    }
}
