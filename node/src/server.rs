//! What this server is: its drivers, and the profile that the city gets of it. Opened once, before the
//! server belongs to a city.

use std::sync::Arc;

use anyhow::{Context, Result};
use scp_drivers::{Drivers, HypervisorConfig, Images, hypervisor, probe};
use scp_mesh::Clock;
use scp_model::{
    Country, PROTOCOL, Resources,
    node::{Compute, NodeProfile},
};
use tokio::sync::watch;

use crate::{
    admit::COUNTRY_UNKNOWN,
    chunks::{Engines, MeshChunks},
    config::{Accelerator, Config, Names, default_zone, host_name},
};

/// Release of this binary.
pub const SOFTWARE: &str = env!("CARGO_PKG_VERSION");

/// Disk kept for logs, snapshots and the images of others, in MiB.
const RESERVED_DISK_MIB: u64 = 4 << 10;

/// The server's engines.
pub struct Server {
    pub engines: Engines,
    /// The image store itself, for its upkeep.
    pub images: Arc<Images>,
    pub chunks: Arc<MeshChunks>,
    /// How it runs VMs; a hypervisor that was not there may come.
    pub compute: watch::Receiver<Compute>,
    pub capacity: Resources,
}

impl Server {
    /// Opens the drivers and finds out what the server can do.
    pub async fn open(config: &Config, clock: Arc<dyn Clock>) -> Result<Self> {
        let chunks = Arc::new(MeshChunks::default());
        let images = Images::open(config.data_dir.join("images"), chunks.clone())
            .await
            .context("cannot open the image store")?;
        let images = Arc::new(images);
        let (hypervisor, compute) = match config.accelerator {
            Accelerator::None => switched_off(),
            Accelerator::Auto => open(config, &images, None, clock).await,
            Accelerator::Kvm => open(config, &images, Some(probe::Accelerator::Kvm), clock).await,
            Accelerator::Tcg => open(config, &images, Some(probe::Accelerator::Tcg), clock).await,
        };
        match &*compute.borrow() {
            Compute::None { reason } => tracing::warn!(%reason, "this server runs no VMs"),
            known @ (Compute::Kvm | Compute::Tcg | Compute::Off) => {
                tracing::info!(compute = ?known, "how this server runs VMs")
            }
        }
        let capacity = probe::resources(&config.data_dir).context("cannot tell what this server has")?;
        let driver = Arc::new(Drivers::new(images.clone(), hypervisor.clone()));
        let engines = Engines { driver, hypervisor, images: images.clone() };
        Ok(Self { engines, images, chunks, compute, capacity })
    }

    /// What the city is told of this server.
    pub fn profile(&self, config: &Config, names: Names) -> Result<NodeProfile> {
        let unknown: Country = COUNTRY_UNKNOWN.parse().expect("two upper-case letters");
        let name = match names.name {
            Some(name) => name,
            None => host_name()?,
        };
        Ok(NodeProfile {
            name,
            zone: names.zone.unwrap_or_else(default_zone),
            country: names.country.unwrap_or(unknown),
            mesh_address: config.mesh_address,
            api_address: config.api_address,
            software: SOFTWARE.into(),
            protocol: PROTOCOL,
            capacity: self.capacity,
            reserved: reserved(config, self.capacity),
            compute: self.compute.borrow().clone(),
        })
    }
}

/// Never more than a quarter of the server: a small one is to run something, too.
fn reserved(config: &Config, capacity: Resources) -> Resources {
    Resources {
        vcpus: 0,
        memory_mib: config.reserved_memory_mib.min(capacity.memory_mib / 4),
        disk_mib: RESERVED_DISK_MIB.min(capacity.disk_mib / 4),
    }
}

type Opened = (Arc<dyn scp_drivers::Hypervisor>, watch::Receiver<Compute>);

fn switched_off() -> Opened {
    let compute = Compute::Off;
    let reason = compute.why_not().unwrap_or_default().into();
    (Arc::new(hypervisor::Absent { reason }), hypervisor::settled(compute))
}

async fn open(
    config: &Config,
    images: &Images,
    accelerator: Option<probe::Accelerator>,
    clock: Arc<dyn Clock>,
) -> Opened {
    hypervisor::open(HypervisorConfig {
        uri: config.libvirt_uri.clone(),
        dir: config.data_dir.join("compute"),
        run_dir: config.socket.parent().unwrap_or(&config.data_dir).join("console"),
        bases: images.bases(),
        accelerator,
        reboot_grace_ms: hypervisor::REBOOT_GRACE_MS,
        clock: Arc::new(move || clock.now()),
    })
    .await
}
