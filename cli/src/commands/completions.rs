//! `scpctl completions SHELL`.

use clap::CommandFactory;

use crate::{app::App, error::Result};

/// Completions for your shell
///
/// Examples:
///   scpctl completions bash > /etc/bash_completion.d/scpctl
///   scpctl completions zsh > ~/.zfunc/_scpctl
///   scpctl completions fish > ~/.config/fish/completions/scpctl.fish
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    /// The shell
    shell: clap_complete::Shell,
}

pub fn run(args: &Args, app: &App) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut crate::args::Cli::command(), "scpctl", &mut script);
    app.out.raw(&script)
}
