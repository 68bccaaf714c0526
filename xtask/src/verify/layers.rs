//! Which crate may depend on which: the arrows of ARCHITECTURE.md.

use serde_json::Value;

use super::Findings;

/// A crate, and the crates of ours that it may depend on. A missing crate may depend on none.
const MAY_USE: &[(&str, &[&str])] = &[
    ("scp-model", &[]),
    ("scp-codec", &[]),
    ("scp-mutant", &[]),
    ("scp-state", &["scp-mutant", "scp-model", "scp-codec"]),
    ("scp-scheduler", &["scp-mutant", "scp-model", "scp-state"]),
    ("scp-agent", &["scp-mutant", "scp-model", "scp-state"]),
    ("scp-raft", &["scp-mutant", "scp-model", "scp-codec"]),
    ("scp-mesh", &["scp-model", "scp-codec"]),
    ("scp-drivers", &["scp-model", "scp-codec"]),
    ("scp-api", &["scp-model", "scp-codec", "scp-state"]),
    (
        "scp-node",
        &[
            "scp-mutant",
            "scp-model",
            "scp-codec",
            "scp-state",
            "scp-scheduler",
            "scp-agent",
            "scp-raft",
            "scp-mesh",
            "scp-drivers",
            "scp-api",
        ],
    ),
    ("scp-cli", &["scp-model", "scp-api"]),
    (
        "scp-sim",
        &[
            "scp-mutant",
            "scp-model",
            "scp-state",
            "scp-scheduler",
            "scp-mesh",
            "scp-raft",
            "scp-drivers",
            "scp-api",
            "scp-node",
            "scp-chronicle",
        ],
    ),
    ("scp-servers", &[]),
    ("scp-chronicle", &[]),
    ("scp-chaos", &["scp-model", "scp-api", "scp-servers", "scp-chronicle"]),
    (
        "scp-bench",
        &["scp-model", "scp-state", "scp-scheduler", "scp-raft", "scp-mesh", "scp-api", "scp-node"],
    ),
    ("scp-xtask", &["scp-servers"]),
];

/// Crates without I/O, clock or randomness, and all that they may use from outside.
const PURE: [&str; 4] = ["scp-model", "scp-state", "scp-scheduler", "scp-agent"];
const PURE_MAY_USE: [&str; 6] = ["serde", "thiserror", "uuid", "imbl", "sha2", "time"];

/// Dependencies that point the wrong way, from `cargo metadata`.
pub fn directions(metadata: &Value) -> Findings {
    let packages = metadata["packages"].as_array().map(Vec::as_slice).unwrap_or_default();
    packages.iter().flat_map(|package| [wrong_dependencies(package), seeded_bugs(package)].concat()).collect()
}

/// Ways in which a build could have seeded bugs without the simulator's feature for them.
fn seeded_bugs(package: &Value) -> Findings {
    let name = package["name"].as_str().unwrap_or_default();
    let dependencies = package["dependencies"].as_array().map(Vec::as_slice).unwrap_or_default();
    let asks = |dependency: &&Value| {
        let features = dependency["features"].as_array().is_some_and(|features| !features.is_empty());
        let mutant = dependency["name"].as_str() == Some("scp-mutant") && features;
        let sim = dependency["name"].as_str() == Some("scp-sim") && features;
        mutant || sim
    };
    let turns_on = |(feature, parts): (&String, &Value)| {
        let parts = parts.as_array().map(Vec::as_slice).unwrap_or_default();
        let seeded = parts.iter().filter_map(Value::as_str).any(|part| {
            part == "scp-mutant/seeded"
                || part == "mutations"
                || part.ends_with("/mutations")
                || part == "seeded"
        });
        seeded && (name, feature.as_str()) != ("scp-sim", "mutations")
    };
    let features = package["features"].as_object();
    let by_feature = features.into_iter().flatten().any(turns_on);
    if dependencies.iter().any(|dependency| asks(&dependency)) || by_feature {
        return vec![format!("{name} turns seeded bugs on; only the feature `mutations` of scp-sim may")];
    }
    Findings::new()
}

fn wrong_dependencies(package: &Value) -> Findings {
    let name = package["name"].as_str().unwrap_or_default();
    let Some((_, ours)) = MAY_USE.iter().find(|(known, _)| *known == name) else {
        return vec![format!(
            "{name}: a crate without a place in the layers; give it one in xtask/src/verify/layers.rs"
        )];
    };
    let dependencies = package["dependencies"].as_array().map(Vec::as_slice).unwrap_or_default();
    // A test may look at its crate from above; what ships may not.
    let shipped = dependencies.iter().filter(|dependency| dependency["kind"].as_str() != Some("dev"));
    let names = shipped.filter_map(|dependency| dependency["name"].as_str());
    let is_wrong = |used: &&str| match used.starts_with("scp-") {
        true => !ours.contains(used),
        false => PURE.contains(&name) && !PURE_MAY_USE.contains(used),
    };
    names.filter(is_wrong).map(|used| format!("{name} may not depend on {used}")).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn findings(name: &str, used: &str, kind: Option<&str>) -> Findings {
        directions(&json!({"packages": [{"name": name, "dependencies": [{"name": used, "kind": kind}]}]}))
    }

    #[test]
    fn an_arrow_against_the_layers_is_found() {
        assert_eq!(findings("scp-state", "scp-raft", None), ["scp-state may not depend on scp-raft"]);
        assert_eq!(
            findings("scp-drivers", "scp-state", Some("build")),
            ["scp-drivers may not depend on scp-state"]
        );
        assert_eq!(findings("scp-scheduler", "scp-state", None), Findings::new());
    }

    #[test]
    fn a_pure_crate_with_a_runtime_is_found() {
        assert_eq!(findings("scp-agent", "tokio", None), ["scp-agent may not depend on tokio"]);
        assert_eq!(findings("scp-agent", "tokio", Some("dev")), Findings::new());
        assert_eq!(findings("scp-raft", "tokio", None), Findings::new());
    }

    #[test]
    fn a_build_with_seeded_bugs_is_found() {
        let asking = json!({"packages": [{"name": "scp-state", "dependencies":
            [{"name": "scp-mutant", "kind": null, "features": ["seeded"]}]}]});
        assert_eq!(directions(&asking).len(), 1);
        let by_default = json!({"packages": [{"name": "scp-sim", "dependencies": [],
            "features": {"default": ["mutations"], "mutations": ["scp-mutant/seeded"]}}]});
        assert_eq!(directions(&by_default).len(), 1);
        let by_name = json!({"packages": [{"name": "scp-sim", "dependencies": [],
            "features": {"mutations": ["scp-mutant/seeded"]}}]});
        assert_eq!(directions(&by_name), Findings::new());
    }

    #[test]
    fn a_crate_without_a_place_is_found() {
        assert_eq!(findings("scp-new", "serde", None).len(), 1);
    }
}
