//! Membership and small facts, by chitchat, in cells.

pub mod cell;

use std::{collections::BTreeMap, sync::Arc};

use scp_model::NodeId;
use tokio::sync::watch;

use self::cell::Roster;
use crate::transport::Transport;

/// The longest value of a fact, in bytes.
pub const FACT_VALUE_BYTES_MAX: usize = 256;
/// The most facts of one node. Every gossip exchange may carry all of a cell: 200 nodes × 16 × 256 B is
/// 800 KiB at the very worst, some 50 KiB in practice.
pub const FACTS_MAX: usize = 16;
/// The longest key of a fact, in bytes.
pub const FACT_KEY_BYTES_MAX: usize = 32;

/// What gossip knows of a node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MemberView {
    /// chitchat's slow opinion; the verdict is [`crate::observe`]'s.
    pub alive: bool,
    /// Ordered by key.
    pub facts: BTreeMap<String, String>,
}

/// Everyone that gossip knows of, this node included.
pub type View = BTreeMap<NodeId, MemberView>;

/// A fact that is too long, or one too many.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FactError {
    #[error("a fact's key has 1 to {FACT_KEY_BYTES_MAX} characters a-z, 0-9 and _")]
    Key,
    #[error("the value of fact {key} has {length} bytes, at most {FACT_VALUE_BYTES_MAX} are allowed")]
    Value { key: String, length: usize },
    #[error("a node has at most {FACTS_MAX} facts")]
    TooMany,
}

/// The city's identity for gossip: cells of other cities are not listened to.
#[derive(Debug, Clone)]
pub struct GossipConfig {
    pub city: scp_model::CityId,
    /// Raised by every start of this node; its clock at start will do.
    pub incarnation: u64,
}

/// A handle; clones are the same gossip.
#[derive(Clone)]
pub struct Gossip {}

impl Gossip {
    /// Begins to gossip. `roster` is what the state says; cells follow it.
    pub fn start(
        _config: GossipConfig,
        _transport: Arc<dyn Transport>,
        _roster: watch::Receiver<Arc<Roster>>,
    ) -> Self {
        unimplemented!()
    }

    /// Tells a fact about this node; an equal value is told once.
    pub fn set_fact(&self, _key: &str, _value: impl Into<String>) -> Result<(), FactError> {
        unimplemented!()
    }

    /// The latest view, and its changes.
    pub fn view(&self) -> watch::Receiver<Arc<View>> {
        unimplemented!()
    }

    pub async fn shutdown(&self) {
        unimplemented!()
    }
}
