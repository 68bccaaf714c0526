//! The VMs that are placed here: each intent carried out, each phase told.

use scp_model::{
    Epoch, Op, Report,
    fact::{RunState, VmFact},
    op::OpSubject,
    sandbox::Power,
    vm::{Vm, VmPhase},
};

use crate::{
    memory::VmMemory,
    report,
    round::{NewerIsHere, Round},
    vm::{self, Intent},
};

/// A VM placed here, and what is known of it.
struct Here<'a> {
    vm: &'a Vm,
    epoch: Epoch,
    fact: Option<&'a VmFact>,
    intent: Intent,
    /// Why it is not begun, although it should be.
    waits_for: Option<String>,
}

impl<'a> Round<'a> {
    pub(crate) fn vms(&mut self) {
        let state = self.state;
        let placed = state.vms_on(self.me).filter_map(|vm| Some((vm, vm.placement?.epoch)));
        let placed: Vec<(&Vm, Epoch)> = placed.collect();
        self.memory.vms.retain(|id, memory| {
            let vm = state.vms.get(id);
            vm.and_then(|vm| vm.placement).is_some_and(|placement| placement.epoch == memory.epoch)
        });
        for (vm, epoch) in placed {
            let Ok(fact) = self.instance(vm, epoch).map_err(|NewerIsHere| ()) else { continue };
            let me = self.me;
            self.memory.vms.entry(vm.id).or_insert_with(|| VmMemory::from_state(me, vm, epoch));
            let intent = self.intent(vm, fact);
            let mut here = Here { vm, epoch, fact, intent, waits_for: None };
            self.remember(&here);
            here.waits_for = self.carry_out(&here);
            self.tell_vm(&here);
        }
    }

    /// A start that is under way, or that failed, may take effect yet or have taken effect, whatever was
    /// seen: what is to be stopped is so once that is known, not before.
    fn intent(&self, vm: &Vm, fact: Option<&VmFact>) -> Intent {
        let begins = |op: &Op| matches!(op, Op::EnsureVm(_) | Op::RebootVm { .. });
        let in_doubt = |memory: &VmMemory| memory.is_in_doubt(self.world.observations);
        let may_run =
            self.memory.is_in_flight(vm.id, begins) || self.memory.vms.get(&vm.id).is_some_and(in_doubt);
        match vm::intent(vm, fact) {
            Intent::Rest if vm.spec.power == Power::Stopped && may_run => Intent::Stop,
            intent => intent,
        }
    }

    /// Counts ends and time that it runs.
    fn remember(&mut self, here: &Here<'_>) {
        let (me, now) = (self.me, self.now);
        let Some(memory) = self.memory.vms.get_mut(&here.vm.id) else { return };
        match here.intent {
            Intent::Restart | Intent::Leave => memory.ended(me, here.vm.id, now),
            // Stopped in order: what comes next begins anew.
            Intent::Rest if here.vm.spec.power == Power::Stopped => memory.failures = 0,
            Intent::Rest
            | Intent::Start
            | Intent::Resume
            | Intent::Refresh
            | Intent::Reboot
            | Intent::Stop
            | Intent::TellShutdown => {
                let running = here.fact.filter(|fact| fact.run == RunState::Running);
                if let Some(at) = running.and_then(|fact| memory.runs(here.vm, fact, now)) {
                    self.wake(at);
                }
            }
        }
    }

    /// Asks for what the intent needs; answers what it has to wait for.
    fn carry_out(&mut self, here: &Here<'a>) -> Option<String> {
        match here.intent {
            Intent::Rest | Intent::Leave | Intent::TellShutdown => None,
            Intent::Stop => {
                if self.caught_up && !scp_mutant::on("stop-forgotten") {
                    self.ask(vm::stop(here.vm, here.epoch));
                }
                None
            }
            Intent::Reboot => {
                if self.hold.is_none() {
                    self.ask(vm::reboot(here.vm, here.epoch));
                }
                None
            }
            Intent::Restart if scp_mutant::on("restart-policy-ignored") => None,
            Intent::Restart => {
                let restart_at = self.memory.vms.get(&here.vm.id).map(|memory| memory.restart_at);
                match restart_at.filter(|at| *at > self.now) {
                    Some(at) => {
                        self.wake(at);
                        None
                    }
                    None => self.begin(here),
                }
            }
            Intent::Start | Intent::Resume | Intent::Refresh => self.begin(here),
        }
    }

    fn begin(&mut self, here: &Here<'a>) -> Option<String> {
        if self.is_removing(here.vm.id) {
            return Some("waits until its earlier instance here is removed".into());
        }
        if let Some(hold) = self.hold {
            return Some(hold.into());
        }
        let id = here.vm.spec.image;
        let Some(image) = self.state.images.get(&id) else {
            return Some(format!("its image {id} does not exist"));
        };
        if !self.world.images.contains(&id) {
            self.images_needed.insert(id);
            let why = self.memory.failure(OpSubject::Image(id));
            let why = why.map_or_else(String::new, |why| format!(": {why}"));
            return Some(format!("waits for image {}{why}", image.name));
        }
        self.ask(vm::ensure(here.vm, here.epoch, image));
        None
    }

    fn tell_vm(&mut self, here: &Here<'_>) {
        let vm = here.vm;
        if here.intent == Intent::TellShutdown {
            self.tell(Report::VmShutdown { vm: vm.id, epoch: here.epoch });
            return;
        }
        let (phase, message) = self.phase(here);
        let message = message.map(report::message);
        let failures = self.memory.vms.get(&vm.id).map_or(0, |memory| memory.failures);
        let observed_generation = observed_generation(here);
        let status = &vm.status;
        let shown = status.phase == phase
            && status.observed_generation == observed_generation
            && status.message == message
            && status.failures == failures;
        if !shown {
            let (vm, epoch) = (vm.id, here.epoch);
            self.tell(Report::Vm { vm, epoch, observed_generation, phase, message, failures });
        }
    }

    fn phase(&self, here: &Here<'_>) -> (VmPhase, Option<String>) {
        let starting = self.memory.is_in_flight(here.vm.id, |op| matches!(op, Op::EnsureVm(_)));
        let failure = self.memory.failure(OpSubject::Vm(here.vm.id)).map(str::to_owned);
        let waits_for = here.waits_for.clone();
        match here.intent {
            Intent::Rest => match here.vm.spec.power {
                Power::Running => (VmPhase::Running, None),
                Power::Stopped => (VmPhase::Stopped, None),
            },
            Intent::Refresh | Intent::Reboot => (VmPhase::Running, failure),
            Intent::Stop => (VmPhase::Stopping, failure),
            Intent::Start => match (&waits_for, starting || failure.is_some()) {
                (Some(_), _) => (VmPhase::Bound, waits_for),
                (None, true) => (VmPhase::Starting, failure),
                (None, false) => (VmPhase::Bound, None),
            },
            Intent::Restart if starting => (VmPhase::Starting, failure),
            Intent::Restart => {
                let pause = || "ended by itself; it is started again with growing pauses".to_owned();
                (VmPhase::Crashed, Some(failure.or(waits_for).unwrap_or_else(pause)))
            }
            Intent::Resume => {
                let paused = || {
                    "paused by its hypervisor, as on a disk error; it is resumed with growing pauses"
                        .to_owned()
                };
                (VmPhase::Crashed, Some(failure.unwrap_or_else(paused)))
            }
            Intent::Leave => {
                (VmPhase::Crashed, Some("ended by itself; its restart policy leaves it so".to_owned()))
            }
            Intent::TellShutdown => (VmPhase::Stopped, None),
        }
    }
}

/// Up to which generation the spec is carried out.
fn observed_generation(here: &Here<'_>) -> u64 {
    match here.intent {
        Intent::Rest | Intent::Leave => here.vm.generation,
        Intent::Start
        | Intent::Restart
        | Intent::Resume
        | Intent::Refresh
        | Intent::Reboot
        | Intent::Stop
        | Intent::TellShutdown => {
            let seen = here.fact.map(|fact| fact.generation.min(here.vm.generation));
            seen.unwrap_or(here.vm.status.observed_generation)
        }
    }
}
