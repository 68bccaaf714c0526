//! A simulated server's hypervisor and image store: what they hold outlives the process that drives them.
//!
//! Ops take time and may fail, before or after they took effect; a process that is killed leaves them
//! wherever they were.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use scp_api::cluster::ByteStream;
use scp_drivers::{
    Driver, DriverError, Hypervisor, VmStats,
    console::{ConsoleError, ConsoleStream},
    images::TakeError,
};
use scp_model::{
    Digest, Epoch, Fact, ImageId, Op, VmId,
    fact::{RunState, VmFact},
    image::ImageContent,
};
use scp_node::chunks::{Engines, ImageStore};
use tokio::sync::mpsc;

use crate::entropy::SplitMix;

/// The engines of one server.
pub struct World(Mutex<Things>);

struct Things {
    rng: SplitMix,
    failing_permille: u64,
    vms: BTreeMap<VmId, Instance>,
    images: BTreeSet<ImageId>,
}

#[derive(Debug, Clone, Copy)]
struct Instance {
    epoch: Epoch,
    generation: u64,
    reboots: u64,
    run: RunState,
}

impl World {
    pub fn new(rng: SplitMix) -> Arc<Self> {
        let things = Things { rng, failing_permille: 0, vms: BTreeMap::new(), images: BTreeSet::new() };
        Arc::new(Self(Mutex::new(things)))
    }

    fn things(&self) -> MutexGuard<'_, Things> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// As ports of a node's process.
    pub fn engines(self: &Arc<Self>) -> Engines {
        Engines { driver: self.clone(), hypervisor: self.clone(), images: self.clone() }
    }

    /// What runs now.
    pub fn running(&self) -> Vec<(VmId, Epoch)> {
        let things = self.things();
        let runs = things.vms.iter().filter(|(_, instance)| instance.run == RunState::Running);
        runs.map(|(vm, instance)| (*vm, instance.epoch)).collect()
    }

    /// So many of a thousand ops fail from now on, half of them after having taken effect.
    pub fn set_failing(&self, permille: u64) {
        self.things().failing_permille = permille;
    }

    /// Guests end with their server; what is on its disk stays.
    pub fn power_off(&self) {
        for instance in self.things().vms.values_mut() {
            if instance.run == RunState::Running {
                instance.run = RunState::Crashed;
            }
        }
    }

    /// How long the next op takes, and whether it fails before, or after, its effect.
    fn fate(&self, most_ms: u64) -> (Duration, bool, bool) {
        let mut things = self.things();
        let took = Duration::from_millis(things.rng.between(1, most_ms));
        let permille = things.failing_permille;
        let fails = things.rng.chance(permille);
        let before = things.rng.chance(500);
        (took, fails && before, fails && !before)
    }

    fn effect(&self, op: &Op) -> Result<Vec<Fact>, DriverError> {
        let mut things = self.things();
        match op {
            Op::EnsureImage(order) => {
                things.images.insert(order.image);
                Ok(vec![Fact::ImageHeld { image: order.image }])
            }
            Op::RemoveImage { image } => {
                things.images.remove(image);
                Ok(vec![Fact::ImageGone { image: *image }])
            }
            Op::EnsureVm(order) => {
                fence(&things, order.vm, order.epoch)?;
                let (epoch, generation, reboots) = (order.epoch, order.generation, order.reboots);
                let instance = Instance { epoch, generation, reboots, run: RunState::Running };
                things.vms.insert(order.vm, instance);
                Ok(vec![fact(order.vm, &instance)])
            }
            Op::StopVm { vm, epoch, generation, .. } => {
                fence(&things, *vm, *epoch)?;
                let instance = things.vms.entry(*vm).or_insert(Instance {
                    epoch: *epoch,
                    generation: *generation,
                    reboots: 0,
                    run: RunState::Stopped,
                });
                (instance.run, instance.generation) = (RunState::Stopped, *generation);
                Ok(vec![fact(*vm, instance)])
            }
            Op::RebootVm { vm, epoch, generation, reboots } => {
                fence(&things, *vm, *epoch)?;
                let Some(instance) = things.vms.get_mut(vm) else {
                    return Err(DriverError::Retryable { doing: format!("rebooting {vm}"), why: "it is not here".into() });
                };
                (instance.generation, instance.reboots) = (*generation, *reboots);
                Ok(vec![fact(*vm, instance)])
            }
            Op::RemoveVm { vm, epoch } => {
                if things.vms.get(vm).is_some_and(|instance| instance.epoch <= *epoch) {
                    things.vms.remove(vm);
                }
                Ok(vec![Fact::VmGone { vm: *vm }])
            }
        }
    }
}

fn fence(things: &Things, vm: VmId, epoch: Epoch) -> Result<(), DriverError> {
    match things.vms.get(&vm) {
        Some(instance) if instance.epoch > epoch => Err(DriverError::Fenced {
            doing: format!("changing {vm}"),
            got: epoch.0,
            granted: instance.epoch.0,
        }),
        Some(_) | None => Ok(()),
    }
}

fn fact(vm: VmId, instance: &Instance) -> Fact {
    let Instance { epoch, generation, reboots, run } = *instance;
    Fact::Vm(VmFact { vm, epoch, generation, reboots, run, started_at: None })
}

#[async_trait]
impl Driver for World {
    async fn carry_out(&self, op: &Op) -> Result<Vec<Fact>, DriverError> {
        let failed = || DriverError::Retryable { doing: "carrying an op out".into(), why: "simulated".into() };
        let (took, fails_before, fails_after) = self.fate(400);
        tokio::time::sleep(took).await;
        if fails_before {
            return Err(failed());
        }
        let facts = self.effect(op)?;
        tokio::time::sleep(took / 2).await;
        if fails_after { Err(failed()) } else { Ok(facts) }
    }

    async fn observe(&self) -> Result<Vec<Fact>, DriverError> {
        tokio::time::sleep(Duration::from_millis(3)).await;
        let things = self.things();
        let vms = things.vms.iter().map(|(vm, instance)| fact(*vm, instance));
        Ok(vms.chain(things.images.iter().map(|image| Fact::ImageHeld { image: *image })).collect())
    }

    fn events(&self) -> Option<mpsc::Receiver<Fact>> {
        None
    }
}

#[async_trait]
impl Hypervisor for World {
    async fn console(&self, vm: VmId) -> Result<ConsoleStream, ConsoleError> {
        Err(ConsoleError::NotHere { vm })
    }

    async fn console_log(&self, vm: VmId, _bytes_max: u64) -> Result<Bytes, ConsoleError> {
        Err(ConsoleError::NotHere { vm })
    }

    async fn stats(&self, _vm: VmId) -> Result<VmStats, DriverError> {
        Ok(VmStats::default())
    }
}

#[async_trait]
impl ImageStore for World {
    async fn take(&self, _image: ImageId, _body: ByteStream) -> Result<ImageContent, TakeError> {
        Err(TakeError::BadContent { code: "simulated", why: "no bytes are simulated".into() })
    }

    async fn read_chunk(&self, _digest: Digest, _bytes_max: u64) -> Result<Option<Bytes>, DriverError> {
        Ok(None)
    }
}
