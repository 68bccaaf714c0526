//! `scpctl events`: what happened, or is happening.

use scp_api::{client::Watched, v1};

use crate::{
    app::App,
    error::{CliError, Exit, Result},
    output::clean,
};

/// What happened, or is happening
///
/// Examples:
///   scpctl events                    the last 50
///   scpctl events --follow           and what happens from now on
///   scpctl events --since 1200 --about vm
///
/// With --output json: one event a line.
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    /// Go on with what happens
    #[arg(long, short)]
    follow: bool,
    /// Everything after this sequence number that is still kept
    #[arg(long, value_name = "SEQUENCE")]
    since: Option<u64>,
    /// Everything that is still kept
    #[arg(long, short, conflicts_with = "since")]
    all: bool,
    /// Only about this kind of thing: vm, node, image, user, …
    #[arg(long, value_name = "KIND")]
    about: Option<String>,
    /// Only about the thing with this id
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    /// How many of the newest, without --since and --all
    #[arg(long, short = 'n', default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..=v1::LIMIT_MAX))]
    last: u64,
}

pub async fn run(args: &Args, app: &App) -> Result<()> {
    let client = app.client().await?;
    let forward = args.all || args.since.is_some();
    let mut query = v1::EventQuery {
        after: args.since,
        subject_kind: args.about.clone(),
        subject_id: args.id.clone(),
        project: app.global.project.clone(),
        limit: Some(if forward { v1::LIMIT_MAX } else { args.last }),
        newest: !forward,
        consistency: None,
    };
    loop {
        let page = client.list_events(&query).await?;
        gap(app, args.since, page.oldest);
        for event in &page.items {
            app.out.line(event, line)?;
        }
        query.after = Some(page.after);
        // The newest page is the last one; "more" counts only when going forward.
        if query.newest || !page.more {
            break;
        }
    }
    if !args.follow {
        return Ok(());
    }
    let mut watch = client.watch(v1::EventQuery { limit: None, newest: false, ..query });
    loop {
        match watch.next().await.map_err(CliError::from) {
            Ok(Watched::Event(event)) => app.out.line(&event, line)?,
            Ok(Watched::Ready(_)) => {}
            Ok(Watched::Resync(resync)) => gap(app, Some(resync.asked), resync.oldest),
            Err(error) if error.exit == Exit::Unavailable => {
                app.out.talk(format!("{}; trying on", error.what))
            }
            Err(error) => return Err(error),
        }
    }
}

/// Says it when events between what was asked for and what is kept are gone.
fn gap(app: &App, asked: Option<u64>, oldest: u64) {
    if let Some(asked) = asked
        && asked + 1 < oldest
    {
        app.out.talk(format!("Events {} to {} are not kept any more.", asked + 1, oldest - 1));
    }
}

fn line(event: &v1::Event) -> String {
    clean(&format!("{:>6}  {}  {:<22} {}", event.sequence, event.time, event.kind, event.message))
        .replace('\n', " ")
}
