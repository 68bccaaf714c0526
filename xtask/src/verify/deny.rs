//! deny.toml, as far as it can be held without a network: licences, bans, wildcards, sources.
//!
//! cargo-deny reads the same file and looks at advisories too; it takes minutes to compile and fetches a
//! database, so it is for whoever publishes a release. This says the same about the rest, in a second,
//! from `cargo metadata`.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use serde_json::Value;
use toml::Table;

use super::Findings;

/// Where crates may come from: cargo's own registry, as it is written in a lock file.
const REGISTRY: &str = "registry+https://github.com/rust-lang/";

/// What in the resolved graph of `cargo metadata` is against deny.toml.
pub fn dependencies(deny: &str, metadata: &Value) -> Result<Findings> {
    let deny: Table = deny.parse().context("deny.toml is not TOML")?;
    let graph = Graph::of(metadata);
    let mut findings = licences(&deny, &graph)?;
    findings.extend(bans(&deny, &graph)?);
    findings.extend(wildcards(&graph));
    findings.extend(sources(&graph));
    Ok(findings)
}

/// The packages that are compiled, and who asks for whom.
struct Graph<'a> {
    packages: Vec<&'a Value>,
    /// Names: who, whom.
    edges: Vec<(&'a str, &'a str)>,
}

impl<'a> Graph<'a> {
    fn of(metadata: &'a Value) -> Self {
        let nodes = list(&metadata["resolve"]["nodes"]);
        let resolved: BTreeSet<_> = nodes.iter().map(|node| text(&node["id"])).collect();
        let mut packages: Vec<_> = list(&metadata["packages"]).iter().collect();
        packages.retain(|package| resolved.contains(text(&package["id"])));
        let name = |id: &str| packages.iter().find(|it| text(&it["id"]) == id).map(|it| text(&it["name"]));
        let pairs =
            nodes.iter().flat_map(|node| list(&node["deps"]).iter().map(move |to| (&node["id"], &to["pkg"])));
        let edges = pairs.filter_map(|(from, to)| Some((name(text(from))?, name(text(to))?))).collect();
        Self { packages, edges }
    }

    fn has(&self, name: &str) -> bool {
        self.packages.iter().any(|package| text(&package["name"]) == name)
    }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn words(value: Option<&toml::Value>) -> Vec<&str> {
    let entries = value.and_then(toml::Value::as_array).map(Vec::as_slice).unwrap_or_default();
    entries.iter().filter_map(toml::Value::as_str).collect()
}

/// The tables of an array such as `[[x.y]]` or `y = [{ … }]`.
fn tables<'a>(deny: &'a Table, part: &str, key: &str) -> Result<Vec<&'a Table>> {
    let part = deny.get(part).and_then(toml::Value::as_table);
    let part = part.with_context(|| format!("deny.toml has no [{key}]"))?;
    let entries = part.get(key).and_then(toml::Value::as_array);
    let entries = entries.with_context(|| format!("deny.toml has no list {key}"))?;
    Ok(entries.iter().filter_map(toml::Value::as_table).collect())
}

fn crate_of(entry: &Table) -> &str {
    entry.get("crate").and_then(toml::Value::as_str).unwrap_or_default()
}

fn licences(deny: &Table, graph: &Graph<'_>) -> Result<Findings> {
    let exceptions = tables(deny, "licenses", "exceptions")?;
    let allowed = words(deny.get("licenses").and_then(|part| part.get("allow")));
    let mut findings = Findings::new();
    for package in &graph.packages {
        let (name, version) = (text(&package["name"]), text(&package["version"]));
        let mut allowed: BTreeSet<_> = allowed.iter().copied().collect();
        for exception in exceptions.iter().filter(|exception| crate_of(exception) == name) {
            allowed.extend(words(exception.get("allow")));
        }
        match permits(text(&package["license"]), &allowed) {
            Some(true) => {}
            Some(false) => findings.push(format!(
                "{name} {version}: deny.toml does not allow its licence {}",
                text(&package["license"])
            )),
            None => findings.push(format!("{name} {version}: says no licence that can be read")),
        }
    }
    let idle = exceptions.iter().map(|exception| crate_of(exception)).filter(|name| !graph.has(name));
    findings.extend(idle.map(|name| format!("deny.toml: the exception for {name} is for nothing")));
    Ok(findings)
}

/// Whether an SPDX expression can be met with these licences; none when it is not one.
fn permits(expression: &str, allowed: &BTreeSet<&str>) -> Option<bool> {
    // `A/B` is how `A OR B` was written before SPDX.
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let tokens: Vec<_> = spaced.split_whitespace().collect();
    let mut rest = &tokens[..];
    let met = either(&mut rest, allowed)?;
    rest.is_empty().then_some(met)
}

fn either(rest: &mut &[&str], allowed: &BTreeSet<&str>) -> Option<bool> {
    let mut met = both(rest, allowed)?;
    while take(rest, "OR") {
        met |= both(rest, allowed)?;
    }
    Some(met)
}

fn both(rest: &mut &[&str], allowed: &BTreeSet<&str>) -> Option<bool> {
    let mut met = one(rest, allowed)?;
    while take(rest, "AND") {
        met &= one(rest, allowed)?;
    }
    Some(met)
}

fn one(rest: &mut &[&str], allowed: &BTreeSet<&str>) -> Option<bool> {
    if take(rest, "(") {
        let met = either(rest, allowed)?;
        return take(rest, ")").then_some(met);
    }
    let (licence, behind) = rest.split_first()?;
    *rest = behind;
    if ["OR", "AND", "WITH", ")"].contains(licence) {
        return None;
    }
    if !take(rest, "WITH") {
        return Some(allowed.contains(licence));
    }
    let (exception, behind) = rest.split_first()?;
    *rest = behind;
    Some(allowed.contains(&*format!("{licence} WITH {exception}")))
}

/// Takes a word off the front, if it is there.
fn take(rest: &mut &[&str], word: &str) -> bool {
    match rest.split_first() {
        Some((first, behind)) if *first == word => {
            *rest = behind;
            true
        }
        Some(_) | None => false,
    }
}

fn bans(deny: &Table, graph: &Graph<'_>) -> Result<Findings> {
    let mut findings = Findings::new();
    for ban in tables(deny, "bans", "deny")? {
        let (name, wrappers) = (crate_of(ban), words(ban.get("wrappers")));
        let reason = ban.get("reason").and_then(toml::Value::as_str).unwrap_or("no reason given");
        let users: BTreeSet<_> =
            graph.edges.iter().filter(|(_, to)| *to == name).map(|(from, _)| *from).collect();
        let wrong = users.iter().filter(|user| !wrappers.contains(user));
        findings.extend(wrong.map(|user| format!("{user} uses {name}, which is banned: {reason}")));
    }
    Ok(findings)
}

/// `*` takes any version there will ever be.
fn wildcards(graph: &Graph<'_>) -> Findings {
    let ours = graph.packages.iter().filter(|package| package["source"].is_null());
    let dependencies =
        ours.flat_map(|package| list(&package["dependencies"]).iter().map(move |it| (&package["name"], it)));
    let wild = dependencies.filter(|(_, it)| text(&it["req"]) == "*" && it["path"].is_null());
    wild.map(|(name, it)| format!("{}: asks for any version of {}", text(name), text(&it["name"]))).collect()
}

fn sources(graph: &Graph<'_>) -> Findings {
    let foreign =
        |package: &&&Value| package["source"].as_str().is_some_and(|source| !source.starts_with(REGISTRY));
    let told = |package: &&Value| {
        format!("{}: comes from {}, not from the registry", text(&package["name"]), text(&package["source"]))
    };
    graph.packages.iter().filter(foreign).map(told).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const DENY: &str = r#"
        [licenses]
        allow = ["MIT", "Apache-2.0 WITH LLVM-exception"]
        exceptions = [{ crate = "maps", allow = ["MPL-2.0+"] }]
        [bans]
        deny = [
          { crate = "openssl", reason = "one TLS" },
          { crate = "bincode", wrappers = ["scp-codec"], reason = "one codec" },
        ]
    "#;

    /// Packages of that name, licence and source; each node depends on the next.
    fn found(packages: &[(&str, &str, Option<&str>)]) -> Findings {
        let graph = json!({
            "packages": packages.iter().map(|(name, license, source)| json!({
                "id": name, "name": name, "version": "1.0.0", "license": license, "source": source,
                "dependencies": [{ "name": "wild", "req": if *name == "loose" { "*" } else { "^1" } }],
            })).collect::<Vec<_>>(),
            "resolve": { "nodes": packages.iter().enumerate().map(|(at, (name, ..))| json!({
                "id": name,
                "deps": packages.get(at + 1).map(|(next, ..)| json!({ "pkg": next })).into_iter()
                    .collect::<Vec<_>>(),
            })).collect::<Vec<_>>() },
        });
        dependencies(DENY, &graph).expect("a good deny.toml")
    }

    fn registry() -> Option<&'static str> {
        Some("registry+https://github.com/rust-lang/index")
    }

    #[test]
    fn a_licence_that_is_not_allowed_is_found() {
        let maps = ("maps", "MPL-2.0+", registry());
        assert_eq!(found(&[maps]), Findings::new());
        assert_eq!(
            found(&[maps, ("evil", "AGPL-3.0", registry()), ("mute", "", registry())]),
            [
                "evil 1.0.0: deny.toml does not allow its licence AGPL-3.0",
                "mute 1.0.0: says no licence that can be read"
            ]
        );
        assert_eq!(found(&[("evil", "MPL-2.0+", None), maps]).len(), 1, "the exception is for one crate");
        assert_eq!(found(&[]), ["deny.toml: the exception for maps is for nothing"]);
    }

    #[test]
    fn licence_expressions_are_understood() {
        let allowed = BTreeSet::from(["MIT", "ISC", "Apache-2.0 WITH LLVM-exception"]);
        for (expression, met) in [
            ("MIT", Some(true)),
            ("GPL-3.0", Some(false)),
            ("MIT/GPL-3.0", Some(true)),
            ("GPL-3.0 OR MIT AND ISC", Some(true)),
            ("(GPL-3.0 OR MIT) AND ISC", Some(true)),
            ("MIT AND GPL-3.0", Some(false)),
            ("(MIT OR ISC) AND GPL-3.0", Some(false)),
            ("Apache-2.0 WITH LLVM-exception", Some(true)),
            ("Apache-2.0", Some(false)),
            ("", None),
            ("MIT OR", None),
            ("(MIT", None),
            ("MIT ISC", None),
            ("MIT WITH", None),
            ("OR MIT", None),
        ] {
            assert_eq!(permits(expression, &allowed), met, "{expression:?}");
        }
    }

    #[test]
    fn a_banned_crate_is_found_with_who_uses_it_and_why_not() {
        let (maps, mit) = (("maps", "MIT", registry()), |name| (name, "MIT", registry()));
        assert_eq!(found(&[maps, mit("openssl")]), ["maps uses openssl, which is banned: one TLS"]);
        assert_eq!(found(&[maps, mit("scp-codec"), mit("bincode")]), Findings::new());
        assert_eq!(found(&[mit("scp-codec"), maps, mit("bincode")]).len(), 1);
    }

    #[test]
    fn any_version_and_any_other_source_are_found() {
        let maps = ("maps", "MIT", registry());
        assert_eq!(found(&[maps, ("loose", "MIT", None)]), ["loose: asks for any version of wild"]);
        let git = Some("git+https://example.org/x");
        assert_eq!(
            found(&[maps, ("x", "MIT", git)]),
            ["x: comes from git+https://example.org/x, not from the registry"]
        );
    }
}
