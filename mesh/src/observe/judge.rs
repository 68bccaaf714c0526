//! The verdict on a silent node.

use scp_model::{NodeId, node::Evidence};

/// How the leader sees the city while it judges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CityView {
    /// Nodes that the state holds to be up, the leader included.
    pub nodes: usize,
    /// How many of them are silent at the leader, the subject included.
    pub silent: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The leader hears of it.
    Alive,
    /// Silent at the leader; not, or not enough, at its observers.
    Suspect,
    /// Propose `MarkNodeDown` with this.
    Dead(Evidence),
}

/// Judges one node from what the leader and the observers that were asked have (not) heard.
pub fn judge(_leader_silence_ms: u64, _reports: &[(NodeId, Option<u64>)], _city: CityView) -> Verdict {
    unimplemented!()
}
