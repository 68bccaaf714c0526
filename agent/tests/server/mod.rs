//! A server for tests: instances and images that ops really change, and that can be broken. It keeps
//! the drivers' promises, and panics where an agent would rely on more.

#![allow(dead_code)] // Each test binary uses a part of it.

use std::collections::{BTreeMap, BTreeSet};

use scp_agent::{Failure, FailureClass};
use scp_model::{
    Epoch, Fact, ImageId, Op, Timestamp, VmId,
    fact::{RunState, VmFact},
    node::Orphan,
    op::EnsureVm,
};

#[derive(Debug, Clone, Default)]
pub struct Server {
    pub now: Timestamp,
    pub vms: BTreeMap<VmId, Instance>,
    pub images: BTreeSet<ImageId>,
    pub orphans: BTreeSet<Orphan>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    pub fact: VmFact,
    pub image: Option<ImageId>,
    /// How often a guest was started.
    pub starts: u32,
}

impl Server {
    pub fn carry_out(&mut self, op: &Op) -> Result<Vec<Fact>, Failure> {
        match op {
            Op::EnsureImage(order) => {
                self.images.insert(order.image);
                Ok(vec![Fact::ImageHeld { image: order.image }])
            }
            Op::RemoveImage { image } => {
                let used =
                    self.vms.values().find(|instance| instance.image.is_none_or(|used| used == *image));
                assert!(used.is_none(), "the image is dropped from under {used:?}");
                self.images.remove(image);
                Ok(vec![Fact::ImageGone { image: *image }])
            }
            Op::EnsureVm(order) => self.ensure(order),
            Op::StopVm { vm, epoch, generation, .. } => {
                let instance = self.instance(*vm, *epoch)?;
                instance.fact.generation = *generation;
                if matches!(instance.fact.run, RunState::Running | RunState::Paused) {
                    (instance.fact.run, instance.fact.started_at) = (RunState::Stopped, None);
                }
                Ok(vec![Fact::Vm(instance.fact.clone())])
            }
            Op::RebootVm { vm, epoch, generation, reboots } => {
                let now = self.now;
                let instance = self.instance(*vm, *epoch)?;
                (instance.fact.generation, instance.fact.reboots) = (*generation, *reboots);
                instance.fact.started_at = Some(now);
                Ok(vec![Fact::Vm(instance.fact.clone())])
            }
            Op::RemoveVm { vm, epoch } => {
                self.fenced(*vm, *epoch)?;
                self.vms.remove(vm);
                Ok(vec![Fact::VmGone { vm: *vm }])
            }
        }
    }

    fn ensure(&mut self, order: &EnsureVm) -> Result<Vec<Fact>, Failure> {
        self.fenced(order.vm, order.epoch)?;
        if !self.images.contains(&order.disk.image) {
            // Lost since it was last seen.
            return Err(Failure { class: FailureClass::Retryable, message: "its image is not here".into() });
        }
        if let Some(instance) = self.vms.get(&order.vm) {
            assert_eq!(
                instance.fact.epoch, order.epoch,
                "an older instance is removed before a new one starts"
            );
        }
        let now = self.now;
        let instance = self.vms.entry(order.vm).or_insert_with(|| Instance {
            fact: VmFact {
                vm: order.vm,
                epoch: order.epoch,
                generation: 0,
                reboots: 0,
                run: RunState::Stopped,
                started_at: None,
            },
            image: Some(order.disk.image),
            starts: 0,
        });
        (instance.fact.generation, instance.fact.reboots) = (order.generation, order.reboots);
        match instance.fact.run {
            RunState::Running => {}
            RunState::Paused => instance.fact.run = RunState::Running,
            RunState::Stopped | RunState::Shutdown | RunState::Crashed => {
                (instance.fact.run, instance.fact.started_at) = (RunState::Running, Some(now));
                instance.starts += 1;
            }
        }
        Ok(vec![Fact::Vm(instance.fact.clone())])
    }

    fn instance(&mut self, vm: VmId, epoch: Epoch) -> Result<&mut Instance, Failure> {
        self.fenced(vm, epoch)?;
        let gone = Failure { class: FailureClass::Retryable, message: "no such domain".into() };
        self.vms.get_mut(&vm).ok_or(gone)
    }

    fn fenced(&self, vm: VmId, epoch: Epoch) -> Result<(), Failure> {
        match self.vms.get(&vm).filter(|instance| instance.fact.epoch > epoch) {
            Some(_) => Err(Failure { class: FailureClass::Fenced, message: "fenced".into() }),
            None => Ok(()),
        }
    }

    /// Everything that is here.
    pub fn observe(&self) -> Vec<Fact> {
        let vms = self.vms.values().map(|instance| Fact::Vm(instance.fact.clone()));
        let images = self.images.iter().map(|image| Fact::ImageHeld { image: *image });
        vms.chain(images).chain(self.orphans.iter().cloned().map(Fact::Orphan)).collect()
    }

    /// The guest ends, or is paused. What the engine tells of it.
    pub fn end(&mut self, vm: VmId, run: RunState) -> Option<Fact> {
        let instance = self.vms.get_mut(&vm).filter(|instance| instance.fact.run == RunState::Running)?;
        instance.fact.run = run;
        if run != RunState::Paused {
            instance.fact.started_at = None;
        }
        Some(Fact::Vm(instance.fact.clone()))
    }

    /// The power goes and comes back.
    pub fn power_cut(&mut self) {
        let ids: Vec<VmId> = self.vms.keys().copied().collect();
        ids.into_iter().for_each(|vm| {
            self.end(vm, RunState::Crashed);
        });
    }
}
