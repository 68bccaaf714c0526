//! The network of the run: loopback only, with counters and loss.

use std::{
    io::Write,
    net::Ipv4Addr,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::sides::Which;

/// Addresses of a side: a network of 65,536.
fn prefix(side: Which) -> [u8; 2] {
    match side {
        Which::Ours => [127, 1],
        Which::Serf => [127, 2],
    }
}

/// Where a member lives.
pub fn address(side: Which, at: usize) -> Ipv4Addr {
    let [a, b] = prefix(side);
    let (c, d) = (at / 200, at % 200 + 1);
    Ipv4Addr::new(a, b, u8::try_from(c).expect("at most 200 members"), u8::try_from(d).expect("at most 200"))
}

/// Brings loopback up, and counts what each side sends.
pub fn up() -> Result<()> {
    run(Command::new("ip").args(["link", "set", "lo", "up"]))?;
    let mut rules = String::from("add table inet bench\n");
    rules += "add chain inet bench sent { type filter hook output priority 0; }\n";
    rules += "add chain inet bench lost { type filter hook input priority 0; }\n";
    for side in Which::BOTH {
        let ([a, b], name) = (prefix(side), side.name());
        rules += &format!("add counter inet bench {name}\n");
        rules += &format!("add rule inet bench sent ip saddr {a}.{b}.0.0/16 counter name {name}\n");
    }
    nft(&rules)
}

/// So many packets of a hundred get lost, on both sides.
pub fn lose(percent: u8) -> Result<()> {
    let drop = format!("ip daddr 127.0.0.0/8 numgen random mod 100 < {percent} drop");
    nft(&format!("add rule inet bench lost {drop}\n"))
}

pub fn lose_nothing() -> Result<()> {
    nft("flush chain inet bench lost\n")
}

/// Bytes that the members of a side have sent so far, with IP headers.
pub fn sent(side: Which) -> Result<u64> {
    let listed = Command::new("nft").args(["-j", "list", "counters", "table", "inet", "bench"]).output();
    let text = listed.context("nft cannot be started")?.stdout;
    counter(&serde_json::from_slice(&text).context("nft printed no JSON")?, side.name())
}

fn counter(listed: &Value, name: &str) -> Result<u64> {
    let counters = listed["nftables"].as_array().into_iter().flatten().map(|entry| &entry["counter"]);
    let bytes = counters.filter(|counter| counter["name"] == name).find_map(|c| c["bytes"].as_u64());
    bytes.with_context(|| format!("nft does not list the counter {name}"))
}

fn nft(rules: &str) -> Result<()> {
    let mut child = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .spawn()
        .context("nft (nftables) cannot be started")?;
    child.stdin.take().context("nft reads from here")?.write_all(rules.as_bytes())?;
    if !child.wait()?.success() {
        bail!("nft refused:\n{rules}");
    }
    Ok(())
}

fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("{command:?} cannot be started"))?;
    if !status.success() {
        bail!("{command:?} failed ({status})");
    }
    Ok(())
}

/// See [`crate::sides::check_parsers`].
pub fn check_parser() {
    let listed = serde_json::json!({ "nftables": [
        { "metainfo": { "version": "1.0.6" } },
        { "counter": { "family": "inet", "name": "ours", "table": "bench", "packets": 2, "bytes": 150 } },
    ]});
    assert_eq!(counter(&listed, "ours").ok(), Some(150));
    assert!(counter(&listed, "serf").is_err());
}
