//! A hypervisor that was not there when the server started, and is looked for until it is.
//!
//! ```text
//!            every LOOK_AGAIN, and with VMs at each call
//!   absent ──────────────────────────────────────────────▶ found: all calls go to it
//!   no VMs: runs none, holds none, says why
//!   VMs:    every call is retryable, nothing is said about what runs
//! ```
//! What the server can do changes with it, for who follows the receiver that [`open`](super::open) gave.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::BoxFuture;
use scp_model::{Fact, Op, VmId, node::Compute};
use tokio::sync::{OnceCell, mpsc, watch};

use super::{Absent, Opened};
use crate::{
    Driver, DriverError, Hypervisor, VmStats,
    console::{ConsoleError, ConsoleStream},
};

/// As many as libvirt's own driver keeps.
const EVENTS_MAX: usize = 256;
/// Who has just installed libvirt waits no longer; a server that never gets one does not notice it.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// One attempt.
pub(super) type Open = Box<dyn Fn() -> BoxFuture<'static, Result<Opened, String>> + Send + Sync>;

/// What the server holds of earlier times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Held {
    NoVms,
    /// What runs is unknown until the hypervisor answers, not nothing.
    Vms,
}

pub(super) struct Late {
    open: Open,
    held: Held,
    compute: watch::Sender<Compute>,
    found: OnceCell<Arc<dyn Hypervisor>>,
    told: mpsc::Sender<Fact>,
    events: Mutex<Option<mpsc::Receiver<Fact>>>,
}

impl Late {
    /// `reason`: why the first attempt failed.
    pub(super) fn begin(open: Open, held: Held, reason: String) -> (Arc<Self>, watch::Receiver<Compute>) {
        let (told, events) = mpsc::channel(EVENTS_MAX);
        let (compute, follow) = watch::channel(Compute::None { reason });
        let events = Mutex::new(Some(events));
        let late = Arc::new(Self { open, held, compute, found: OnceCell::new(), told, events });
        let looking = Arc::downgrade(&late);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(LOOK_AGAIN).await;
                // Who holds none of it any more needs no hypervisor.
                let Some(late) = looking.upgrade() else { return };
                match late.look().await {
                    Ok(_) => return,
                    Err(reason) => tracing::debug!(%reason, "there is no hypervisor yet"),
                }
            }
        });
        (late, follow)
    }

    /// The hypervisor, or why there is none. Attempts do not overlap.
    async fn look(&self) -> Result<&Arc<dyn Hypervisor>, String> {
        let attempt = async || {
            let opened = (self.open)().await;
            let (driver, compute) = opened.inspect_err(|reason| {
                self.tell(Compute::None { reason: reason.clone() });
            })?;
            tracing::info!(?compute, "the hypervisor of this server is there now");
            if let Some(mut events) = driver.events() {
                let told = self.told.clone();
                tokio::spawn(async move {
                    while let Some(fact) = events.recv().await {
                        // A hint: where there is no room it is lost.
                        let _ = told.try_send(fact);
                    }
                });
            }
            self.tell(compute);
            Ok(driver)
        };
        self.found.get_or_try_init(attempt).await
    }

    /// Wakes those who follow only if it is news.
    fn tell(&self, compute: Compute) {
        self.compute.send_if_modified(|told| {
            let news = *told != compute;
            *told = compute;
            news
        });
    }

    async fn now(&self) -> Result<Arc<dyn Hypervisor>, DriverError> {
        match (self.found.get(), self.held) {
            (Some(found), _) => Ok(found.clone()),
            (None, Held::NoVms) => {
                let reason = self.compute.borrow().why_not().unwrap_or_default().into();
                Ok(Arc::new(Absent { reason }))
            }
            (None, Held::Vms) => {
                let found = self.look().await.cloned();
                found.map_err(|reason| DriverError::retryable("reaching the hypervisor", reason))
            }
        }
    }
}

#[async_trait]
impl Driver for Late {
    async fn carry_out(&self, op: &Op) -> Result<Vec<Fact>, DriverError> {
        self.now().await?.carry_out(op).await
    }

    async fn observe(&self) -> Result<Vec<Fact>, DriverError> {
        self.now().await?.observe().await
    }

    fn events(&self) -> Option<mpsc::Receiver<Fact>> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

#[async_trait]
impl Hypervisor for Late {
    async fn console(&self, vm: VmId) -> Result<ConsoleStream, ConsoleError> {
        let found = self.now().await;
        found.map_err(|error| ConsoleError::Failed { vm, why: error.to_string() })?.console(vm).await
    }

    async fn console_log(&self, vm: VmId, bytes_max: u64) -> Result<Bytes, ConsoleError> {
        let found = self.now().await;
        let found = found.map_err(|error| ConsoleError::Failed { vm, why: error.to_string() })?;
        found.console_log(vm, bytes_max).await
    }

    async fn stats(&self, vm: VmId) -> Result<VmStats, DriverError> {
        self.now().await?.stats(vm).await
    }
}

#[cfg(all(test, feature = "fake"))]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

    use scp_model::{
        Digest, Epoch, ImageId, Name, Resources, Timestamp,
        image::ImageFormat,
        op::{EnsureVm, RootDisk, Seed},
    };

    use super::*;
    use crate::fake::{Engine, Fake};

    /// A server on which libvirt can be installed.
    #[derive(Default)]
    struct Scene {
        engine: Engine,
        installed: AtomicBool,
        attempts: AtomicU64,
    }

    impl Scene {
        fn begin(self: &Arc<Self>, held: Held) -> (Arc<Late>, watch::Receiver<Compute>) {
            let scene = self.clone();
            let open: Open = Box::new(move || {
                scene.attempts.fetch_add(1, Ordering::SeqCst);
                let opened = match scene.installed.load(Ordering::SeqCst) {
                    true => {
                        let driver = Fake::new(&scene.engine, Arc::new(|| Timestamp(0)));
                        Ok((Arc::new(driver) as Arc<dyn Hypervisor>, Compute::Tcg))
                    }
                    false => Err("libvirtd does not answer".to_owned()),
                };
                Box::pin(std::future::ready(opened))
            });
            Late::begin(open, held, "not installed".into())
        }

        fn attempts(&self) -> u64 {
            self.attempts.load(Ordering::SeqCst)
        }
    }

    fn order(vm: VmId) -> EnsureVm {
        let (image, name) = (ImageId::from_u128(1), Name::new("guest").expect("a name"));
        EnsureVm {
            vm,
            epoch: Epoch(1),
            generation: 1,
            name: name.clone(),
            resources: Resources { vcpus: 1, memory_mib: 64, disk_mib: 1 },
            disk: RootDisk {
                image,
                format: ImageFormat::Raw,
                digest: Digest::default(),
                size_bytes: 1 << 20,
            },
            seed: Seed { instance_id: "i".into(), hostname: name, ssh_keys: vec![], user_data: vec![] },
            mac: [2, 0, 0, 0, 0, 1],
            reboots: 0,
        }
    }

    fn none(reason: &str) -> Compute {
        Compute::None { reason: reason.into() }
    }

    #[tokio::test(start_paused = true)]
    async fn a_hypervisor_that_appears_is_found_without_a_restart() {
        let scene = Arc::new(Scene::default());
        let (late, mut compute) = scene.begin(Held::NoVms);
        assert_eq!(*compute.borrow_and_update(), none("not installed"));
        assert_eq!(late.observe().await, Ok(vec![]), "it runs nothing");
        let remove = Op::RemoveVm { vm: VmId::from_u128(1), epoch: Epoch(1) };
        let refused = late.carry_out(&remove).await;
        assert!(matches!(refused, Err(DriverError::Terminal { .. })), "{refused:?}");
        assert_eq!(scene.attempts(), 0, "calls do not look for it");

        compute.changed().await.expect("it is looked for");
        assert_eq!(*compute.borrow_and_update(), none("libvirtd does not answer"), "the reason of now");
        tokio::time::sleep(5 * LOOK_AGAIN).await;
        assert!((5..=6).contains(&scene.attempts()), "{} in six periods", scene.attempts());
        assert!(!compute.has_changed().expect("it is looked for"), "the same reason is no news");

        scene.installed.store(true, Ordering::SeqCst);
        let asked_at = tokio::time::Instant::now();
        compute.changed().await.expect("it is looked for");
        assert!(asked_at.elapsed() <= LOOK_AGAIN);
        assert_eq!(*compute.borrow_and_update(), Compute::Tcg);
        let gone = late.carry_out(&remove).await;
        assert!(gone.is_ok(), "it can look for itself that there is none: {gone:?}");
        let attempts = scene.attempts();
        tokio::time::sleep(5 * LOOK_AGAIN).await;
        assert_eq!(scene.attempts(), attempts, "what was found is not looked for");
    }

    #[tokio::test(start_paused = true)]
    async fn where_vms_were_every_call_looks_for_it_and_says_nothing_until_it_is_there() {
        let scene = Arc::new(Scene::default());
        let (late, compute) = scene.begin(Held::Vms);
        let observed = late.observe().await;
        assert!(matches!(observed, Err(DriverError::Retryable { .. })), "{observed:?}");
        assert_eq!(scene.attempts(), 1);
        scene.installed.store(true, Ordering::SeqCst);
        assert_eq!(late.observe().await, Ok(vec![]));
        assert_eq!(*compute.borrow(), Compute::Tcg);
    }

    #[tokio::test(start_paused = true)]
    async fn what_it_says_of_itself_is_heard_by_who_listened_before_it_was_there() {
        let scene = Arc::new(Scene::default());
        let (late, mut compute) = scene.begin(Held::NoVms);
        let mut events = late.events().expect("taken once");
        assert!(late.events().is_none());
        scene.installed.store(true, Ordering::SeqCst);
        compute.changed().await.expect("it is looked for");
        let vm = VmId::from_u128(1);
        late.carry_out(&Op::EnsureVm(Box::new(order(vm)))).await.expect("it starts");
        scene.engine.crash(vm);
        assert!(events.recv().await.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_looks_on_behalf_of_nobody() {
        let scene = Arc::new(Scene::default());
        drop(scene.begin(Held::NoVms));
        tokio::time::sleep(3 * LOOK_AGAIN).await;
        assert_eq!(scene.attempts(), 0);
    }
}
