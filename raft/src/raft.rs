//! The handle that the rest of the node holds.

use std::{collections::BTreeSet, sync::Arc};

use bytes::Bytes;
use scp_model::NodeId;
use tokio::sync::watch;

use crate::{
    config::Config,
    disk::Disk,
    error::{ChangeError, ReadError, StartError, TransferError, WriteError},
    machine::Machine,
    network::Network,
    status::Status,
};

/// What a node brings.
pub struct Ports {
    pub machine: Box<dyn Machine>,
    pub network: Arc<dyn Network>,
    pub disk: Arc<dyn Disk>,
}

/// A committed and applied write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    pub index: u64,
    /// What the machine answered.
    pub answer: Vec<u8>,
}

/// Cheap to clone; all clones are the same node.
#[derive(Clone)]
pub struct Raft {
    status: watch::Receiver<Status>,
}

impl Raft {
    /// Opens the log, restores the machine from snapshot and log, and starts taking part.
    pub async fn start(_config: Config, _ports: Ports) -> Result<Self, StartError> {
        Err(StartError::Core("not wired yet".into()))
    }

    /// Founds a group of this node alone. On a node that has a log already this changes nothing.
    pub async fn initialize(&self) -> Result<(), ChangeError> {
        Err(ChangeError::Stopped)
    }

    /// Replicates a command and waits until it is applied here. Only on the leader.
    pub async fn write(&self, _command: Bytes) -> Result<Applied, WriteError> {
        Err(WriteError::Stopped)
    }

    /// Returns once everything that was acknowledged anywhere before the call is applied here: read
    /// the machine's state after it. On every node; followers and learners ask the leader.
    pub async fn linearizable(&self) -> Result<u64, ReadError> {
        Err(ReadError::Stopped)
    }

    /// Index of the last entry applied here.
    pub fn applied(&self) -> u64 {
        self.status.borrow().applied
    }

    /// Waits until `index` is applied here.
    pub async fn wait_applied(&self, _index: u64) -> Result<(), ReadError> {
        Err(ReadError::Stopped)
    }

    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// Answers a peer's request: what [`Network::call`] carries ends here.
    pub async fn answer(&self, _from: NodeId, _request: Bytes) -> Bytes {
        Bytes::new()
    }

    /// Makes `node` receive the log. Returns when the change is committed, not when it has caught up.
    pub async fn add_learner(&self, _node: NodeId) -> Result<u64, ChangeError> {
        Err(ChangeError::Stopped)
    }

    /// Makes exactly these learners and voters the voters, through one joint step; the voters left
    /// out become learners. All of them must be caught up.
    pub async fn change_voters(&self, _voters: BTreeSet<NodeId>) -> Result<u64, ChangeError> {
        Err(ChangeError::Stopped)
    }

    /// Takes a learner out of the group. A voter has to be made a learner first.
    pub async fn remove(&self, _node: NodeId) -> Result<u64, ChangeError> {
        Err(ChangeError::Stopped)
    }

    /// Hands leadership to the voter that is furthest, and returns it once it leads.
    pub async fn transfer_leadership(&self) -> Result<NodeId, TransferError> {
        Err(TransferError::Stopped)
    }

    /// Takes a snapshot now and drops the log that it covers.
    pub async fn compact(&self) -> Result<(), StartError> {
        Ok(())
    }

    /// Hands leadership over, then stops. Everything acknowledged is on disk.
    pub async fn shutdown(&self) {}
}
