//! What a member needs: memory at 200 nodes and 10,000 VMs, and time until it is ready with 1,000,000 objects.
//!
//! ```text
//!   scpd: init a city ─▶ stop ─▶ fill: the node's own raft, log, machine and state, in this process
//!                                  ─▶ scpd again, on what is on the disk: measured
//! ```
//! The binary is `scpd` as it is shipped. A million requests through its door would measure the door; so the
//! node's directory is filled by what fills it in production, without the network: proposals through
//! `scp_raft` (log, group commit, snapshots) into `scp_node`'s machine.
//!
//! # What is measured
//! - **Restart**: keypairs, as many as there may be in a city (1,000,000), with users' names, quota, fingerprints
//!   and events. From starting the process until `/healthz` is answered, and until a linearizable read is
//!   (a city of one: it has elected itself by then). After `kill -9`, and after a stop in order.
//! - **Memory**: one real member that leads a city of 200 nodes with 10,000 VMs, placed by the scheduler. The
//!   other 199 are endpoints of the production mesh in this process (QUIC, TLS, gossip, observers), all connected
//!   to the member; no Raft answers at them, so what replication holds for a learner is not in it.
//!   Peak and last RSS within a minute of ordinary life, told apart as anonymous and mapped from files.
//!
//! Restarts are measured on the disk and on tmpfs: the first start makes log segments and syncs them, which is
//! what a busy disk makes everyone wait for.
//!
//! `SCP_BENCH_OBJECTS`, `SCP_BENCH_NODES`, `SCP_BENCH_VMS` shrink it; `SCP_BENCH_QUICK=1`: one restart of each
//! kind, on the disk. `SCP_BENCH_SCPD`: the binary.

mod fill;
mod keypairs;
mod peers;
mod process;
mod vms;

use std::{env, path::Path, time::Duration};

use anyhow::{Context, Result};
use process::Scpd;
use serde_json::{Value, json};
use tokio::time::Instant;

const OBJECTS: usize = 1_000_000;
const NODES: usize = 200;
const VMS: usize = 10_000;
const DISK: (&str, &str) = ("disk", "/var/tmp");
const TMPFS: (&str, &str) = ("tmpfs", "/dev/shm");
const RSS_MIB_MAX: f64 = 300.0;
const READY_S_MAX: f64 = 3.0;
/// Each peer becomes a learner, one membership change after the other, half a second apart.
const SETTLE_PER_NODE: Duration = Duration::from_millis(650);
const WATCH: Duration = Duration::from_secs(60);

fn number(variable: &str, default: usize) -> Result<usize> {
    match env::var(variable) {
        Ok(text) => text.parse().with_context(|| format!("{variable} is a whole number")),
        Err(_) => Ok(default),
    }
}

fn main() -> Result<()> {
    process::check_parsers();
    let quick = env::var("SCP_BENCH_QUICK").is_ok_and(|value| value != "0");
    let scpd = env::var("SCP_BENCH_SCPD").context("SCP_BENCH_SCPD names the scpd to measure")?;
    let load = std::fs::read_to_string("/proc/loadavg")?;
    eprintln!("memory: load before it began: {}", load.trim());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let scpd = Path::new(&scpd);
    let beside = |place: &str| tempfile::Builder::new().prefix("scp-memory-").tempdir_in(place);
    let (nodes, vms) = (number("SCP_BENCH_NODES", NODES)?, number("SCP_BENCH_VMS", VMS)?);
    if nodes > 0 {
        let dir = beside(DISK.1)?;
        runtime.block_on(member(scpd, dir.path(), (nodes, vms)))?;
    }
    let (restarts, objects) = (if quick { 1 } else { 5 }, number("SCP_BENCH_OBJECTS", OBJECTS)?);
    for (regime, place) in if quick { &[DISK][..] } else { &[DISK, TMPFS] } {
        let dir = beside(place)?;
        runtime.block_on(restart(scpd, (dir.path(), regime), (objects, restarts)))?;
    }
    Ok(())
}

fn rounded(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

fn print(name: &str, (value, unit): (f64, &str), more: Value) {
    let mut measure = json!({ "name": name, "value": rounded(value), "unit": unit });
    for (key, value) in more.as_object().into_iter().flatten() {
        measure[key] = value.clone();
    }
    println!("{measure}");
}

fn at_most(value: f64, most: f64) -> Value {
    json!({ "goal": format!("<= {most}"), "met": value <= most })
}

async fn member(scpd: &Path, dir: &Path, (nodes, vms): (usize, usize)) -> Result<()> {
    let mut node = Scpd::found(scpd, dir).await?;
    node.stop()?;
    let begin = Instant::now();
    let writer = fill::Writer::open(&node.data_dir()).await?;
    let mut peers = peers::Peers::start(&node.data_dir(), &writer, nodes - 1).await?;
    vms::fill(&writer, &peers, vms).await?;
    writer.close().await;
    eprintln!("memory: {nodes} nodes and {vms} VMs after {:.1} s", begin.elapsed().as_secs_f64());
    node.start()?;
    node.ready().await?;
    peers.live();
    tokio::time::sleep(SETTLE_PER_NODE * u32::try_from(nodes)?).await;
    let (cpu, since) = (node.cpu(), Instant::now());
    let mut peak = 0.0_f64;
    while since.elapsed() < WATCH {
        tokio::time::sleep(Duration::from_secs(1)).await;
        peak = peak.max(node.memory()?.rss);
    }
    let last = node.memory()?;
    let cpu_share = (node.cpu() - cpu).as_secs_f64() / since.elapsed().as_secs_f64() * 100.0;
    let more = json!({
        "last": rounded(last.rss), "anonymous": rounded(last.anonymous), "file": rounded(last.file),
        "nodes": nodes, "told": node.told().await?,
        "peers_connected": peers.connected(), "cpu_percent_of_a_core": rounded(cpu_share),
    });
    print("member_rss", (peak, "MiB"), merged(more, at_most(peak, RSS_MIB_MAX)));
    Ok(())
}

fn merged(mut one: Value, other: Value) -> Value {
    for (key, value) in other.as_object().into_iter().flatten() {
        one[key] = value.clone();
    }
    one
}

async fn restart(scpd: &Path, (dir, regime): (&Path, &str), (objects, times): (usize, usize)) -> Result<()> {
    let mut node = Scpd::found(scpd, dir).await?;
    node.stop()?;
    let begin = Instant::now();
    let writer = fill::Writer::open(&node.data_dir()).await?;
    keypairs::fill(&writer, objects).await?;
    writer.close().await;
    eprintln!("memory: {objects} keypairs after {:.1} s", begin.elapsed().as_secs_f64());
    let bytes = node.bytes_on_disk()?;
    for (name, in_order) in [("restart_after_kill", false), ("restart_after_stop", true)] {
        let mut taken = Vec::new();
        for _ in 0..times {
            // What begins each time is a node that runs.
            node.start()?;
            node.ready().await?;
            if in_order {
                node.stop()?
            } else {
                node.kill()
            }
            let begin = Instant::now();
            node.start()?;
            node.healthy().await?;
            let healthy = begin.elapsed().as_secs_f64();
            node.ready().await?;
            taken.push((healthy, begin.elapsed().as_secs_f64(), node.cpu().as_secs_f64()));
            node.kill();
        }
        taken.sort_by(|a, b| a.0.total_cmp(&b.0));
        let (healthy, read, cpu) = taken[taken.len() / 2];
        let more = json!({
            "regime": regime, "largest": rounded(taken[taken.len() - 1].0), "first_read": rounded(read), "cpu": rounded(cpu),
            "restarts": taken.len(), "objects": objects, "mib_on_disk": bytes >> 20,
        });
        print(name, (healthy, "s"), merged(more, at_most(healthy, READY_S_MAX)));
    }
    node.start()?;
    node.ready().await?;
    let memory = node.memory()?;
    let (anonymous, file) = (rounded(memory.anonymous), rounded(memory.file));
    let more = json!({ "regime": regime, "anonymous": anonymous, "file": file, "objects": objects });
    print("rss_with_objects", (memory.rss, "MiB"), more);
    Ok(())
}
