//! What `cargo xtask` does, a module a task.
//!
//! Talk goes to stderr with the seconds since the start; stdout is for data.

mod args;
mod bench;
mod cargo;
mod chaos;
mod console;
mod demo;
mod fuzz;
mod guest;
mod mutants;
mod packages;
mod talk;
mod test;
mod verify;

use std::process::ExitCode;

use anyhow::Result;
use args::Task;

/// The program, called by `main.rs`.
pub fn main() -> ExitCode {
    // The first call begins the count.
    talk::seconds();
    let words: Vec<_> = std::env::args().skip(1).collect();
    match args::parse(&words).and_then(run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            talk!("FAILED: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<()> {
    match task {
        Task::Demo(options) => demo::demo(options),
        Task::DemoEnd => demo::end(),
        Task::On { server, words } => demo::on(&server, &words),
        Task::Test { steps } => test::test(&steps),
        Task::Verify => verify::verify(),
        Task::Fix => verify::fix(),
        Task::Fuzz { seconds } => fuzz::fuzz(seconds),
        Task::Bench { name, json } => bench::bench(name.as_deref(), json),
        Task::Chaos(options) => chaos::chaos(&options),
        Task::Mutants { json } => mutants::mutants(json),
        Task::Guest => {
            println!("{}", guest::image()?.display());
            Ok(())
        }
        Task::Help => {
            eprint!("{}", args::HELP);
            Ok(())
        }
    }
}
