//! Gossip over the real mesh, and city-wide in memory.

use std::sync::Arc;

use scp_mesh::{
    Gossip, Mesh, Transport,
    gossip::{FACTS_MAX, FactError, GossipConfig, View, cell::Roster},
    memory::MemoryNetwork,
    suite::Echo,
};
use scp_model::{CityId, NodeId};
use tokio::{sync::watch, time::timeout};

use crate::city::{City, PATIENCE};

fn roster(nodes: impl IntoIterator<Item = NodeId>) -> Arc<Roster> {
    Arc::new(Roster { members: nodes.into_iter().map(|node| (node, true)).collect(), ..Roster::default() })
}

fn config(incarnation: u64) -> GossipConfig {
    GossipConfig { city: CityId::from_u128(1), incarnation }
}

async fn seen(gossip: &Gossip, what: &str, holds: impl FnMut(&Arc<View>) -> bool) {
    let mut view = gossip.view();
    let last = gossip.view();
    let result = timeout(2 * PATIENCE, view.wait_for(holds)).await;
    assert!(result.is_ok(), "{what}; last seen: {:?}", **last.borrow());
}

fn fact<'a>(view: &'a View, node: NodeId, key: &str) -> Option<&'a str> {
    view.get(&node)?.facts.get(key).map(String::as_str)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_nodes_know_each_others_facts_and_notice_who_stops() {
    let city = City::new();
    let nodes: Vec<Mesh> = city.echoes(5).await;
    let (_roster, members) = watch::channel(roster(nodes.iter().map(Mesh::node)));
    let gossips: Vec<_> =
        nodes.iter().map(|node| Gossip::start(config(1), Arc::new(node.clone()), members.clone())).collect();
    for (gossip, node) in gossips.iter().zip(&nodes) {
        gossip.set_fact("software", "0.1.0").expect("a good fact");
        gossip.set_fact("load", node.node().to_string()).expect("a good fact");
    }
    for gossip in &gossips {
        seen(gossip, "all know all", |view| {
            nodes.iter().all(|node| {
                let told = fact(view, node.node(), "load") == Some(&node.node().to_string());
                told && view[&node.node()].alive && fact(view, node.node(), "software").is_some()
            })
        })
        .await;
    }
    let first = nodes[0].node();
    gossips[0].set_fact("load", "7.5").expect("a good fact");
    for gossip in &gossips {
        seen(gossip, "a change reaches all", |view| fact(view, first, "load") == Some("7.5")).await;
    }
    gossips[0].shutdown().await;
    nodes[0].shutdown().await;
    for gossip in &gossips[1..] {
        seen(gossip, "who stops is noticed", |view| !view[&first].alive).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_restarted_node_is_seen_with_its_new_facts() {
    let network = MemoryNetwork::new();
    let ids = [NodeId(1), NodeId(2)];
    let (_keep, members) = watch::channel(roster(ids));
    let first = Gossip::start(config(1), network.join(ids[0], Echo::new()), members.clone());
    let second = Gossip::start(config(1), network.join(ids[1], Echo::new()), members.clone());
    second.set_fact("load", "old").expect("a good fact");
    seen(&first, "the first life", |view| fact(view, ids[1], "load") == Some("old")).await;
    second.shutdown().await;
    let third = Gossip::start(config(2), network.join(ids[1], Echo::new()), members);
    third.set_fact("load", "new").expect("a good fact");
    seen(&first, "the second life", |view| fact(view, ids[1], "load") == Some("new")).await;
}

#[tokio::test(start_paused = true)]
async fn a_city_of_several_cells_is_seen_whole_by_its_voters() {
    let network = MemoryNetwork::new();
    // A cell of three, and one of 199 in which a single node is up and speaks for it.
    let low = [NodeId(1), NodeId(2), NodeId(3)];
    let high: Vec<_> = (0..199u64).map(|id| NodeId(1 << 63 | id)).collect();
    let mut city = Roster { members: high.iter().map(|id| (*id, false)).collect(), ..Roster::default() };
    let running = [low[0], low[1], low[2], high[7]];
    city.members.extend(running.map(|id| (id, true)));
    assert_eq!(city.cells().len(), 2);
    let ambassadors = city.ambassadors(city.cell_of(low[0]));
    let voter = low.into_iter().find(|id| !ambassadors.contains(id)).expect("two of three speak");
    city.voters.insert(voter);
    let (_keep, members) = watch::channel(Arc::new(city));
    let start = |id: NodeId| Gossip::start(config(1), network.join(id, Echo::new()), members.clone());
    let gossips = running.map(start);
    for (gossip, id) in gossips.iter().zip(running) {
        gossip.set_fact("load", id.to_string()).expect("a good fact");
    }
    let watching = &gossips[running.iter().position(|id| *id == voter).expect("it runs")];
    seen(watching, "a voter sees both cells", |view| {
        running.iter().all(|id| fact(view, *id, "load") == Some(&id.to_string()) && view[id].alive)
    })
    .await;
}

/// As after a start at which each reaches a few of the others only.
#[tokio::test(start_paused = true)]
async fn halves_that_did_not_know_of_each_other_become_one() {
    let network = MemoryNetwork::new();
    let nodes: Vec<_> = (1..=12).map(NodeId).collect();
    let across = |(a, b): (&NodeId, &NodeId)| [(*a, *b), (*b, *a)];
    let between: Vec<_> =
        nodes[..6].iter().flat_map(|a| nodes[6..].iter().flat_map(move |b| across((a, b)))).collect();
    between.iter().for_each(|(from, to)| network.cut(*from, *to));
    let (_keep, members) = watch::channel(roster(nodes.iter().copied()));
    let start = |id: &NodeId| Gossip::start(config(1), network.join(*id, Echo::new()), members.clone());
    let gossips: Vec<_> = nodes.iter().map(start).collect();
    gossips.iter().for_each(|gossip| gossip.set_fact("load", "1").expect("a good fact"));
    for (gossip, half) in gossips.iter().zip(std::iter::repeat_n(&nodes[..6], 6)) {
        seen(gossip, "a half knows itself", |view| {
            half.iter().all(|id| fact(view, *id, "load").is_some() && view[id].alive)
        })
        .await;
    }
    between.iter().for_each(|(from, to)| network.heal(*from, *to));
    for gossip in &gossips {
        seen(gossip, "all know all", |view| nodes.iter().all(|id| fact(view, *id, "load").is_some())).await;
    }
}

#[tokio::test(start_paused = true)]
async fn members_that_left_the_roster_leave_the_view() {
    let network = MemoryNetwork::new();
    let ids = [NodeId(1), NodeId(2)];
    let (state, members) = watch::channel(roster(ids));
    let first = Gossip::start(config(1), network.join(ids[0], Echo::new()), members.clone());
    let _second = Gossip::start(config(1), network.join(ids[1], Echo::new()), members);
    seen(&first, "both are there", |view| view.len() == 2).await;
    state.send_replace(roster([ids[0]]));
    seen(&first, "one is left", |view| view.len() == 1).await;
}

#[tokio::test(start_paused = true)]
async fn a_node_tells_a_bounded_number_of_facts() {
    let network = MemoryNetwork::new();
    let (_keep, members) = watch::channel(roster([NodeId(1)]));
    let gossip = Gossip::start(config(1), network.join(NodeId(1), Echo::new()), members);
    for number in 0..FACTS_MAX {
        gossip.set_fact(&format!("k{number}"), "v").expect("within the bound");
    }
    assert_eq!(gossip.set_fact("one_more", "v"), Err(FactError::TooMany));
    assert_eq!(gossip.set_fact("k0", "w"), Ok(()), "a known one may change");
    seen(&gossip, "own facts are in the view", |view| fact(view, NodeId(1), "k0") == Some("w")).await;
}
