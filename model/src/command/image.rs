//! Images.

use serde::{Deserialize, Serialize};

use crate::{
    ImageId, Name, NodeId, ProjectId,
    image::{ImageContent, Visibility},
};

/// Proposed by the node that took the bytes in, checked them and has them on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreateImage {
    pub id: ImageId,
    pub project: ProjectId,
    pub name: Name,
    pub visibility: Visibility,
    pub content: ImageContent,
    pub held_by: NodeId,
}

/// The scheduler wants (or no longer wants) a copy on a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AssignImage {
    pub image: ImageId,
    pub node: NodeId,
    pub wanted: bool,
}

/// Refused while a VM uses it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeleteImage {
    pub id: ImageId,
}
