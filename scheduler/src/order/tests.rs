//! The order against looking at every node.

use std::sync::Arc;

use proptest::prelude::*;
use scp_model::{
    Name, NodeId, ProjectId, Timestamp, VmId,
    image::{Image, ReplicaStatus},
    node::{Compute, Liveness, Node, NodeProfile},
    sandbox::{Power, RestartPolicy},
    vm::{VmPhase, VmSpec, VmStatus},
};
use scp_state::State;

use super::*;

/// The last one: more than a million of both, where different amounts are the same share.
const SIZES: [(u64, u64); 4] = [(8, 4_096), (16, 8_192), (8, 8_192), (2_000_000, 3_000_000)];

#[derive(Debug, Clone)]
struct Server {
    zone: u8,
    size: usize,
    /// Of vCPUs, memory and disk, in sixteenths.
    taken: (u64, u64, u64),
    schedulable: bool,
    copy: Option<ReplicaStatus>,
}

/// What is asked for, and what becomes of an earlier VM.
#[derive(Debug, Clone)]
struct Ask {
    needs: (u64, u64, u64),
    zone: Option<u8>,
    group: Option<u8>,
    image: bool,
    skip: u64,
    lift: Option<usize>,
}

fn name(number: u8) -> Name {
    Name::new(format!("n{number}")).expect("letters and digits are a name")
}

fn a_server(copies: u32) -> impl Strategy<Value = Server> {
    let copy = prop_oneof![
        100 - copies => Just(None),
        copies => Just(Some(ReplicaStatus::Held)),
        copies / 4 + 1 => Just(Some(ReplicaStatus::Assigned)),
        1 => Just(Some(ReplicaStatus::Failed { message: String::new(), at: Timestamp(0) })),
    ];
    let taken = (0..17u64, 0..17u64, prop_oneof![4 => Just(0u64), 1 => 0..17u64]);
    (0..3u8, 0..SIZES.len(), taken, prop::bool::weighted(0.9), copy)
        .prop_map(|(zone, size, taken, schedulable, copy)| Server { zone, size, taken, schedulable, copy })
}

fn an_ask() -> impl Strategy<Value = Ask> {
    let needs = prop_oneof![
        (1..3u64, 1..3u64).prop_map(|(vcpus, memory)| (vcpus, memory * 256, 100)),
        (1..9u64, 1..5_000u64, 1..400u64),
    ];
    let (zone, group) = (prop::option::weighted(0.2, 0..3u8), prop::option::weighted(0.4, 0..3u8));
    (needs, zone, group, prop::bool::weighted(0.8), 0..20u64, prop::option::weighted(0.2, 0..40usize))
        .prop_map(|(needs, zone, group, image, skip, lift)| Ask { needs, zone, group, image, skip, lift })
}

fn a_node(id: NodeId, server: &Server) -> Node {
    let (vcpus, memory_mib) = SIZES[server.size];
    let profile = NodeProfile {
        name: name(0),
        zone: name(server.zone),
        country: "PT".parse().expect("PT is a country"),
        mesh_address: "127.0.0.1:1".parse().expect("an address"),
        api_address: "127.0.0.1:2".parse().expect("an address"),
        software: "0.1.0".into(),
        protocol: 1,
        // vCPUs are promised fourfold.
        capacity: Resources { vcpus: vcpus / 4, memory_mib, disk_mib: 1_600 },
        reserved: Resources::default(),
        compute: Compute::Kvm,
    };
    let (liveness, joined_at) = (Liveness::Up, Timestamp(0));
    let (schedulable, draining, orphans) = (server.schedulable, false, Vec::new());
    let public_key = Default::default();
    Node { id, public_key, profile, liveness, schedulable, draining, joined_at, orphans }
}

fn a_city(servers: &[Server]) -> State {
    let mut state = State::default();
    let mut image = Image {
        id: Default::default(),
        name: name(0),
        project: ProjectId::from_u128(1),
        visibility: scp_model::image::Visibility::Public,
        content: scp_model::image::ImageContent {
            format: scp_model::image::ImageFormat::Raw,
            size_bytes: 1,
            virtual_size_bytes: 1,
            digest: Default::default(),
            manifest: Default::default(),
        },
        replicas: Default::default(),
        created_at: Timestamp(0),
    };
    for (id, server) in (0..).map(NodeId).zip(servers) {
        let node = a_node(id, server);
        let (offered, taken) = (state.offered(&node), server.taken);
        let allocated = Resources {
            vcpus: offered.vcpus * taken.0 / 16,
            memory_mib: offered.memory_mib * taken.1 / 16,
            disk_mib: offered.disk_mib * taken.2 / 16,
        };
        state.allocated.insert(id, allocated);
        state.nodes.insert(id, node);
        image.replicas.extend(server.copy.clone().map(|copy| (id, copy)));
    }
    state.images.insert(image.id, image);
    state
}

fn a_vm(number: usize, ask: &Ask) -> Vm {
    let (vcpus, memory_mib, disk_mib) = ask.needs;
    let spec = VmSpec {
        name: name(0),
        project: ProjectId::from_u128(1),
        flavor: name(0),
        resources: Resources { vcpus, memory_mib, disk_mib },
        image: scp_model::ImageId::from_u128(u128::from(!ask.image)),
        ssh_keys: Vec::new(),
        user_data: Vec::new(),
        mac: [2; 6],
        zone: ask.zone.map(name),
        anti_affinity: ask.group.map(name),
        restart: RestartPolicy::Always,
        power: Power::Running,
        reboots: 0,
    };
    let since = Timestamp(0);
    let status =
        VmStatus { phase: VmPhase::Pending, since, observed_generation: 0, message: None, failures: 0 };
    let id = VmId::from_u128(number as u128);
    Vm { id, spec: Arc::new(spec), generation: 1, placement: None, status, created_at: since }
}

/// Every node is looked at.
fn exhaustive<'a>(board: &Board<'a>, vm: &'a Vm, skip: impl Fn(NodeId) -> bool) -> Option<NodeId> {
    let slots = board.slots.iter().filter(|slot| !skip(slot.node.id));
    let feasible = slots.filter(|slot| board.obstacle(vm, slot).is_none());
    feasible.map(|slot| board.rank(vm, slot)).min().map(|rank| rank.node)
}

fn is_sound(order: &Order, board: &Board<'_>) -> bool {
    let entries = |class: &Class| -> Vec<Entry> {
        class.chunks.iter().flat_map(|chunk| chunk.entries.iter().copied()).collect()
    };
    let all: Vec<Entry> = order.classes.iter().flat_map(entries).collect();
    let counted = board.slots.iter().filter(|slot| slot.takes_vms()).count();
    all.len() == counted
        && all.iter().all(|entry| *entry == Entry::of(entry.at, &board.slots[entry.at]))
        && order.classes.iter().all(|class| entries(class).is_sorted())
}

fn compare(servers: &[Server], asks: &[Ask]) -> Result<(), TestCaseError> {
    let state = a_city(servers);
    let mut vms: Vec<Vm> = asks.iter().enumerate().map(|(number, ask)| a_vm(number, ask)).collect();
    // Some are there already when the round begins; those can be lifted.
    let present = vms.len() / 3;
    for vm in &mut vms[..present] {
        let node = NodeId(vm.id.0.as_u128() as u64 % servers.len() as u64);
        let (epoch, since) = (scp_model::Epoch(1), Timestamp(0));
        vm.placement = Some(scp_model::sandbox::Placement { node, epoch, since });
    }
    let mut state = state;
    for vm in &vms[..present] {
        let node = vm.node().expect("it was placed above");
        state.vms.insert(vm.id, vm.clone());
        if let Some(group) = &vm.spec.anti_affinity {
            state.groups.insert((vm.spec.project, group.clone(), node, vm.id));
        }
    }
    let mut board = Board::new(&state);
    // So that both ways to choose are compared, and what follows on each.
    board.looks_left = asks.len() % 4 * servers.len();
    let mut lifted = std::collections::BTreeSet::new();
    for (ask, vm) in asks.iter().zip(&vms).skip(present) {
        if let Some(at) = ask.lift.filter(|at| *at < present && lifted.insert(*at)) {
            board.lift(&vms[at]);
        }
        let skip = |node: NodeId| node.0 % 20 == ask.skip;
        let looked = board.looks_left > 0;
        let best = board.best(vm, skip);
        prop_assert_eq!(best, exhaustive(&board, vm, skip), "{:?}", vm);
        if let Some(node) = best {
            board.bind(vm, node);
        }
        prop_assert!(is_sound(&Order::of(&board.slots), &board));
        prop_assert!(board.order().is_none_or(|order| is_sound(order, &board)));
        prop_assert!(looked || board.order().is_some());
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn the_order_finds_what_looking_at_every_node_finds(
        servers in (0..100u32).prop_flat_map(|copies| prop::collection::vec(a_server(copies), 1..400)),
        asks in prop::collection::vec(an_ask(), 1..60),
    ) {
        compare(&servers, &asks)?;
    }

    /// Where most nodes are alike, as in a city that was just built.
    #[test]
    fn it_finds_the_same_among_nodes_that_are_alike(
        server in a_server(50),
        copies in prop::collection::vec(prop::bool::weighted(0.1), 300),
        asks in prop::collection::vec(an_ask(), 1..60),
    ) {
        let alike = |has: &bool| Server { copy: has.then_some(ReplicaStatus::Held), ..server.clone() };
        let servers: Vec<Server> = copies.iter().map(alike).collect();
        compare(&servers, &asks)?;
    }
}
