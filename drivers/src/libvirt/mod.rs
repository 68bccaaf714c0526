//! VMs through libvirt.
//!
//! ```text
//!  Op ─▶ vm.rs (what to do next) ─▶ files.rs (overlay, seed)
//!                                └▶ link.rs (threads, queue) ─▶ domain.rs (one step) ─▶ libvirtd ─▶ QEMU
//!  Fact ◀─ domain.rs (state and record, read back) ◀─ events.rs (something changed)
//! ```
//!
//! # Why domains are persistent and never start by themselves
//! A transient domain vanishes when its guest ends, and with it how it ended and which epoch it was:
//! after a restart of `scpd` a crash could not be told from a removal. So domains are defined. They are
//! never marked autostart: after a power cut the server's libvirt has their definitions and starts none;
//! `scpd` reads them, reports them as crashed, and the state decides what runs where, by epoch.
//!
//! # Guarantees
//! - What runs goes on running when `scpd` ends; a new `scpd` finds it by its record and touches nothing.
//! - Two instances of one VM never run under one libvirtd: the VM's id is libvirt's UUID.
//! - A domain without a readable record of ours is reported as an orphan and never touched.
//! - Removal ends with the definition: after a crash in the middle the record is still there to be
//!   removed again.
//!
//! # Failure paths
//! - libvirtd restarts: calls fail as retryable, the connection is opened anew, everything is looked at
//!   again. Guests are not affected.
//! - `scpd` dies between start and the record's "running": the guest runs and is adopted; only its start
//!   time is missing.
//! - A second op on the same VM waits for the first.

mod domain;
mod events;
mod files;
mod link;
mod vm;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use scp_model::{
    Fact, Op, VmId,
    node::{Compute, Orphan},
};
use tokio::sync::mpsc;

use crate::{
    Driver, DriverError, Hypervisor, HypervisorConfig, VmStats,
    console::{self, ConsoleError, ConsoleStream, Consoles},
    domain_xml::{Server, domain_name},
    probe::Accelerator,
};
use events::Wake;
use files::Files;
use link::Link;
use vm::Target;

/// Hints wait here; one that does not fit is lost, and found by the next observation.
const EVENTS_MAX: usize = 256;
/// Between two attempts to reach a libvirtd that went away.
const RECONNECT_PAUSE: Duration = Duration::from_secs(1);

/// The hypervisor of a server, through libvirt.
pub struct Libvirt {
    link: Arc<Link>,
    files: Files,
    config: HypervisorConfig,
    server: Server,
    consoles: Consoles,
    events: Mutex<Option<mpsc::Receiver<Fact>>>,
    /// One lock a VM with an op under way: the driver keeps the order even if its caller does not.
    turns: Mutex<BTreeMap<VmId, Weak<tokio::sync::Mutex<()>>>>,
}

impl Libvirt {
    /// Connects to the running libvirt daemon.
    pub async fn connect(config: HypervisorConfig, compute: &Compute) -> Result<Self, DriverError> {
        let doing = "connecting to libvirt";
        let accelerator = match compute {
            Compute::Kvm => Accelerator::Kvm,
            Compute::Tcg => Accelerator::Tcg,
            Compute::None { .. } | Compute::Off => {
                return Err(DriverError::terminal(doing, compute.why_not().unwrap_or_default()));
            }
        };
        let files = Files::new(&config);
        let prepared = files.clone();
        let cache = tokio::task::spawn_blocking(move || prepared.prepare_server()).await;
        let cache = cache.expect("preparing directories does not panic")?;
        let (wakes, woken) = mpsc::channel(EVENTS_MAX);
        let link = Arc::new(Link::start(config.uri.clone(), wakes)?);
        link.run(doing, |connect| connect.get_hyp_version()).await?;
        let (facts, events) = mpsc::channel(EVENTS_MAX);
        tokio::spawn(tell(Arc::downgrade(&link), woken, facts));
        Ok(Self {
            link,
            files,
            config,
            server: Server { accelerator, cache },
            consoles: Consoles::default(),
            events: Mutex::new(Some(events)),
            turns: Mutex::default(),
        })
    }

    /// Waits until no other op on this VM is under way.
    async fn turn(&self, vm: VmId) -> tokio::sync::OwnedMutexGuard<()> {
        let lock = {
            let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
            turns.retain(|_, lock| lock.strong_count() > 0);
            turns.get(&vm).and_then(Weak::upgrade).unwrap_or_else(|| {
                let lock = Arc::default();
                turns.insert(vm, Arc::downgrade(&lock));
                lock
            })
        };
        lock.lock_owned().await
    }

    fn is_in_hand(&self, vm: VmId) -> bool {
        let turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        turns.get(&vm).is_some_and(|lock| lock.strong_count() > 0)
    }

    /// Files of VMs that libvirt knows nothing of, unless an op on them is under way.
    async fn leftovers(&self, doing: &str) -> Result<Vec<Fact>, DriverError> {
        let files = self.files.clone();
        let vms = tokio::task::spawn_blocking(move || files.vms()).await.expect("listing does not panic");
        let mut facts = Vec::new();
        for vm in vms.map_err(|error| files::disk_error(doing, &error))? {
            let known = self.link.run(doing, move |connect| domain::find(connect, vm)).await?.is_some();
            if !known && !self.is_in_hand(vm) {
                let detail = "files of a VM that libvirt does not know".into();
                facts.push(Fact::Orphan(Orphan { name: format!("files of {}", domain_name(vm)), detail }));
            }
        }
        Ok(facts)
    }
}

/// Turns libvirt's hints into facts until the driver is dropped.
async fn tell(link: Weak<Link>, mut woken: mpsc::Receiver<Wake>, facts: mpsc::Sender<Fact>) {
    let doing = "following libvirt's events";
    while let Some(wake) = woken.recv().await {
        let told = match wake {
            Wake::Domain(vm) => match link.upgrade() {
                Some(link) => link
                    .run(doing, move |connect| domain::fact_of(connect, vm))
                    .await
                    .map(|fact| vec![fact.unwrap_or(Fact::VmGone { vm })]),
                None => return,
            },
            Wake::Closed => look_again(&link, doing).await,
        };
        match told {
            // The receiver may be gone, or full: it is a hint.
            Ok(told) => told.into_iter().for_each(|fact| drop(facts.try_send(fact))),
            Err(error) => tracing::debug!(%error, "a hint of libvirt came to nothing"),
        }
    }
}

/// After libvirtd went away: everything, as soon as it is back.
async fn look_again(link: &Weak<Link>, doing: &str) -> Result<Vec<Fact>, DriverError> {
    tracing::warn!("the connection to libvirt ended; guests go on running");
    loop {
        let Some(link) = link.upgrade() else { return Ok(Vec::new()) };
        match link.run(doing, domain::facts).await {
            Ok(facts) => {
                tracing::info!("libvirt is back");
                return Ok(facts);
            }
            Err(error) => tracing::debug!(%error, "libvirt is not back yet"),
        }
        drop(link);
        tokio::time::sleep(RECONNECT_PAUSE).await;
    }
}

#[async_trait]
impl Driver for Libvirt {
    async fn carry_out(&self, op: &Op) -> Result<Vec<Fact>, DriverError> {
        match op {
            Op::EnsureVm(order) => {
                let _turn = self.turn(order.vm).await;
                self.ensure(order).await
            }
            Op::StopVm { vm, epoch, generation, grace_ms } => {
                let _turn = self.turn(*vm).await;
                let target = Target { vm: *vm, epoch: *epoch, generation: *generation };
                self.stop(target, *grace_ms).await
            }
            Op::RebootVm { vm, epoch, generation, reboots } => {
                let _turn = self.turn(*vm).await;
                let target = Target { vm: *vm, epoch: *epoch, generation: *generation };
                self.reboot(target, *reboots).await
            }
            Op::RemoveVm { vm, epoch } => {
                let _turn = self.turn(*vm).await;
                self.remove(*vm, *epoch).await
            }
            Op::EnsureImage(_) | Op::RemoveImage { .. } => {
                Err(DriverError::terminal("carrying out a VM op", "this op is about an image"))
            }
        }
    }

    async fn observe(&self) -> Result<Vec<Fact>, DriverError> {
        let doing = "looking at the VMs";
        let mut facts = self.link.run(doing, domain::facts).await?;
        facts.extend(self.leftovers(doing).await?);
        Ok(facts)
    }

    fn events(&self) -> Option<mpsc::Receiver<Fact>> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

#[async_trait]
impl Hypervisor for Libvirt {
    async fn console(&self, vm: VmId) -> Result<ConsoleStream, ConsoleError> {
        let failed = |error: DriverError| ConsoleError::Failed { vm, why: error.to_string() };
        let found = self.link.run("opening a console", move |connect| domain::find(connect, vm)).await;
        match found.map_err(failed)? {
            Some(found) if found.record.is_ok() && found.state.is_active() => {
                self.consoles.attach(vm, &self.files.console_socket(vm)).await
            }
            Some(found) if found.record.is_ok() => Err(ConsoleError::NotRunning { vm }),
            Some(_) | None => Err(ConsoleError::NotHere { vm }),
        }
    }

    async fn console_log(&self, vm: VmId, bytes_max: u64) -> Result<Bytes, ConsoleError> {
        let failed = |why: String| ConsoleError::Failed { vm, why };
        let files = self.files.clone();
        let read = tokio::task::spawn_blocking(move || {
            // The newest placement's.
            let Some(epoch) = files.epochs(vm)?.into_iter().max() else { return Ok(None) };
            console::log_tail(&files.console_log(vm, epoch), bytes_max).map(Some)
        });
        let read: std::io::Result<Option<Bytes>> = read.await.expect("reading a log does not panic");
        read.map_err(|error| failed(error.to_string()))?.ok_or(ConsoleError::NotHere { vm })
    }

    async fn stats(&self, vm: VmId) -> Result<VmStats, DriverError> {
        let doing = format!("reading the usage of VM {vm}");
        self.link.run(&doing, move |connect| domain::stats(connect, vm)).await
    }
}
