//! The API's door: [`Cluster`] as this node fulfils it.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::join_all;
use scp_api::cluster::{
    Agreement, ByteStream, Cluster, ClusterError, Consistency, Duplex, JoinHint, Snapshot, VmStats,
};
use scp_drivers::{DriverError, console::ConsoleError, images::TakeError};
use scp_mesh::{Lane, MeshError, NodeKey, RefusalKind};
use scp_model::{
    Answer, Command, Digest, ImageId, JoinTokenId, NodeId, Proposal, Timestamp, VmId, command::RemoveNode,
    explain::Explanation, image::ImageContent,
};
use scp_raft::ReadError;
use tokio::{sync::watch, time::Instant};

use crate::{
    chunks::Engines,
    issuer::Issuer,
    proposer::Proposer,
    removal,
    wire::{self, Ask, Opening, Stats},
};

/// Another node answers a question about a VM of its own within this, or is taken for unreachable.
const ASK_TIMEOUT: Duration = Duration::from_secs(10);

/// This node, as its API sees it.
pub struct Door {
    pub proposer: Proposer,
    pub engines: Engines,
    pub issuer: Arc<Issuer>,
    pub key: NodeKey,
    pub join_hint: JoinHint,
    /// When this node last knew itself up to date.
    pub fresh: watch::Receiver<Option<Instant>>,
}

impl Door {
    fn me(&self) -> NodeId {
        self.proposer.me()
    }

    /// Where a VM runs.
    fn node_of(&self, vm: VmId) -> Result<NodeId, ClusterError> {
        let state = self.proposer.published.state();
        let placed = state.vms.get(&vm).map(scp_model::vm::Vm::node);
        match placed {
            Some(Some(node)) => Ok(node),
            Some(None) => Err(ClusterError::NotFound { why: format!("VM {vm} is not placed on any node") }),
            None => Err(ClusterError::NotFound { why: format!("VM {vm} does not exist") }),
        }
    }

    async fn ask(&self, node: NodeId, ask: &Ask) -> Result<Bytes, ClusterError> {
        let packed = wire::pack(ask).map_err(internal)?;
        let answer = self.proposer.transport.request(node, Lane::Forward, packed, ASK_TIMEOUT).await;
        answer.map_err(|error| unreachable(node, error))
    }
}

#[async_trait]
impl Cluster for Door {
    fn node(&self) -> NodeId {
        self.me()
    }

    fn now(&self) -> Timestamp {
        self.proposer.clock.now()
    }

    async fn propose(&self, proposal: Proposal) -> Result<Answer, ClusterError> {
        // Another could have it committed, but whoever asked would not see that here.
        if let Some(why) = self.proposer.raft.stuck() {
            return Err(ClusterError::ReadOnly { why });
        }
        if let Command::RemoveNode(RemoveNode { node, .. }) = proposal.command
            && let Some(rejection) = removal::refused(&self.proposer, &self.issuer, node).await
        {
            return Ok(Answer { index: self.proposer.published.state().index, result: Err(rejection) });
        }
        self.proposer.propose(proposal).await
    }

    async fn propose_many(&self, proposals: Vec<Proposal>) -> Vec<Result<Answer, ClusterError>> {
        // A removal asks other nodes first: none comes this way.
        if proposals.iter().any(|proposal| matches!(proposal.command, Command::RemoveNode(_))) {
            return join_all(proposals.into_iter().map(|proposal| self.propose(proposal))).await;
        }
        self.proposer.propose_many(&proposals).await
    }

    async fn read(&self, consistency: Consistency) -> Result<Snapshot, ClusterError> {
        let age_ms = match consistency {
            Consistency::Linearizable => {
                self.proposer.raft.linearizable().await.map_err(no_quorum)?;
                0
            }
            Consistency::Stale => {
                let age = self.fresh.borrow().map(|at| at.elapsed());
                age.map_or(u64::MAX, |age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX))
            }
        };
        Ok(Snapshot { state: self.proposer.published.state(), age_ms })
    }

    fn applied(&self) -> watch::Receiver<u64> {
        self.proposer.published.applied()
    }

    fn leader(&self) -> Option<NodeId> {
        self.proposer.raft.status().borrow().leader
    }

    fn agreement(&self) -> Agreement {
        let status = self.proposer.raft.status().borrow().clone();
        Agreement {
            leader: status.leader,
            term: status.term,
            applied: status.applied,
            voters: status.voters.into_iter().collect(),
            learners: status.learners.into_iter().collect(),
        }
    }

    fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.key.sign(message)
    }

    async fn explain(&self, vm: VmId) -> Result<Explanation, ClusterError> {
        let state = self.read(Consistency::Linearizable).await?.state;
        let explained = scp_scheduler::explain(&state, vm, self.now());
        explained.ok_or_else(|| ClusterError::NotFound { why: format!("VM {vm} does not exist") })
    }

    async fn take_image(&self, image: ImageId, body: ByteStream) -> Result<ImageContent, ClusterError> {
        self.engines.images.take(image, body).await.map_err(|error| match error {
            TakeError::BadContent { code, why } => ClusterError::BadContent { code, why },
            broken @ TakeError::Broken(_) => {
                ClusterError::BadContent { code: "broken_off", why: format!("{broken}; repeat the upload") }
            }
            TakeError::Failed(full @ DriverError::DiskFull { .. }) => {
                ClusterError::DiskFull { why: full.to_string() }
            }
            TakeError::Failed(error) => ClusterError::Internal { why: error.to_string() },
        })
    }

    async fn console(&self, vm: VmId) -> Result<Box<dyn Duplex>, ClusterError> {
        let node = self.node_of(vm)?;
        if node == self.me() {
            let console = self.engines.hypervisor.console(vm).await.map_err(console_error)?;
            return Ok(Box::new(console));
        }
        let opening = wire::pack(&Opening::Console { vm }).map_err(internal)?;
        let opened = self.proposer.transport.open(node, opening, ASK_TIMEOUT).await;
        Ok(Box::new(opened.map_err(|error| unreachable(node, error))?))
    }

    async fn console_log(&self, vm: VmId, bytes_max: u64) -> Result<Bytes, ClusterError> {
        let node = self.node_of(vm)?;
        if node == self.me() {
            return self.engines.hypervisor.console_log(vm, bytes_max).await.map_err(console_error);
        }
        let answer = self.ask(node, &Ask::ConsoleLog { vm, bytes_max }).await?;
        wire::unpack::<Vec<u8>>(Lane::Forward, &answer).map(Bytes::from).map_err(internal)
    }

    async fn vm_stats(&self, vm: VmId) -> Result<VmStats, ClusterError> {
        let node = self.node_of(vm)?;
        let stats = if node == self.me() {
            let stats = self.engines.hypervisor.stats(vm).await;
            Stats::from(stats.map_err(internal)?)
        } else {
            let answer = self.ask(node, &Ask::VmStats { vm }).await?;
            wire::unpack(Lane::Forward, &answer).map_err(internal)?
        };
        let Stats {
            cpu_time_ms,
            memory_rss_kib,
            disk_read_bytes,
            disk_write_bytes,
            net_rx_bytes,
            net_tx_bytes,
        } = stats;
        Ok(VmStats {
            cpu_time_ms,
            memory_rss_kib,
            disk_read_bytes,
            disk_write_bytes,
            net_rx_bytes,
            net_tx_bytes,
        })
    }

    fn join_hint(&self) -> JoinHint {
        self.join_hint.clone()
    }

    fn join_token_text(&self, id: JoinTokenId, secret: &[u8; 16]) -> String {
        let authority = Digest(self.join_hint.ca_fingerprint);
        scp_mesh::JoinToken { id, secret: scp_mesh::token::JoinSecret(*secret), authority }.to_string()
    }
}

fn internal(error: impl std::fmt::Display) -> ClusterError {
    ClusterError::Internal { why: error.to_string() }
}

fn no_quorum(error: ReadError) -> ClusterError {
    ClusterError::NoQuorum { why: error.to_string() }
}

fn console_error(error: ConsoleError) -> ClusterError {
    match error {
        ConsoleError::NotHere { .. } | ConsoleError::NotRunning { .. } => {
            ClusterError::NotFound { why: error.to_string() }
        }
        ConsoleError::TooManyViewers { .. } => ClusterError::Overloaded,
        ConsoleError::Failed { .. } => internal(error),
    }
}

fn unreachable(node: NodeId, error: MeshError) -> ClusterError {
    match error {
        MeshError::Refused { refusal, .. } => match refusal.kind {
            RefusalKind::Busy => ClusterError::Overloaded,
            RefusalKind::NotFound | RefusalKind::NotHere => ClusterError::NotFound { why: refusal.why },
            RefusalKind::Invalid | RefusalKind::Forbidden | RefusalKind::Failed => internal(refusal.why),
        },
        MeshError::Busy { .. } => ClusterError::Overloaded,
        other => ClusterError::NodeUnreachable { node, why: other.to_string() },
    }
}
