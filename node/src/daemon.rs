//! The life of a server: without a city, member of one, gone again.
//!
//! ```text
//!             init, join (or found so on disk at start)
//!   Alone ───────────────────────────────────────────────▶ Member
//!     ▲                                                       │
//!     └───────────────────────────────────────────────────────┘
//!                              leave
//! ```
//! One change at a time; the local socket serves throughout.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result};
use arc_swap::ArcSwapOption;
use scp_mesh::{Clock, Identity, IdentityDirectory, JoinError, JoinReply, SystemClock, join};
use scp_model::{Country, Name, Rejection};
use tokio::sync::{Mutex, MutexGuard};

use crate::{
    config::{Config, Names},
    found::{self, Founding},
    leave,
    member::{Member, Start},
    server::Server,
    whose,
};

/// A new member is caught up within this, or the join says what it waits for.
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(60);

/// Why a change of this server's life did not happen.
#[derive(Debug, thiserror::Error)]
pub enum LifeError {
    #[error("this server is a member of {city} already")]
    AlreadyMember { city: String },
    #[error("this server belongs to no city")]
    NoMember,
    #[error("{field}: {why}")]
    Invalid { field: &'static str, why: String },
    #[error(transparent)]
    Join(#[from] JoinError),
    #[error("the city does not let this server go: {0}")]
    Leave(Rejection),
    #[error("{0:#}")]
    Failed(#[from] anyhow::Error),
}

/// The city to be founded.
pub struct NewCity {
    pub name: Name,
    pub country: Country,
    /// Argon2id of the password of the user `admin`.
    pub password_hash: String,
}

/// What joining gave.
pub struct Joined {
    pub reply: JoinReply,
    pub warnings: Vec<String>,
}

/// The daemon of one server.
pub struct Daemon {
    pub config: Arc<Config>,
    pub clock: Arc<dyn Clock>,
    directory: IdentityDirectory,
    server: Arc<Server>,
    member: ArcSwapOption<Member>,
    /// Held while the server's life changes.
    change: Mutex<()>,
}

impl Daemon {
    /// Opens the server, and the city that it belongs to if there is one.
    pub async fn start(config: Config) -> Result<Self> {
        Self::start_with(config, Arc::new(SystemClock)).await
    }

    /// The same by another clock than the system's.
    pub async fn start_with(config: Config, clock: Arc<dyn Clock>) -> Result<Self> {
        let directory = IdentityDirectory::open(config.data_dir.join("identity"))?;
        let server = Server::open(&config, clock.clone()).await?;
        Self::start_on(server, config, clock, directory).await
    }

    /// The same on a server that was opened before.
    pub async fn start_on(
        server: Server,
        config: Config,
        clock: Arc<dyn Clock>,
        directory: IdentityDirectory,
    ) -> Result<Self> {
        let daemon = Self {
            config: Arc::new(config),
            clock,
            directory,
            server: Arc::new(server),
            member: ArcSwapOption::empty(),
            change: Mutex::new(()),
        };
        if let Some(identity) = daemon.directory.load()? {
            let member = daemon.start_member(identity, Vec::new()).await?;
            let dir = daemon.config.data_dir.clone();
            // Beside the start: a founding needs nothing but this node, yet it must not hold up the socket.
            tokio::spawn(async move {
                if let Err(error) = found::complete(&dir, &member.proposer).await {
                    tracing::error!(error = format!("{error:#}"), "the founding was not completed");
                }
                if let Err(error) = noted(&dir, &member).await {
                    tracing::error!(error = format!("{error:#}"), "it was not noted whose log is here");
                }
            });
        }
        Ok(daemon)
    }

    pub fn member(&self) -> Option<Arc<Member>> {
        self.member.load_full()
    }

    /// This server's id: known before it belongs to a city.
    pub fn node(&self) -> Result<scp_model::NodeId> {
        Ok(self.directory.load_or_create_key()?.id())
    }

    async fn start_member(
        &self,
        identity: Identity,
        peers: Vec<(scp_model::NodeId, std::net::SocketAddr)>,
    ) -> Result<Arc<Member>> {
        let start = Start {
            config: self.config.clone(),
            server: self.server.clone(),
            clock: self.clock.clone(),
            directory: self.directory.clone(),
            identity,
            peers,
        };
        let member = Arc::new(Member::start(start).await?);
        self.member.store(Some(member.clone()));
        Ok(member)
    }

    async fn alone(&self) -> Result<MutexGuard<'_, ()>, LifeError> {
        let guard = self.change.lock().await;
        match self.member() {
            None => Ok(guard),
            Some(member) => {
                let state = member.proposer.published.state();
                let city = state.city.as_ref().map_or("a city", |city| city.name.as_str()).to_owned();
                Err(LifeError::AlreadyMember { city })
            }
        }
    }

    /// `scpctl init`.
    pub async fn init(&self, city: NewCity, names: Names) -> Result<Arc<Member>, LifeError> {
        let _alone = self.alone().await?;
        let profile = self.server.profile(&self.config, names.or(self.config.names.clone()))?;
        let NewCity { name, country, password_hash } = city;
        let founding = Founding { name, country, profile, password_hash };
        whose::wipe(&self.config.data_dir, &self.raft_dir())?;
        let identity = found::prepare(&self.config.data_dir, &self.directory, &*self.clock, founding)?;
        let member = self.start_member(identity, Vec::new()).await?;
        found::complete(&self.config.data_dir, &member.proposer).await?;
        noted(&self.config.data_dir, &member).await?;
        Ok(member)
    }

    /// `scpctl join`: returns when the city's state is here.
    pub async fn join(
        &self,
        address: std::net::SocketAddr,
        token: scp_mesh::JoinToken,
        names: Names,
    ) -> Result<(Arc<Member>, Joined), LifeError> {
        let _alone = self.alone().await?;
        let profile = self.server.profile(&self.config, names.or(self.config.names.clone()))?;
        let key = self.directory.load_or_create_key().map_err(anyhow::Error::from)?;
        let joined =
            join::join(join::JoinConfig { address, token, key, profile, clock: self.clock.clone() }).await?;
        if whose::is_of(&self.config.data_dir, joined.reply.city) {
            whose::released(&self.raft_dir()).await?;
        } else {
            whose::wipe(&self.config.data_dir, &self.raft_dir())?;
        }
        self.directory.store(&joined.identity).map_err(anyhow::Error::from)?;
        let peers = joined.reply.peers.iter().map(|peer| (peer.node, peer.address)).collect();
        let member = self.start_member(joined.identity, peers).await?;
        caught_up(&member, joined.reply.admitted_at).await?;
        whose::note(&self.config.data_dir, joined.reply.city)?;
        Ok((member, Joined { reply: joined.reply, warnings: joined.warnings }))
    }

    /// `scpctl leave`: the city forgets this server, then this server the city, but for its log: see
    /// [`whose`].
    pub async fn leave(&self) -> Result<(), LifeError> {
        let _guard = self.change.lock().await;
        let Some(member) = self.member() else { return Err(LifeError::NoMember) };
        leave::leave(&member.proposer, &member.issuer).await?;
        self.member.store(None);
        member.shutdown().await;
        if let Some(city) = &member.proposer.published.state().city {
            whose::note(&self.config.data_dir, city.id)?;
        }
        self.directory.forget_city().map_err(anyhow::Error::from)?;
        found::forget(&self.config.data_dir)?;
        Ok(())
    }

    /// Ends the daemon in order; VMs go on running.
    pub async fn shutdown(&self) {
        let _guard = self.change.lock().await;
        if let Some(member) = self.member.swap(None) {
            member.shutdown().await;
        }
    }

    fn raft_dir(&self) -> PathBuf {
        self.config.data_dir.join("raft")
    }
}

/// Notes whose log is here, as soon as that says so.
async fn noted(data_dir: &Path, member: &Member) -> Result<()> {
    let mut applied = member.proposer.published.applied();
    loop {
        if let Some(city) = &member.proposer.published.state().city {
            return whose::note(data_dir, city.id);
        }
        if applied.changed().await.is_err() {
            return Ok(());
        }
    }
}

/// Until the state that admitted this node is here, and agreement knows it.
async fn caught_up(member: &Member, admitted_at: u64) -> Result<()> {
    let wait = async {
        let mut applied = member.proposer.published.applied();
        while *applied.borrow_and_update() < admitted_at {
            applied.changed().await.context("agreement has stopped")?;
        }
        Ok(())
    };
    tokio::time::timeout(CATCH_UP_TIMEOUT, wait).await.context(
        "this server was admitted, but the city's log does not reach it; check that UDP passes both ways, \
         then: scpctl status",
    )?
}
