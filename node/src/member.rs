//! A server that belongs to a city: all parts, joined.
//!
//! ```text
//!                  ┌──────────── https ── api ── door ──┐
//!                  │                                    ▼
//!   mesh ◀──▶ service ── admit, issue            proposer ──▶ raft ──▶ machine ──▶ published state
//!     ▲                                                 ▲                              │
//!     ├── observer, gossip                              │        leader, membership ◀──┤
//!     └── follow ◀──────────────────────────────────────┴────────────── hands ◀────────┘
//! ```
//!
//! # Order
//! The mesh is up before Raft, since Raft speaks through it; the service answers "starting" until all
//! parts are there. On the way down first leadership is handed over, then the doors close.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use axum::Router;
use scp_api::cluster::{Cluster, JoinHint};
use scp_mesh::{
    Clock, Identity, IdentityDirectory, Mesh, MeshConfig, Observer, Transport, certificate,
    gossip::cell::Roster, observe::Watchlist,
};
use scp_model::NodeId;
use scp_raft::{FileDisk, Raft};
use tokio::{net::TcpListener, sync::watch, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    admit::Admitter,
    config::Config,
    door::Door,
    facts::Facts,
    follow::Follow,
    freshness,
    hands::Hands,
    issuer::Issuer,
    leader::Leader,
    machine::{Machine, Published},
    membership,
    network::RaftNetwork,
    profile::Profile,
    proposer::Proposer,
    renewal::Renewal,
    serve,
    server::Server,
    service::{NodeService, Parts},
};

/// What a member is started from.
pub struct Start {
    pub config: Arc<Config>,
    pub server: Arc<Server>,
    pub clock: Arc<dyn Clock>,
    pub directory: IdentityDirectory,
    pub identity: Identity,
    /// Peers that are known before the state is: those that the join was answered with.
    pub peers: Vec<(NodeId, SocketAddr)>,
}

/// A running member.
pub struct Member {
    pub proposer: Proposer,
    pub door: Arc<dyn Cluster>,
    /// `/v1` for this server's root.
    pub local: Router,
    mesh: Mesh,
    server: Arc<Server>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// Connections and loops get so long to end by themselves.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(5);

/// The watches that connect the parts.
struct Channels {
    members: watch::Sender<Option<Arc<scp_mesh::Members>>>,
    watchlist: watch::Sender<Arc<Watchlist>>,
    roster: watch::Sender<Arc<Roster>>,
    fresh: watch::Sender<Option<Instant>>,
}

impl Member {
    /// Starts all parts. When this returns, the node takes part; it may still be behind.
    pub async fn start(start: Start) -> Result<Self> {
        let channels = Channels {
            members: watch::Sender::new(None),
            watchlist: watch::Sender::new(Arc::default()),
            roster: watch::Sender::new(Arc::default()),
            fresh: watch::Sender::new(None),
        };
        let service = Arc::new(NodeService::default());
        let ports = scp_mesh::Ports {
            service: service.clone(),
            clock: start.clock.clone(),
            members: channels.members.subscribe(),
        };
        let mesh_config = MeshConfig { listen: start.config.mesh_address };
        let mesh = Mesh::start(mesh_config, start.identity.clone(), ports).await?;
        start.peers.iter().for_each(|(peer, address)| mesh.set_address(*peer, Some(*address)));
        let transport: Arc<dyn Transport> = Arc::new(mesh.clone());
        let published = Published::default();
        let raft = start_raft(&start, &transport, &published).await?;
        start.server.chunks.connect(Some(transport.clone()));
        let proposer = Proposer { raft, transport, published, clock: start.clock.clone() };
        Self::join_parts(start, channels, &service, mesh, proposer).await
    }

    async fn join_parts(
        start: Start,
        channels: Channels,
        service: &NodeService,
        mesh: Mesh,
        proposer: Proposer,
    ) -> Result<Self> {
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let observer = Observer::start(proposer.transport.clone(), channels.watchlist.subscribe());
        let issuer = Arc::new(Issuer {
            directory: start.directory.clone(),
            published: proposer.published.clone(),
            clock: start.clock.clone(),
        });
        let drivers = start.server.drivers.clone();
        service.open(Parts {
            admitter: Admitter { proposer: proposer.clone(), issuer: issuer.clone() },
            issuer: issuer.clone(),
            drivers: drivers.clone(),
            observer: observer.clone(),
        });
        let door: Arc<dyn Cluster> = Arc::new(Door {
            proposer: proposer.clone(),
            drivers: drivers.clone(),
            key: start.identity.key.clone(),
            join_hint: JoinHint {
                ca_fingerprint: certificate::fingerprint(start.identity.authority_der()).0,
                mesh_address: start.config.mesh_address,
            },
            fresh: channels.fresh.subscribe(),
        });
        let https = serve::Certificate::new(start.identity.chain(), start.identity.key.to_tls())?;
        let address = start.config.api_address;
        let listener =
            TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))?;
        let options = scp_api::Options::default();
        let router = scp_api::router(door.clone(), options.clone());
        let served = serve::https(listener, https.clone(), router, stop.clone());
        tasks.spawn(async move {
            if let Err(error) = served.await {
                tracing::error!(%error, "HTTPS has ended");
            }
        });

        let raft = proposer.raft.clone();
        tasks.spawn(
            Follow {
                published: proposer.published.clone(),
                raft: raft.clone(),
                mesh: mesh.clone(),
                members: channels.members,
                watchlist: channels.watchlist,
                roster: channels.roster.clone(),
            }
            .run(stop.clone()),
        );
        let hands = Hands { proposer: proposer.clone(), driver: drivers, fresh: channels.fresh.subscribe() };
        tasks.spawn(hands.run(stop.clone()));
        tasks.spawn(freshness::keep(raft.clone(), channels.fresh, stop.clone()));
        tasks.spawn(Leader { proposer: proposer.clone(), observer }.run(stop.clone()));
        tasks.spawn(membership::keep(proposer.clone(), stop.clone()));
        let facts = Facts { proposer: proposer.clone(), roster: channels.roster.subscribe() };
        tasks.spawn(facts.run(stop.clone()));
        let profile = Profile {
            proposer: proposer.clone(),
            server: start.server.clone(),
            config: start.config.clone(),
        };
        tasks.spawn(profile.keep(stop.clone()));
        let (key_stop, transport) = (stop.clone(), proposer.transport.clone());
        let key_issuer = issuer.clone();
        tasks.spawn(async move { key_issuer.keep_key(raft, transport, key_stop).await });
        let renewal = Renewal {
            proposer: proposer.clone(),
            issuer,
            directory: start.directory,
            mesh: mesh.clone(),
            https,
        };
        tasks.spawn(renewal.run(start.identity, stop.clone()));
        let local = scp_api::router_local(door.clone(), options);
        Ok(Self { proposer, door, local, mesh, server: start.server, stop, tasks })
    }

    /// Hands leadership over, then stops every part. VMs go on running.
    pub async fn shutdown(&self) {
        self.proposer.raft.shutdown().await;
        self.stop.cancel();
        self.tasks.close();
        if tokio::time::timeout(SHUTDOWN_GRACE, self.tasks.wait()).await.is_err() {
            tracing::warn!("some tasks did not end in time");
        }
        self.server.chunks.connect(None);
        self.mesh.shutdown().await;
    }
}

async fn start_raft(start: &Start, transport: &Arc<dyn Transport>, published: &Published) -> Result<Raft> {
    let dir = start.config.data_dir.join("raft");
    let disk = FileDisk::open(&dir).with_context(|| format!("cannot open {}", dir.display()))?;
    let ports = scp_raft::Ports {
        machine: Box::new(Machine::new(published.clone())),
        network: Arc::new(RaftNetwork(transport.clone())),
        disk: Arc::new(disk),
    };
    let config = scp_raft::Config::new(start.identity.id());
    Raft::start(config, ports).await.context("cannot start agreement")
}
