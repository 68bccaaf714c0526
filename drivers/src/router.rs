//! Hands each op to the driver of its subject.

use std::sync::Arc;

use async_trait::async_trait;
use scp_model::{Fact, Op, op::OpSubject};
use tokio::sync::mpsc;

use crate::{Driver, DriverError, Hypervisor, Images};

/// All drivers of a node, as one.
pub struct Drivers {
    images: Arc<Images>,
    hypervisor: Arc<dyn Hypervisor>,
}

impl Drivers {
    pub fn new(images: Arc<Images>, hypervisor: Arc<dyn Hypervisor>) -> Self {
        Self { images, hypervisor }
    }

    pub fn images(&self) -> &Arc<Images> {
        &self.images
    }

    pub fn hypervisor(&self) -> &Arc<dyn Hypervisor> {
        &self.hypervisor
    }
}

#[async_trait]
impl Driver for Drivers {
    async fn carry_out(&self, op: &Op) -> Result<Vec<Fact>, DriverError> {
        match op.subject() {
            OpSubject::Image(_) => self.images.carry_out(op).await,
            OpSubject::Vm(_) => self.hypervisor.carry_out(op).await,
        }
    }

    /// All or nothing: with one engine unreachable, what it holds is unknown, not gone.
    async fn observe(&self) -> Result<Vec<Fact>, DriverError> {
        let (mut facts, vms) = tokio::try_join!(self.images.observe(), self.hypervisor.observe())?;
        facts.extend(vms);
        Ok(facts)
    }

    fn events(&self) -> Option<mpsc::Receiver<Fact>> {
        self.hypervisor.events()
    }
}
