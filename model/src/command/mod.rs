//! Commands: the only way to change the state. Everything that is not deterministic (time, ids, keys,
//! hardware addresses, hashes) has been filled in before a command is proposed.

pub mod city;
pub mod compute;
pub mod identity;
pub mod image;
pub mod node;

use serde::{Deserialize, Serialize};

pub use self::{city::*, compute::*, identity::*, image::*, node::*};
use crate::{NodeId, RequestId, Timestamp, UserId, fact::ReportBatch};

/// One entry of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proposal {
    pub request: RequestId,
    pub actor: Actor,
    /// The proposer's clock.
    pub time: Timestamp,
    pub command: Command,
}

/// Who asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Actor {
    User(UserId),
    /// A node, of its own accord: reports, its profile.
    Node(NodeId),
    /// The leader's scheduler and failure detection.
    Leader(NodeId),
    /// Root on a node, over the local socket.
    Local(NodeId),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    InitCity(Box<InitCity>),
    SetOvercommit(SetOvercommit),

    CreateJoinToken(CreateJoinToken),
    RevokeJoinToken(RevokeJoinToken),
    AdmitNode(Box<AdmitNode>),
    UpdateNode(Box<UpdateNode>),
    SetNodeSchedulable(SetNodeSchedulable),
    DrainNode(DrainNode),
    MarkNodeDown(MarkNodeDown),
    MarkNodeUp(MarkNodeUp),
    RemoveNode(RemoveNode),

    CreateDepartment(CreateDepartment),
    DeleteDepartment(DeleteDepartment),
    CreateProject(CreateProject),
    SetQuota(SetQuota),
    DeleteProject(DeleteProject),
    CreateUser(CreateUser),
    UpdateUser(UpdateUser),
    DeleteUser(DeleteUser),
    CreateKeypair(CreateKeypair),
    DeleteKeypair(DeleteKeypair),

    CreateFlavor(CreateFlavor),
    DeleteFlavor(DeleteFlavor),

    CreateImage(Box<CreateImage>),
    AssignImage(AssignImage),
    DeleteImage(DeleteImage),

    CreateVm(Box<CreateVm>),
    BindVm(BindVm),
    EvacuateVm(EvacuateVm),
    SetVmPower(SetVmPower),
    RebootVm(RebootVm),
    DeleteVm(DeleteVm),

    Report(ReportBatch),
}
