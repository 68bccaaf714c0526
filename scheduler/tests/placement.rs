//! Placement against a complete oracle: on small cities every node is tried for every VM with the
//! state's own rule, one VM after the other. Success must be the best-ranked feasible node, failure
//! must be impossible, and `apply` must accept every command.

#[path = "town/mod.rs"]
mod town;

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use scp_model::{
    Actor, Command, NodeId, Resources, Timestamp, VmId,
    command::{DrainNode, SetNodeSchedulable},
    node::Compute,
};
use scp_scheduler::{View, plan};
use scp_state::State;
use town::{NodeShape, Town, VmShape};

#[derive(Debug, Clone)]
struct NodePlan {
    zone: usize,
    capacity: Resources,
    fate: Fate,
}

#[derive(Debug, Clone, Copy)]
enum Fate {
    Ordinary,
    NoCompute,
    Cordoned,
    Draining,
    Down,
}

#[derive(Debug, Clone)]
struct VmPlan {
    resources: Resources,
    zone: Option<usize>,
    group: Option<usize>,
}

const ZONES: [&str; 3] = ["a", "b", "c"];
const GROUPS: [&str; 2] = ["g", "h"];
const NAMES: [&str; 16] =
    ["x0", "x1", "x2", "x3", "x4", "x5", "x6", "x7", "x8", "x9", "x10", "x11", "x12", "x13", "x14", "x15"];

fn a_node() -> impl Strategy<Value = NodePlan> {
    let fate = prop_oneof![
        6 => Just(Fate::Ordinary),
        1 => Just(Fate::NoCompute),
        1 => Just(Fate::Cordoned),
        1 => Just(Fate::Draining),
        1 => Just(Fate::Down),
    ];
    (0..ZONES.len(), 1..4u64, 1..9u64, 1..6u64, fate).prop_map(|(zone, vcpus, memory, disk, fate)| NodePlan {
        zone,
        capacity: Resources { vcpus, memory_mib: memory * 256, disk_mib: disk * 1000 },
        fate,
    })
}

fn a_vm() -> impl Strategy<Value = VmPlan> {
    let zone = prop::option::weighted(0.2, 0..ZONES.len());
    let group = prop::option::weighted(0.4, 0..GROUPS.len());
    (1..6u64, 1..6u64, 1..3u64, zone, group).prop_map(|(vcpus, memory, disk, zone, group)| VmPlan {
        resources: Resources { vcpus, memory_mib: memory * 128, disk_mib: disk * 500 },
        zone,
        group,
    })
}

fn city(nodes: &[NodePlan], vms: &[VmPlan]) -> Town {
    let mut town = Town::new(&town::node("first"));
    town.image("cirros", "first");
    for (plan, name) in nodes.iter().zip(NAMES) {
        let compute = match plan.fate {
            Fate::NoCompute => Compute::None { reason: "no libvirt".into() },
            Fate::Ordinary | Fate::Cordoned | Fate::Draining | Fate::Down => Compute::Tcg,
        };
        let shape =
            NodeShape { zone: ZONES[plan.zone], capacity: plan.capacity, compute, ..town::node(name) };
        town.join(&shape);
        let node = town.node(name);
        match plan.fate {
            Fate::Ordinary | Fate::NoCompute => {}
            Fate::Cordoned => {
                let cordon = SetNodeSchedulable { node, schedulable: false };
                town.lead(Command::SetNodeSchedulable(cordon)).expect("cordoned");
            }
            Fate::Draining => town.lead(Command::DrainNode(DrainNode { node })).expect("draining"),
            Fate::Down => town.kill(name),
        }
    }
    for (plan, name) in vms.iter().zip(NAMES) {
        let (zone, group) = (plan.zone.map(|at| ZONES[at]), plan.group.map(|at| GROUPS[at]));
        town.create(&VmShape { resources: plan.resources, zone, group, ..town::vm(name) });
        town.pass_ms(1);
    }
    town
}

fn view(town: &Town) -> View {
    let me = town.node("first");
    View { now: town.now, me, leader_since: Timestamp(0), suspicions: Vec::new(), heard: BTreeSet::new() }
}

/// Feasible nodes of a VM by brute force, with what makes one better than another computed anew here:
/// the policy in words is in `rank.rs`.
fn oracle(state: &State, id: VmId) -> Option<NodeId> {
    let vm = state.vms.get(&id).expect("the VM exists");
    let feasible = state.nodes.values().filter(|node| state.obstacle(vm, node).is_none());
    let best = feasible.min_by_key(|node| {
        let mate = |other: &&scp_model::vm::Vm| {
            other.id != id
                && vm.spec.anti_affinity.is_some()
                && other.spec.anti_affinity == vm.spec.anti_affinity
        };
        let in_zone =
            |node_id: NodeId| state.nodes.get(&node_id).map(|n| &n.profile.zone) == Some(&node.profile.zone);
        let mates = state.vms.values().filter(mate).filter(|mate| mate.node().is_some_and(in_zone)).count();
        let (free, offered) = (state.free(node).minus(vm.spec.resources), state.offered(node));
        let taken = |free: u64, offered: u64| (offered - free) * 1_000_000 / offered;
        let memory = taken(free.memory_mib, offered.memory_mib);
        let image = state.images.get(&vm.spec.image).expect("it exists");
        let fetch = u8::from(!image.holders().any(|holder| holder == node.id));
        (mates, memory / 125_000, fetch, memory, taken(free.vcpus, offered.vcpus), node.id)
    });
    best.map(|node| node.id)
}

/// Proposes a round; answers the bindings that it made.
fn round(town: &mut Town) -> BTreeMap<VmId, NodeId> {
    let view = view(town);
    let mut bound = BTreeMap::new();
    for command in plan(&town.state, &view) {
        if let Command::BindVm(bind) = &command {
            bound.insert(bind.vm, bind.node);
        }
        let told = format!("{command:?}");
        town.propose(Actor::Leader(view.me), command).unwrap_or_else(|why| panic!("{told}: {why}"));
    }
    bound
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn success_is_the_best_feasible_node_and_failure_is_impossible(
        nodes in prop::collection::vec(a_node(), 0..6),
        vms in prop::collection::vec(a_vm(), 1..12),
    ) {
        let mut town = city(&nodes, &vms);
        // The oracle binds one VM at a time, in the order of waiting, on its own copy.
        let mut other = city(&nodes, &vms);
        let mut expected = BTreeMap::new();
        for name in NAMES.iter().take(vms.len()) {
            let id = other.vm_id(name);
            if let Some(node) = oracle(&other.state, id) {
                let bind = scp_model::command::BindVm { vm: id, node, basis: other.vm(name).generation };
                other.lead(Command::BindVm(bind)).expect("the oracle's choice is feasible");
                expected.insert(id, node);
            }
        }
        prop_assert_eq!(round(&mut town), expected);
    }

    #[test]
    fn no_node_is_overfilled_and_no_group_shares_a_node(
        nodes in prop::collection::vec(a_node(), 0..6),
        vms in prop::collection::vec(a_vm(), 1..12),
    ) {
        let mut town = city(&nodes, &vms);
        round(&mut town);
        for node in town.state.nodes.values() {
            let here: Vec<_> = town.state.vms_on(node.id).collect();
            let sum = here.iter().fold(Resources::default(), |sum, vm| sum.plus(vm.spec.resources));
            prop_assert!(town.state.offered(node).holds(sum));
            let grouped: Vec<_> = here.iter().filter_map(|vm| vm.spec.anti_affinity.as_ref()).collect();
            prop_assert_eq!(grouped.iter().collect::<BTreeSet<_>>().len(), grouped.len());
        }
    }

    #[test]
    fn the_same_state_gives_the_same_plan_and_an_explanation_that_agrees(
        nodes in prop::collection::vec(a_node(), 0..6),
        vms in prop::collection::vec(a_vm(), 1..12),
    ) {
        let mut town = city(&nodes, &vms);
        prop_assert_eq!(plan(&town.state, &view(&town)), plan(&town.state.clone(), &view(&town)));
        round(&mut town);
        for vm in town.state.vms.values().filter(|vm| vm.placement.is_none()) {
            let explanation = scp_scheduler::explain(&town.state, vm.id, town.now).expect("it exists");
            for verdict in &explanation.nodes {
                let node = town.state.nodes.get(&verdict.node).expect("a node of the city");
                prop_assert_eq!(&verdict.obstacle, &town.state.obstacle(vm, node));
                prop_assert!(verdict.obstacle.is_some(), "a VM that fits is placed");
            }
            prop_assert!(explanation.remedy.is_some());
        }
    }

    /// What `survives` claims is tried: the node is killed, and every VM must run elsewhere.
    #[test]
    fn a_city_that_survives_any_one_node_really_does(
        nodes in prop::collection::vec(a_node(), 2..5),
        vms in prop::collection::vec(a_vm(), 1..8),
    ) {
        let mut town = city(&nodes, &vms);
        // Those that are down went before, and not in one vanishing with the next.
        town.pass_ms(scp_scheduler::health::VANISHING_MS + 10_000);
        (0..4).for_each(|_| { round(&mut town); });
        let up: Vec<NodeId> = town.state.nodes_up().map(|node| node.id).collect();
        let voters: BTreeSet<NodeId> = up.iter().copied().take(3).collect();
        let images: Vec<_> = town.state.images.keys().copied().collect();
        let copies = town.state.nodes_up().map(|node| town.node_name(node.id).to_owned()).collect::<Vec<_>>();
        for (node, image) in copies.iter().flat_map(|node| images.iter().map(move |image| (node, *image))) {
            town.report(node, vec![scp_model::Report::ImageHeld { image }]);
        }
        let homeless = scp_scheduler::survives(&town.state, &voters).reasons;
        prop_assume!(up.len() >= 3 && homeless.is_empty());
        let running: BTreeSet<VmId> =
            town.state.vms.values().filter(|vm| vm.placement.is_some()).map(|vm| vm.id).collect();
        for node in up.iter().filter(|node| **node != town.node("first")) {
            let mut world = town.clone();
            // Those that waited before may take the room of those that move: they are not part of this.
            let waiting: Vec<_> = world.state.vms.keys().copied().filter(|vm| !running.contains(vm)).collect();
            for vm in waiting {
                world.lead(Command::DeleteVm(scp_model::command::DeleteVm { vm })).expect("deleted");
            }
            let name = town.node_name(*node).to_owned();
            world.kill(&name);
            world.pass_ms(20_000);
            (0..4).for_each(|_| { round(&mut world); });
            for vm in world.state.vms.values().filter(|vm| running.contains(&vm.id)) {
                let at = vm.node().and_then(|node| world.state.nodes.get(&node));
                let on_drained = at.is_some_and(|node| node.is_up());
                prop_assert!(on_drained, "{} did not move off {name}", vm.spec.name);
            }
        }
    }
}
