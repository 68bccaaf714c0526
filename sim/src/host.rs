//! A simulated server: what lasts (disk, hypervisor, key) and what is lost with its process.
//!
//! Each host has a runtime of its own, whose time moves only when the simulation says so. So a host can be
//! paused (time stands still for it), have a clock that drifts (its time moves at another rate), be killed
//! (its runtime is dropped between two instants) and started again, without the production code knowing.

use std::{
    path::Path,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use scp_api::cluster::Cluster;
use scp_mesh::{CityKey, Clock, IdentityDirectory, Lane, NodeKey, Service, Transport};
use scp_model::{Name, NodeId, Timestamp};
use scp_node::{
    chunks::Engines,
    core::{Core, CorePorts},
    door::Door,
    issuer::Issuer,
    machine::Published,
    service::NodeService,
};
use scp_raft::sim::MemDisk;
use tokio::{runtime::Runtime, sync::mpsc};

use crate::{
    net::{Packet, PacketKind, SharedNet, SimTransport},
    world::World,
};

/// Virtual time begins here: 2026-01-01T00:00:00Z.
pub const EPOCH_MS: u64 = 1_767_225_600_000;

/// A host's wall clock: the simulation's time, off by something.
#[derive(Debug, Default)]
pub struct SimClock {
    /// The host's own time since the beginning, in microseconds: stands still while it is paused.
    pub own_us: AtomicU64,
    pub offset_ms: AtomicI64,
}

impl Clock for SimClock {
    fn now(&self) -> Timestamp {
        let own_ms = EPOCH_MS + self.own_us.load(Ordering::Relaxed) / 1000;
        Timestamp(own_ms.saturating_add_signed(self.offset_ms.load(Ordering::Relaxed)))
    }
}

/// What a started process looks like from outside.
#[derive(Clone)]
pub struct Process {
    pub core: Arc<Core>,
    pub door: Arc<dyn Cluster>,
}

/// One server.
pub struct Host {
    pub id: NodeId,
    pub name: Name,
    pub zone: Name,
    pub key: NodeKey,
    pub disk: MemDisk,
    pub world: Arc<World>,
    pub clock: Arc<SimClock>,
    /// Runs so many parts per million fast; negative: slow.
    pub drift_ppm: i64,
    /// Until when, in the simulation's time, the host stands still.
    pub paused_until_us: u64,
    directory: IdentityDirectory,
    running: Option<Running>,
}

/// What a killed process loses.
struct Running {
    runtime: Runtime,
    inbox: mpsc::UnboundedSender<Packet>,
    process: Arc<OnceLock<Process>>,
    failed: Arc<OnceLock<String>>,
}

impl Host {
    pub fn new(number: usize, zones: usize, scratch: &Path, world: Arc<World>) -> Self {
        let name = Name::new(format!("n{}", number + 1)).expect("a short name");
        let directory =
            IdentityDirectory::open(scratch.join(name.as_str())).expect("the scratch directory is writable");
        let key = directory.load_or_create_key().expect("a key can be made");
        // The simulation's city has no certificates; with its key in place, nobody asks for it.
        directory.store_city_key(&CityKey::from_bytes([7; 32])).expect("the scratch directory is writable");
        Self {
            id: key.id(),
            name,
            zone: Name::new(format!("z{}", number % zones + 1)).expect("a short name"),
            key,
            disk: MemDisk::new(),
            world,
            clock: Arc::default(),
            drift_ppm: 0,
            paused_until_us: 0,
            directory,
            running: None,
        }
    }

    pub fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// The process, once it has started.
    pub fn process(&self) -> Option<Process> {
        self.running.as_ref()?.process.get().cloned()
    }

    /// Why the process did not start.
    pub fn failure(&self) -> Option<String> {
        self.running.as_ref()?.failed.get().cloned()
    }

    /// Starts the process on what the disk holds.
    pub fn start(&mut self, net: &SharedNet) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime without I/O can always be built");
        let (inbox, packets) = mpsc::unbounded_channel();
        let process = Arc::new(OnceLock::new());
        let failed = Arc::new(OnceLock::new());
        let boot = Boot {
            id: self.id,
            key: self.key.clone(),
            directory: self.directory.clone(),
            disk: self.disk.clone(),
            engines: self.world.engines({
                let clock = self.clock.clone();
                Arc::new(move || clock.now())
            }),
            clock: self.clock.clone(),
            net: net.clone(),
            packets,
        };
        runtime.spawn(boot.run(process.clone(), failed.clone()));
        self.running = Some(Running { runtime, inbox, process, failed });
    }

    /// Kills the process between two instants.
    pub fn kill(&mut self) {
        if let Some(running) = self.running.take() {
            // Its tasks are dropped where they stand, as a killed process's threads are.
            running.runtime.shutdown_background();
        }
    }

    /// Hands a packet to the process; one for a process that is not there is lost.
    pub fn deliver(&self, packet: Packet) {
        if let Some(running) = &self.running {
            let _ = running.inbox.send(packet);
        }
    }

    /// Lets the host live for so long.
    pub fn tick(&mut self, tick_us: u64) {
        let Some(running) = &self.running else { return };
        let own_us = tick_us.saturating_add_signed(tick_us as i64 * self.drift_ppm / 1_000_000);
        running.runtime.block_on(async { tokio::time::sleep(Duration::from_micros(own_us)).await });
        self.clock.own_us.fetch_add(own_us, Ordering::Relaxed);
    }

    /// Time that passes while nothing runs.
    pub fn skip(&mut self, tick_us: u64) {
        if self.running.is_none() {
            self.clock.own_us.fetch_add(tick_us, Ordering::Relaxed);
        }
    }

    /// Runs something in the host's process, beside what runs there.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        if let Some(running) = &self.running {
            running.runtime.spawn(task);
        }
    }
}

/// A starting process.
struct Boot {
    id: NodeId,
    key: NodeKey,
    directory: IdentityDirectory,
    disk: MemDisk,
    engines: Engines,
    clock: Arc<SimClock>,
    net: SharedNet,
    packets: mpsc::UnboundedReceiver<Packet>,
}

impl Boot {
    async fn run(self, process: Arc<OnceLock<Process>>, failed: Arc<OnceLock<String>>) {
        let transport = SimTransport::new(self.id, self.net);
        let service = Arc::new(NodeService::default());
        tokio::spawn(pump(transport.clone(), service.clone(), self.packets));
        let published = Published::default();
        let issuer = Arc::new(Issuer {
            directory: self.directory,
            published: published.clone(),
            clock: self.clock.clone(),
        });
        let ports = CorePorts {
            transport: transport as Arc<dyn Transport>,
            service,
            set_address: Arc::new(|_, _| ()),
            members: tokio::sync::watch::Sender::new(None),
            disk: Arc::new(self.disk),
            engines: self.engines.clone(),
            clock: self.clock,
            load_percent: || 0,
            published,
            issuer: issuer.clone(),
        };
        let core = match Core::start(scp_raft::Config::new(self.id), ports).await {
            Ok(core) => Arc::new(core),
            Err(error) => {
                let _ = failed.set(format!("{error:#}"));
                return;
            }
        };
        let door: Arc<dyn Cluster> = Arc::new(Door {
            proposer: core.proposer.clone(),
            engines: self.engines,
            issuer,
            key: self.key,
            join_hint: scp_api::cluster::JoinHint {
                ca_fingerprint: [0; 32],
                mesh_address: ([127, 0, 0, 1], 7600).into(),
            },
            fresh: core.fresh.clone(),
        });
        let _ = process.set(Process { core, door });
    }
}

/// Takes packets in, each on a task of its own as the mesh does.
async fn pump(
    transport: Arc<SimTransport>,
    service: Arc<NodeService>,
    mut packets: mpsc::UnboundedReceiver<Packet>,
) {
    while let Some(packet) = packets.recv().await {
        match packet.kind {
            PacketKind::Request { number, lane, bytes } => {
                let (transport, service) = (transport.clone(), service.clone());
                tokio::spawn(serve(transport, service, packet.from, (number, lane, bytes)));
            }
            PacketKind::Reply { number, answer } => transport.answered(number, answer),
            PacketKind::OneWay { lane, bytes } => transport.arrived(packet.from, lane, bytes),
        }
    }
}

async fn serve(
    transport: Arc<SimTransport>,
    service: Arc<NodeService>,
    from: NodeId,
    (number, lane, bytes): (u64, Lane, Bytes),
) {
    let answer = service.answer(from, lane, bytes).await;
    transport.reply(from, number, answer);
}
