//! The curve: gossip and failure detection of the production code, for cities of 10 to 10,000 members.
//!
//! ```text
//!   members: Gossip + Observer each ──▶ links in memory: 1 ms, some loss, every byte counted
//!   leader:  silences ─▶ node::leader::suspicions ─▶ scheduler::plan ─▶ MarkNodeDown ─▶ State::apply
//!
//!   settle ─▶ quiet: bytes ─▶ updates: spread ─▶ stalls of 2 s: nobody dies ─▶ kills: who notices when
//! ```
//! Agreement is not in it: the leader's commands are applied to one state, and all members are told.
//!
//! # Caveats
//! - Bytes are those handed to the transport: packets' headers, acknowledgements and keep-alives are not
//!   in them. `cargo xtask bench gossip` counts those at the network interface.
//! - A member that stalls is cut off for that time; its own loops go on.

mod city;
mod links;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
    time::Duration,
};

use scp_mesh::{
    Gossip, Observer,
    gossip::{GossipConfig, cell::Roster},
    memory::MemoryNetwork,
    observe::{Seat, Watchlist},
};
use scp_model::{CityId, NodeId};
use serde_json::{Value, json};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep},
};

use self::links::{Ears, Link, Tally};
use crate::entropy::SplitMix;

/// They are neither killed nor stalled.
pub const VOTERS: usize = 5;
/// Circles are complete and chitchat has told everything to everyone by then.
const SETTLE: Duration = Duration::from_secs(30);
const QUIET: Duration = Duration::from_secs(30);
/// How often members' load changes in production: the kernel computes it so often.
const LOAD_INTERVAL: Duration = Duration::from_secs(5);
const UPDATES: u64 = 10;
const UPDATE_INTERVAL: Duration = Duration::from_secs(1);
const SPREAD_MAX: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(10);
/// The longest stall that is no death.
const STALL: Duration = Duration::from_secs(2);
const KILL_INTERVAL: Duration = Duration::from_millis(370);
const AFTER: Duration = Duration::from_secs(6);

/// What one city measured.
#[derive(Debug, Clone, Default)]
pub struct Point {
    pub members: usize,
    /// How long after a fact changed each who hears of it first hand, and each voter, knew; milliseconds. Of
    /// 200 messages one is lost: whoever misses the news by both trees waits for an exchange.
    pub spread_ms: Vec<u64>,
    /// How long after a kill the node was declared down; milliseconds.
    pub noticed_ms: Vec<u64>,
    pub killed: usize,
    /// Declared down though neither killed nor stalled.
    pub false_deaths: usize,
    pub stalled: usize,
    /// Declared down though only stalled for [`STALL`].
    pub stalled_deaths: usize,
    /// Sent by a member, bytes a second: the mean, and the most of one.
    pub sent_mean: u64,
    pub sent_max: u64,
    /// Received by the leader, bytes a second.
    pub received_leader: u64,
}

/// The value that so many in a hundred do not exceed.
fn percentile(values: &[u64], percent: usize) -> Option<u64> {
    let mut values = values.to_vec();
    values.sort_unstable();
    let rank = (values.len() * percent).div_ceil(100).checked_sub(1)?;
    values.get(rank).copied()
}

impl Point {
    pub fn spread_p99_ms(&self) -> Option<u64> {
        percentile(&self.spread_ms, 99)
    }

    pub fn noticed_p99_ms(&self) -> Option<u64> {
        percentile(&self.noticed_ms, 99).filter(|_| self.noticed_ms.len() == self.killed)
    }

    /// Every promise that this point breaks; a miss is said, not hidden.
    pub fn misses(&self) -> Vec<&'static str> {
        let above = |value: Option<u64>, most: u64| value.is_none_or(|value| value > most);
        let goals = [
            (
                above(self.spread_p99_ms(), 1_000),
                "of a hundred members one or more knew an update after more than 1 s",
            ),
            (above(self.noticed_p99_ms(), 3_000), "a death was noticed after more than 3 s, or not"),
            (self.false_deaths > 0, "a node that was neither dead nor stalled was declared down"),
            (self.sent_mean > 1_500, "a member sends more than 1.5 kB/s"),
        ];
        goals.into_iter().filter(|(missed, _)| *missed).map(|(_, what)| what).collect()
    }

    pub fn to_json(&self) -> Value {
        json!({
            "members": self.members,
            "spread_ms_p50": percentile(&self.spread_ms, 50), "spread_ms_p99": self.spread_p99_ms(),
            "spread_ms_max": self.spread_ms.iter().max(),
            "noticed_ms_p50": percentile(&self.noticed_ms, 50), "noticed_ms_p99": self.noticed_p99_ms(),
            "killed": self.killed, "false_deaths": self.false_deaths,
            "stalled": self.stalled, "stalled_deaths": self.stalled_deaths,
            "sent_bytes_per_s": self.sent_mean, "sent_bytes_per_s_max": self.sent_max,
            "leader_received_bytes_per_s": self.received_leader,
            "missed": self.misses(),
        })
    }
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |ms: Option<u64>| ms.map_or("never".to_owned(), |ms| format!("{ms} ms"));
        write!(
            f,
            "{:>6} members: spread p99 {:>8} (most {}), death noticed p99 {:>8} ({} of {}), false deaths {} (and {} of {} \
             stalled), sent {} B/s (most {}, leader hears {})",
            self.members,
            shown(self.spread_p99_ms()),
            shown(self.spread_ms.iter().max().copied()),
            shown(percentile(&self.noticed_ms, 99)),
            self.noticed_ms.len(),
            self.killed,
            self.false_deaths,
            self.stalled_deaths,
            self.stalled,
            self.sent_mean,
            self.sent_max,
            self.received_leader,
        )?;
        self.misses().into_iter().try_for_each(|what| write!(f, "\n        MISSED: {what}"))
    }
}

/// Measures a city of so many members. The same seed gives the same point.
pub fn measure(members: usize, seed: u64) -> Point {
    assert!(members > VOTERS, "somebody has to die, and no voter does");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime with a clock only needs nothing of the system");
    runtime.block_on(async {
        let mut curve = Curve::new(members, seed);
        sleep(SETTLE).await;
        let mut point = Point { members, ..Point::default() };
        curve.quiet(&mut point).await;
        curve.updates(&mut point).await;
        curve.stalls(&mut point).await;
        curve.kills(&mut point).await;
        point
    })
}

struct Member {
    gossip: Gossip,
    observer: Observer,
    tally: Arc<Tally>,
}

struct Curve {
    network: MemoryNetwork,
    /// In the order of their joining; the first leads, the first few vote.
    nodes: Vec<NodeId>,
    members: BTreeMap<NodeId, Member>,
    roster: watch::Receiver<Arc<Roster>>,
    declared: mpsc::UnboundedReceiver<(NodeId, Instant)>,
    rng: SplitMix,
    deaths: BTreeMap<NodeId, Instant>,
}

impl Curve {
    fn new(count: usize, seed: u64) -> Self {
        let mut rng = SplitMix::new(seed);
        let city = city::City::new(count as u64);
        let nodes = city.nodes.clone();
        let seats = city.state.nodes.values();
        let seats =
            seats.map(|node| Seat { node: node.id, zone: node.profile.zone.clone(), is_up: true }).collect();
        let (watching, watchlist) = watch::channel(Arc::new(Watchlist { seats, leader: Some(nodes[0]) }));
        let roster = Roster {
            members: nodes.iter().map(|node| (*node, true)).collect(),
            voters: nodes.iter().take(VOTERS).copied().collect(),
        };
        let (rostering, roster) = watch::channel(Arc::new(roster));
        let network = MemoryNetwork::new();
        network.set_delay_everywhere(Duration::from_millis(1));
        let tallies: links::Tallies =
            Arc::new(nodes.iter().map(|node| (*node, Arc::<Tally>::default())).collect());
        let start = |node: &NodeId| {
            let ears = Arc::new(Ears::default());
            let link = Link::new(network.join(*node, ears.clone()), tallies.clone(), rng.fork());
            let link = Arc::new(link);
            let observer = Observer::start(link.clone(), watchlist.clone());
            ears.open(observer.clone());
            let config = GossipConfig { city: CityId::from_u128(1), incarnation: 1 };
            let gossip = Gossip::start(config, link, roster.clone());
            tell(&gossip, 0);
            (*node, Member { gossip, observer, tally: tallies[node].clone() })
        };
        let members: BTreeMap<_, _> = nodes.iter().map(start).collect();
        let (declare, declared) = mpsc::unbounded_channel();
        let leader = members[&nodes[0]].observer.clone();
        tokio::spawn(city.lead(leader, (rostering, watching), declare));
        Self { network, nodes, members, roster, declared, rng, deaths: BTreeMap::new() }
    }

    fn noted(&mut self) {
        while let Ok((node, at)) = self.declared.try_recv() {
            self.deaths.insert(node, at);
        }
    }

    /// Nothing but the load of the servers changes: what does a member send?
    async fn quiet(&mut self, point: &mut Point) {
        self.members.values().for_each(|member| member.tally.reset());
        let turns = QUIET.as_secs() / LOAD_INTERVAL.as_secs();
        for turn in 1..=turns {
            self.members.values().for_each(|member| tell(&member.gossip, turn));
            sleep(LOAD_INTERVAL).await;
        }
        let sent = self.members.values().map(|member| member.tally.sent() / QUIET.as_secs());
        point.sent_max = sent.clone().max().unwrap_or_default();
        point.sent_mean = sent.sum::<u64>() / self.members.len() as u64;
        point.received_leader = self.members[&self.nodes[0]].tally.received() / QUIET.as_secs();
    }

    /// Facts change at one member at a time.
    async fn updates(&mut self, point: &mut Point) {
        for number in 0..UPDATES {
            let node = *self.rng.pick(&self.nodes);
            let (roster, value) = (self.roster.borrow().clone(), number.to_string());
            let mut hearers: BTreeSet<NodeId> = roster.members_of(roster.cell_of(node)).collect();
            hearers.extend(&roster.voters);
            let mut views: Vec<_> = hearers.iter().map(|node| self.members[node].gossip.view()).collect();
            let began = Instant::now();
            self.members[&node].gossip.set_fact("probe", value.clone()).expect("a good fact");
            while !views.is_empty() && began.elapsed() < SPREAD_MAX {
                sleep(LOOK).await;
                views.retain(|view| {
                    let knows =
                        view.borrow().get(&node).and_then(|seen| seen.facts.get("probe")) == Some(&value);
                    point.spread_ms.extend(knows.then(|| millis(began.elapsed())));
                    !knows
                });
            }
            point.spread_ms.extend(views.iter().map(|_| millis(SPREAD_MAX)));
            sleep(UPDATE_INTERVAL.saturating_sub(began.elapsed())).await;
        }
    }

    /// One in a hundred, none of which leads or votes.
    fn victims(&mut self) -> Vec<NodeId> {
        let count = (self.nodes.len() / 100).clamp(3, 50);
        let mut victims = BTreeSet::new();
        while victims.len() < count.min(self.nodes.len() - VOTERS) {
            victims.insert(*self.rng.pick(&self.nodes[VOTERS..]));
        }
        victims.into_iter().filter(|node| self.members.contains_key(node)).collect()
    }

    async fn stalls(&mut self, point: &mut Point) {
        let victims = self.victims();
        victims.iter().for_each(|node| self.members[node].tally.stall(true));
        sleep(STALL).await;
        victims.iter().for_each(|node| self.members[node].tally.stall(false));
        sleep(AFTER).await;
        self.noted();
        point.stalled = victims.len();
        point.stalled_deaths = victims.iter().filter(|node| self.deaths.contains_key(node)).count();
        point.false_deaths = self.deaths.len() - point.stalled_deaths;
        self.deaths.clear();
    }

    async fn kills(&mut self, point: &mut Point) {
        let mut killed = BTreeMap::new();
        for node in self.victims() {
            sleep(KILL_INTERVAL).await;
            let member = self.members.remove(&node).expect("a victim is a member");
            member.observer.shutdown();
            member.gossip.shutdown().await;
            self.network.leave(node);
            killed.insert(node, Instant::now());
        }
        sleep(AFTER).await;
        self.noted();
        point.killed = killed.len();
        for (node, at) in &self.deaths {
            match killed.get(node) {
                Some(killed) => point.noticed_ms.push(millis(at.duration_since(*killed))),
                None => point.false_deaths += 1,
            }
        }
    }
}

/// What a member of production tells, of the same size.
fn tell(gossip: &Gossip, turn: u64) {
    let facts = [
        ("software", "0.1.0".to_owned()),
        ("mesh_address", "10.0.100.100:7400".to_owned()),
        ("api_address", "10.0.100.100:8443".to_owned()),
    ];
    let gauges = [
        ("applied_index", "1234567".to_owned()),
        ("vcpus_free", "64".to_owned()),
        ("memory_mib_free", "131072".to_owned()),
        ("disk_mib_free", "4194304".to_owned()),
        ("load_percent", turn.to_string()),
    ];
    for (key, value) in facts {
        gossip.set_fact(key, value).expect("a good fact");
    }
    for (key, value) in gauges {
        gossip.set_gauge(key, value).expect("a good fact");
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
