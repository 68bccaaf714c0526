//! `--report` and `--html`: what was written down of the run, for people.

use std::io::IsTerminal as _;

use anyhow::{Context, Result};
use scp_chronicle::{
    Verdict as End,
    columns::{self, Colours},
    page,
};
use scp_sim::{city::Verdict, recorder::SharedRecord};

use crate::Flags;

/// Tells as the flags ask for; without a verdict the run broke off.
pub fn tell(record: Option<SharedRecord>, flags: &Flags, verdict: Option<&Verdict>) -> Result<()> {
    let Some(record) = record else { return Ok(()) };
    let mut record = record.lock();
    let seed = flags.seed.unwrap_or_default();
    record.title = format!("scp-sim, seed {seed}");
    record.again = vec![again(flags, "--report"), again(flags, "--html run.html")];
    let mut facts = vec![("seed".to_string(), seed.to_string())];
    if let Some(verdict) = verdict {
        let Verdict { answered, rejected, failed, vms, digest, packets, virtual_ms, .. } = verdict;
        facts.push(("digest".into(), format!("{digest:016x}")));
        facts.push(("virtual time".into(), format!("{}.{:03} s", virtual_ms / 1000, virtual_ms % 1000)));
        facts.push(("packets".into(), packets.to_string()));
        let requests = format!("{answered} answered, {rejected} refused, {failed} failed");
        facts.push(("requests".into(), requests));
        facts.push(("VMs at the end".into(), vms.to_string()));
        record.end = virtual_ms * 1000;
        record.verdict = match &verdict.violation {
            None => End::Good,
            Some(violation) => End::Broken(vec![violation.0.clone()]),
        };
    }
    facts.append(&mut record.facts);
    record.facts = facts;
    record.finish();
    if let Some(path) = &flags.html {
        std::fs::write(path, page::page(&record))
            .with_context(|| format!("{} cannot be written", path.display()))?;
    }
    if flags.report {
        let colours = if std::io::stdout().is_terminal() { Colours::Ansi } else { Colours::None };
        print!("{}", columns::report(&record, colours));
    }
    Ok(())
}

/// The command that plays the run again.
fn again(flags: &Flags, more: &str) -> String {
    let mut words = vec!["cargo run --profile sim -p scp-sim".to_string()];
    #[cfg(feature = "mutations")]
    words.push("--features mutations".into());
    words.push(format!("-- --seed {}", flags.seed.unwrap_or_default()));
    words.extend(flags.nodes.map(|nodes| format!("--nodes {nodes}")));
    words.extend(flags.quiet.map(|seconds| format!("--quiet {seconds}")));
    #[cfg(feature = "mutations")]
    words.extend(flags.mutation.as_ref().map(|name| format!("--mutation {name}")));
    words.push(more.into());
    words.join(" ")
}
