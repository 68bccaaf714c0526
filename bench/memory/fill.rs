//! Fills a stopped node's directory as the node itself would: its raft, its log, its machine, no network.

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::{Context, Result, anyhow, ensure};
use async_trait::async_trait;
use bytes::Bytes;
use scp_mesh::{Clock, IdentityDirectory, SystemClock};
use scp_model::{Actor, Command, NodeId, Proposal, RequestId};
use scp_node::machine::{self, Machine, Published};
use scp_raft::{Config, FileDisk, Network, Ports, Raft, Role, Unreachable};
use scp_state::State;
use uuid::Uuid;

const ELECTION_MAX: Duration = Duration::from_secs(60);
/// Proposals of one group: below what a node has under way at most.
pub const GROUP_MAX: usize = 1_024;

pub struct Writer {
    raft: Raft,
    published: Published,
    pub node: NodeId,
}

impl Writer {
    pub async fn open(data_dir: &Path) -> Result<Self> {
        let identity = IdentityDirectory::open(data_dir.join("identity"))?.load()?;
        let node = identity.context("the node is of a city")?.id();
        let disk = Arc::new(FileDisk::open(data_dir.join("raft"))?);
        let published = Published::default();
        let machine = Box::new(Machine::new(published.clone()));
        let config = Config { has_taken_part: true, ..Config::new(node) };
        let raft = Raft::start(config, Ports { machine, network: Arc::new(Nobody), disk }).await?;
        let mut status = raft.status();
        let leads = status.wait_for(|status| status.role == Role::Leader);
        tokio::time::timeout(ELECTION_MAX, leads).await.context("a node alone leads itself")??;
        raft.linearizable().await?;
        Ok(Self { raft, published, node })
    }

    pub fn state(&self) -> Arc<State> {
        self.published.state()
    }

    /// In this order, in one group; each is to have its effect.
    pub async fn write(&self, commands: Vec<(Actor, Command)>) -> Result<()> {
        ensure!(commands.len() <= GROUP_MAX, "one group");
        let entry = |(actor, command)| {
            let (request, time) = (RequestId(Uuid::new_v4()), SystemClock.now());
            machine::to_entry(&Proposal { request, actor, time, command }).map(Bytes::from)
        };
        let entries: Vec<Bytes> = commands.into_iter().map(entry).collect::<Result<_, _>>()?;
        for written in self.raft.write_many(entries).await? {
            let answer = machine::from_answer(&written?.answer)?;
            answer
                .result
                .map_err(|rejection| anyhow!("what was to fill the city is refused: {rejection}"))?;
        }
        Ok(())
    }

    pub async fn close(self) {
        self.raft.shutdown().await;
    }
}

/// A node alone has no peers.
struct Nobody;

#[async_trait]
impl Network for Nobody {
    async fn call(&self, peer: NodeId, _: Bytes, _: Duration) -> Result<Bytes, Unreachable> {
        Err(Unreachable { peer, reason: "there is no network here".into() })
    }
}
