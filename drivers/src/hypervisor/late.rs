//! A server that has run VMs and whose libvirt does not answer yet: every call tries again, and until one
//! succeeds nothing is said about what runs there.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use scp_model::{Fact, Op, VmId, node::Compute};
use tokio::sync::mpsc;

use crate::{
    Driver, DriverError, Hypervisor, HypervisorConfig, VmStats,
    console::{ConsoleError, ConsoleStream},
    libvirt::Libvirt,
};

/// As many as libvirt's own driver keeps.
const EVENTS_MAX: usize = 256;

pub(super) struct Late {
    config: HypervisorConfig,
    /// Why the first attempt failed.
    reason: String,
    connected: tokio::sync::Mutex<Option<Arc<Libvirt>>>,
    told: mpsc::Sender<Fact>,
    events: Mutex<Option<mpsc::Receiver<Fact>>>,
}

impl Late {
    pub(super) fn new(config: HypervisorConfig, reason: String) -> Self {
        let (told, events) = mpsc::channel(EVENTS_MAX);
        Self {
            config,
            reason,
            connected: tokio::sync::Mutex::new(None),
            told,
            events: Mutex::new(Some(events)),
        }
    }

    async fn libvirt(&self) -> Result<Arc<Libvirt>, DriverError> {
        let mut connected = self.connected.lock().await;
        if let Some(libvirt) = connected.as_ref() {
            return Ok(libvirt.clone());
        }
        let failed =
            |error: String| DriverError::retryable(format!("reaching libvirt ({})", self.reason), error);
        let compute = crate::probe::compute(&self.config).await.unwrap_or(Compute::Tcg);
        let libvirt = Libvirt::connect(self.config.clone(), &compute).await;
        let libvirt = Arc::new(libvirt.map_err(|error| failed(error.to_string()))?);
        if let Some(mut events) = libvirt.events() {
            let told = self.told.clone();
            tokio::spawn(async move {
                while let Some(fact) = events.recv().await {
                    // A hint: where there is no room it is lost.
                    let _ = told.try_send(fact);
                }
            });
        }
        *connected = Some(libvirt.clone());
        Ok(libvirt)
    }
}

#[async_trait]
impl Driver for Late {
    async fn carry_out(&self, op: &Op) -> Result<Vec<Fact>, DriverError> {
        self.libvirt().await?.carry_out(op).await
    }

    async fn observe(&self) -> Result<Vec<Fact>, DriverError> {
        self.libvirt().await?.observe().await
    }

    fn events(&self) -> Option<mpsc::Receiver<Fact>> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

#[async_trait]
impl Hypervisor for Late {
    async fn console(&self, vm: VmId) -> Result<ConsoleStream, ConsoleError> {
        let libvirt = self.libvirt().await;
        libvirt.map_err(|error| ConsoleError::Failed { vm, why: error.to_string() })?.console(vm).await
    }

    async fn console_log(&self, vm: VmId, bytes_max: u64) -> Result<Bytes, ConsoleError> {
        let libvirt = self.libvirt().await;
        let libvirt = libvirt.map_err(|error| ConsoleError::Failed { vm, why: error.to_string() })?;
        libvirt.console_log(vm, bytes_max).await
    }

    async fn stats(&self, vm: VmId) -> Result<VmStats, DriverError> {
        self.libvirt().await?.stats(vm).await
    }
}
