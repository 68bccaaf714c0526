//! The real driver on a real libvirtd, QEMU and guest. Needs root and Debian's libvirt packages; fails
//! without them.
#![cfg(feature = "libvirt")]

mod daemons;
mod support;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use bytes::Bytes;
use daemons::{Daemons, guest_disk};
use scp_drivers::{
    ChunkSource, Clock, Driver, DriverError, Hypervisor, HypervisorConfig, Images,
    domain_xml::domain_name,
    libvirt::Libvirt,
    probe::Accelerator,
    suite::{self, Guest, World},
};
use scp_model::{
    Digest, Epoch, Fact, ImageId, Name, NodeId, Op, Resources, Timestamp, VmId,
    fact::RunState,
    image::ImageContent,
    node::Compute,
    op::{EnsureVm, RootDisk, Seed},
};
use support::{in_server, run};

/// There is one node only: nothing is fetched.
struct NoPeers;

#[async_trait]
impl ChunkSource for NoPeers {
    async fn fetch(&self, from: NodeId, _: Digest, _: u64) -> Result<Bytes, DriverError> {
        Err(DriverError::retryable("fetching", format!("{from} does not exist")))
    }
}

struct RealWorld {
    daemons: Daemons,
    dir: tempfile::TempDir,
    bases: PathBuf,
    obedient: ImageContent,
    stubborn: ImageContent,
    clock: Clock,
}

/// A clock that always moves: what was started later has a later time.
fn clock() -> Clock {
    let ticks = AtomicU64::new(1_000);
    Arc::new(move || Timestamp(ticks.fetch_add(1, Ordering::Relaxed)))
}

async fn take(images: &Images, id: u128, disk: &Path) -> ImageContent {
    let bytes = Bytes::from(fs::read(disk).expect("the disk was just made"));
    let body = futures::stream::iter([Ok(bytes)]);
    images.take(ImageId::from_u128(id), body).await.expect("a boot sector is a raw disk")
}

impl RealWorld {
    async fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("scp-libvirt-").tempdir().expect("a directory");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o711);
        fs::set_permissions(dir.path(), mode).expect("it is ours");
        let daemons = Daemons::start(&dir.path().join("server"));
        let images = Images::open(dir.path().join("images"), Arc::new(NoPeers)).await.expect("opens");
        let obedient = take(&images, 1, &guest_disk(dir.path(), true)).await;
        let stubborn = take(&images, 2, &guest_disk(dir.path(), false)).await;
        Self { daemons, bases: images.bases(), obedient, stubborn, clock: clock(), dir }
    }

    fn vms(&self) -> PathBuf {
        self.dir.path().join("data/vms")
    }

    async fn connect(&self) -> Libvirt {
        let config = HypervisorConfig {
            uri: scp_drivers::hypervisor::LIBVIRT_URI.into(),
            dir: self.dir.path().join("data"),
            run_dir: "/run/scp".into(),
            bases: self.bases.clone(),
            accelerator: Some(Accelerator::Tcg),
            reboot_grace_ms: 60_000,
            clock: self.clock.clone(),
        };
        Libvirt::connect(config, &Compute::Tcg).await.expect("libvirtd runs")
    }

    fn pid(vm: VmId) -> i32 {
        let file = format!("/run/libvirt/qemu/{}.pid", domain_name(vm));
        fs::read_to_string(file).expect("the VM runs").trim().parse().expect("a number")
    }
}

#[async_trait]
impl World for RealWorld {
    async fn open(&mut self) -> Arc<dyn Hypervisor> {
        Arc::new(self.connect().await)
    }

    fn order(&self, vm: VmId, epoch: Epoch, guest: Guest) -> EnsureVm {
        let (image, content) = match guest {
            Guest::Obedient => (1, &self.obedient),
            Guest::Stubborn => (2, &self.stubborn),
        };
        let name = Name::new("guest").expect("a name");
        EnsureVm {
            vm,
            epoch,
            generation: 1,
            name: name.clone(),
            resources: Resources { vcpus: 1, memory_mib: 32, disk_mib: 1 },
            disk: RootDisk {
                image: ImageId::from_u128(image),
                format: content.format,
                digest: content.digest,
                size_bytes: 2 << 20,
            },
            seed: Seed { instance_id: "i-1".into(), hostname: name, ssh_keys: vec![], user_data: vec![] },
            mac: [0x52, 0x54, 0, 0, 0, 1],
            reboots: 0,
        }
    }

    async fn kill(&mut self, vm: VmId) {
        run("kill", &["-9", &Self::pid(vm).to_string()]);
    }

    async fn plant(&mut self, name: &str) {
        let uuid = name.strip_prefix("scp-").unwrap_or("00000000-0000-0000-0000-00000000f0f0");
        let xml = format!(
            "<domain type='qemu'><name>{name}</name><uuid>{uuid}</uuid><memory unit='MiB'>32</memory>\
             <os><type arch='x86_64' machine='q35'>hvm</type></os></domain>"
        );
        let path = self.dir.path().join("planted.xml");
        fs::write(&path, xml).expect("writes");
        run("virsh", &["define", path.to_str().expect("UTF-8")]);
    }

    async fn is_planted(&mut self, name: &str) -> bool {
        run("virsh", &["list", "--all", "--name"]).lines().any(|line| line == name)
    }

    fn has_files(&self, vm: VmId) -> bool {
        self.vms().join(vm.to_string()).exists()
    }
}

fn on_a_server<F: Future<Output = ()>>(test: &str, body: impl FnOnce() -> F) {
    in_server(test, || {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime starts");
        runtime.block_on(body());
    });
}

#[test]
fn the_real_driver_passes_the_contract_suite() {
    on_a_server("the_real_driver_passes_the_contract_suite", || async {
        suite::all(&mut RealWorld::new().await).await;
    });
}

async fn fact(driver: &Libvirt, vm: VmId) -> Option<scp_model::fact::VmFact> {
    driver.observe().await.expect("libvirtd runs").into_iter().find_map(|fact| match fact {
        Fact::Vm(fact) if fact.vm == vm => Some(fact),
        _ => None,
    })
}

#[test]
fn guests_run_on_while_libvirtd_restarts_and_are_found_again() {
    on_a_server("guests_run_on_while_libvirtd_restarts_and_are_found_again", || async {
        let mut world = RealWorld::new().await;
        let driver = world.connect().await;
        let mut events = driver.events().expect("first taker");
        let vm = VmId::from_u128(0x201);
        let order = world.order(vm, Epoch(1), Guest::Obedient);
        driver.carry_out(&Op::EnsureVm(Box::new(order))).await.expect("starts");
        let (before, pid) = (fact(&driver, vm).await, RealWorld::pid(vm));
        while events.try_recv().is_ok() {}
        world.daemons.restart_libvirtd();
        // The driver connects again by itself and tells what it finds.
        loop {
            match events.recv().await.expect("the driver lives") {
                Fact::Vm(fact) if fact.vm == vm => break assert_eq!(fact.run, RunState::Running),
                _ => {}
            }
        }
        assert_eq!(fact(&driver, vm).await, before);
        assert_eq!(RealWorld::pid(vm), pid);
        driver.carry_out(&Op::RemoveVm { vm, epoch: Epoch(1) }).await.expect("is removed");
    });
}

#[test]
fn files_that_libvirt_does_not_know_fence_and_are_listed_until_removed() {
    on_a_server("files_that_libvirt_does_not_know_fence_and_are_listed_until_removed", || async {
        let world = RealWorld::new().await;
        let driver = world.connect().await;
        let vm = VmId::from_u128(0x202);
        fs::create_dir_all(world.vms().join(vm.to_string()).join("7")).expect("makes a directory");
        let facts = driver.observe().await.expect("libvirtd runs");
        assert!(matches!(facts.as_slice(), [Fact::Orphan(orphan)] if orphan.name.contains(&vm.to_string())));
        let order = world.order(vm, Epoch(6), Guest::Obedient);
        let refused = driver.carry_out(&Op::EnsureVm(Box::new(order))).await;
        assert!(matches!(refused, Err(DriverError::Fenced { got: 6, granted: 7, .. })), "{refused:?}");
        driver.carry_out(&Op::RemoveVm { vm, epoch: Epoch(7) }).await.expect("is removed");
        assert_eq!(driver.observe().await, Ok(vec![]));
    });
}

#[test]
fn a_vm_survives_the_removal_of_its_image_and_waits_for_one_that_is_missing() {
    on_a_server("a_vm_survives_the_removal_of_its_image_and_waits_for_one_that_is_missing", || async {
        let world = RealWorld::new().await;
        let driver = world.connect().await;
        let vm = VmId::from_u128(0x203);
        let order = world.order(vm, Epoch(1), Guest::Stubborn);
        driver.carry_out(&Op::EnsureVm(Box::new(order.clone()))).await.expect("starts");
        let base = world.bases.join(format!("{}.img", order.disk.digest));
        let owner = std::os::unix::fs::MetadataExt::uid(&fs::metadata(&base).expect("it is there"));
        assert_eq!(owner, 0, "what many VMs stand on is not given to QEMU's user");
        fs::remove_file(base).expect("it is there");
        let stop = Op::StopVm { vm, epoch: Epoch(1), generation: 1, grace_ms: 0 };
        driver.carry_out(&stop).await.expect("stops");
        driver.carry_out(&Op::EnsureVm(Box::new(order.clone()))).await.expect("starts from its own link");
        let missing = EnsureVm { vm: VmId::from_u128(0x204), ..order };
        let refused = driver.carry_out(&Op::EnsureVm(Box::new(missing))).await;
        assert!(
            matches!(&refused, Err(DriverError::Retryable { why, .. }) if why.contains("not on this node yet"))
        );
        driver.carry_out(&Op::RemoveVm { vm, epoch: Epoch(1) }).await.expect("is removed");
    });
}

#[test]
fn a_paused_guest_goes_on_and_a_power_cut_starts_nothing_by_itself() {
    on_a_server("a_paused_guest_goes_on_and_a_power_cut_starts_nothing_by_itself", || async {
        let mut world = RealWorld::new().await;
        let driver = world.connect().await;
        let vm = VmId::from_u128(0x205);
        let ensure = Op::EnsureVm(Box::new(world.order(vm, Epoch(1), Guest::Obedient)));
        driver.carry_out(&ensure).await.expect("starts");
        let (started, pid) = (fact(&driver, vm).await.expect("runs"), RealWorld::pid(vm));
        run("virsh", &["suspend", &vm.to_string()]);
        assert_eq!(fact(&driver, vm).await.map(|fact| fact.run), Some(RunState::Paused));
        assert_eq!(driver.carry_out(&ensure).await, Ok(vec![Fact::Vm(started)]), "it goes on where it was");
        assert_eq!(RealWorld::pid(vm), pid);
        // A paused guest cannot obey: it is not waited for.
        run("virsh", &["suspend", &vm.to_string()]);
        let stop = Op::StopVm { vm, epoch: Epoch(1), generation: 1, grace_ms: u64::MAX };
        driver.carry_out(&stop).await.expect("stops at once");
        driver.carry_out(&ensure).await.expect("starts");
        drop(driver);
        world.daemons.cut_power(RealWorld::pid(vm));
        let driver = world.connect().await;
        let found = fact(&driver, vm).await.expect("its definition is there");
        assert_eq!((found.run, found.epoch, found.started_at), (RunState::Crashed, Epoch(1), None));
        let facts = driver.carry_out(&ensure).await.expect("starts when it is ordered");
        assert!(matches!(facts.as_slice(), [Fact::Vm(fact)] if fact.run == RunState::Running), "{facts:?}");
        driver.carry_out(&Op::RemoveVm { vm, epoch: Epoch(1) }).await.expect("is removed");
    });
}
