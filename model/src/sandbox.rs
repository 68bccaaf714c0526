//! What every placed workload has in common, whatever runs inside: a VM today, database members and
//! application instances on the same road.

use serde::{Deserialize, Serialize};

use crate::{Epoch, NodeId, Timestamp};

/// Where a sandbox runs, and by which grant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    pub node: NodeId,
    /// Index of the `Bind` that granted it.
    pub epoch: Epoch,
    pub since: Timestamp,
}

/// What the owner wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Power {
    Running,
    Stopped,
}

/// What happens when the inside ends without having been asked to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub enum RestartPolicy {
    /// Started again however it ended.
    Always,
    /// Started again after a crash; a shutdown from inside is respected.
    #[default]
    OnFailure,
    /// Left as it is.
    Never,
}
