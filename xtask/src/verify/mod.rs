//! `cargo xtask verify`: the house rules that a program can hold. It never writes.
//!
//! Every check is a function from the source tree to findings, `path:line: what is wrong`; all run, and
//! all findings are shown, so that one run tells everything.

mod deny;
mod docs;
mod layers;
mod rust;
mod tidy;
mod tree;
mod unit;
mod words;

use anyhow::{Result, bail};

use crate::{
    cargo::{self, cargo},
    packages::{self, Step},
    talk,
};

pub use docs::story;
use tree::Tree;

/// What is wrong, each as `path:line: what`.
pub type Findings = Vec<String>;

type Check = (&'static str, fn(&Tree) -> Findings);

const CHECKS: &[Check] = &[
    ("function length", tidy::functions_are_short),
    ("file length", tidy::files_are_short),
    ("module docs", tidy::modules_begin_with_their_doc),
    ("unfinished code", tidy::nothing_is_unfinished),
    ("registry hosts", tidy::no_registry_is_named),
    ("purity", tidy::pure_crates_stay_pure),
    ("dead files", tidy::every_file_is_reached),
    ("glossary", words::forbidden_names),
    ("decisions", docs::decisions_are_numbered_and_whole),
    ("links", docs::links_lead_somewhere),
    ("invariants", docs::invariants_name_their_tests),
    ("documented commands", docs::documented_tasks_exist),
];

/// Runs everything.
pub fn verify() -> Result<()> {
    packages::install(&[Step::Build, Step::Verify])?;
    let mut failed = Vec::new();
    let tree = Tree::read(cargo::root())?;
    for warning in tidy::files_that_grow(&tree) {
        talk!("warning: {warning}");
    }
    for (name, check) in CHECKS {
        report(name, &check(&tree), &mut failed);
    }
    report("layers", &layers::directions(&cargo::metadata()?), &mut failed);
    let policy = cargo::read("deny.toml").and_then(|deny| deny::dependencies(&deny, &cargo::graph()?));
    report("dependencies", &policy.unwrap_or_else(|error| vec![format!("{error:#}")]), &mut failed);
    let unit = cargo::read(unit::PATH).and_then(|unit| unit::complaints(&unit));
    report("unit file", &unit.unwrap_or_else(|error| vec![format!("{error:#}")]), &mut failed);
    let format = cargo::run(&mut cargo(&["fmt", "--all", "--check"]));
    report("format", &problem(format, "mend it with `cargo xtask fix`"), &mut failed);
    let lints = cargo::run(&mut cargo(&[
        "clippy",
        "--quiet",
        "--locked",
        "--workspace",
        "--all-targets",
        "--",
        "--deny",
        "warnings",
    ]));
    report("lints", &problem(lints, "some mend themselves with `cargo xtask fix`"), &mut failed);
    if !failed.is_empty() {
        bail!("verify failed: {}", failed.join(", "));
    }
    Ok(())
}

fn problem(result: Result<()>, remedy: &str) -> Findings {
    result.err().map(|error| format!("{error:#}; {remedy}")).into_iter().collect()
}

fn report(name: &'static str, findings: &[String], failed: &mut Vec<&'static str>) {
    if findings.is_empty() {
        talk!("verified: {name}");
        return;
    }
    talk!("NOT as it should be: {name}");
    for finding in findings {
        eprintln!("    {finding}");
    }
    failed.push(name);
}

/// `cargo xtask fix`: what of that mends itself.
pub fn fix() -> Result<()> {
    packages::install(&[Step::Build])?;
    cargo::run(&mut cargo(&[
        "clippy",
        "--quiet",
        "--fix",
        "--allow-dirty",
        "--allow-staged",
        "--workspace",
        "--all-targets",
    ]))?;
    cargo::run(&mut cargo(&["fmt", "--all"]))
}
