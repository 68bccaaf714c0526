//! Which nodes observe which.

use scp_model::{Name, NodeId};

/// A node and its failure domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seat {
    pub node: NodeId,
    pub zone: Name,
}

/// The observers of a node: a pure function of the city's members, the same everywhere.
pub fn observers_of(_subject: NodeId, _seats: &[Seat]) -> Vec<NodeId> {
    unimplemented!()
}
