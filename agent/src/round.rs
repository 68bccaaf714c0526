//! One round of planning: removals first, then VMs, then images, then what to tell.

use std::collections::{BTreeMap, BTreeSet};

use scp_model::{
    Epoch, ImageId, NodeId, Op, Report, Timestamp, VmId,
    fact::{REPORTS_MAX, VmFact},
    op::OpSubject,
    vm::{Vm, VmPhase},
};
use scp_state::State;

use crate::{
    Plan, Standing,
    claim::{Claim, claim},
    memory::{Leave, Memory},
    world::World,
};

/// Starts and reboots under way at once. More at a time make each slower, and a server that comes back
/// with a hundred VMs would have all of them half started instead of some of them running.
pub const STARTS_MAX: usize = 8;

/// Image fetches under way at once; one alone fills the link, the second uses its pauses.
pub const FETCHES_MAX: usize = 2;

/// Stops and removals under way at once: they mostly wait for guests to end.
pub const ENDS_MAX: usize = 32;

/// For how long what is to be removed holds up every start on the node, in milliseconds, provided that
/// it was tried [`REMOVAL_TRIES_STRICT`] times. One broken disk must not keep a whole node out of
/// service for good; the VM concerned itself never starts beside its old instance.
pub const REMOVAL_STRICT_MS: u64 = 60_000;

/// See [`REMOVAL_STRICT_MS`].
pub const REMOVAL_TRIES_STRICT: u32 = 3;

pub(crate) struct Round<'a> {
    pub(crate) me: NodeId,
    pub(crate) state: &'a State,
    pub(crate) now: Timestamp,
    pub(crate) world: &'a World,
    pub(crate) memory: &'a mut Memory,
    /// Our copy of the state is complete.
    pub(crate) caught_up: bool,
    /// Why nothing may be started or fetched, for people; none: it may.
    pub(crate) hold: Option<&'static str>,
    /// Images that VMs here wait for.
    pub(crate) images_needed: BTreeSet<ImageId>,
    /// VMs that have something here which is to go first.
    removing: BTreeSet<VmId>,
    wanted: BTreeSet<OpSubject>,
    reports: Vec<Report>,
    ops: Vec<Op>,
    wake_at: Option<Timestamp>,
}

/// Whose view a round is planned from.
pub(crate) struct Place<'a> {
    pub(crate) me: NodeId,
    pub(crate) state: &'a State,
    pub(crate) standing: Standing,
    pub(crate) now: Timestamp,
}

impl<'a> Round<'a> {
    pub(crate) fn plan(place: &Place<'a>, world: &'a World, memory: &'a mut Memory) -> Plan {
        let mut round = Self {
            me: place.me,
            state: place.state,
            now: place.now,
            world,
            memory,
            caught_up: place.standing == Standing::CaughtUp,
            hold: None,
            images_needed: BTreeSet::new(),
            removing: BTreeSet::new(),
            wanted: BTreeSet::new(),
            reports: Vec::new(),
            ops: Vec::new(),
            wake_at: None,
        };
        let held_up = round.removals();
        let up = round.state.nodes.get(&round.me).is_some_and(|node| node.is_up());
        round.hold = match (round.caught_up, up, held_up) {
            (false, _, _) => Some("waits until the node knows all that was decided"),
            (true, false, _) => Some("waits until the node is declared up"),
            (true, true, true) => Some("waits until the node removed what it no longer owns"),
            (true, true, false) => None,
        };
        round.vms();
        round.images();
        round.orphans();
        round.into_plan()
    }

    fn into_plan(mut self) -> Plan {
        self.memory.keep_paces(&self.wanted);
        if self.caught_up {
            let (reports, again_at) =
                self.memory.give_reports(std::mem::take(&mut self.reports), REPORTS_MAX, self.now);
            self.reports = reports;
            self.wake_at = self.wake_at.into_iter().chain(again_at).min();
        } else {
            self.reports.clear();
        }
        Plan { ops: self.ops, reports: self.reports, wake_at: self.wake_at }
    }

    /// Everything here that its owner no longer has here. Answers whether starts have to wait for it.
    fn removals(&mut self) -> bool {
        let mut lost: BTreeMap<VmId, Epoch> = BTreeMap::new();
        let ended = self.world.vms.values().filter(|fact| claim(self.state, self.me, fact) == Claim::Ended);
        let evicted = self.state.evictions_on(self.me).map(|eviction| (eviction.vm, eviction.epoch));
        for (vm, epoch) in evicted.chain(ended.map(|fact| (fact.vm, fact.epoch))) {
            let up_to = lost.entry(vm).or_insert(epoch);
            *up_to = (*up_to).max(epoch);
        }
        lost.retain(|vm, epoch| !self.is_gone(*vm, *epoch));
        if scp_mutant::on("eviction-forgotten") {
            lost.clear();
        }
        let mut held_up = false;
        self.memory.removals.retain(|vm, _| lost.contains_key(vm));
        for (vm, epoch) in lost {
            let since = *self.memory.removals.entry(vm).or_insert(self.now);
            let strict = self.is_strict(vm, since);
            if strict {
                self.wake(since.plus_ms(REMOVAL_STRICT_MS));
            }
            held_up |= strict;
            self.removing.insert(vm);
            self.tell_delay(vm, epoch);
            self.ask(Op::RemoveVm { vm, epoch });
        }
        self.tell_gone();
        held_up
    }

    /// Whether what is to go has a new owner, or may have. A VM that is being deleted has not: nothing
    /// waits for it.
    fn is_strict(&self, vm: VmId, since: Timestamp) -> bool {
        let deleting = self.state.vms.get(&vm).is_some_and(Vm::is_deleting);
        let tries = self.memory.pace(OpSubject::Vm(vm)).map_or(0, |pace| pace.attempts);
        let long = self.now.since_ms(since) >= REMOVAL_STRICT_MS && tries >= REMOVAL_TRIES_STRICT;
        !deleting && !long
    }

    /// Says why a VM that is being deleted is still here.
    fn tell_delay(&mut self, id: VmId, epoch: Epoch) {
        let Some(vm) = self.state.vms.get(&id).filter(|vm| vm.is_deleting()) else { return };
        let pace = self.memory.pace(OpSubject::Vm(id));
        let Some((failures, failure)) = pace.and_then(|pace| Some((pace.attempts, pace.failure.as_ref()?)))
        else {
            return;
        };
        let message = Some(crate::report::message(failure.message.clone()));
        if vm.status.message != message {
            let (phase, observed_generation) = (VmPhase::Deleting, 0);
            self.tell(Report::Vm { vm: id, epoch, observed_generation, phase, message, failures });
        }
    }

    fn tell_gone(&mut self) {
        let evicted = self.state.evictions_on(self.me).map(|eviction| (eviction.vm, eviction.epoch));
        let gone = evicted.filter(|(vm, epoch)| self.is_gone(*vm, *epoch));
        let reports = gone.map(|(vm, epoch)| Report::VmGone { vm, epoch });
        self.reports.extend(reports.collect::<Vec<_>>());
    }

    /// Whether a driver confirmed the removal, and nothing was seen since.
    fn is_gone(&self, vm: VmId, epoch: Epoch) -> bool {
        let seen = self.world.vms.range((vm, Epoch(0))..=(vm, epoch)).next().is_some();
        scp_mutant::on("gone-before-removed") || !seen && self.world.is_removed(vm, epoch)
    }

    fn orphans(&mut self) {
        let unknown =
            self.world.vms.values().filter(|fact| claim(self.state, self.me, fact) == Claim::Orphan);
        let unknown = unknown.map(crate::report::orphan);
        let found: BTreeSet<_> =
            self.world.orphans.iter().cloned().map(crate::report::clip).chain(unknown).collect();
        let orphans: Vec<_> = found.into_iter().take(scp_state::limits::ORPHANS_MAX).collect();
        let known = self.state.nodes.get(&self.me).map(|node| &node.orphans);
        if known.is_some_and(|known| *known != orphans) {
            self.tell(Report::Orphans { orphans });
        }
    }

    /// The instance of this VM's present placement, unless something newer is here that our copy of
    /// the state does not know yet.
    pub(crate) fn instance(&self, vm: &Vm, epoch: Epoch) -> Result<Option<&'a VmFact>, NewerIsHere> {
        let newer = (vm.id, Epoch(epoch.0.saturating_add(1)))..=(vm.id, Epoch(u64::MAX));
        match self.world.vms.range(newer).next() {
            Some(_) => Err(NewerIsHere),
            None => Ok(self.world.vms.get(&(vm.id, epoch))),
        }
    }

    pub(crate) fn is_removing(&self, vm: VmId) -> bool {
        self.removing.contains(&vm)
    }

    /// Gives the op out if it is its time and there is room for it.
    pub(crate) fn ask(&mut self, op: Op) {
        self.wanted.insert(op.subject());
        match self.memory.leave(&op, self.now) {
            Leave::Now if self.has_room(&op) => {
                self.memory.give(&op);
                self.ops.push(op);
            }
            // Whatever ends makes room, and the node plans again.
            Leave::Now | Leave::Busy => {}
            Leave::At(at) => self.wake(at),
        }
    }

    fn has_room(&self, op: &Op) -> bool {
        let (class, most) = class_of(op);
        self.memory.in_flight.values().filter(|other| class_of(other).0 == class).count() < most
    }

    pub(crate) fn tell(&mut self, report: Report) {
        self.reports.push(report);
    }

    pub(crate) fn wake(&mut self, at: Timestamp) {
        if at > self.now {
            self.wake_at = Some(self.wake_at.map_or(at, |before| before.min(at)));
        }
    }
}

/// Our copy of the state is older than what is here.
pub(crate) struct NewerIsHere;

#[derive(PartialEq, Eq)]
enum OpClass {
    Start,
    Fetch,
    End,
}

fn class_of(op: &Op) -> (OpClass, usize) {
    match op {
        Op::EnsureVm(_) | Op::RebootVm { .. } => (OpClass::Start, STARTS_MAX),
        Op::EnsureImage(_) => (OpClass::Fetch, FETCHES_MAX),
        Op::StopVm { .. } | Op::RemoveVm { .. } | Op::RemoveImage { .. } => (OpClass::End, ENDS_MAX),
    }
}
