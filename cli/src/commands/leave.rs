//! `scpctl leave`.

use crate::{app::App, error::Result, terminal};

/// Take this server out of its city
///
/// The node hands over what it holds and forgets the city. Move its VMs away first: scpctl node drain NAME.
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

pub async fn run(args: &Args, app: &App) -> Result<()> {
    let local = app.local()?;
    let status = local.status().await?;
    let Some(city) = status.city else {
        app.out.talk("This server is in no city: nothing to leave.");
        return Ok(());
    };
    let name = status.node_name.unwrap_or(status.node);
    terminal::confirm(&format!("Take {name} out of the city {city}?"), args.yes)?;
    let spinner = app.spinner(format!("{name} is leaving {city}"));
    let result = local.leave().await;
    spinner.finish_and_clear();
    result?;
    app.out.talk(format!("{name} has left {city}."));
    app.forget_local_context(&city)
}
