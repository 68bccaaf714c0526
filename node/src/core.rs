//! A member without its doors: agreement, the leader's and the agent's loops, over ports. The same in
//! production, where the ports are QUIC, files and libvirt, and in simulation, where they are not.
//!
//! ```text
//!   transport ◀──▶ service ── admit, issue          proposer ──▶ raft ──▶ machine ──▶ published state
//!       ▲                                               ▲                                  │
//!       ├── observer, gossip                            │       leader, membership ◀───────┤
//!       └── follow ◀────────────────────────────────────┴─────────────── hands ◀───────────┘
//! ```

use std::{future::Future, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use futures::FutureExt;
use scp_api::native::Native;
use scp_mesh::{Clock, Members, Observer, Transport, gossip::cell::Roster, observe::Watchlist};
use scp_raft::{Disk, Raft};
use tokio::{sync::watch, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    admit::Admitter,
    chunks::Engines,
    facts::Facts,
    follow::{Follow, SetAddress},
    freshness,
    hands::Hands,
    issuer::Issuer,
    leader::Leader,
    machine::{Machine, Published},
    membership,
    network::RaftNetwork,
    proposer::Proposer,
    service::{NodeService, Parts},
    together::Together,
};

/// Loops get so long to end by themselves.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(5);

/// What the world is to a core.
pub struct CorePorts {
    pub transport: Arc<dyn Transport>,
    /// The one that the transport hands its requests to; opened when all parts are there.
    pub service: Arc<NodeService>,
    pub set_address: SetAddress,
    /// Told who the city's members are.
    pub members: watch::Sender<Option<Arc<Members>>>,
    pub disk: Arc<dyn Disk>,
    pub engines: Engines,
    pub clock: Arc<dyn Clock>,
    /// How busy this server is, in percent of one core; gossiped.
    pub load_percent: fn() -> u64,
    /// Shared with the issuer, which was made before.
    pub published: Published,
    pub issuer: Arc<Issuer>,
}

/// A running core.
pub struct Core {
    pub proposer: Proposer,
    /// When this node last knew itself up to date.
    pub fresh: watch::Receiver<Option<Instant>>,
    service: Arc<NodeService>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Core {
    /// Starts agreement and all loops. When this returns, the node takes part; it may still be behind.
    pub async fn start(raft: scp_raft::Config, ports: CorePorts) -> Result<Self> {
        let raft = start_raft(raft, &ports).await?;
        let proposer = Proposer {
            together: Together::start(raft.clone(), ports.transport.clone()),
            raft,
            transport: ports.transport.clone(),
            published: ports.published.clone(),
            clock: ports.clock.clone(),
        };
        let fresh = watch::Sender::new(None);
        let core = Self {
            proposer,
            fresh: fresh.subscribe(),
            service: ports.service.clone(),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        };
        core.start_loops(ports, fresh);
        Ok(core)
    }

    fn start_loops(&self, ports: CorePorts, fresh: watch::Sender<Option<Instant>>) {
        let (proposer, stop) = (&self.proposer, &self.stop);
        let watchlist = watch::Sender::new(Arc::<Watchlist>::default());
        let roster = watch::Sender::new(Arc::<Roster>::default());
        let observer = Observer::start(ports.transport.clone(), watchlist.subscribe());
        ports.service.open(Parts {
            admitter: Admitter { proposer: proposer.clone(), issuer: ports.issuer.clone() },
            issuer: ports.issuer.clone(),
            engines: ports.engines.clone(),
            observer: observer.clone(),
        });
        let facts = Facts {
            proposer: proposer.clone(),
            roster: roster.subscribe(),
            load_percent: ports.load_percent,
        };
        let follow = Follow {
            published: ports.published,
            raft: proposer.raft.clone(),
            set_address: ports.set_address,
            members: ports.members,
            watchlist,
            roster,
        };
        let hands =
            Hands { proposer: proposer.clone(), driver: ports.engines.driver, fresh: self.fresh.clone() };
        let (raft, issuer) = (proposer.raft.clone(), ports.issuer);
        self.spawn(follow.run(stop.clone()));
        self.spawn(facts.run(stop.clone()));
        self.spawn(hands.run(stop.clone()));
        self.spawn(freshness::keep(raft.clone(), fresh, stop.clone()));
        self.spawn(Leader { proposer: proposer.clone(), observer }.run(stop.clone()));
        self.spawn(membership::keep(proposer.clone(), stop.clone()));
        let stop = stop.clone();
        self.spawn(async move { issuer.keep_key(raft, ports.transport, stop).await });
    }

    /// Runs a further loop of this node; it ends with [`Core::stopping`]. A loop that panics takes the
    /// process down: half a node would keep what the other half no longer does, a dead one is replaced by
    /// its peers and started again by its service manager. VMs go on running.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(async move {
            if AssertUnwindSafe(task).catch_unwind().await.is_err() {
                tracing::error!("a loop of this node panicked; the process ends");
                std::process::abort();
            }
        });
    }

    /// Serves users' programs over the mesh from now on.
    pub fn open_to_clients(&self, native: Native) {
        self.service.open_to_clients(native);
    }

    /// Cancelled when the node goes down.
    pub fn stopping(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Hands leadership over, then stops every loop. VMs go on running.
    pub async fn shutdown(&self) {
        self.proposer.raft.shutdown().await;
        self.stop.cancel();
        self.tasks.close();
        if tokio::time::timeout(SHUTDOWN_GRACE, self.tasks.wait()).await.is_err() {
            tracing::warn!("some tasks did not end in time");
        }
        self.service.close();
    }
}

async fn start_raft(config: scp_raft::Config, ports: &CorePorts) -> Result<Raft> {
    let raft_ports = scp_raft::Ports {
        machine: Box::new(Machine::new(ports.published.clone())),
        network: Arc::new(RaftNetwork(ports.transport.clone())),
        disk: ports.disk.clone(),
    };
    Raft::start(config, raft_ports).await.context("cannot start agreement")
}
