//! A simulated server: what lasts (disk, hypervisor, key) and what is lost with its process.
//!
//! Each host has a runtime of its own, whose time moves only when the simulation says so. So a host can be
//! paused (time stands still for it), have a clock that drifts (its time moves at another rate), be killed
//! (its runtime is dropped between two instants) and started again, without the production code knowing.

use std::{
    net::SocketAddr,
    path::Path,
    sync::{Arc, OnceLock},
    task::Poll,
};

use bytes::Bytes;
use scp_api::cluster::Cluster;
use scp_mesh::{
    CityKey, Clock, Identity, IdentityDirectory, Lane, Members, Mesh, NodeKey, Service, Transport,
};
use scp_model::{Name, NodeId};
use scp_node::{
    chunks::Engines,
    core::{Core, CorePorts},
    door::Door,
    follow::SetAddress,
    issuer::Issuer,
    machine::Published,
    renewal::Renewal,
    serve,
    service::NodeService,
};
use scp_raft::{Status, sim::MemDisk};
use scp_state::State;
use tokio::{runtime::Runtime, sync::watch, time::Instant};

use crate::{
    clock::HostTime,
    net::{Packet, PacketKind, SharedNet, SimTransport},
    options::Options,
    quic::{Socket, Tier},
    workload::Asked,
    world::World,
};

/// How much a host's log holds: small, so that what happens rarely in production happens in every run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    pub segment_bytes: u64,
    pub snapshot_log_bytes: u64,
    pub keep_log_bytes: u64,
    pub chunk_bytes: usize,
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
    /// Where its mesh listens.
    pub address: SocketAddr,
    pub tier: Tier,
    pub key: NodeKey,
    pub disk: MemDisk,
    pub world: Arc<World>,
    pub time: Arc<HostTime>,
    pub sizes: Sizes,
    /// Since when its process is not there, in the simulation's time.
    pub off_since_us: Option<u64>,
    /// Until when, in the simulation's time, the host stands still.
    pub paused_until_us: u64,
    pub directory: IdentityDirectory,
    running: Option<Running>,
}

/// The city key of every simulated city.
pub const CITY_KEY: [u8; 32] = [7; 32];

/// What a killed process loses.
struct Running {
    runtime: Runtime,
    wire: Wire,
    process: Arc<OnceLock<Process>>,
    failed: Arc<OnceLock<String>>,
    seen: Option<Seen>,
}

/// Where packets for the process go.
enum Wire {
    Memory(Arc<SimTransport>, Arc<NodeService>),
    Quic(Arc<Socket>),
}

/// What the process says and is told things through.
struct Ends {
    transport: Arc<dyn Transport>,
    service: Arc<NodeService>,
    set_address: SetAddress,
    members: watch::Sender<Option<Arc<Members>>>,
    /// The certificate to keep fresh, and where it is in use.
    papers: Option<(Mesh, Identity)>,
}

/// Tells whether there is anything new to check.
struct Seen {
    status: watch::Receiver<Status>,
    applied: watch::Receiver<u64>,
}

/// What is new about a process.
pub struct News {
    pub status: Status,
    pub state: Arc<State>,
}

impl Host {
    pub fn new(number: usize, options: &Options, scratch: &Path, world: Arc<World>) -> Self {
        let name = Name::new(format!("n{}", number + 1)).expect("a short name");
        let directory =
            IdentityDirectory::open(scratch.join(name.as_str())).expect("the scratch directory is writable");
        let key = directory.load_or_create_key().expect("a key can be made");
        // With the city's key in place, nobody asks for it.
        directory.store_city_key(&CityKey::from_bytes(CITY_KEY)).expect("the scratch directory is writable");
        Self {
            id: key.id(),
            name,
            zone: Name::new(format!("z{}", number % options.zones + 1)).expect("a short name"),
            address: ([10, 0, 0, number as u8 + 1], 7600).into(),
            tier: Tier::default(),
            key,
            disk: MemDisk::new(),
            world,
            time: Arc::default(),
            sizes: options.sizes,
            off_since_us: None,
            paused_until_us: 0,
            directory,
            running: None,
        }
    }

    pub fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// The process, once it has started.
    pub fn process(&self) -> Option<&Process> {
        self.running.as_ref()?.process.get()
    }

    /// What a client's request needs of it, if its process is there.
    pub fn asked(&self) -> Option<Asked> {
        let door = self.process()?.door.clone();
        Some(Asked { door, time: self.time.clone(), world: self.world.clone() })
    }

    /// Why the process did not start.
    pub fn failure(&self) -> Option<&String> {
        self.running.as_ref()?.failed.get()
    }

    /// What changed since the last question, if anything did.
    pub fn news(&mut self) -> Option<News> {
        let running = self.running.as_mut()?;
        let process = running.process.get()?;
        let proposer = &process.core.proposer;
        let seen = running.seen.get_or_insert_with(|| {
            let mut seen = Seen { status: proposer.raft.status(), applied: proposer.published.applied() };
            seen.status.mark_changed();
            seen
        });
        let changed =
            seen.status.has_changed().unwrap_or(false) | seen.applied.has_changed().unwrap_or(false);
        changed.then(|| {
            seen.applied.mark_unchanged();
            News { status: seen.status.borrow_and_update().clone(), state: proposer.published.state() }
        })
    }

    /// Starts the process on what the disk holds.
    pub fn start(&mut self, net: &SharedNet) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime without I/O can always be built");
        // The mesh's tasks live on it.
        let context = runtime.enter();
        let (wire, ends) = self.connect(net);
        let process = Arc::new(OnceLock::new());
        let failed = Arc::new(OnceLock::new());
        let boot = Boot {
            id: self.id,
            key: self.key.clone(),
            directory: self.directory.clone(),
            disk: self.disk.clone(),
            engines: self.world.engines({
                let time = self.time.clone();
                Arc::new(move || time.now())
            }),
            time: self.time.clone(),
            sizes: self.sizes,
            ends,
        };
        runtime.spawn(boot.run(process.clone(), failed.clone()));
        self.time.begin(Instant::now());
        drop(context);
        self.off_since_us = None;
        self.running = Some(Running { runtime, wire, process, failed, seen: None });
    }

    fn connect(&self, net: &SharedNet) -> (Wire, Ends) {
        let service = Arc::new(NodeService::default());
        let members = watch::Sender::new(None);
        match self.tier {
            Tier::Memory => {
                let transport = SimTransport::new(self.id, net.clone(), self.time.clone());
                let wire = Wire::Memory(transport.clone(), service.clone());
                (wire, Ends { transport, service, set_address: Arc::new(|_, _| ()), members, papers: None })
            }
            Tier::Quic => {
                let socket = Socket::new(self.id, self.address, net.clone(), self.time.clone());
                let ports = scp_mesh::Ports {
                    service: service.clone(),
                    clock: self.time.clone(),
                    members: members.subscribe(),
                };
                let identity = self.directory.load().expect("the scratch directory is readable");
                let identity = identity.expect("papers were issued before anything is started");
                let runtime = Arc::new(quinn::TokioRuntime);
                let mesh = Mesh::start_on(socket.clone(), runtime, identity.clone(), ports)
                    .expect("nothing can be wrong with a simulated socket");
                let addresses = mesh.clone();
                let set_address: SetAddress = Arc::new(move |peer, at| addresses.set_address(peer, at));
                let transport = Arc::new(mesh.clone());
                let papers = Some((mesh, identity));
                (Wire::Quic(socket), Ends { transport, service, set_address, members, papers })
            }
        }
    }

    /// Kills the process between two instants.
    pub fn kill(&mut self) {
        self.off_since_us = Some(self.time.city_us());
        if let Some(running) = self.running.take() {
            if let Wire::Quic(socket) = &running.wire {
                socket.close();
            }
            // Its tasks are dropped where they stand, as a killed process's threads are.
            running.runtime.shutdown_background();
        }
    }

    /// Hands a packet to the process, each request on a task of its own as the mesh does; a packet for a
    /// process that is not there is lost.
    pub fn deliver(&self, packet: Packet) {
        let Some(running) = &self.running else { return };
        match (packet.kind, &running.wire) {
            (PacketKind::Request { number, lane, bytes }, Wire::Memory(transport, service)) => {
                let (transport, service) = (transport.clone(), service.clone());
                running.runtime.spawn(answer(transport, service, packet.from, (number, lane, bytes)));
            }
            (PacketKind::Reply { number, answer }, Wire::Memory(transport, _)) => {
                transport.answered(number, answer);
            }
            (PacketKind::OneWay { lane, bytes }, Wire::Memory(transport, _)) => {
                transport.arrived(packet.from, lane, bytes);
            }
            (PacketKind::Datagram(datagram), Wire::Quic(socket)) => socket.arrived(datagram),
            (PacketKind::Datagram(_), Wire::Memory(..)) | (_, Wire::Quic(_)) => {
                unreachable!("a city has one tier")
            }
        }
    }

    /// Lets the host live until the city's time is `to_us`, or until the end of the instant at which it
    /// sends something.
    pub fn live(&mut self, net: &SharedNet, to_us: u64) {
        let Some(running) = &self.running else { return };
        net.lock().hush();
        let until = self.time.turn(to_us);
        running.runtime.block_on(async {
            let mut sleep = std::pin::pin!(tokio::time::sleep_until(until));
            let interrupted = std::future::poll_fn(|context| {
                if net.poll_spoke(context).is_ready() {
                    return Poll::Ready(true);
                }
                sleep.as_mut().poll(context).map(|()| false)
            });
            let interrupted = interrupted.await;
            // Here its clock can be read once more.
            self.time.stand(to_us, interrupted);
        });
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
    time: Arc<HostTime>,
    sizes: Sizes,
    ends: Ends,
}

impl Boot {
    async fn run(self, process: Arc<OnceLock<Process>>, failed: Arc<OnceLock<String>>) {
        let published = Published::default();
        let issuer = Arc::new(Issuer {
            directory: self.directory.clone(),
            published: published.clone(),
            clock: self.time.clone(),
        });
        let ports = CorePorts {
            transport: self.ends.transport,
            service: self.ends.service,
            set_address: self.ends.set_address,
            members: self.ends.members,
            disk: Arc::new(self.disk),
            engines: self.engines.clone(),
            clock: self.time,
            load_percent: || 0,
            published,
            issuer: issuer.clone(),
        };
        let config = scp_raft::Config {
            segment_bytes: self.sizes.segment_bytes,
            snapshot_log_bytes: self.sizes.snapshot_log_bytes,
            keep_log_bytes: self.sizes.keep_log_bytes,
            chunk_bytes: self.sizes.chunk_bytes,
            ..scp_raft::Config::new(self.id)
        };
        let core = match Core::start(config, ports).await {
            Ok(core) => Arc::new(core),
            Err(error) => {
                let _ = failed.set(format!("{error:#}"));
                return;
            }
        };
        if let Some((mesh, identity)) = self.ends.papers {
            let https = serve::Certificate::new(identity.chain(), identity.key.to_tls());
            let renewal = Renewal {
                proposer: core.proposer.clone(),
                issuer: issuer.clone(),
                directory: self.directory,
                mesh,
                https: https.expect("the mesh took the same papers"),
            };
            core.spawn(renewal.run(identity, core.stopping()));
        }
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

async fn answer(
    transport: Arc<SimTransport>,
    service: Arc<NodeService>,
    from: NodeId,
    (number, lane, bytes): (u64, Lane, Bytes),
) {
    let answer = service.answer(from, lane, bytes).await;
    transport.reply(from, number, answer);
}
