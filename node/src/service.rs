//! What this node answers to others: each lane's requests go to the part they are for.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use async_trait::async_trait;
use bytes::Bytes;
use scp_api::native::Native;
use scp_drivers::console::ConsoleError;
use scp_mesh::{
    Duplex, JoinRefusal, JoinReply, JoinRequest, Lane, Observer, Refusal, RefusalKind, Service, Stranger,
    StreamHandler, renew,
};
use scp_model::NodeId;

use crate::{
    admit::Admitter,
    chunks::{self, Engines},
    issuer::Issuer,
    proposer::{propose_here, propose_many_here},
    wire::{self, Ask, Opening, Stats},
};

/// The parts that answer. They need the mesh and the mesh needs the service, so they come later.
pub struct Parts {
    pub admitter: Admitter,
    pub issuer: Arc<Issuer>,
    pub engines: Engines,
    pub observer: Observer,
}

/// The node's [`Service`]. The mesh holds it, and its parts hold the mesh: it is open only while the node
/// is up, so that neither outlives the node.
#[derive(Default)]
pub struct NodeService {
    parts: ArcSwapOption<Parts>,
    clients: ArcSwapOption<Native>,
}

impl NodeService {
    /// Opens for business.
    pub fn open(&self, parts: Parts) {
        self.parts.store(Some(Arc::new(parts)));
    }

    /// Serves users' programs from now on.
    pub fn open_to_clients(&self, native: Native) {
        self.clients.store(Some(Arc::new(native)));
    }

    /// Lets go of all parts.
    pub fn close(&self) {
        self.clients.store(None);
        self.parts.store(None);
    }

    fn parts(&self) -> Result<Arc<Parts>, Refusal> {
        self.parts
            .load_full()
            .ok_or_else(|| Refusal::new(RefusalKind::Busy, "this node is starting or going down"))
    }
}

#[async_trait]
impl Service for NodeService {
    async fn answer(&self, from: NodeId, lane: Lane, request: Bytes) -> Result<Bytes, Refusal> {
        let parts = self.parts()?;
        match lane {
            Lane::Raft => Ok(parts.admitter.proposer.raft.answer(from, request).await),
            Lane::Forward => parts.forwarded(from, &request).await,
            Lane::Bulk => chunks::serve(&*parts.engines.images, &request).await,
            Lane::Probe => parts.observer.answer(&request),
            Lane::Renew => parts.issuer.renew(from).map(|certificate| renew::reply(&certificate)),
            Lane::Gossip | Lane::Join => {
                Err(Refusal::new(RefusalKind::Invalid, format!("{lane:?} has no requests of members")))
            }
        }
    }

    async fn stream(&self, _from: NodeId, opening: Bytes) -> Result<StreamHandler, Refusal> {
        let parts = self.parts()?;
        match wire::unpack::<Opening>(Lane::Bulk, &opening)? {
            Opening::Console { vm } => {
                let mut console =
                    parts.engines.hypervisor.console(vm).await.map_err(|error| refuse_console(&error))?;
                Ok(Box::new(move |mut duplex| {
                    Box::pin(async move {
                        let _ = tokio::io::copy_bidirectional(&mut console, &mut duplex).await;
                    })
                }))
            }
        }
    }

    async fn client(&self, duplex: Duplex) {
        if let Some(native) = self.clients.load_full() {
            native.serve(duplex).await;
        }
    }

    async fn join(&self, from: Stranger, request: JoinRequest) -> Result<JoinReply, JoinRefusal> {
        match self.parts() {
            Ok(parts) => parts.admitter.join(from, request).await,
            Err(refusal) => Err(JoinRefusal::Unavailable { why: refusal.why }),
        }
    }
}

impl Parts {
    async fn forwarded(&self, from: NodeId, request: &[u8]) -> Result<Bytes, Refusal> {
        let raft = &self.admitter.proposer.raft;
        match wire::unpack::<Ask>(Lane::Forward, request)? {
            Ask::Propose(entry) => wire::pack(&propose_here(raft, entry).await),
            Ask::CityKey => wire::pack(&self.issuer.city_key_for(from, raft)?),
            Ask::Admit(admission) => {
                let stranger = Stranger { public_key: admission.public_key, address: admission.address };
                wire::pack(&self.admitter.admit(stranger, admission.request).await)
            }
            Ask::ConsoleLog { vm, bytes_max } => {
                let log = self.engines.hypervisor.console_log(vm, bytes_max).await;
                wire::pack(&log.map_err(|error| refuse_console(&error))?.to_vec())
            }
            Ask::VmStats { vm } => {
                let stats = self.engines.hypervisor.stats(vm).await;
                let stats = stats.map_err(|error| Refusal::new(RefusalKind::Failed, error.to_string()))?;
                wire::pack(&Stats::from(stats))
            }
            Ask::ProposeMany(entries) => wire::pack(&propose_many_here(raft, entries).await),
            Ask::HoldsCityKey => wire::pack(&self.issuer.has_key()),
        }
    }
}

fn refuse_console(error: &ConsoleError) -> Refusal {
    let kind = match error {
        ConsoleError::NotHere { .. } | ConsoleError::NotRunning { .. } => RefusalKind::NotFound,
        ConsoleError::TooManyViewers { .. } => RefusalKind::Busy,
        ConsoleError::Failed { .. } => RefusalKind::Failed,
    };
    Refusal::new(kind, error.to_string())
}

impl From<scp_drivers::VmStats> for Stats {
    fn from(stats: scp_drivers::VmStats) -> Self {
        let scp_drivers::VmStats {
            cpu_time_ms,
            memory_rss_kib,
            disk_read_bytes,
            disk_write_bytes,
            net_rx_bytes,
            net_tx_bytes,
        } = stats;
        Self { cpu_time_ms, memory_rss_kib, disk_read_bytes, disk_write_bytes, net_rx_bytes, net_tx_bytes }
    }
}
