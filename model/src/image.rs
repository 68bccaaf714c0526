//! Images: content-addressed disks that VMs start from.
//!
//! The file is cut into chunks of [`CHUNK_BYTES`]; the *manifest* lists their digests and is itself
//! content, so the state holds one digest an image however large it is.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{Digest, ImageId, Name, NodeId, ProjectId, Timestamp};

/// Bytes of every chunk but the last.
pub const CHUNK_BYTES: u64 = 4 << 20;
/// The largest image file: its manifest is still one mesh message.
pub const IMAGE_BYTES_MAX: u64 = 1 << 40;
/// On how many nodes an image is kept beside those that use it.
pub const IMAGE_REPLICAS: usize = 3;

/// Detected from the bytes, never from the name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ImageFormat {
    Raw,
    Qcow2,
}

/// What an image is, as found by the node that took it in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageContent {
    pub format: ImageFormat,
    /// Bytes of the file.
    pub size_bytes: u64,
    /// Bytes of the disk that a guest sees.
    pub virtual_size_bytes: u64,
    /// Digest of the file.
    pub digest: Digest,
    /// Digest of the manifest: the chunks' digests, in order, 32 bytes each.
    pub manifest: Digest,
}

impl ImageContent {
    pub fn chunk_count(&self) -> u64 {
        self.size_bytes.div_ceil(CHUNK_BYTES)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Visibility {
    /// Seen by its project.
    Private,
    /// Seen by every project of the city.
    Public,
}

/// One node's copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReplicaStatus {
    /// The node is to fetch it.
    Assigned,
    /// The node has it whole and checked.
    Held,
    /// The node could not; the scheduler picks another or tries again.
    Failed { message: String, at: Timestamp },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    pub id: ImageId,
    pub name: Name,
    pub project: ProjectId,
    pub visibility: Visibility,
    pub content: ImageContent,
    pub replicas: BTreeMap<NodeId, ReplicaStatus>,
    pub created_at: Timestamp,
}

impl Image {
    /// Nodes that have it whole.
    pub fn holders(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.replicas.iter().filter(|(_, status)| **status == ReplicaStatus::Held).map(|(node, _)| *node)
    }
}
