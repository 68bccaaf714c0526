//! Whether the one who asks may ask this at all: the city has begun, and a node speaks for itself only.

use scp_model::{Actor, Command, NodeId, Rejection};

use super::{Change, Verdict};

pub(super) fn permit(change: &Change<'_>, command: &Command) -> Verdict {
    let begins = matches!(command, Command::InitCity(_));
    match (change.state.city.is_some(), begins) {
        (false, false) => return Err(Rejection::NotInitialised),
        (false, true) => return Ok(()),
        (true, true) => return Err(Rejection::AlreadyInitialised),
        (true, false) => {}
    }
    let speaker = speaker(command);
    match (change.actor, speaker) {
        (Actor::User(_), Speaker::Only(node)) => {
            Err(forbidden(format!("only node {node} itself tells that")))
        }
        (Actor::User(_), Speaker::Node(_) | Speaker::Owner | Speaker::Stranger) => Ok(()),
        // Whoever joins is not a member yet; the token speaks for it.
        (Actor::Node(_) | Actor::Leader(_) | Actor::Local(_), Speaker::Stranger) => Ok(()),
        (Actor::Node(actor), Speaker::Only(node) | Speaker::Node(node)) => {
            member(change, actor)?;
            let own = actor == node;
            if own { Ok(()) } else { Err(forbidden(format!("node {actor} may not speak for node {node}"))) }
        }
        (Actor::Node(actor), Speaker::Owner) => {
            Err(forbidden(format!("node {actor} may ask nothing but what concerns itself")))
        }
        (Actor::Leader(_) | Actor::Local(_), Speaker::Only(node)) => {
            Err(forbidden(format!("only node {node} itself tells that")))
        }
        (Actor::Leader(actor) | Actor::Local(actor), Speaker::Node(_) | Speaker::Owner) => {
            member(change, actor)
        }
    }
}

fn member(change: &Change<'_>, node: NodeId) -> Verdict {
    let known = change.state.nodes.contains_key(&node);
    if known { Ok(()) } else { Err(forbidden(format!("node {node} is not a member of the city"))) }
}

fn forbidden(why: String) -> Rejection {
    Rejection::Forbidden { why }
}

/// Who may say something.
enum Speaker {
    /// This node and nobody for it.
    Only(NodeId),
    /// This node, or whoever the API, the leader or root on a member let ask.
    Node(NodeId),
    /// Whoever the API, the leader or root on a member let ask; no node of its own accord.
    Owner,
    /// Someone who is not a member yet.
    Stranger,
}

fn speaker(command: &Command) -> Speaker {
    match command {
        Command::Report(batch) => Speaker::Only(batch.node),
        Command::UpdateNode(update) => Speaker::Node(update.node),
        Command::SetNodeSchedulable(set) => Speaker::Node(set.node),
        Command::DrainNode(drain) => Speaker::Node(drain.node),
        Command::RemoveNode(remove) => Speaker::Node(remove.node),
        Command::CreateImage(create) => Speaker::Node(create.held_by),
        Command::InitCity(_) | Command::AdmitNode(_) => Speaker::Stranger,
        Command::SetOvercommit(_)
        | Command::CreateJoinToken(_)
        | Command::RevokeJoinToken(_)
        | Command::MarkNodeDown(_)
        | Command::MarkNodeUp(_)
        | Command::CreateDepartment(_)
        | Command::DeleteDepartment(_)
        | Command::CreateProject(_)
        | Command::SetQuota(_)
        | Command::DeleteProject(_)
        | Command::CreateUser(_)
        | Command::UpdateUser(_)
        | Command::DeleteUser(_)
        | Command::CreateKeypair(_)
        | Command::DeleteKeypair(_)
        | Command::CreateFlavor(_)
        | Command::DeleteFlavor(_)
        | Command::AssignImage(_)
        | Command::DeleteImage(_)
        | Command::CreateVm(_)
        | Command::BindVm(_)
        | Command::EvacuateVm(_)
        | Command::SetVmPower(_)
        | Command::RebootVm(_)
        | Command::DeleteVm(_) => Speaker::Owner,
    }
}
