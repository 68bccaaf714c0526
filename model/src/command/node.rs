//! Nodes and the tokens they join with.

use serde::{Deserialize, Serialize};

use crate::{
    Digest, JoinTokenId, NodeId, PublicKey, Timestamp,
    node::{Evidence, NodeProfile},
};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreateJoinToken {
    pub id: JoinTokenId,
    pub secret_digest: Digest,
    pub expires_at: Timestamp,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevokeJoinToken {
    pub id: JoinTokenId,
}

/// Consumes a join token. The same node may repeat it (a lost answer); another node may not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdmitNode {
    pub token: JoinTokenId,
    pub secret_digest: Digest,
    pub node: NodeId,
    pub public_key: PublicKey,
    pub profile: NodeProfile,
}

/// A node's new profile: renamed, re-addressed, upgraded, grown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpdateNode {
    pub node: NodeId,
    pub profile: NodeProfile,
}

/// Cordon and uncordon. Uncordoning ends a drain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetNodeSchedulable {
    pub node: NodeId,
    pub schedulable: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrainNode {
    pub node: NodeId,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MarkNodeDown {
    pub node: NodeId,
    pub evidence: Evidence,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MarkNodeUp {
    pub node: NodeId,
}

/// Ends a node's membership. `force` is for a node that is down and will not come back: what was
/// placed on it is placed elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoveNode {
    pub node: NodeId,
    pub force: bool,
}
