//! The unit file that a server gets: systemd itself says whether it is well-formed.

use std::{fs, process::Command};

use anyhow::{Context, Result};

use super::Findings;

/// Where it lies, and what it is called on a server.
pub const PATH: &str = "node/scpd.service";
const NAME: &str = "scpd.service";
/// What it starts. Not there where it is verified, so another program stands in.
const PROGRAM: &str = "/usr/local/bin/scpd";
const STAND_IN: &str = "/bin/true";

/// What `systemd-analyze verify` has to say of a unit.
pub fn complaints(unit: &str) -> Result<Findings> {
    if !unit.lines().any(|line| line.starts_with(&format!("ExecStart={PROGRAM}"))) {
        return Ok(vec![format!("{PATH}:1: does not start {PROGRAM}")]);
    }
    let dir = std::env::temp_dir().join(format!("scp-unit-{}-{}", std::process::id(), unit.len()));
    fs::create_dir_all(&dir).with_context(|| format!("{} cannot be made", dir.display()))?;
    let path = dir.join(NAME);
    fs::write(&path, unit.replace(PROGRAM, STAND_IN)).context("the unit cannot be copied")?;
    let mut command = Command::new("systemd-analyze");
    // The manual is not installed, and other units of this machine are not ours.
    command.args(["verify", "--man=no", "--recursive-errors=no"]).arg(&path);
    let output = command.output().context("systemd-analyze cannot be started");
    fs::remove_dir_all(&dir).context("the copy of the unit cannot be removed")?;
    let output = output?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let about_it = said.lines().filter(|line| line.contains(NAME));
    let mut findings: Findings = about_it.map(|line| line.replace(&*path.to_string_lossy(), PATH)).collect();
    if findings.is_empty() && !output.status.success() {
        findings.push(format!("{PATH}:1: systemd-analyze ended with {}: {}", output.status, said.trim()));
    }
    Ok(findings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_that_systemd_does_not_know_is_found() {
        let good = format!("[Service]\nExecStart={PROGRAM}\nRestart=always\n");
        let complaints = |unit: &str| complaints(unit).expect("systemd-analyze is installed");
        assert_eq!(complaints(&good), Findings::new());
        for bad in [good.replace("always", "allways"), good.replace("Restart", "Restrat")] {
            let said = complaints(&bad);
            assert!(matches!(&said[..], [one] if one.starts_with("node/scpd.service:3: ")), "{said:?}");
        }
        assert_eq!(complaints(&good.replace(PROGRAM, "/usr/bin/scpd")).len(), 1, "it is installed elsewhere");
    }
}
