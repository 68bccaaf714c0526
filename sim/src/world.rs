//! A simulated server's hypervisor and image store: what they hold outlives the process that drives them.
//!
//! The hypervisor is the drivers' own fake, which passes the same suite as the real one. Ops take time and
//! may fail, before or after they took effect; a process that is killed leaves them wherever they were.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use scp_api::cluster::ByteStream;
use scp_drivers::{
    Clock, Driver, DriverError,
    fake::{Engine, Fake},
    images::TakeError,
};
use scp_model::{Digest, Epoch, Fact, ImageId, Op, VmId, image::ImageContent, op::OpSubject};
use scp_node::chunks::{Engines, ImageStore};
use tokio::sync::mpsc;

use crate::entropy::SplitMix;

/// The longest that an op takes, before its effect and once more after it.
const OP_MS_MAX: u64 = 400;

/// The engines of one server.
pub struct World {
    pub engine: Engine,
    things: Mutex<Things>,
}

struct Things {
    rng: SplitMix,
    failing_permille: u64,
    images: BTreeSet<ImageId>,
    /// Those that were ever here.
    held: BTreeSet<ImageId>,
}

impl World {
    pub fn new(rng: SplitMix) -> Arc<Self> {
        let (images, held) = (BTreeSet::new(), BTreeSet::new());
        let things = Things { rng, failing_permille: 0, images, held };
        Arc::new(Self { engine: Engine::default(), things: Mutex::new(things) })
    }

    fn things(&self) -> MutexGuard<'_, Things> {
        self.things.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// As ports of a node's process.
    pub fn engines(self: &Arc<Self>, clock: Clock) -> Engines {
        let hypervisor = Arc::new(Fake::new(&self.engine, clock));
        let driver = Hands { world: self.clone(), hypervisor: hypervisor.clone() };
        Engines { driver: Arc::new(driver), hypervisor, images: self.clone() }
    }

    /// The image is here from now on, uploaded.
    pub fn hold(&self, image: ImageId) {
        let mut things = self.things();
        things.images.insert(image);
        things.held.insert(image);
    }

    pub fn ever_held_image(&self, image: ImageId) -> bool {
        self.things().held.contains(&image)
    }

    pub fn holds_image(&self, image: ImageId) -> bool {
        self.things().images.contains(&image)
    }

    /// What runs now.
    pub fn running(&self) -> Vec<(VmId, Epoch)> {
        self.engine.running().into_iter().collect()
    }

    /// So many of a thousand ops fail from now on, half of them after having taken effect.
    pub fn set_failing(&self, permille: u64) {
        self.things().failing_permille = permille;
    }

    /// Guests end with their server; what is on its disk stays.
    pub fn power_off(&self) {
        self.engine.lose_power();
    }

    /// How long the next op takes, and whether it fails before, or after, its effect.
    fn fate(&self) -> (Duration, bool, bool) {
        let mut things = self.things();
        let took = Duration::from_millis(things.rng.between(1, OP_MS_MAX));
        let permille = things.failing_permille;
        let fails = things.rng.chance(permille);
        let before = things.rng.chance(500);
        (took, fails && before, fails && !before)
    }

    /// One running guest ends by itself, in order or not.
    pub fn end_one(&self, rng: &mut SplitMix) -> Option<VmId> {
        let running = self.running();
        if running.is_empty() {
            return None;
        }
        let (vm, _) = *rng.pick(&running);
        if rng.chance(500) {
            self.engine.crash(vm)
        } else {
            self.engine.shut_down(vm)
        }
        Some(vm)
    }

    fn on_image(&self, op: &Op) -> Vec<Fact> {
        let mut things = self.things();
        match op {
            Op::EnsureImage(order) => {
                things.images.insert(order.image);
                things.held.insert(order.image);
                vec![Fact::ImageHeld { image: order.image }]
            }
            Op::RemoveImage { image } => {
                things.images.remove(image);
                vec![Fact::ImageGone { image: *image }]
            }
            Op::EnsureVm(_) | Op::StopVm { .. } | Op::RebootVm { .. } | Op::RemoveVm { .. } => {
                unreachable!("an op on a VM goes to the hypervisor")
            }
        }
    }
}

/// One process's driver of the world.
struct Hands {
    world: Arc<World>,
    hypervisor: Arc<Fake>,
}

#[async_trait]
impl Driver for Hands {
    async fn carry_out(&self, op: &Op) -> Result<Vec<Fact>, DriverError> {
        let failed =
            || DriverError::Retryable { doing: "carrying an op out".into(), why: "simulated".into() };
        let (took, fails_before, fails_after) = self.world.fate();
        tokio::time::sleep(took).await;
        if fails_before {
            return Err(failed());
        }
        let facts = match op.subject() {
            OpSubject::Vm(_) => self.hypervisor.carry_out(op).await?,
            OpSubject::Image(_) => self.world.on_image(op),
        };
        tokio::time::sleep(took / 2).await;
        if fails_after { Err(failed()) } else { Ok(facts) }
    }

    async fn observe(&self) -> Result<Vec<Fact>, DriverError> {
        tokio::time::sleep(Duration::from_millis(3)).await;
        let mut facts = self.hypervisor.observe().await?;
        facts.extend(self.world.things().images.iter().map(|image| Fact::ImageHeld { image: *image }));
        Ok(facts)
    }

    fn events(&self) -> Option<mpsc::Receiver<Fact>> {
        self.hypervisor.events()
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
