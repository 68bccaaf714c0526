//! The nodes that take VMs, so ordered that the best-ranked feasible one is found without looking at
//! each. It only ever saves looking: what is feasible is decided by [`Board::obstacle`] and what is
//! better by [`Rank`], and a node is left out only when none of its rank can be the smallest.
//!
//! ```text
//!  class: one zone, one size of memory and vCPUs
//!    chunk  [ most memory free … ]  [ … ]  [ … least ]     at most CHUNK_MAX entries each,
//!             most vCPUs free first                        with the most vCPUs and disk in it
//!              smaller node id first
//! ```
//!
//! # Why that is the rank's order
//! Within a class the members of a VM's group in the zone are the same, and the shares that would be
//! taken rise as what is free falls. What is left is the image: nodes that have it come first within an
//! eighth. So the walk goes on, past feasible nodes without the image, to the end of the eighth; but
//! when it passed more nodes than there are copies, the holders are looked at one by one instead, and
//! of the rest the first feasible one is the best.
//!
//! # Cost
//! Building: O(n log n). A choice: the classes, the chunks that lack something, and a few nodes; never
//! more than each node once and each copy once. A change: one chunk.

use std::{cmp::Reverse, ops::ControlFlow};

use scp_model::{
    Resources,
    image::{Image, ReplicaStatus},
    vm::Vm,
};

use crate::{
    board::{Board, Slot},
    rank::{ImageDistance, PARTS, Rank},
};

/// Entries of a chunk: near the square root of the largest city, where skipping chunks and changing one
/// cost the same.
const CHUNK_MAX: usize = 128;

/// Position of a slot on the board. Slots are in the order of node ids, so positions are too.
type At = usize;

#[derive(Debug, Clone)]
pub(crate) struct Order {
    classes: Vec<Class>,
    /// The class of each slot; none: the node takes no VMs.
    class_of: Vec<Option<usize>>,
}

#[derive(Debug, Clone)]
struct Class {
    /// A slot of the class: all share zone and size.
    like: At,
    /// Not empty, each not empty.
    chunks: Vec<Chunk>,
}

#[derive(Debug, Clone)]
struct Chunk {
    entries: Vec<Entry>,
    /// The most of each that an entry has.
    free_max: Resources,
}

/// Ordered as the rank orders, but for the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    memory: Reverse<u64>,
    vcpus: Reverse<u64>,
    at: At,
    disk: u64,
}

impl Entry {
    fn of(at: At, slot: &Slot<'_>) -> Self {
        let free = slot.free;
        Self { memory: Reverse(free.memory_mib), vcpus: Reverse(free.vcpus), at, disk: free.disk_mib }
    }

    fn free(self) -> Resources {
        Resources { vcpus: self.vcpus.0, memory_mib: self.memory.0, disk_mib: self.disk }
    }
}

impl Chunk {
    fn new(entries: Vec<Entry>) -> Self {
        let mut chunk = Self { entries, free_max: Resources::default() };
        chunk.recount();
        chunk
    }

    fn recount(&mut self) {
        let most = |most: Resources, entry: &Entry| {
            let free = entry.free();
            Resources {
                vcpus: most.vcpus.max(free.vcpus),
                memory_mib: most.memory_mib.max(free.memory_mib),
                disk_mib: most.disk_mib.max(free.disk_mib),
            }
        };
        self.free_max = self.entries.iter().fold(Resources::default(), most);
    }

    fn is_of(&self, memory: Reverse<u64>) -> bool {
        self.entries.first().map(|entry| entry.memory) == Some(memory) && self.last().memory == memory
    }

    fn last(&self) -> Entry {
        *self.entries.last().expect("a chunk is not empty")
    }
}

impl Class {
    fn remove(&mut self, entry: Entry) {
        let at = self.chunks.partition_point(|chunk| chunk.last() < entry);
        let chunk = &mut self.chunks[at];
        let within = chunk.entries.binary_search(&entry).expect("what is taken out was put in");
        chunk.entries.remove(within);
        match chunk.entries.is_empty() {
            true => drop(self.chunks.remove(at)),
            false => chunk.recount(),
        }
    }

    fn insert(&mut self, entry: Entry) {
        if self.chunks.is_empty() {
            return self.chunks.push(Chunk::new(vec![entry]));
        }
        let at = self.chunks.partition_point(|chunk| chunk.last() < entry).min(self.chunks.len() - 1);
        let chunk = &mut self.chunks[at];
        let within = chunk.entries.partition_point(|other| *other < entry);
        chunk.entries.insert(within, entry);
        if chunk.entries.len() > CHUNK_MAX {
            let tail = chunk.entries.split_off(CHUNK_MAX / 2);
            chunk.recount();
            self.chunks.insert(at + 1, Chunk::new(tail));
        } else {
            chunk.recount();
        }
    }
}

impl Order {
    pub(crate) fn of(slots: &[Slot<'_>]) -> Self {
        let mut open: Vec<(usize, Resources, Entry)> = slots
            .iter()
            .enumerate()
            .filter(|(_, slot)| slot.takes_vms())
            .map(|(at, slot)| (slot.zone, slot.offered, Entry::of(at, slot)))
            .collect();
        let size = |zone: usize, offered: Resources| (zone, offered.memory_mib, offered.vcpus);
        open.sort_unstable_by_key(|(zone, offered, entry)| (size(*zone, *offered), *entry));
        let mut class_of = vec![None; slots.len()];
        let mut classes = Vec::new();
        for group in open.chunk_by(|a, b| size(a.0, a.1) == size(b.0, b.1)) {
            group.iter().for_each(|(_, _, entry)| class_of[entry.at] = Some(classes.len()));
            let entries: Vec<Entry> = group.iter().map(|(_, _, entry)| *entry).collect();
            let chunks = entries.chunks(CHUNK_MAX / 2).map(|part| Chunk::new(part.to_vec())).collect();
            classes.push(Class { like: entries[0].at, chunks });
        }
        Self { classes, class_of }
    }

    /// What is free on a slot changes from `before` to what `after` says.
    pub(crate) fn moved(&mut self, at: At, before: &Slot<'_>, after: &Slot<'_>) {
        let Some(class) = self.class_of[at] else { return };
        let class = &mut self.classes[class];
        class.remove(Entry::of(at, before));
        class.insert(Entry::of(at, after));
    }

    /// The smallest rank of a feasible slot, less those that `skip` names.
    pub(crate) fn best<'a>(
        &self,
        board: &Board<'a>,
        vm: &'a Vm,
        skip: &dyn Fn(&Slot<'a>) -> bool,
    ) -> Option<Rank> {
        let image = board.image_of(vm);
        let copies = image.map_or(0, |image| image.replicas.len());
        let nearest = if copies == 0 { ImageDistance::Elsewhere } else { ImageDistance::Held };
        let zone_mates = board.zone_mates(vm);
        let mut walk = Walk { board, vm, image, zone_mates, skip, nearest, passes: copies, best: None };
        self.classes.iter().for_each(|class| walk.class(class));
        walk.best
    }
}

/// The choice of a place for one VM.
struct Walk<'w, 'a> {
    board: &'w Board<'a>,
    vm: &'a Vm,
    image: Option<&'a Image>,
    /// By zone.
    zone_mates: Vec<usize>,
    skip: &'w dyn Fn(&Slot<'a>) -> bool,
    /// The nearest that the image of a node still to come can be.
    nearest: ImageDistance,
    /// Feasible nodes without the image that may be passed before its holders are looked at.
    passes: usize,
    best: Option<Rank>,
}

impl<'a> Walk<'_, 'a> {
    fn class(&mut self, class: &Class) {
        let like = &self.board.slots[class.like];
        if self.vm.spec.zone.as_ref().is_some_and(|zone| *zone != like.node.profile.zone) {
            return;
        }
        // Amounts of vCPUs that differ are different shares, so their order is the rank's.
        let exact = like.offered.vcpus <= PARTS;
        // Of nodes with this much free memory the best was seen.
        let mut settled = None;
        for chunk in &class.chunks {
            if settled.is_some_and(|memory| chunk.is_of(memory))
                || !chunk.free_max.holds(self.vm.spec.resources)
            {
                continue;
            }
            for entry in &chunk.entries {
                if settled == Some(entry.memory) {
                    continue;
                }
                match self.entry(*entry) {
                    ControlFlow::Break(()) => return,
                    ControlFlow::Continue(found) if found && exact => settled = Some(entry.memory),
                    ControlFlow::Continue(_) => {}
                }
            }
        }
    }

    /// Whether it is feasible and has the image as near as can be; breaks when nothing that follows in
    /// its class can be better than the best.
    fn entry(&mut self, entry: Entry) -> ControlFlow<(), bool> {
        let slot = &self.board.slots[entry.at];
        if !entry.free().holds(self.vm.spec.resources) {
            // Memory only becomes less.
            let short = entry.memory.0 < self.vm.spec.resources.memory_mib;
            return if short { ControlFlow::Break(()) } else { ControlFlow::Continue(false) };
        }
        let least = self.rank(slot, self.nearest);
        if self.best.is_some_and(|best| least.bound() > best.bound()) {
            return ControlFlow::Break(());
        }
        if !self.is_feasible(slot) {
            return ControlFlow::Continue(false);
        }
        let image = ImageDistance::of(self.image, slot.node.id);
        self.take(self.rank(slot, image));
        if image > self.nearest {
            match self.passes.checked_sub(1) {
                Some(left) => self.passes = left,
                None => self.holders(),
            }
        }
        ControlFlow::Continue(image <= self.nearest)
    }

    /// Looks at every node with a copy, or one on its way; the others are all without.
    fn holders(&mut self) {
        let replicas = self.image.into_iter().flat_map(|image| &image.replicas);
        for (node, status) in replicas {
            match status {
                ReplicaStatus::Held | ReplicaStatus::Assigned => {}
                ReplicaStatus::Failed { .. } => continue,
            }
            let Some(slot) = self.board.slot(*node) else { continue };
            let fits = slot.free.holds(self.vm.spec.resources);
            if fits && self.is_feasible(slot) {
                self.take(self.rank(slot, ImageDistance::of(self.image, *node)));
            }
        }
        self.nearest = ImageDistance::Elsewhere;
    }

    fn is_feasible(&self, slot: &Slot<'a>) -> bool {
        !(self.skip)(slot) && self.board.obstacle(self.vm, slot).is_none()
    }

    fn rank(&self, slot: &Slot<'a>, image: ImageDistance) -> Rank {
        Rank::new(self.zone_mates[slot.zone], image, slot, self.vm.spec.resources)
    }

    fn take(&mut self, rank: Rank) {
        self.best = Some(self.best.map_or(rank, |best| best.min(rank)));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;
    use scp_model::{
        Name, NodeId, ProjectId, Timestamp, VmId,
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
        (0..3u8, 0..SIZES.len(), taken, prop::bool::weighted(0.9), copy).prop_map(
            |(zone, size, taken, schedulable, copy)| Server { zone, size, taken, schedulable, copy },
        )
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
        let mut lifted = std::collections::BTreeSet::new();
        for (ask, vm) in asks.iter().zip(&vms).skip(present) {
            if let Some(at) = ask.lift.filter(|at| *at < present && lifted.insert(*at)) {
                board.lift(&vms[at]);
            }
            let skip = |node: NodeId| node.0 % 20 == ask.skip;
            let best = board.best(vm, skip);
            prop_assert_eq!(best, exhaustive(&board, vm, skip), "{:?}", vm);
            if let Some(node) = best {
                board.bind(vm, node);
            }
            prop_assert!(is_sound(&Order::of(&board.slots), &board));
            prop_assert!(board.order().is_some_and(|order| is_sound(order, &board)));
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
}
