//! Voters: what holds for every city, whoever is up and has caught up.

#[path = "town/mod.rs"]
mod town;

use std::collections::BTreeSet;

use proptest::prelude::*;
use scp_model::{Command, NodeId, command::DrainNode};
use scp_scheduler::{VoterView, choose_voters};
use town::{NodeShape, Town};

const NAMES: [&str; 9] = ["n1", "n2", "n3", "n4", "n5", "n6", "n7", "n8", "n9"];
const ZONES: [&str; 3] = ["a", "b", "c"];

#[derive(Debug, Clone)]
struct NodePlan {
    zone: usize,
    /// Milliseconds since it went down.
    down_for: Option<u64>,
    draining: bool,
    voter: bool,
    caught_up: bool,
}

fn a_node() -> impl Strategy<Value = NodePlan> {
    let down_for = prop::option::weighted(0.5, prop_oneof![Just(5_000u64), Just(100_000)]);
    (0..ZONES.len(), down_for, prop::bool::weighted(0.1), any::<bool>(), any::<bool>()).prop_map(
        |(zone, down_for, draining, voter, caught_up)| NodePlan {
            zone,
            down_for,
            draining,
            voter,
            caught_up,
        },
    )
}

fn city(plans: &[NodePlan]) -> (Town, VoterView) {
    let shape = |at: usize| NodeShape { zone: ZONES[plans[at].zone], ..town::node(NAMES[at]) };
    let mut town = Town::new(&shape(0));
    (1..plans.len()).for_each(|at| town.join(&shape(at)));
    for long in [100_000, 5_000] {
        for (plan, name) in plans.iter().zip(NAMES).skip(1) {
            if plan.down_for == Some(long) {
                town.kill(name);
            }
        }
        town.pass_ms(if long == 100_000 { 95_000 } else { 5_000 });
    }
    for (plan, name) in plans.iter().zip(NAMES).filter(|(plan, _)| plan.draining) {
        let node = town.node(name);
        town.lead(Command::DrainNode(DrainNode { node })).unwrap_or_else(|why| panic!("{plan:?}: {why}"));
    }
    // The leader is a voter and has caught up with itself.
    let me = town.node("n1");
    let named = |pick: fn(&NodePlan) -> bool| {
        let picked = plans.iter().zip(NAMES).filter(|(plan, _)| pick(plan));
        picked.map(|(_, name)| town.node(name)).chain([me]).collect::<BTreeSet<NodeId>>()
    };
    let voters = named(|plan| plan.voter);
    let caught_up = named(|plan| plan.caught_up).difference(&voters).copied().collect();
    let view = VoterView { now: town.now, me, voters, caught_up };
    (town, view)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn a_new_set_is_odd_has_a_majority_that_is_up_and_keeps_the_leader(
        plans in prop::collection::vec(a_node(), 1..=9),
    ) {
        let (town, view) = city(&plans);
        let Some(chosen) = choose_voters(&town.state, &view) else { return Ok(()) };
        let up = |id: &&NodeId| town.state.nodes.get(*id).is_some_and(|node| node.is_up());
        prop_assert_eq!(chosen.len() % 2, 1);
        prop_assert!(chosen.iter().filter(up).count() * 2 > chosen.len());
        let most = match plans.len() { 0..=2 => 1, 3..=6 => 3, _ => 5 };
        prop_assert!(chosen.len() <= most);
        let leaves = town.state.nodes.get(&view.me).is_some_and(|node| node.draining);
        prop_assert!(leaves || chosen.contains(&view.me));
        let able: BTreeSet<NodeId> = view.voters.union(&view.caught_up).copied().collect();
        prop_assert!(chosen.is_subset(&able), "a learner that lags is no voter");
    }

    #[test]
    fn once_chosen_nothing_is_left_to_change(plans in prop::collection::vec(a_node(), 1..=9)) {
        let (town, view) = city(&plans);
        let Some(voters) = choose_voters(&town.state, &view) else { return Ok(()) };
        let caught_up = view.caught_up.union(&view.voters).copied().collect::<BTreeSet<NodeId>>();
        let caught_up = caught_up.difference(&voters).copied().collect();
        prop_assert_eq!(choose_voters(&town.state, &VoterView { voters, caught_up, ..view }), None);
    }

    /// A dead voter stays only when there is nobody in its place.
    #[test]
    fn a_voter_that_is_dead_for_long_is_replaced_when_somebody_can(
        plans in prop::collection::vec(a_node(), 1..=9),
    ) {
        let (town, view) = city(&plans);
        let after = choose_voters(&town.state, &view).unwrap_or_else(|| view.voters.clone());
        let dead: Vec<&NodeId> = after.iter().filter(|id| {
            let plan = plans.iter().zip(NAMES).find(|(_, name)| town.node(name) == **id).map(|(plan, _)| plan);
            plan.is_some_and(|plan| plan.down_for == Some(100_000) && town.node("n1") != **id)
        }).collect();
        let up = |id: &&NodeId| town.state.nodes.get(*id).is_some_and(|node| node.is_up());
        let able = view.voters.union(&view.caught_up).filter(up).filter(|id| !after.contains(id)).count();
        // A set without a majority that is up is never proposed, so then everything stays.
        let majority = after.iter().filter(up).count() * 2 > after.len();
        prop_assert!(dead.is_empty() || able == 0 || !majority, "{dead:?} are kept, {able} could replace them");
    }
}
