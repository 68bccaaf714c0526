//! The port to what runs VMs, and the way a node opens the one that works on its server.

#[cfg(feature = "libvirt")]
mod late;

use std::{path::PathBuf, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
#[cfg(feature = "libvirt")]
use futures::future::BoxFuture;
use scp_model::{Fact, Op, VmId, node::Compute};
use tokio::sync::{mpsc, watch};

#[cfg(feature = "libvirt")]
use self::late::{Held, Late};
use crate::{
    Clock, Driver, DriverError,
    console::{ConsoleError, ConsoleStream},
};

/// A driver of VMs that also shows them: console, log, usage.
#[async_trait]
pub trait Hypervisor: Driver {
    /// Opens the serial console of a running VM. Several viewers share it: all see what the guest says,
    /// what each types reaches the guest. A viewer that does not keep up loses bytes, never the guest.
    async fn console(&self, vm: VmId) -> Result<ConsoleStream, ConsoleError>;

    /// The end of what the guest said on its console, at most `bytes_max`; there after a crash too.
    async fn console_log(&self, vm: VmId, bytes_max: u64) -> Result<Bytes, ConsoleError>;

    /// What a running VM has used so far.
    async fn stats(&self, vm: VmId) -> Result<VmStats, DriverError>;
}

/// A VM's usage since it was started, from its hypervisor.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct VmStats {
    pub cpu_time_ms: u64,
    pub memory_rss_kib: u64,
    pub disk_read_bytes: u64,
    pub disk_write_bytes: u64,
    pub net_rx_bytes: u64,
    pub net_tx_bytes: u64,
}

/// What a hypervisor driver needs to know of its server.
#[derive(Clone)]
pub struct HypervisorConfig {
    /// libvirt's address, [`LIBVIRT_URI`] unless configured otherwise.
    pub uri: String,
    /// Holds `vms/<uuid>/` with overlay, seed and console log. QEMU's own user must be able to pass
    /// through it and everything above (mode 0711 or wider).
    pub dir: PathBuf,
    /// Console sockets; short, as a socket's path has at most 107 bytes.
    pub run_dir: PathBuf,
    /// Where [`Images`](crate::Images) keeps base files: [`Images::bases`](crate::Images::bases).
    pub bases: PathBuf,
    /// Answered by configuration instead of by the probe.
    pub accelerator: Option<crate::probe::Accelerator>,
    /// How long a guest has to react to a reboot before it is forced.
    pub reboot_grace_ms: u64,
    pub clock: Clock,
}

/// libvirt of this server.
pub const LIBVIRT_URI: &str = "qemu:///system";
/// As long as systemd gives its slowest services by default, halved.
pub const REBOOT_GRACE_MS: u64 = 45_000;

/// What an attempt gives: a driver, and what the server can do with it.
type Opened = (Arc<dyn Hypervisor>, Compute);

/// Opens the hypervisor of this server and says what it can do, now and whenever that changes. Never
/// fails: a server without one joins all the same, runs no VMs, says why, and looks for one from time to
/// time.
///
/// A server that has files of VMs and whose libvirt does not answer is another matter: what runs there
/// is unknown, not nothing. Its driver fails as retryable and connects as soon as it can.
pub async fn open(config: HypervisorConfig) -> (Arc<dyn Hypervisor>, watch::Receiver<Compute>) {
    match open_real(config.clone()).await {
        Ok((driver, compute)) => (driver, settled(compute)),
        Err(reason) => without(config, reason),
    }
}

/// What a server can do where nothing will change it.
pub fn settled(compute: Compute) -> watch::Receiver<Compute> {
    watch::channel(compute).1
}

#[cfg(feature = "libvirt")]
fn without(config: HypervisorConfig, reason: String) -> (Arc<dyn Hypervisor>, watch::Receiver<Compute>) {
    let vms = std::fs::read_dir(config.dir.join("vms"));
    let held = if vms.is_ok_and(|mut vms| vms.next().is_some()) { Held::Vms } else { Held::NoVms };
    let open = move || -> BoxFuture<'static, _> { Box::pin(connect(config.clone(), held)) };
    let (late, compute) = Late::begin(Box::new(open), held, reason);
    (late, compute)
}

#[cfg(not(feature = "libvirt"))]
fn without(_config: HypervisorConfig, reason: String) -> (Arc<dyn Hypervisor>, watch::Receiver<Compute>) {
    (Arc::new(Absent { reason: reason.clone() }), settled(Compute::None { reason }))
}

#[cfg(feature = "libvirt")]
async fn open_real(config: HypervisorConfig) -> Result<Opened, String> {
    connect(config, Held::NoVms).await
}

/// Where VMs were, they are looked after also if no new ones could be run: that server keeps the reason
/// of it until `scpd` is started again.
#[cfg(feature = "libvirt")]
async fn connect(config: HypervisorConfig, held: Held) -> Result<Opened, String> {
    let probed = crate::probe::compute(&config).await;
    let compute = match (&probed, held) {
        (Ok(compute), _) => compute.clone(),
        (Err(_), Held::Vms) => Compute::Tcg,
        (Err(reason), Held::NoVms) => return Err(reason.clone()),
    };
    let connected = crate::libvirt::Libvirt::connect(config, &compute).await;
    let driver = connected.map_err(|error| error.to_string())?;
    Ok((Arc::new(driver), probed.unwrap_or_else(|reason| Compute::None { reason })))
}

#[cfg(not(feature = "libvirt"))]
async fn open_real(_config: HypervisorConfig) -> Result<Opened, String> {
    Err("this scpd was built without libvirt: build it with the feature `libvirt`".into())
}

/// No hypervisor: refuses to run VMs and holds none.
pub struct Absent {
    pub reason: String,
}

impl Absent {
    fn refusal(&self, doing: &str) -> DriverError {
        DriverError::terminal(doing, &self.reason)
    }
}

#[async_trait]
impl Driver for Absent {
    async fn carry_out(&self, op: &Op) -> Result<Vec<Fact>, DriverError> {
        match op {
            // Not confirmed: whoever orders it believes that something is here, and only a hypervisor
            // could tell.
            Op::RemoveVm { vm, .. } => Err(self.refusal(&format!("removing VM {vm}"))),
            Op::EnsureVm(order) => Err(self.refusal(&format!("starting VM {}", order.vm))),
            Op::StopVm { vm, .. } => Err(self.refusal(&format!("stopping VM {vm}"))),
            Op::RebootVm { vm, .. } => Err(self.refusal(&format!("rebooting VM {vm}"))),
            Op::EnsureImage(_) | Op::RemoveImage { .. } => Ok(Vec::new()),
        }
    }

    async fn observe(&self) -> Result<Vec<Fact>, DriverError> {
        Ok(Vec::new())
    }

    fn events(&self) -> Option<mpsc::Receiver<Fact>> {
        None
    }
}

#[async_trait]
impl Hypervisor for Absent {
    async fn console(&self, vm: VmId) -> Result<ConsoleStream, ConsoleError> {
        Err(ConsoleError::NotHere { vm })
    }

    async fn console_log(&self, vm: VmId, _bytes_max: u64) -> Result<Bytes, ConsoleError> {
        Err(ConsoleError::NotHere { vm })
    }

    async fn stats(&self, vm: VmId) -> Result<VmStats, DriverError> {
        Err(self.refusal(&format!("reading the usage of VM {vm}")))
    }
}

#[cfg(test)]
mod tests {
    use scp_model::{Epoch, Timestamp};

    use super::*;

    fn config(dir: &std::path::Path) -> HypervisorConfig {
        HypervisorConfig {
            uri: "qemu+unix:///system?socket=/nonexistent".into(),
            dir: dir.into(),
            run_dir: dir.join("run"),
            bases: dir.into(),
            accelerator: Some(crate::probe::Accelerator::Tcg),
            reboot_grace_ms: 0,
            clock: Arc::new(|| Timestamp(0)),
        }
    }

    fn directory(mode: u32) -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("a directory");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
        std::fs::set_permissions(dir.path(), mode).expect("it is ours");
        dir
    }

    #[tokio::test]
    async fn a_server_without_libvirt_runs_no_vms_and_says_why() {
        let dir = directory(0o711);
        let (driver, compute) = open(config(dir.path())).await;
        let compute = compute.borrow().clone();
        let Compute::None { reason } = compute else { panic!("there is no libvirt, but {compute:?}") };
        assert!(!reason.is_empty());
        assert_eq!(driver.observe().await, Ok(vec![]));
        let vm = VmId::from_u128(1);
        let removed = driver.carry_out(&Op::RemoveVm { vm, epoch: Epoch(1) }).await;
        assert!(
            matches!(removed, Err(DriverError::Terminal { .. })),
            "not confirmed without looking: {removed:?}"
        );
        assert_eq!(driver.console(vm).await.err(), Some(ConsoleError::NotHere { vm }));
    }

    #[cfg(feature = "libvirt")]
    #[tokio::test]
    async fn where_vms_were_what_runs_is_unknown_until_libvirt_answers() {
        let dir = directory(0o711);
        std::fs::create_dir_all(dir.path().join("vms").join(VmId::from_u128(1).to_string()))
            .expect("makes one");
        let (driver, compute) = open(config(dir.path())).await;
        assert!(!compute.borrow().runs_vms());
        let observed = driver.observe().await;
        assert!(matches!(observed, Err(DriverError::Retryable { .. })), "{observed:?}");
    }

    #[cfg(feature = "libvirt")]
    #[tokio::test]
    async fn a_directory_that_qemu_cannot_reach_is_named_with_the_remedy() {
        let dir = directory(0o700);
        let (_, compute) = open(config(dir.path())).await;
        let compute = compute.borrow().clone();
        let Compute::None { reason } = compute else { panic!("{compute:?}") };
        assert!(reason.contains(&format!("chmod o+x {}", dir.path().display())), "{reason}");
    }
}
