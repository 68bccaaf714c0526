//! The fake passes the suite that the real driver passes.

use std::sync::Arc;

use async_trait::async_trait;
use scp_drivers::{
    Clock, Driver, DriverError, Hypervisor,
    fake::{Engine, Fake, STUBBORN},
    suite::{self, Guest, World},
};
use scp_model::{
    Digest, Epoch, Fact, ImageId, Name, Op, Resources, Timestamp, VmId,
    fact::RunState,
    image::ImageFormat,
    op::{EnsureVm, RootDisk, Seed},
};

#[derive(Default)]
struct FakeWorld {
    engine: Engine,
}

fn clock() -> Clock {
    Arc::new(|| Timestamp(1_000))
}

fn order(vm: VmId, epoch: Epoch, guest: Guest) -> EnsureVm {
    let image = match guest {
        Guest::Obedient => ImageId::from_u128(1),
        Guest::Stubborn => STUBBORN,
    };
    let name = Name::new("guest").expect("a name");
    EnsureVm {
        vm,
        epoch,
        generation: 1,
        name: name.clone(),
        resources: Resources { vcpus: 1, memory_mib: 64, disk_mib: 1 },
        disk: RootDisk { image, format: ImageFormat::Raw, digest: Digest::default(), size_bytes: 1 << 20 },
        seed: Seed { instance_id: "i".into(), hostname: name, ssh_keys: vec![], user_data: vec![] },
        mac: [2, 0, 0, 0, 0, 1],
        reboots: 0,
    }
}

#[async_trait]
impl World for FakeWorld {
    async fn open(&mut self) -> Arc<dyn Hypervisor> {
        Arc::new(Fake::new(&self.engine, clock()))
    }

    fn order(&self, vm: VmId, epoch: Epoch, guest: Guest) -> EnsureVm {
        order(vm, epoch, guest)
    }

    async fn kill(&mut self, vm: VmId) {
        self.engine.crash(vm);
    }

    async fn plant(&mut self, name: &str) {
        self.engine.plant(name);
    }

    async fn is_planted(&mut self, name: &str) -> bool {
        self.engine.is_planted(name)
    }

    fn has_files(&self, vm: VmId) -> bool {
        self.engine.holds(vm)
    }
}

#[tokio::test(start_paused = true)]
async fn the_fake_passes_the_contract_suite() {
    suite::all(&mut FakeWorld::default()).await;
}

#[tokio::test(start_paused = true)]
async fn faults_are_met_in_order_and_guests_run_on() {
    let engine = Engine::default();
    let driver = Fake::new(&engine, clock());
    let vm = VmId::from_u128(1);
    let op = Op::EnsureVm(Box::new(order(vm, Epoch(1), Guest::Obedient)));
    let fault = DriverError::retryable("testing", "a fault");
    engine.faults(|faults| faults.fail_next.push_back(fault.clone()));
    assert_eq!(driver.carry_out(&op).await, Err(fault));
    assert!(driver.carry_out(&op).await.is_ok());
    engine.faults(|faults| faults.engine_down = true);
    assert!(driver.observe().await.is_err());
    assert_eq!(engine.running().get(&vm), Some(&Epoch(1)));
    engine.faults(|faults| *faults = Default::default());
    engine.lose_power();
    let facts = driver.observe().await.expect("the engine is back");
    assert!(matches!(facts.as_slice(), [Fact::Vm(fact)] if fact.run == RunState::Crashed), "{facts:?}");
    assert_eq!(engine.starts(vm), 1);
}
