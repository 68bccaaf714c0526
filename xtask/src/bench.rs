//! `cargo xtask bench`: the benchmarks that exist, found rather than listed.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::{
    cargo::{self, cargo},
    packages::{self, Step},
    talk,
};

/// Runs every bench target of the workspace, or the one of that name, one after the other so that none
/// disturbs another. Each prints its measures as JSON objects, one a line, `{"name": …, "value": …, "unit": …}`, and is free to
/// print anything else.
pub fn bench(name: Option<&str>, as_json: bool) -> Result<()> {
    packages::install(&[Step::Build])?;
    let mut benches = benches(&cargo::metadata()?);
    if benches.is_empty() {
        talk!("there are no benchmarks yet: no package of the workspace has a bench target");
    }
    if let Some(name) = name {
        let known: Vec<String> = benches.iter().map(|(_, bench)| bench.clone()).collect();
        benches.retain(|(_, bench)| bench == name);
        if benches.is_empty() {
            bail!("{name:?} is no benchmark; there are: {}", known.join(", "));
        }
    }
    let mut measures = Vec::new();
    for (package, bench) in &benches {
        talk!("benchmark {package} {bench}");
        packages::install(beside(bench))?;
        let scpd = if WITH_SCPD.contains(&bench.as_str()) { Some(release_scpd()?) } else { None };
        measures.extend(run_bench((package, bench), scpd.as_deref())?);
    }
    if as_json {
        println!("{:#}", json!({ "ratios": ratios(&measures), "measures": measures }));
    } else {
        for measure in &measures {
            println!("{measure}");
        }
    }
    Ok(())
}

/// The benchmarks that run the node's binary.
const WITH_SCPD: [&str; 2] = ["kv", "memory"];

/// What a benchmark needs beside the workspace: its peer.
fn beside(bench: &str) -> &'static [Step] {
    match bench {
        "gossip" => &[Step::BesideSerf],
        "kv" => &[Step::BesideEtcd],
        _ => &[],
    }
}

/// Compiles the node as it is shipped.
fn release_scpd() -> Result<PathBuf> {
    if let Some(scpd) = std::env::var_os("SCP_BENCH_SCPD") {
        return Ok(scpd.into());
    }
    cargo::run(&mut cargo(&["build", "--locked", "--release", "--package", "scp-node", "--bin", "scpd"]))?;
    Ok(cargo::target_dir()?.join("release/scpd"))
}

/// What is measured beside a peer, by name: on the disk, where there are several regimes.
fn ratios(measures: &[Value]) -> Value {
    let beside = measures.iter().filter(|measure| {
        measure["unit"].as_str().is_some_and(|unit| unit.starts_with("times "))
            && measure["regime"].as_str().is_none_or(|regime| regime == "disk")
    });
    beside
        .filter_map(|measure| Some((measure["name"].as_str()?.to_owned(), measure["value"].clone())))
        .collect()
}

/// Package and name of every bench target, from `cargo metadata`.
fn benches(metadata: &Value) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        for target in package["targets"].as_array().into_iter().flatten() {
            let is_bench = target["kind"].as_array().into_iter().flatten().any(|kind| kind == "bench");
            if let (true, Some(package), Some(name)) =
                (is_bench, package["name"].as_str(), target["name"].as_str())
            {
                found.push((package.to_string(), name.to_string()));
            }
        }
    }
    found.sort();
    found
}

fn run_bench((package, bench): (&str, &str), scpd: Option<&Path>) -> Result<Vec<Value>> {
    let mut command = cargo(&["bench", "--quiet", "--locked", "--package", package, "--bench", bench]);
    if let Some(scpd) = scpd {
        command.env("SCP_BENCH_SCPD", scpd);
    }
    let done =
        command.stdin(Stdio::null()).stderr(Stdio::inherit()).output().context("cargo cannot be started")?;
    if !done.status.success() {
        bail!("benchmark {package} {bench} failed ({})", done.status);
    }
    let text = String::from_utf8_lossy(&done.stdout);
    let mut measures = Vec::new();
    for line in text.lines().filter(|line| line.starts_with('{')) {
        let mut measure: Value = serde_json::from_str(line)
            .with_context(|| format!("benchmark {bench} printed what is no JSON: {line}"))?;
        measure["bench"] = json!(bench);
        measures.push(measure);
    }
    if measures.is_empty() {
        bail!("benchmark {package} {bench} measured nothing");
    }
    Ok(measures)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_those_of_the_disk_by_name() {
        let measures = [
            json!({"name": "writes_1", "unit": "times etcd", "regime": "disk", "value": 2.5}),
            json!({"name": "writes_1", "unit": "times etcd", "regime": "tmpfs", "value": 9.0}),
            json!({"name": "fill", "unit": "s", "value": 60.0}),
        ];
        assert_eq!(ratios(&measures), json!({"writes_1": 2.5}));
    }

    #[test]
    fn bench_targets_are_found() {
        let metadata = json!({"packages": [
            {"name": "scp-raft", "targets": [{"kind": ["lib"], "name": "scp_raft"}, {"kind": ["bench"], "name": "log"}]},
            {"name": "scp-api", "targets": [{"kind": ["test"], "name": "x"}]},
        ]});
        assert_eq!(benches(&metadata), [("scp-raft".to_string(), "log".to_string())]);
    }
}
