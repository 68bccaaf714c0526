//! The city beside etcd 3.4: durable writes of 256 bytes and linearizable reads, in one run, as a ratio.
//!
//! # What is measured
//! Three members of etcd with TLS to clients and between members, and three nodes of a city, all on
//! loopback, all on one machine; clients are tasks of this process with one request under way each, over
//! one connection to each member on either side. etcd's are spread over its members, as its client does it; ours go
//! where our client library sends them, writes to the node that leads. Sides take turns (A B A B): a ratio is the median of the
//! pairs' ratios, its interval the smallest and the largest of them.
//! - **A write** is, at etcd, a put of 256 bytes under a key of its own; at ours, a keypair whose public
//!   half is a line of 256 bytes: permission, name, quota, audit chain and event come with it, since no
//!   user of ours has less.
//! - **A read** is linearizable, of one such value by its key, at any member.
//! - `writes_N`, `reads_N`: over the native lane; `http_writes_N`: over HTTPS and JSON, beside etcd's gRPC.
//! - **Watch fan-out** (`watch_5000` over the native lane, `watch_http_5000`): see [`watch`].
//! - **Failover**: from killing the leader until a survivor acknowledges a write; asked every 10 ms.
//! - **Syncs**: of both sides under load, counted by strace: an acknowledged write is on two disks at least.
//!
//! While few clients wait for a disk, an idle processor sleeps and wakes slowly: a process of lowest priority
//! keeps it awake for both. `SCP_BENCH_SCPD`: the binary.
//!
//! `SCP_BENCH_QUICK=1`: three pairs, five kills, the disk only. `SCP_BENCH_ONLY=writes_64,reads_1000`: these
//! and no others. `SCP_BENCH_PAIRS`, `SCP_BENCH_KILLS`: so many instead of 7 and 50.

mod city;
mod etcd;
mod load;
mod process;
mod watch;

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use city::City;
use etcd::Etcd;
use load::{Run, median, report, run};
use mimalloc::MiMalloc;
use process::{Process, Syncs, spinner};
use scp_api::{native::Asking, v1::KeypairCreate};
use serde_json::json;
use tokio::time::Instant;
use uuid::Uuid;
use watch::Way;

/// Both sides' clients run on it.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// Long enough for thousands of group commits.
const WINDOW: Duration = Duration::from_millis(1_000);
/// Between two stretches: what one side still has to do is not charged to the other.
const SETTLE: Duration = Duration::from_millis(200);
const CLIENTS: [usize; 5] = [1, 16, 64, 256, 1_000];
const OTHERS: [&str; 6] =
    ["reads_1000", "http_writes_1000", "watch_5000", "watch_http_5000", "syncs", "failover"];
/// Up to so many clients a processor may fall asleep between two requests.
const SLEEPY_CLIENTS_MAX: usize = 64;
/// Keys that reads choose from.
const READ_KEYS: usize = 1_000;
const READS_PER_SECOND: f64 = 150_000.0;
const FAILOVER_MS: f64 = 500.0;
/// An operator's patience, not a measure.
const FAILOVER_MAX: Duration = Duration::from_secs(30);

struct Plan {
    pairs: usize,
    regimes: Vec<(&'static str, PathBuf)>,
    kills: usize,
    /// Measures asked for; none: all.
    only: Option<String>,
    scpd: PathBuf,
}

impl Plan {
    fn of_environment() -> Result<Self> {
        let quick = std::env::var("SCP_BENCH_QUICK").is_ok_and(|value| value != "0");
        let scpd = std::env::var("SCP_BENCH_SCPD").context("SCP_BENCH_SCPD names the scpd to measure")?;
        let count = |name: &str, quickly: usize, usually: usize| match std::env::var(name) {
            Ok(text) => text.parse().with_context(|| format!("{name} is a number, not {text:?}")),
            Err(_) => Ok(if quick { quickly } else { usually }),
        };
        let (disk, memory) = (("disk", PathBuf::from("/var/tmp")), ("tmpfs", PathBuf::from("/dev/shm")));
        Ok(Self {
            pairs: count("SCP_BENCH_PAIRS", 3, 7)?,
            kills: count("SCP_BENCH_KILLS", 5, 50)?,
            regimes: if quick { vec![disk] } else { vec![disk, memory] },
            only: std::env::var("SCP_BENCH_ONLY").ok(),
            scpd: scpd.into(),
        })
    }

    fn wants(&self, name: &str) -> bool {
        self.only.as_ref().is_none_or(|only| only.split(',').any(|asked| asked == name))
    }
}

fn main() -> Result<()> {
    let plan = Plan::of_environment()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let load = std::fs::read_to_string("/proc/loadavg")?;
    eprintln!("kv: load before it began: {}", load.trim());
    for (regime, dir) in &plan.regimes {
        let dir = tempfile::Builder::new().prefix("scp-kv-").tempdir_in(dir)?;
        runtime.block_on(regime_of(&plan, regime, dir.path()))?;
    }
    Ok(())
}

/// Both sides, up and warm.
struct Both {
    etcd: Etcd,
    city: Arc<City>,
    next: Arc<AtomicU64>,
}

async fn regime_of(plan: &Plan, regime: &str, dir: &Path) -> Result<()> {
    for clients in CLIENTS {
        let name = format!("writes_{clients}");
        if !plan.wants(&name) {
            continue;
        }
        // All of them together would be more than the million of keypairs that a city keeps.
        let dir = tempfile::Builder::new().prefix(&name).tempdir_in(dir)?;
        let both = Both::start(&plan.scpd, dir.path()).await?;
        let _awake = if clients <= SLEEPY_CLIENTS_MAX { Some(spinner()?) } else { None };
        let mut pairs = Vec::new();
        for _ in 0..plan.pairs {
            pairs.push((both.etcd_writes(clients).await?, both.writes(clients).await?));
        }
        let goal = [(64, 5.0), (1_000, 10.0)].into_iter().find(|(at, _)| *at == clients);
        report(&name, regime, &pairs, goal.map(|(_, goal)| goal));
    }
    others(plan, regime, dir).await
}

/// What is measured beside writes over the native lane.
async fn others(plan: &Plan, regime: &str, dir: &Path) -> Result<()> {
    if !OTHERS.iter().any(|name| plan.wants(name)) {
        return Ok(());
    }
    let mut both = Both::start(&plan.scpd, dir).await?;
    if plan.wants("reads_1000") {
        reads(plan, regime, &both).await?;
    }
    if plan.wants("http_writes_1000") {
        http(plan, regime, &both).await?;
    }
    for (name, way) in [("watch_5000", Way::Native), ("watch_http_5000", Way::Http)] {
        if plan.wants(name) {
            watched((name, way), plan, regime, &both).await?;
        }
    }
    if plan.wants("syncs") {
        count_syncs(regime, &both, dir).await?;
    }
    if regime == "disk" && plan.wants("failover") {
        failovers(plan.kills, &mut both).await?;
    }
    Ok(())
}

impl Both {
    async fn start(scpd: &Path, dir: &Path) -> Result<Self> {
        let city = Arc::new(City::start(scpd, &dir.join("city")).await?);
        let both =
            Self { etcd: Etcd::start(&dir.join("etcd")).await?, city, next: Arc::new(AtomicU64::new(0)) };
        both.etcd_writes(64).await?;
        both.writes(64).await?;
        Ok(both)
    }

    fn etcd_cpu(&self) -> Duration {
        self.etcd.members.iter().map(Process::cpu).sum()
    }

    async fn etcd_writes(&self, clients: usize) -> Result<Run> {
        tokio::time::sleep(SETTLE).await;
        let connections = self.etcd.clients.clone();
        run(
            (clients, WINDOW),
            || self.etcd_cpu(),
            move |client| {
                let connection = connections[client % connections.len()].clone();
                let id = Uuid::now_v7();
                async move { connection.put(id.as_bytes().to_vec(), city::value(id).into_bytes()).await }
            },
        )
        .await
    }

    async fn writes(&self, clients: usize) -> Result<Run> {
        tokio::time::sleep(SETTLE).await;
        let (city, next) = (self.city.clone(), self.next.clone());
        run(
            (clients, WINDOW),
            || self.city.cpu(),
            move |_| {
                let keypair = city.keypair(format!("k{}", next.fetch_add(1, Ordering::Relaxed)));
                let city = city.clone();
                async move {
                    city.native.create_keypair(keypair?).await?;
                    Ok(())
                }
            },
        )
        .await
    }

    async fn http_writes(&self, clients: usize) -> Result<Run> {
        tokio::time::sleep(SETTLE).await;
        let (city, next) = (self.city.clone(), self.next.clone());
        run(
            (clients, WINDOW),
            || self.city.cpu(),
            move |client| {
                let connection = city.https[client % city.https.len()].clone();
                let order = KeypairCreate {
                    id: None,
                    name: format!("k{}", next.fetch_add(1, Ordering::Relaxed)),
                    project: Some(city.project.to_string()),
                    public_key: city::value(Uuid::now_v7()),
                };
                async move {
                    connection.create_keypair(&order).await?;
                    Ok(())
                }
            },
        )
        .await
    }
}

async fn reads(plan: &Plan, regime: &str, both: &Both) -> Result<()> {
    const AT: usize = 1_000;
    let mut ours = Vec::new();
    let mut theirs = Vec::new();
    for at in 0..READ_KEYS {
        let keypair = both.city.keypair(format!("r{at}"))?;
        theirs.push((keypair.id.0.as_bytes().to_vec(), keypair.public_key.clone()));
        ours.push((keypair.id, keypair.public_key.clone()));
        both.etcd.clients[0].put(keypair.id.0.as_bytes().to_vec(), keypair.public_key.clone().into()).await?;
        both.city.native.create_keypair(keypair).await?;
    }
    let (ours, theirs) = (Arc::new(ours), Arc::new(theirs));
    let mut pairs = Vec::new();
    for _ in 0..plan.pairs {
        let (connections, keys) = (both.etcd.clients.clone(), theirs.clone());
        let etcd = run(
            (AT, WINDOW),
            || both.etcd_cpu(),
            move |client| {
                let (connection, keys) = (connections[client % connections.len()].clone(), keys.clone());
                async move {
                    let (key, value) = &keys[client % keys.len()];
                    ensure!(connection.get(key.clone()).await? == value.as_bytes(), "another value");
                    Ok(())
                }
            },
        )
        .await?;
        tokio::time::sleep(SETTLE).await;
        let (city, keys) = (both.city.clone(), ours.clone());
        let city = run(
            (AT, WINDOW),
            || both.city.cpu(),
            move |client| {
                let (city, keys) = (city.clone(), keys.clone());
                async move {
                    let (key, value) = &keys[client % keys.len()];
                    ensure!(city.native.keypair(*key).await?.public_key == *value, "another value");
                    Ok(())
                }
            },
        )
        .await?;
        tokio::time::sleep(SETTLE).await;
        pairs.push((etcd, city));
    }
    report(&format!("reads_{AT}"), regime, &pairs, None);
    let per_second = median(pairs.iter().map(|(_, ours)| ours.per_second)).round();
    print_goal("reads_per_second", regime, per_second, (">=", READS_PER_SECOND, "reads/s"));
    Ok(())
}

async fn http(plan: &Plan, regime: &str, both: &Both) -> Result<()> {
    let mut pairs = Vec::new();
    for _ in 0..plan.pairs {
        pairs.push((both.etcd_writes(1_000).await?, both.http_writes(1_000).await?));
    }
    report("http_writes_1000", regime, &pairs, Some(3.0));
    Ok(())
}

async fn watched((name, way): (&str, Way), plan: &Plan, regime: &str, both: &Both) -> Result<()> {
    let mut pairs = Vec::new();
    for _ in 0..plan.pairs {
        tokio::time::sleep(SETTLE).await;
        let theirs = both.etcd_told().await?;
        tokio::time::sleep(SETTLE).await;
        pairs.push((theirs, both.told(way).await?));
    }
    report(name, regime, &pairs, None);
    if way == Way::Native {
        let per_second = median(pairs.iter().map(|(_, ours)| ours.per_second)).round();
        print_goal("watch_events_per_second", regime, per_second, (">=", watch::PER_SECOND, "events/s"));
    }
    Ok(())
}

fn print_goal(name: &str, regime: &str, value: f64, (sign, goal, unit): (&str, f64, &str)) {
    let met = if sign == ">=" { value >= goal } else { value <= goal };
    let bound = format!("{sign} {goal}");
    println!(
        "{}",
        json!({ "name": name, "regime": regime, "value": value, "unit": unit, "goal": bound, "met": met })
    );
}

/// Both sides under 64 clients, watched: strace slows them down, so this is not in any ratio.
async fn count_syncs(regime: &str, both: &Both, dir: &Path) -> Result<()> {
    for ours in [false, true] {
        let pids = if ours { both.city.pids() } else { both.etcd.pids() };
        let syncs = Syncs::count(&pids, dir)?;
        tokio::time::sleep(SETTLE).await;
        let load = if ours { both.writes(64).await? } else { both.etcd_writes(64).await? };
        let count = syncs.end()?;
        let writes = (load.per_second * WINDOW.as_secs_f64()).round();
        let name = if ours { "syncs_ours" } else { "syncs_etcd" };
        ensure!(count > 0, "{name}: {writes} writes were acknowledged without a sync");
        println!(
            "{}",
            json!({ "name": name, "regime": regime, "value": count, "unit": "syncs", "writes": writes })
        );
    }
    Ok(())
}

/// Kills the leader again and again, on both sides.
async fn failovers(count: usize, both: &mut Both) -> Result<()> {
    let (mut theirs, mut ours) = (Vec::new(), Vec::new());
    for _ in 0..count {
        let killed = both.etcd.kill_leader().await?;
        let connection = both.etcd.clients[(killed + 1) % etcd::MEMBERS].clone();
        theirs.push(
            until_written(move || {
                let connection = connection.clone();
                async move { connection.put(b"failover".to_vec(), b"yes".to_vec()).await }
            })
            .await?,
        );
        both.etcd.restart(killed)?;
        both.etcd.wait().await?;

        let city = Arc::get_mut(&mut both.city).context("nobody else holds the city now")?;
        let killed = city.kill_leader().await?;
        let survivor = city.id((killed + 1) % city::NODES)?;
        let connection = city.native.of(survivor).context("each node has a connection")?.clone();
        let project = city.project;
        let next = both.next.clone();
        ours.push(
            until_written(move || {
                let connection = connection.clone();
                let id = Uuid::now_v7();
                let name = format!("f{}", next.fetch_add(1, Ordering::Relaxed));
                async move {
                    let name = name.parse()?;
                    let keypair = scp_api::native::NewKeypair {
                        id: scp_model::KeypairId(id),
                        project,
                        name,
                        public_key: city::value(id),
                    };
                    connection.create_keypair(keypair).await?;
                    Ok(())
                }
            })
            .await?,
        );
        city.restart(killed).await?;
        // The next death shall meet a city that is whole.
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    for (name, values) in [("failover_etcd", &mut theirs), ("failover", &mut ours)] {
        values.sort_by(f64::total_cmp);
        let p99 = values[(values.len() * 99).div_ceil(100) - 1];
        let met = p99 <= FAILOVER_MS;
        println!(
            "{}",
            json!({ "name": name, "value": p99.round(), "unit": "ms, p99", "p50": median(values.iter().copied()).round(),
                "kills": values.len(), "goal": format!("<= {FAILOVER_MS}"), "met": met })
        );
    }
    Ok(())
}

/// Milliseconds until one of the writes that are begun every 10 ms from now on is acknowledged.
async fn until_written<F, Fut>(write: F) -> Result<f64>
where
    F: Fn() -> Fut,
    Fut: Future<Output = Result<()>> + Send + 'static,
{
    let begin = Instant::now();
    let mut ticks = tokio::time::interval(Duration::from_millis(10));
    let mut writes = tokio::task::JoinSet::new();
    while begin.elapsed() < FAILOVER_MAX {
        tokio::select! {
            biased;
            Some(done) = writes.join_next(), if !writes.is_empty() => {
                if matches!(done, Ok(Ok(()))) {
                    return Ok(begin.elapsed().as_secs_f64() * 1e3);
                }
            }
            _ = ticks.tick() => {
                writes.spawn(write());
            }
        }
    }
    anyhow::bail!("no write was acknowledged within {} s of the leader's death", FAILOVER_MAX.as_secs())
}
