//! Failure detection: each node is watched by a few others, and the leader asks them before it judges.

mod choose;
mod judge;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use scp_model::NodeId;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

pub use self::{
    choose::{Seat, observers_of},
    judge::{CityView, Verdict, judge},
};
use crate::transport::{Refusal, Transport};

/// A node tells its observers and the leader that it lives, this often.
pub const HEARTBEAT_MS: u64 = 150;

/// Who is in the city, where, and who leads.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Watchlist {
    pub seats: Vec<Seat>,
    pub leader: Option<NodeId>,
}

/// How long has each of these been silent? (Probe lane, leader to observer.)
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SilenceAsk {
    pub subjects: Vec<NodeId>,
}

/// In the order asked. `None`: this observer does not watch it, or was itself late and does not judge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SilenceReport {
    pub silences_ms: Vec<Option<u64>>,
}

/// Sends this node's heartbeats and listens to others'. A handle; clones are the same observer.
#[derive(Clone)]
pub struct Observer {}

impl Observer {
    pub fn start(_transport: Arc<dyn Transport>, _watchlist: watch::Receiver<Arc<Watchlist>>) -> Self {
        unimplemented!()
    }

    /// Milliseconds since `peer` was last heard of, less the time in which we ourselves were not
    /// listening; `None`: not watched here.
    pub fn silence(&self, _peer: NodeId) -> Option<u64> {
        unimplemented!()
    }

    /// Every watched node with its silence in milliseconds.
    pub fn silences(&self) -> Vec<(NodeId, u64)> {
        unimplemented!()
    }

    /// Answers a request of the probe lane; the node's `Service` passes it here.
    pub fn answer(&self, _request: &[u8]) -> Result<Bytes, Refusal> {
        unimplemented!()
    }

    /// Asks the subject's observers, all at once. Those that do not answer in time report `None`.
    pub async fn ask(&self, _subject: NodeId, _timeout: Duration) -> Vec<(NodeId, Option<u64>)> {
        unimplemented!()
    }
}
