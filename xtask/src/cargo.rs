//! Calls cargo, the same one that called us, in the workspace's root.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

/// The workspace's root: the folder above this crate.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask/ lies in the workspace")
}

/// A cargo command in the root.
pub fn cargo(args: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root()).args(args);
    command
}

/// Runs to the end; what it says on stdout goes to stderr, because our stdout is for data.
pub fn run(command: &mut Command) -> Result<()> {
    let shown: Vec<_> = command.get_args().map(|word| word.to_string_lossy().into_owned()).collect();
    let status = command.stdin(Stdio::null()).stdout(std::io::stderr()).status();
    let status = status.with_context(|| format!("`{}` could not be started", shown.join(" ")))?;
    if !status.success() {
        bail!("`{}` failed ({status})", shown.join(" "));
    }
    Ok(())
}

/// Compiles the two binaries and says where they are. `SCP_BINARIES` names a directory with others, for
/// example of a release, that are used as they are.
pub fn build_binaries() -> Result<Binaries> {
    if let Some(dir) = std::env::var_os("SCP_BINARIES").map(PathBuf::from) {
        return binaries_in(&dir);
    }
    run(&mut cargo(&["build", "--locked", "--package", "scp-node", "--package", "scp-cli", "--bins"]))?;
    binaries_in(&target_dir()?.join("debug"))
}

fn binaries_in(dir: &Path) -> Result<Binaries> {
    let binaries = Binaries { scpd: dir.join("scpd"), scpctl: dir.join("scpctl") };
    for path in [&binaries.scpd, &binaries.scpctl] {
        if !path.exists() {
            bail!("there is no {}", path.display());
        }
    }
    Ok(binaries)
}

/// What was built.
#[derive(Debug, Clone)]
pub struct Binaries {
    pub scpd: PathBuf,
    pub scpctl: PathBuf,
}

/// What `cargo metadata` says of the workspace's own packages.
pub fn metadata() -> Result<serde_json::Value> {
    let mut command = cargo(&["metadata", "--no-deps", "--format-version", "1", "--locked"]);
    serde_json::from_str(&scp_servers::output(&mut command)?).context("cargo metadata is not JSON")
}

/// What `cargo metadata` says of everything that is compiled into what a server gets, with all features.
pub fn graph() -> Result<serde_json::Value> {
    let mut command = cargo(&["metadata", "--format-version", "1", "--locked", "--all-features"]);
    command.args(["--filter-platform", "x86_64-unknown-linux-gnu"]);
    serde_json::from_str(&scp_servers::output(&mut command)?).context("cargo metadata is not JSON")
}

/// A text file of the workspace.
pub fn read(path: &str) -> Result<String> {
    std::fs::read_to_string(root().join(path)).with_context(|| format!("{path} cannot be read"))
}

pub fn target_dir() -> Result<PathBuf> {
    let metadata = metadata()?;
    let dir = metadata["target_directory"].as_str().context("cargo metadata names no target directory")?;
    Ok(PathBuf::from(dir))
}
