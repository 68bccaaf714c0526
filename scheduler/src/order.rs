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
mod tests;
