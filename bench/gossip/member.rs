//! One member: a process with the mesh, gossip and observer of a node, and nothing else of it.
//!
//! ```text
//!   stdin:  set VALUE      a fact of this member changes        down AT, up AT    as the log would bring it
//!   stdout: set VALUE      it is told from now on               knows N           facts of so many are here
//!           seen AT VALUE  the fact of another is known here    lives N           gossip's own slow opinion
//!           down AT, up AT the leader's verdict
//! ```

use std::{collections::BTreeMap, fs, path::Path, sync::Arc, time::Duration};

use anyhow::{Context, Result, bail};
use data_encoding::HEXLOWER;
use scp_bench::ears::Ears;
use scp_mesh::{
    Authority, Clock, Gossip, Identity, IdentityDirectory, Members, Mesh, MeshConfig, Observer, Ports,
    SystemClock,
    authority::Subject,
    gossip::{GossipConfig, cell::Roster},
    observe::{Seat, Watchlist},
};
use scp_model::{Name, NodeId, PublicKey};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    sync::watch,
};

use crate::{
    city::{CITY, City, Seated, Verdict},
    network,
    sides::Which,
};

const PORT: u16 = 7600;
const ZONES: usize = 4;
/// The list of all members, in the run's directory.
const LIST: &str = "members";
/// What changes when an update is measured.
const FACT: &str = "mark";
/// As a node does.
const FACTS_INTERVAL: Duration = Duration::from_secs(2);

fn home(dir: &Path, at: usize) -> std::path::PathBuf {
    dir.join(format!("m{at}"))
}

/// Makes keys and certificates of a city of so many, and the list of them.
pub fn prepare(dir: &Path, count: usize) -> Result<()> {
    let now = SystemClock.now();
    let authority = Authority::create(CITY, &Name::new("bench")?, now)?;
    let mut list = String::new();
    for at in 0..count {
        let directory = IdentityDirectory::open(home(dir, at))?;
        let key = directory.load_or_create_key()?;
        let address = network::address(Which::Ours, at);
        let (public_key, name) = (key.public_key(), Name::new(format!("m{at}"))?);
        let subject = Subject { public_key, name, addresses: vec![address.into()] };
        let certificate = authority.issue(&subject, now)?;
        directory.store(&Identity::new(key, &certificate, authority.certificate_pem())?)?;
        list += &format!("{address}:{PORT} z{} {}\n", at % ZONES, HEXLOWER.encode(&public_key.0));
    }
    fs::write(dir.join(LIST), list).context("the list of members cannot be written")
}

fn parse(line: &str) -> Result<Seated> {
    let [address, zone, key] = line.split(' ').collect::<Vec<_>>()[..] else {
        bail!("a member is an address, a zone and a key: {line}");
    };
    let key = HEXLOWER.decode(key.as_bytes())?;
    let key: [u8; 32] = key.try_into().ok().context("an ed25519 key has 32 bytes")?;
    Ok(Seated { public_key: PublicKey(key), address: address.parse()?, zone: Name::new(zone)? })
}

/// Runs until stdin ends.
pub fn run(dir: &Path, at: usize) -> Result<()> {
    let list = fs::read_to_string(dir.join(LIST))?;
    let seated: Vec<_> = list.lines().map(parse).collect::<Result<_>>()?;
    let identity = IdentityDirectory::open(home(dir, at))?.load()?.context("the member has an identity")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(live(&seated, at, identity))
}

async fn live(seated: &[Seated], at: usize, identity: Identity) -> Result<()> {
    let nodes: Vec<NodeId> = seated.iter().map(Seated::node).collect();
    let numbers: BTreeMap<NodeId, usize> =
        nodes.iter().enumerate().map(|(number, node)| (*node, number)).collect();
    let keys: Members = seated.iter().map(|seated| (seated.node(), seated.public_key)).collect();
    let (_members, members) = watch::channel(Some(Arc::new(keys)));
    let ears = Arc::new(Ears::default());
    let ports = Ports { service: ears.clone(), clock: Arc::new(SystemClock), members };
    let mesh = Mesh::start(MeshConfig { listen: seated[at].address }, identity, ports).await?;
    for seated in seated {
        mesh.set_address(seated.node(), Some(seated.address));
    }
    let seat = |seated: &Seated| Seat { node: seated.node(), zone: seated.zone.clone(), is_up: true };
    let seats = seated.iter().map(seat).collect();
    let watchlist = watch::Sender::new(Arc::new(Watchlist { seats, leader: Some(nodes[0]) }));
    let roster = Roster {
        members: nodes.iter().map(|node| (*node, true)).collect(),
        voters: nodes.iter().take(5).copied().collect(),
    };
    let roster = watch::Sender::new(Arc::new(roster));
    let transport: Arc<dyn scp_mesh::Transport> = Arc::new(mesh);
    let observer = Observer::start(transport.clone(), watchlist.subscribe());
    ears.open(observer.clone());
    let config = GossipConfig { city: CITY, incarnation: SystemClock.now().0 };
    let gossip = Gossip::start(config, transport, roster.subscribe());
    let lead = async {
        if at != 0 {
            return std::future::pending().await;
        }
        let tell = |verdict| match verdict {
            Verdict::Down(node) => println!("down {}", numbers[&node]),
            Verdict::Up(node) => println!("up {}", numbers[&node]),
        };
        City::new(seated)?.lead(observer, tell).await
    };
    tokio::select! {
        ended = lead => ended,
        ended = obey(&gossip, &nodes, (&roster, &watchlist)) => ended,
        () = watch(&gossip, &numbers) => Ok(()),
        () = speak(&gossip, seated[at].address) => Ok(()),
    }
}

/// What `scpd` tells of itself.
async fn speak(gossip: &Gossip, address: std::net::SocketAddr) {
    let mut ticks = tokio::time::interval(FACTS_INTERVAL);
    loop {
        ticks.tick().await;
        let load = scp_node::facts::load_percent().to_string();
        let facts = [
            ("software", scp_node::server::SOFTWARE.to_owned()),
            ("mesh_address", address.to_string()),
            ("api_address", address.to_string()),
        ];
        let gauges = [
            ("applied_index", "100000".into()),
            ("vcpus_free", "64".into()),
            ("memory_mib_free", "131072".into()),
            ("disk_mib_free", "4194304".into()),
            ("load_percent", load),
        ];
        let facts = facts.map(|(key, value)| gossip.set_fact(key, value));
        let gauges = gauges.map(|(key, value)| gossip.set_gauge(key, value));
        if let Some(error) = facts.into_iter().chain(gauges).find_map(Result::err) {
            eprintln!("a fact cannot be told: {error}");
        }
    }
}

async fn watch(gossip: &Gossip, numbers: &BTreeMap<NodeId, usize>) {
    let mut view = gossip.view();
    let (mut known, mut live) = (0, 0);
    let mut seen: BTreeMap<NodeId, String> = BTreeMap::new();
    loop {
        let now = view.borrow_and_update().clone();
        let told = now.values().filter(|member| !member.facts.is_empty()).count();
        if known != told {
            known = told;
            println!("knows {told}");
        }
        let alive = now.values().filter(|member| member.alive).count();
        if live != alive {
            live = alive;
            println!("lives {alive}");
        }
        for (node, member) in &*now {
            let Some(value) = member.facts.get(FACT) else { continue };
            if seen.get(node) != Some(value) {
                println!("seen {} {value}", numbers[node]);
                seen.insert(*node, value.clone());
            }
        }
        if view.changed().await.is_err() {
            return;
        }
    }
}

type Lists<'a> = (&'a watch::Sender<Arc<Roster>>, &'a watch::Sender<Arc<Watchlist>>);

async fn obey(gossip: &Gossip, nodes: &[NodeId], (roster, watchlist): Lists<'_>) -> Result<()> {
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = lines.next_line().await? {
        let (word, rest) = line.split_once(' ').context("an order is a word and a value")?;
        let is_up = match word {
            "set" => {
                gossip.set_fact(FACT, rest)?;
                println!("set {rest}");
                continue;
            }
            "up" => true,
            "down" => false,
            _ => bail!("no order: {line}"),
        };
        let node = nodes.get(rest.parse::<usize>()?).context("a member has this number")?;
        roster.send_modify(|roster| {
            Arc::make_mut(roster).members.insert(*node, is_up);
        });
        watchlist.send_modify(|watchlist| Arc::make_mut(watchlist).mark(*node, is_up));
    }
    Ok(())
}
