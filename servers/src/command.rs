//! Runs system tools and turns their failures into sentences.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

fn show(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// Runs to the end; an exit status other than 0 is an error with what the command said.
pub fn run(command: &mut Command) -> Result<()> {
    output(command).map(drop)
}

/// Runs to the end and gives what it wrote on stdout.
pub fn output(command: &mut Command) -> Result<String> {
    let shown = show(command);
    let done = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("`{shown}` could not be started; is the program installed?"))?;
    if !done.status.success() {
        bail!("`{shown}` failed ({}): {}", done.status, String::from_utf8_lossy(&done.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}
