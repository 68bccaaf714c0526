//! `scpctl`: see the library beside this file.

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(scp_cli::main())
}
