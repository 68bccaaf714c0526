//! What is here, as far as the drivers told.

use std::collections::{BTreeMap, BTreeSet};

use scp_model::{Epoch, Fact, ImageId, Op, VmId, fact::VmFact, node::Orphan};

/// The node as it was last seen: a whole observation, and what was learnt piece by piece since.
#[derive(Debug, Clone, Default)]
pub(crate) struct World {
    /// Whether there was a whole observation. Until then not knowing of a thing means nothing.
    pub(crate) complete: bool,
    /// Whole observations so far.
    pub(crate) observations: u64,
    /// Instances. Two of one VM only if a driver kept an old one beside a new one.
    pub(crate) vms: BTreeMap<(VmId, Epoch), VmFact>,
    pub(crate) images: BTreeSet<ImageId>,
    pub(crate) orphans: BTreeSet<Orphan>,
    removed: BTreeMap<VmId, Removed>,
}

/// A removal that a driver confirmed. Only this fulfils an eviction: that a VM is not seen may also
/// mean that half of it is left.
#[derive(Debug, Clone, Copy)]
struct Removed {
    /// Nothing at or below it is left.
    up_to: Epoch,
    /// A whole observation since then did not show it either, so late events of it are over.
    confirmed: bool,
}

impl World {
    /// Takes a whole observation.
    pub(crate) fn observe(&mut self, facts: Vec<Fact>) {
        self.complete = true;
        self.observations += 1;
        self.vms.clear();
        self.images.clear();
        self.orphans.clear();
        for fact in facts {
            match fact {
                Fact::Vm(fact) => {
                    self.vms.insert((fact.vm, fact.epoch), fact);
                }
                Fact::ImageHeld { image } => {
                    self.images.insert(image);
                }
                Fact::Orphan(orphan) => {
                    self.orphans.insert(orphan);
                }
                Fact::VmGone { .. } | Fact::ImageGone { .. } => {}
            }
        }
        let vms = &self.vms;
        self.removed.retain(|vm, removed| {
            removed.confirmed = true;
            vms.range((*vm, Epoch(0))..=(*vm, removed.up_to)).next().is_none()
        });
    }

    /// Takes one fact more.
    pub(crate) fn learn(&mut self, fact: Fact) {
        match fact {
            // The last words of an instance that is removed already.
            Fact::Vm(fact) if self.is_removed(fact.vm, fact.epoch) => {}
            Fact::Vm(fact) => {
                self.vms.insert((fact.vm, fact.epoch), fact);
            }
            Fact::VmGone { vm } => self.vms.retain(|(id, _), _| *id != vm),
            Fact::ImageHeld { image } => {
                self.images.insert(image);
            }
            Fact::ImageGone { image } => {
                self.images.remove(&image);
            }
            Fact::Orphan(orphan) => {
                self.orphans.insert(orphan);
            }
        }
    }

    /// Takes in that an op was carried out.
    pub(crate) fn carried_out(&mut self, op: &Op, facts: Vec<Fact>) {
        match op {
            Op::RemoveVm { vm, epoch } => self.removed(*vm, *epoch),
            Op::EnsureVm(order) => {
                self.removed.remove(&order.vm);
            }
            Op::RemoveImage { image } => {
                self.images.remove(image);
            }
            Op::EnsureImage(_) | Op::StopVm { .. } | Op::RebootVm { .. } => {}
        }
        facts.into_iter().for_each(|fact| self.learn(fact));
    }

    /// Nothing of the VM at or below the epoch is left.
    pub(crate) fn removed(&mut self, vm: VmId, up_to: Epoch) {
        self.vms.retain(|(id, epoch), _| *id != vm || *epoch > up_to);
        let before = self.removed.get(&vm).map_or(Epoch(0), |removed| removed.up_to);
        self.removed.insert(vm, Removed { up_to: up_to.max(before), confirmed: false });
    }

    /// Whether a driver confirmed that nothing of the VM at or below the epoch is left.
    pub(crate) fn is_removed(&self, vm: VmId, epoch: Epoch) -> bool {
        self.removed.get(&vm).is_some_and(|removed| removed.up_to >= epoch)
    }

    /// Forgets removals that nobody asks for any more.
    pub(crate) fn forget_removals(&mut self, asked_for: impl Fn(VmId) -> bool) {
        self.removed.retain(|vm, removed| !removed.confirmed || asked_for(*vm));
    }
}
