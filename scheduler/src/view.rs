//! What the leader knows beyond the state.

use std::collections::BTreeSet;

use scp_model::{NodeId, Timestamp, node::Evidence};

/// Input of [`plan`](crate::plan).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    pub now: Timestamp,
    /// The leader's own id.
    pub me: NodeId,
    /// When it became leader.
    pub leader_since: Timestamp,
    /// Nodes that are marked up and of which the leader has not heard for a second or more, with the
    /// evidence so far. Hand in all of them, early: what is enough is decided here, and the brake
    /// counts also those for which it is not enough yet.
    pub suspicions: Vec<Suspicion>,
    /// Nodes that are heard now; those among them that are marked down are marked up again.
    pub heard: BTreeSet<NodeId>,
}

/// A node that is silent, and who says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Suspicion {
    pub node: NodeId,
    pub evidence: Evidence,
}

/// What [`choose_voters`](crate::choose_voters) is told of the present agreement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VoterView {
    pub now: Timestamp,
    /// The leader's own id.
    pub me: NodeId,
    pub voters: BTreeSet<NodeId>,
    /// Learners whose log is close enough to the leader's to become voters at once.
    pub caught_up: BTreeSet<NodeId>,
}
