//! A server that belongs to a city: a core on QUIC, files and real drivers, and its doors.
//!
//! # Order
//! The mesh is up before Raft, since Raft speaks through it; the service answers "starting" until all
//! parts are there. On the way down first leadership is handed over, then the doors close.

use std::{net::SocketAddr, sync::Arc};

use anyhow::{Context, Result, bail};
use axum::Router;
use scp_api::{
    cluster::{Cluster, JoinHint},
    native::Native,
    server::{Api, Options},
};
use scp_mesh::{Clock, Identity, IdentityDirectory, Mesh, MeshConfig, Transport, certificate};
use scp_model::NodeId;
use scp_raft::{FileDisk, StartError};
use tokio::{net::TcpListener, sync::watch};

use crate::{
    config::{Config, host_name},
    core::{Core, CorePorts},
    door::Door,
    facts,
    issuer::Issuer,
    machine::Published,
    profile::Profile,
    proposer::Proposer,
    renewal::Renewal,
    scrub, serve,
    server::Server,
    service::NodeService,
    whose,
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
    pub issuer: Arc<Issuer>,
    /// `/v1` for this server's root.
    pub local: Router,
    core: Core,
    mesh: Mesh,
    server: Arc<Server>,
}

impl Member {
    /// Starts all parts. When this returns, the node takes part; it may still be behind.
    pub async fn start(start: Start) -> Result<Self> {
        let address = start.config.api_address;
        let listener =
            TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))?;
        let published = Published::default();
        let issuer = Arc::new(Issuer {
            directory: start.directory.clone(),
            published: published.clone(),
            clock: start.clock.clone(),
        });
        let (core, mesh) = start_core(&start, published, issuer.clone()).await?;
        let proposer = core.proposer.clone();
        start.server.chunks.connect(Some(proposer.transport.clone()));
        let door: Arc<dyn Cluster> = Arc::new(Door {
            proposer: proposer.clone(),
            engines: start.server.engines.clone(),
            issuer: issuer.clone(),
            key: start.identity.key.clone(),
            join_hint: JoinHint {
                ca_fingerprint: certificate::fingerprint(start.identity.authority_der()).0,
                mesh_address: start.config.mesh_address,
            },
            fresh: core.fresh.clone(),
        });
        let local = open_doors(
            &start,
            &core,
            &door,
            Opening { listener, issuer: issuer.clone(), mesh: mesh.clone() },
        )?;
        Ok(Self { proposer, door, issuer, local, core, mesh, server: start.server })
    }

    /// Hands leadership over, then stops every part. VMs go on running.
    pub async fn shutdown(&self) {
        self.core.shutdown().await;
        self.server.chunks.connect(None);
        self.mesh.shutdown().await;
    }
}

async fn start_core(start: &Start, published: Published, issuer: Arc<Issuer>) -> Result<(Core, Mesh)> {
    let dir = start.config.data_dir.join("raft");
    let disk = FileDisk::open(&dir).with_context(|| format!("cannot open {}", dir.display()))?;
    let service = Arc::new(NodeService::default());
    let members = watch::Sender::new(None);
    let mesh_ports = scp_mesh::Ports {
        service: service.clone(),
        clock: start.clock.clone(),
        members: members.subscribe(),
    };
    let mesh_config = MeshConfig { listen: start.config.mesh_address };
    let mesh = Mesh::start(mesh_config, start.identity.clone(), mesh_ports).await?;
    start.peers.iter().for_each(|(peer, address)| mesh.set_address(*peer, Some(*address)));
    let addresses = mesh.clone();
    let ports = CorePorts {
        transport: Arc::new(mesh.clone()) as Arc<dyn Transport>,
        service,
        set_address: Arc::new(move |peer, address| addresses.set_address(peer, address)),
        members,
        disk: Arc::new(disk),
        engines: start.server.engines.clone(),
        clock: start.clock.clone(),
        load_percent: facts::load_percent,
        published,
        issuer,
    };
    let data_dir = &start.config.data_dir;
    let config = scp_raft::Config {
        has_taken_part: whose::is_noted(data_dir),
        ..scp_raft::Config::new(start.identity.id())
    };
    match Core::start(config, ports).await {
        Ok(core) => Ok((core, mesh)),
        Err(error) => {
            mesh.shutdown().await;
            if let Some(StartError::Forgotten(_)) = error.downcast_ref() {
                bail!(whose::log_is_gone(data_dir, &dir, &name(&start.config)));
            }
            Err(error)
        }
    }
}

/// As the city most likely calls this server.
fn name(config: &Config) -> String {
    let name = config.names.name.clone().map_or_else(host_name, Ok);
    name.map_or_else(|_| "NAME".to_owned(), |name| name.to_string())
}

/// What the doors are made of.
struct Opening {
    listener: TcpListener,
    issuer: Arc<Issuer>,
    mesh: Mesh,
}

/// Serves HTTPS and keeps certificate and profile; gives the router of the local socket.
fn open_doors(start: &Start, core: &Core, door: &Arc<dyn Cluster>, opening: Opening) -> Result<Router> {
    let stop = core.stopping();
    let https = serve::Certificate::new(start.identity.chain(), start.identity.key.to_tls())?;
    let api = Api::new(door.clone(), Options::default());
    core.open_to_clients(Native::new(door.clone()));
    core.spawn(serve::https(opening.listener, serve::tls(https.clone())?, api.router(), stop.clone()));
    let profile = Profile {
        proposer: core.proposer.clone(),
        server: start.server.clone(),
        config: start.config.clone(),
    };
    core.spawn(profile.keep(stop.clone()));
    core.spawn(scrub::keep(start.server.images.clone(), stop.clone()));
    let renewal = Renewal {
        proposer: core.proposer.clone(),
        issuer: opening.issuer,
        directory: start.directory.clone(),
        mesh: opening.mesh,
        https,
    };
    core.spawn(renewal.run(start.identity.clone(), stop));
    Ok(api.router_local())
}
