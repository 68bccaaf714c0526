//! `scpctl`: what the operator types.
//!
//! ```text
//! args ─▶ commands/NOUN ─▶ app (which node, as whom) ─▶ scp_api::client ─▶ any node
//!                 │                                            │
//!                 ├─▶ output: data on stdout                   └─▶ problem ─▶ error: what, why, remedy
//!                 └─▶ wait, spinners, talk on stderr
//! ```
//!
//! # Guarantees
//! - stdout holds data only: a table, or with `--output json` the API's own objects.
//! - Every failure ends with a sentence, its cause and the next step on stderr, and an exit code of
//!   [`error::Exit`].
//! - Passwords are never arguments, never kept; private keys never leave the machine; text from elsewhere
//!   cannot steer the terminal.

mod app;
mod args;
mod commands;
mod contexts;
mod daemon;
pub mod error;
mod local;
#[cfg(test)]
mod named;
mod output;
mod problem;
mod quantity;
mod sshkey;
mod terminal;
#[cfg(test)]
mod testing;
mod wait;

use std::io::Write;

use clap::Parser;

use crate::{
    app::App,
    args::{Cli, Command},
    commands::{
        completions, context, department, events, explain, flavor, image, init, join, keypair, leave, login,
        node, overcommit, project, status, token, user, vm,
    },
    error::{CliError, Result},
    output::Format,
};

/// Runs one command line; gives the process's exit code.
pub fn main() -> u8 {
    // clap ends the process itself for --help, --version and wrong usage (2).
    let Cli { global, command } = Cli::parse();
    let format = global.output;
    // An error means that one is installed already, and then it is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return tell(&CliError::failed(format!("no runtime can be started: {error}")), format),
    };
    let app = App::new(global);
    let result = runtime.block_on(run(command, &app));
    app.tell_age();
    // A read of stdin may still be blocked in its thread: nobody waits for it.
    runtime.shutdown_background();
    match result {
        Ok(()) => 0,
        Err(error) => tell(&error, format),
    }
}

async fn run(command: Command, app: &App) -> Result<()> {
    match command {
        Command::Init(args) => init::run(&args, app).await,
        Command::Join(args) => join::run(&args, app).await,
        Command::Leave(args) => leave::run(&args, app).await,
        Command::Status(args) => status::run(&args, app).await,
        Command::Node(command) => node::run(&command, app).await,
        Command::Token(command) => token::run(&command, app).await,
        Command::Overcommit(command) => overcommit::run(&command, app).await,
        Command::Events(args) => events::run(&args, app).await,
        Command::Explain(args) => explain::run(&args, app).await,
        Command::Vm(command) => vm::run(&command, app).await,
        Command::Image(command) => image::run(&command, app).await,
        Command::Flavor(command) => flavor::run(&command, app).await,
        Command::Keypair(command) => keypair::run(&command, app).await,
        Command::Department(command) => department::run(&command, app).await,
        Command::Project(command) => project::run(&command, app).await,
        Command::User(command) => user::run(&command, app).await,
        Command::Login(args) => login::run(&args, app).await,
        Command::Context(command) => context::run(&command, app),
        Command::Completions(args) => completions::run(&args, app),
    }
}

fn tell(error: &CliError, format: Format) -> u8 {
    if error.silent {
        return 0;
    }
    let text = match format {
        Format::Table => error.render(),
        Format::Json => error.render_json(),
    };
    // Nobody reads stderr: the exit code still tells.
    let _ = std::io::stderr().write_all(text.as_bytes());
    error.exit as u8
}
