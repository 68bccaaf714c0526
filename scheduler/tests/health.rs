//! Death: what holds for every city, whatever the leader and the observers have (not) heard.

#[path = "town/mod.rs"]
mod town;

use std::collections::BTreeSet;

use proptest::prelude::*;
use scp_model::{Command, NodeId, Timestamp, node::Evidence};
use scp_scheduler::{Suspicion, View, health::SILENCE_LEADER_MS};
use town::Town;

const NAMES: [&str; 6] = ["n1", "n2", "n3", "n4", "n5", "n6"];

fn city(nodes: usize) -> Town {
    let mut town = Town::new(&town::node(NAMES[0]));
    NAMES[1..nodes].iter().for_each(|name| town.join(&town::node(name)));
    town.pass_ms(60_000);
    town
}

/// Who is declared down when the leader n1 has not heard `subjects` for so long, and their observers, the
/// nodes in order, answer so.
fn dead(town: &Town, subjects: &[usize], leader_silence_ms: u64, answers: &[Option<u64>]) -> Vec<NodeId> {
    let suspicion = |subject: &usize| {
        let nodes = town.state.nodes.len();
        let others = (1..nodes).filter(|at| at != subject).map(|at| town.node(NAMES[at]));
        let observers = others.zip(answers.iter().copied()).collect();
        Suspicion { node: town.node(NAMES[*subject]), evidence: Evidence { leader_silence_ms, observers } }
    };
    let view = View {
        now: town.now,
        me: town.node(NAMES[0]),
        leader_since: Timestamp(0),
        suspicions: subjects.iter().map(suspicion).collect(),
        heard: BTreeSet::new(),
    };
    let declared = scp_scheduler::plan(&town.state, &view).into_iter().filter_map(|command| match command {
        Command::MarkNodeDown(down) => Some(down.node),
        _ => None,
    });
    declared.collect()
}

#[test]
fn a_majority_of_the_observers_that_answered_decides() {
    let town = city(6);
    let is_dead = |answers: &[Option<u64>]| !dead(&town, &[5], 2_500, answers).is_empty();
    assert!(is_dead(&[Some(2_300), Some(2_500), Some(100)]));
    assert!(!is_dead(&[Some(2_300), Some(10), Some(100)]));
    assert!(!is_dead(&[Some(2_300), Some(10)]), "a tie is no majority");
    assert!(is_dead(&[Some(2_300), None, None]), "who does not answer does not count");
}

#[test]
fn a_leader_that_hears_nobody_declares_nobody_dead() {
    for nodes in 3..=6 {
        let all: Vec<usize> = (1..nodes).collect();
        assert_eq!(dead(&city(nodes), &all, 60_000, &[None; 4]), [], "{nodes} nodes");
    }
}

#[test]
fn a_leader_of_two_decides_alone() {
    let town = city(2);
    assert_eq!(dead(&town, &[1], SILENCE_LEADER_MS, &[]), [town.node("n2")]);
}

proptest! {
    #[test]
    fn who_is_heard_by_the_leader_is_alive_whatever_observers_say(
        nodes in 2usize..=6,
        silence in 0..SILENCE_LEADER_MS,
        answers in prop::collection::vec(prop::option::of(0u64..10_000), 0..5),
    ) {
        prop_assert_eq!(dead(&city(nodes), &[1], silence, &answers), []);
    }

    #[test]
    fn more_silence_never_brings_a_node_back_to_life(
        nodes in 2usize..=6,
        silence in 0u64..10_000,
        answers in prop::collection::vec(prop::option::of(0u64..10_000), 0..5),
        more in 0u64..10_000,
    ) {
        let town = city(nodes);
        let later: Vec<_> = answers.iter().map(|answer| answer.map(|ms| ms + more)).collect();
        let before = dead(&town, &[1], silence, &answers);
        prop_assert!(before.is_empty() || before == dead(&town, &[1], silence + more, &later));
    }
}
