//! What an agent remembers between plans. All of it can be lost: it is rebuilt from the state, from
//! what is observed, or by trying once more.

use std::collections::{BTreeMap, BTreeSet};

use scp_model::{
    Epoch, ImageId, NodeId, Op, Report, Timestamp, VmId,
    fact::{RunState, VmFact},
    op::OpSubject,
    vm::{Vm, VmPhase},
};

use crate::{
    Failure, FailureClass,
    backoff::{PAUSE_MS_MAX, pause_ms},
};

/// A VM that ran for so long, in milliseconds, has left its earlier crashes behind.
pub const STABLE_MS: u64 = 5 * 60_000;

/// A report is not given again sooner than this, in milliseconds: a commit and its way back take a
/// few, a new leader's election about a thousand.
pub const RESEND_MS: u64 = 2_000;

#[derive(Debug, Clone)]
pub(crate) struct Memory {
    me: NodeId,
    /// Ops given out and not answered yet.
    pub(crate) in_flight: BTreeMap<OpSubject, Op>,
    paces: BTreeMap<OpSubject, Pace>,
    pub(crate) vms: BTreeMap<VmId, VmMemory>,
    given: BTreeMap<ReportKey, (Report, Timestamp)>,
    /// Since when an image is here that the state does not know.
    pub(crate) unknown_images: BTreeMap<ImageId, Timestamp>,
    /// Images that the state holds to be here and that are not seen: how many observations there had
    /// been when that was first so.
    pub(crate) missing_images: BTreeMap<ImageId, u64>,
    /// Since when each removal is wanted.
    pub(crate) removals: BTreeMap<VmId, Timestamp>,
}

/// What tells one order from another on the same subject: a changed order is not made to wait for the
/// failures of the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OpKey {
    EnsureImage,
    RemoveImage,
    EnsureVm { epoch: Epoch, generation: u64, reboots: u64 },
    StopVm { epoch: Epoch, generation: u64 },
    RebootVm { epoch: Epoch, generation: u64, reboots: u64 },
    RemoveVm { epoch: Epoch },
}

impl OpKey {
    fn of(op: &Op) -> Self {
        match op {
            Op::EnsureImage(_) => Self::EnsureImage,
            Op::RemoveImage { .. } => Self::RemoveImage,
            Op::EnsureVm(order) => {
                Self::EnsureVm { epoch: order.epoch, generation: order.generation, reboots: order.reboots }
            }
            Op::StopVm { epoch, generation, .. } => Self::StopVm { epoch: *epoch, generation: *generation },
            Op::RebootVm { epoch, generation, reboots, .. } => {
                Self::RebootVm { epoch: *epoch, generation: *generation, reboots: *reboots }
            }
            Op::RemoveVm { epoch, .. } => Self::RemoveVm { epoch: *epoch },
        }
    }
}

/// How often the same order was carried out in a row, and when it may be again. An order that succeeds
/// and is wanted again at once did not do what it should: it waits like one that failed.
#[derive(Debug, Clone)]
pub(crate) struct Pace {
    key: OpKey,
    pub(crate) attempts: u32,
    not_before: Timestamp,
    pub(crate) failure: Option<Failure>,
}

/// Whether an op may be given out.
pub(crate) enum Leave {
    Now,
    At(Timestamp),
    /// Another on the same subject is under way.
    Busy,
}

impl Memory {
    pub(crate) fn new(me: NodeId) -> Self {
        Self {
            me,
            in_flight: BTreeMap::new(),
            paces: BTreeMap::new(),
            vms: BTreeMap::new(),
            given: BTreeMap::new(),
            unknown_images: BTreeMap::new(),
            missing_images: BTreeMap::new(),
            removals: BTreeMap::new(),
        }
    }

    pub(crate) fn leave(&self, op: &Op, now: Timestamp) -> Leave {
        let subject = op.subject();
        if self.in_flight.contains_key(&subject) {
            return Leave::Busy;
        }
        match self.paces.get(&subject) {
            Some(pace) if pace.key == OpKey::of(op) && pace.not_before > now => Leave::At(pace.not_before),
            Some(_) | None => Leave::Now,
        }
    }

    pub(crate) fn give(&mut self, op: &Op) {
        let (subject, key) = (op.subject(), OpKey::of(op));
        let fresh = Pace { key, attempts: 0, not_before: Timestamp(0), failure: None };
        let pace = self.paces.entry(subject).or_insert_with(|| fresh.clone());
        if pace.key != key {
            *pace = fresh;
        }
        self.in_flight.insert(subject, op.clone());
    }

    /// Notes whether an op left a VM in doubt; `observations` is how many whole ones there were so far.
    pub(crate) fn doubt(&mut self, op: &Op, failure: Option<&Failure>, observations: u64) {
        let OpSubject::Vm(vm) = op.subject() else { return };
        let Some(memory) = self.vms.get_mut(&vm) else { return };
        let begins = matches!(op, Op::EnsureVm(_) | Op::RebootVm { .. });
        match failure.map(|failure| failure.class) {
            // Whatever a driver carried out, it answered with what is here.
            None => memory.in_doubt_since = None,
            Some(FailureClass::Retryable | FailureClass::Terminal) if begins => {
                memory.in_doubt_since = Some(observations);
            }
            // Other ops start nothing, and a fence refuses before anything is done.
            Some(FailureClass::Retryable | FailureClass::Terminal | FailureClass::Fenced) => {}
        }
    }

    /// Notes an op's outcome.
    pub(crate) fn finished(&mut self, op: &Op, failure: Option<Failure>, now: Timestamp) {
        let subject = op.subject();
        self.in_flight.remove(&subject);
        if let Op::EnsureVm(order) = op
            && let Some(memory) = self.vms.get_mut(&order.vm).filter(|memory| memory.epoch == order.epoch)
        {
            match &failure {
                None => memory.end_counted = false,
                Some(Failure { class: FailureClass::Retryable | FailureClass::Terminal, .. }) => {
                    memory.failures = memory.failures.saturating_add(1);
                }
                // It says nothing about the VM, only that our copy of the state is old.
                Some(Failure { class: FailureClass::Fenced, .. }) => {}
            }
        }
        let Some(pace) = self.paces.get_mut(&subject) else { return };
        pace.attempts = pace.attempts.saturating_add(1);
        let pause = match failure.as_ref().map(|failure| failure.class) {
            Some(FailureClass::Terminal) => PAUSE_MS_MAX,
            Some(FailureClass::Retryable | FailureClass::Fenced) | None => {
                pause_ms(self.me, subject, pace.attempts)
            }
        };
        pace.not_before = now.plus_ms(pause);
        pace.failure = failure;
    }

    pub(crate) fn pace(&self, subject: OpSubject) -> Option<&Pace> {
        self.paces.get(&subject)
    }

    /// Why the last try on a subject failed.
    pub(crate) fn failure(&self, subject: OpSubject) -> Option<&str> {
        Some(self.paces.get(&subject)?.failure.as_ref()?.message.as_str())
    }

    /// Forgets the pace of everything that is at rest.
    pub(crate) fn keep_paces(&mut self, wanted: &BTreeSet<OpSubject>) {
        let in_flight = &self.in_flight;
        self.paces.retain(|subject, _| wanted.contains(subject) || in_flight.contains_key(subject));
    }

    pub(crate) fn is_in_flight(&self, vm: VmId, op: impl Fn(&Op) -> bool) -> bool {
        self.in_flight.get(&OpSubject::Vm(vm)).is_some_and(op)
    }

    /// Which of the wanted reports to give now; when to look again for those held back.
    pub(crate) fn give_reports(
        &mut self,
        wanted: Vec<Report>,
        most: usize,
        now: Timestamp,
    ) -> (Vec<Report>, Option<Timestamp>) {
        let keys: BTreeSet<ReportKey> = wanted.iter().map(ReportKey::of).collect();
        self.given.retain(|key, _| keys.contains(key));
        let (mut reports, mut again_at) = (Vec::new(), None);
        for report in wanted {
            let key = ReportKey::of(&report);
            let held = self.given.get(&key).filter(|(given, _)| *given == report);
            let due = held.map_or(now, |(_, at)| at.plus_ms(RESEND_MS)).max(now);
            let again = match due == now && reports.len() < most {
                true => {
                    self.given.insert(key, (report.clone(), now));
                    reports.push(report);
                    now.plus_ms(RESEND_MS)
                }
                false => due,
            };
            again_at = Some(again_at.map_or(again, |at: Timestamp| at.min(again)));
        }
        (reports, again_at)
    }
}

/// What a report is about; a newer one takes the place of an older.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum ReportKey {
    Vm(VmId),
    VmGone(VmId, Epoch),
    Image(ImageId),
    Orphans,
}

impl ReportKey {
    fn of(report: &Report) -> Self {
        match report {
            Report::Vm { vm, .. } | Report::VmShutdown { vm, .. } => Self::Vm(*vm),
            Report::VmGone { vm, epoch } => Self::VmGone(*vm, *epoch),
            Report::ImageHeld { image } | Report::ImageGone { image } | Report::ImageFailed { image, .. } => {
                Self::Image(*image)
            }
            Report::Orphans { .. } => Self::Orphans,
        }
    }
}

/// How a VM fared here lately.
#[derive(Debug, Clone)]
pub(crate) struct VmMemory {
    pub(crate) epoch: Epoch,
    /// Crashes and failed starts since it last ran for [`STABLE_MS`].
    pub(crate) failures: u32,
    /// Whether the end that is seen now is among them.
    end_counted: bool,
    /// When it may be started again after it ended.
    pub(crate) restart_at: Timestamp,
    /// A start failed, and may have taken effect: its error may be its answer's alone. How many whole
    /// observations there had been by then.
    in_doubt_since: Option<u64>,
}

impl VmMemory {
    /// What the state knows of it: enough to go on after a restart.
    pub(crate) fn from_state(me: NodeId, vm: &Vm, epoch: Epoch) -> Self {
        let status = &vm.status;
        let (failures, end_counted) = match status.phase {
            // A new placement begins anew.
            VmPhase::Pending | VmPhase::Bound => (0, false),
            VmPhase::Crashed => (status.failures, true),
            VmPhase::Starting
            | VmPhase::Running
            | VmPhase::Stopping
            | VmPhase::Stopped
            | VmPhase::Deleting => (status.failures, false),
        };
        let pause = if end_counted { pause_ms(me, OpSubject::Vm(vm.id), failures) } else { 0 };
        Self { epoch, failures, end_counted, restart_at: status.since.plus_ms(pause), in_doubt_since: None }
    }

    /// Whether it may run although it was not seen to. The first whole observation since may have begun
    /// before the start took effect; what the second does not show is not so.
    pub(crate) fn is_in_doubt(&self, observations: u64) -> bool {
        self.in_doubt_since.is_some_and(|since| observations < since + 2)
    }

    /// Counts an end once.
    pub(crate) fn ended(&mut self, me: NodeId, vm: VmId, now: Timestamp) {
        if !self.end_counted {
            self.end_counted = true;
            self.failures = self.failures.saturating_add(1);
            self.restart_at = now.plus_ms(pause_ms(me, OpSubject::Vm(vm), self.failures));
        }
    }

    /// Notes that it runs. When to look again, if it has not run for long enough yet.
    pub(crate) fn runs(&mut self, vm: &Vm, fact: &VmFact, now: Timestamp) -> Option<Timestamp> {
        self.end_counted = false;
        let reported = (vm.status.phase == VmPhase::Running).then_some(vm.status.since);
        let since = fact.started_at.or(reported).filter(|_| fact.run == RunState::Running);
        let stable_at = since.unwrap_or(now).plus_ms(STABLE_MS);
        if stable_at <= now {
            self.failures = 0;
        }
        (self.failures > 0).then_some(stable_at)
    }
}
