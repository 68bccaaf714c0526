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
//! taken rise as what is free falls. What is left is the image: so the nodes that hold it, and those
//! that it is on its way to, are orders of their own ([`Order::part`]) and are walked first. All nodes
//! are then walked as if they had no copy: whichever has one was seen already, with a better rank.
//!
//! # Cost
//! Building: O(n log n) once a round, and O(n) for each image. A choice: the classes, the chunks that
//! lack something, and a few nodes; never more than each node thrice. A change: one chunk an order.

use std::cmp::Reverse;

use scp_model::{NodeId, Resources, vm::Vm};

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
        let mut order = Self { classes: Vec::new(), class_of: vec![None; slots.len()] };
        for group in open.chunk_by(|a, b| size(a.0, a.1) == size(b.0, b.1)) {
            order.append(group.iter().map(|(_, _, entry)| *entry).collect());
        }
        order
    }

    /// Whether anything speaks for a node with that much free; mostly nothing does in a full city.
    pub(crate) fn has_room(&self, needs: Resources) -> bool {
        self.classes.iter().flat_map(|class| &class.chunks).any(|chunk| chunk.free_max.holds(needs))
    }

    /// Those of its nodes that `belongs` names.
    pub(crate) fn part(&self, belongs: impl Fn(At) -> bool) -> Self {
        let mut part = Self { classes: Vec::new(), class_of: vec![None; self.class_of.len()] };
        for class in &self.classes {
            let entries = class.chunks.iter().flat_map(|chunk| &chunk.entries);
            part.append(entries.copied().filter(|entry| belongs(entry.at)).collect());
        }
        part
    }

    /// One more class, of these entries, which are in order.
    fn append(&mut self, entries: Vec<Entry>) {
        let Some(like) = entries.first().map(|entry| entry.at) else { return };
        entries.iter().for_each(|entry| self.class_of[entry.at] = Some(self.classes.len()));
        let chunks = entries.chunks(CHUNK_MAX / 2).map(|part| Chunk::new(part.to_vec())).collect();
        self.classes.push(Class { like, chunks });
    }

    /// What is free on a slot changes from `before` to what `after` says.
    pub(crate) fn moved(&mut self, at: At, before: &Slot<'_>, after: &Slot<'_>) {
        let Some(class) = self.class_of[at] else { return };
        let class = &mut self.classes[class];
        class.remove(Entry::of(at, before));
        class.insert(Entry::of(at, after));
    }
}

/// The choice of a place for one VM: walks through orders, and keeps the best that it saw.
pub(crate) struct Walk<'w, 'a> {
    pub(crate) board: &'w Board<'a>,
    pub(crate) vm: &'a Vm,
    /// By zone.
    pub(crate) zone_mates: Vec<usize>,
    pub(crate) skip: &'w dyn Fn(NodeId) -> bool,
    pub(crate) best: Option<Rank>,
}

impl Walk<'_, '_> {
    /// Through nodes all of which have the image as near as that, or nearer and were seen before.
    pub(crate) fn through(&mut self, order: &Order, image: ImageDistance) {
        order.classes.iter().for_each(|class| self.class(class, image));
    }

    fn class(&mut self, class: &Class, image: ImageDistance) {
        let like = &self.board.slots[class.like];
        if self.vm.spec.zone.as_ref().is_some_and(|zone| *zone != like.node.profile.zone) {
            return;
        }
        // Amounts of vCPUs that differ are different shares, so their order is the rank's.
        let exact = like.offered.vcpus <= PARTS;
        let needs = self.vm.spec.resources;
        // Of nodes with this much free memory the best was seen.
        let mut settled = None;
        for chunk in &class.chunks {
            if settled.is_some_and(|memory| chunk.is_of(memory)) || !chunk.free_max.holds(needs) {
                continue;
            }
            for entry in &chunk.entries {
                if settled == Some(entry.memory) || !entry.free().holds(needs) {
                    continue;
                }
                let slot = &self.board.slots[entry.at];
                let rank = Rank::new(self.zone_mates[slot.zone], image, slot, needs);
                if self.best.is_some_and(|best| rank.bound() > best.bound()) {
                    return;
                }
                if (self.skip)(slot.node.id) || self.board.obstacle(self.vm, slot).is_some() {
                    continue;
                }
                self.best = Some(self.best.map_or(rank, |best| best.min(rank)));
                settled = exact.then_some(entry.memory);
            }
        }
    }
}

#[cfg(test)]
mod tests;
