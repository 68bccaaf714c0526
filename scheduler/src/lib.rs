//! The leader's mind: view -> commands. Pure: no clock, no I/O, no randomness; the same state and view
//! always give the same commands in the same order.
//!
//! ```text
//!  State ──┐                     ┌─ health    MarkNodeDown / MarkNodeUp, with evidence
//!          ├─▶ plan ─▶ commands ─┼─ evacuate  EvacuateVm: off nodes that are down (brake) or draining
//!  View  ──┘                     ├─ place     BindVm: pending VMs, filter then rank
//!                                └─ images    AssignImage: copies where they are needed
//!  choose_voters   who agrees            explain   why a VM is where it is
//!  survives        what may be lost
//! ```
//!
//! # Flow
//! The leader calls [`plan`] whenever the state changed, something was suspected or heard, and at least
//! every 250 ms; proposes the commands in order; and calls again with the state that they led to.
//! Calling again too early only repeats commands, which `apply` answers as stale or as done.
//!
//! # Guarantees
//! - Level-triggered: nothing is remembered between calls; a new leader goes on where the old one ended.
//! - At most [`COMMANDS_MAX`] commands a round.
//! - Every binding fits what is free once all earlier commands of the round were applied.

use std::collections::BTreeSet;

use scp_model::{Command, NodeId, Timestamp, VmId, explain::Explanation, node::Evidence};
use scp_state::State;

/// Commands in one round. One round is proposed as one batch: this many fit a raft message and are
/// applied in some milliseconds, so a round never holds up users' commands noticeably.
pub const COMMANDS_MAX: usize = 256;

/// What the leader knows beyond the state.
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

/// One round: everything that should be done now, in the order in which to propose it.
pub fn plan(state: &State, view: &View) -> Vec<Command> {
    let _ = (state, view);
    Vec::new()
}

/// Why a VM is where it is, or nowhere. None when there is no such VM.
pub fn explain(state: &State, vm: VmId, now: Timestamp) -> Option<Explanation> {
    let _ = (state, vm, now);
    None
}

/// What [`choose_voters`] is told of the present agreement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VoterView {
    pub now: Timestamp,
    /// The leader's own id.
    pub me: NodeId,
    pub voters: BTreeSet<NodeId>,
    /// Learners whose log is close enough to the leader's to become voters at once.
    pub caught_up: BTreeSet<NodeId>,
}

/// The voters that there should be; none when the present ones are right or no better is possible now.
pub fn choose_voters(state: &State, view: &VoterView) -> Option<BTreeSet<NodeId>> {
    let _ = (state, view);
    None
}

/// What the city can lose and go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Survival {
    /// Any so many nodes may be lost at once: the control plane goes on and all VMs find a place.
    /// Only 0 and 1 are proven for VMs.
    pub nodes: u64,
    /// Any so many more voters may be lost.
    pub voters: u64,
    /// Why not one more, as sentences for people; empty when nothing is to be said.
    pub reasons: Vec<String>,
}

/// Proves how many node losses the city survives, for the first sentence of `scpctl status`.
pub fn survives(state: &State, voters: &BTreeSet<NodeId>) -> Survival {
    let _ = (state, voters);
    Survival { nodes: 0, voters: 0, reasons: Vec::new() }
}
