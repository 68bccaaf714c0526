//! Which nodes gossip with each other.

use std::collections::{BTreeMap, BTreeSet};

use scp_model::NodeId;

/// The city's members as the state has them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Roster {
    /// Whether the state holds the node to be up.
    pub members: BTreeMap<NodeId, bool>,
    /// Take part in the city-wide cell whatever their cell: the voters, one of whom leads.
    pub voters: BTreeSet<NodeId>,
}
