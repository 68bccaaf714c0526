//! What the newest state of the city, and what its servers do, must never show: told apart from the code
//! that is judged, in the simulation's own words and with what only the simulation sees.

use std::collections::{BTreeMap, BTreeSet};

use scp_model::{
    Epoch, Event, EventKind, NodeId, Timestamp, VmId,
    node::{Liveness, SILENCE_MS_MIN},
    sandbox::Placement,
    vm::{Vm, VmPhase},
};
use scp_state::State;

use crate::{checks::Violation, host::Host, options::Options, workload::TIGHT};

/// Within this a server that is off may still be taken for one that has just spoken.
const OFF_US_MAX: u64 = 4_000_000;
/// A start may be under way for so long when its grant ends, in the server's own time: its confirmation
/// is good for 3 s, and an op takes less than one.
const LATE_START_US_MAX: u64 = 5_000_000;
/// As the scheduler's: losses closer than this are one vanishing; more than this share of the nodes is
/// braked, until the last of them has been silent for so long.
const VANISHING_MS: u64 = 60_000;
const BRAKE_PERCENT: usize = 30;
const BRAKE_HOLD_MS: u64 = 15_000;
/// After a second without an answer the leader asks the observers, and knows by now that a node may be lost.
const KNOWN_MS: u64 = 2_000;

/// What has been seen so far.
#[derive(Debug, Default)]
pub struct Laws {
    clocks_are_good: bool,
    index: u64,
    time: Timestamp,
    next_event: u64,
    /// Whether each node is up, and the index at which that was first seen.
    up: BTreeMap<NodeId, (bool, u64)>,
    evictions: BTreeMap<(NodeId, VmId), Epoch>,
    grants: BTreeMap<VmId, Epoch>,
    /// Grants that ended, and what each host's own time was then.
    ended: BTreeMap<(VmId, Epoch), BTreeMap<NodeId, u64>>,
    running: BTreeSet<(NodeId, VmId, Epoch)>,
    /// Everything that ever ran.
    ran: BTreeSet<(NodeId, VmId, Epoch)>,
}

impl Laws {
    pub fn new(options: &Options) -> Self {
        Self { clocks_are_good: options.faults.clock == 0, ..Self::default() }
    }

    /// How far the newest state went that any host ever had.
    pub fn index(&self) -> u64 {
        self.index
    }

    /// Judges the newest state that any host has.
    pub fn front(&mut self, state: &State, hosts: &[Host]) -> Result<(), Violation> {
        if state.index <= self.index {
            return Ok(());
        }
        let broken = |why: String| Violation(format!("index {}: {why}", state.index));
        let judged = self
            .time_goes_on(state)
            .and_then(|()| room_is_kept(state))
            .and_then(|()| evidence_is_there(state))
            .and_then(|()| self.who_is_off_is_not_up(state, hosts))
            .and_then(|()| self.nothing_is_granted_twice(state))
            .and_then(|()| self.removed_is_removed(state, hosts))
            .and_then(|()| self.what_runs_has_run(state))
            .and_then(|()| self.what_ended_has_ended(state, hosts))
            .and_then(|()| copies_are_there(state, hosts))
            .and_then(|()| self.brake_holds(state));
        self.remember(state, hosts);
        judged.map_err(broken)
    }

    fn remember(&mut self, state: &State, hosts: &[Host]) {
        self.index = state.index;
        self.time = state.time;
        self.next_event = state.next_event;
        self.evictions = state.evictions.iter().map(|(key, eviction)| (*key, eviction.epoch)).collect();
        let granted = state.vms.values().filter_map(|vm| Some((vm.id, vm.placement?.epoch)));
        let granted: BTreeMap<VmId, Epoch> = granted.collect();
        for (vm, epoch) in std::mem::take(&mut self.grants) {
            if granted.get(&vm) != Some(&epoch) {
                let own = hosts.iter().map(|host| (host.id, host.time.own_us())).collect();
                self.ended.entry((vm, epoch)).or_insert(own);
            }
        }
        self.grants = granted;
    }

    fn time_goes_on(&self, state: &State) -> Result<(), String> {
        if state.time >= self.time {
            return Ok(());
        }
        Err(format!("the city's time went back by {} ms", self.time.since_ms(state.time)))
    }

    fn who_is_off_is_not_up(&mut self, state: &State, hosts: &[Host]) -> Result<(), String> {
        for node in state.nodes.values() {
            let known = self.up.entry(node.id).or_insert((node.is_up(), 0));
            if known.0 == node.is_up() {
                continue;
            }
            *known = (node.is_up(), state.index);
            let host = hosts.iter().find(|host| host.id == node.id);
            let off_us = host.and_then(|host| Some(host.time.city_us().saturating_sub(host.off_since_us?)));
            if node.is_up() && off_us.is_some_and(|off_us| off_us > OFF_US_MAX) {
                return Err(format!("{} is declared up, and has been off for long", node.profile.name));
            }
        }
        Ok(())
    }

    /// No VM has a place while a node that was up when it got it still has to remove it.
    fn nothing_is_granted_twice(&self, state: &State) -> Result<(), String> {
        for ((node, id), eviction) in &state.evictions {
            let placement = state.vms.get(id).and_then(|vm| vm.placement);
            let Some(placement) = placement.filter(|placement| placement.epoch > eviction.epoch) else {
                continue;
            };
            let was_up = self.up.get(node).is_some_and(|(up, since)| *up && *since < placement.epoch.0);
            if was_up {
                return Err(format!(
                    "VM {id} is granted to {}, and {node} has not removed it",
                    placement.node
                ));
            }
        }
        Ok(())
    }

    fn removed_is_removed(&self, state: &State, hosts: &[Host]) -> Result<(), String> {
        let fulfilled = self.evictions.iter().filter(|(key, _)| !state.evictions.contains_key(*key));
        for ((node, id), epoch) in fulfilled {
            let Some(host) = hosts.iter().find(|host| host.id == *node) else { continue };
            if host.world.running().iter().any(|(vm, runs)| vm == id && runs <= epoch) {
                return Err(format!("{} told that VM {id} is gone, and it runs there", host.name));
            }
        }
        Ok(())
    }

    /// Only what an instance of the present grant told is believed of it.
    fn what_runs_has_run(&self, state: &State) -> Result<(), String> {
        let running = state.vms.values().filter(|vm| vm.status.phase == VmPhase::Running);
        let grants = running.filter_map(|vm| vm.placement.map(|placement| (placement, vm)));
        let mut unheard = grants.filter(|(at, vm)| !self.ran.contains(&(at.node, vm.id, at.epoch)));
        unheard.next().map_or(Ok(()), |(at, vm)| {
            Err(format!("VM {} counts as running with epoch {}, and never ran so", vm.id, at.epoch.0))
        })
    }

    /// Neither is it believed of an instance that runs on that it came to its end.
    fn what_ended_has_ended(&self, state: &State, hosts: &[Host]) -> Result<(), String> {
        let told = |vm: &Vm, at: Placement| match vm.status.phase {
            VmPhase::Crashed => true,
            // It may have been placed to be stopped; or was started since that was told.
            VmPhase::Stopped => {
                vm.status.observed_generation == vm.generation
                    && self.ran.contains(&(at.node, vm.id, at.epoch))
            }
            VmPhase::Pending
            | VmPhase::Bound
            | VmPhase::Starting
            | VmPhase::Running
            | VmPhase::Stopping
            | VmPhase::Deleting => false,
        };
        let has_ended = |vm: &Vm, at: Placement| {
            let host = hosts.iter().find(|host| host.id == at.node);
            host.is_none_or(|host| host.world.engine.has_ended(vm.id, at.epoch))
        };
        let grants = state.vms.values().filter_map(|vm| Some((vm, vm.placement?)));
        let mut wrong = grants.filter(|(vm, at)| told(vm, *at) && !has_ended(vm, *at));
        wrong.next().map_or(Ok(()), |(vm, at)| {
            Err(format!("VM {} counts as ended with epoch {}, and never ended so", vm.id, at.epoch.0))
        })
    }

    /// Nothing is evacuated from many nodes that vanished at once, until it is known who is gone.
    fn brake_holds(&self, state: &State) -> Result<(), String> {
        if !self.clocks_are_good {
            return Ok(());
        }
        let new = state.events.iter().rev().take_while(|event| event.sequence >= self.next_event);
        new.into_iter().try_for_each(|event| match event.kind {
            EventKind::VmEvacuated { node, .. } => brake_held(state, event, node),
            _ => Ok(()),
        })
    }

    /// Judges what runs, whenever that changed.
    pub fn starts(&mut self, running: &[(NodeId, VmId, Epoch)], hosts: &[Host]) -> Result<(), Violation> {
        let before = std::mem::replace(&mut self.running, running.iter().copied().collect());
        self.ran.extend(self.running.iter().copied());
        for (node, vm, epoch) in self.running.difference(&before) {
            let Some(host) = hosts.iter().find(|host| host.id == *node) else { continue };
            let ended_us = self.ended.get(&(*vm, *epoch)).and_then(|own| own.get(node));
            let late_us = ended_us.map_or(0, |ended_us| host.time.own_us().saturating_sub(*ended_us));
            if late_us > LATE_START_US_MAX {
                let late_ms = late_us / 1000;
                return Err(Violation(format!(
                    "{} starts VM {vm} of epoch {}, which ended {late_ms} ms ago",
                    host.name, epoch.0
                )));
            }
        }
        Ok(())
    }
}

fn room_is_kept(state: &State) -> Result<(), String> {
    for node in state.nodes.values() {
        let allocated = state.allocated.get(&node.id).copied().unwrap_or_default();
        if !state.offered(node).holds(allocated) {
            return Err(format!("more is promised on {} than it has", node.profile.name));
        }
    }
    let project = state.projects.get(&TIGHT);
    let used = state.usage_of(TIGHT).vms;
    match project.filter(|project| used > project.quota.vms) {
        Some(project) => Err(format!("project {} has {used} VMs, above its quota", project.name)),
        None => Ok(()),
    }
}

fn copies_are_there(state: &State, hosts: &[Host]) -> Result<(), String> {
    for image in state.images.values() {
        let lacks = |host: &&Host| {
            image.holders().any(|holder| holder == host.id) && !host.world.ever_held_image(image.id)
        };
        if let Some(host) = hosts.iter().find(lacks) {
            return Err(format!("{} counts as holding image {}, and never did", host.name, image.name));
        }
        // It came with one, and no disk here forgets.
        if image.holders().next().is_none() {
            return Err(format!("image {} is given up by its last holder", image.name));
        }
    }
    Ok(())
}

fn evidence_is_there(state: &State) -> Result<(), String> {
    let guessed = state.nodes.values().find(|node| match &node.liveness {
        Liveness::Up => false,
        Liveness::Down { evidence, .. } => evidence.leader_silence_ms < SILENCE_MS_MIN,
    });
    guessed.map_or(Ok(()), |node| Err(format!("{} was declared down without evidence", node.profile.name)))
}

fn brake_held(state: &State, event: &Event, from: NodeId) -> Result<(), String> {
    let mut lost: Vec<(Timestamp, NodeId)> = Vec::new();
    for node in state.nodes.values() {
        match &node.liveness {
            Liveness::Down { since, evidence } => {
                let at = Timestamp(since.0.saturating_sub(evidence.leader_silence_ms));
                // Only what the leader knew when it planned.
                lost.extend((at.plus_ms(KNOWN_MS) < event.time).then_some((at, node.id)));
            }
            Liveness::Up => {}
        }
    }
    lost.sort_unstable();
    let mut nodes_before = state.nodes.len();
    for group in lost.chunk_by(|(a, _), (b, _)| b.since_ms(*a) <= VANISHING_MS) {
        let last = group.last().map_or(event.time, |(at, _)| *at);
        let large = group.len() > 1 && group.len() * 100 > nodes_before * BRAKE_PERCENT;
        let held = event.time.since_ms(last) < BRAKE_HOLD_MS;
        if large && held && group.iter().any(|(_, node)| *node == from) {
            return Err(format!("VMs are evacuated from {from}, and {} nodes vanished at once", group.len()));
        }
        nodes_before -= group.len();
    }
    Ok(())
}
