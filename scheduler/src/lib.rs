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
//! - Nothing is evacuated for which there is no room elsewhere, nor while the brake holds ([`health`]).
//!
//! # Cost
//! One pass over the nodes and one over the images a round; for each VM that is placed or evacuated a
//! look at few nodes ([`order`]). VMs that are where they should be cost nothing: those that wait, the
//! members of groups and the copies that are due are indices of the state. The state is not copied.

mod board;
mod evacuate;
mod explain;
pub mod health;
mod images;
mod order;
mod place;
pub mod rank;
mod remedy;
mod survives;
mod view;
mod voters;

use std::collections::BTreeSet;

use scp_model::{Command, NodeId, vm::Vm};
use scp_state::State;

use crate::board::Board;
pub use crate::{
    explain::explain,
    survives::{Survival, survives},
    view::{Suspicion, View, VoterView},
    voters::choose_voters,
};

/// Commands in one round. Not fewer: a round looks once at each node, which in a city of thousands costs
/// as much as hundreds of choices. Not more: so many are some 200 KiB of log and are applied in about
/// 10 ms, so a round never holds up users' commands noticeably.
pub const COMMANDS_MAX: usize = 1_024;

/// One round: everything that should be done now, in the order in which to propose it.
///
/// Liveness comes first; then those that wait already (with at most three quarters of the round), those
/// that are to leave where they are, and copies. Nothing is put on or taken off a node whose liveness
/// is in doubt or changes in this round.
pub fn plan(state: &State, view: &View) -> Vec<Command> {
    let suspected = view.suspicions.iter().map(|suspicion| suspicion.node).collect();
    let mut commands = health::health(state, view, COMMANDS_MAX / 4);
    let rising = commands.iter().filter_map(|command| match command {
        Command::MarkNodeUp(up) => Some(up.node),
        _ => None,
    });
    let round = Round { state, view, suspected, rising: rising.collect() };
    let mut board = Board::new(state);
    commands.extend(place::place(&round, &mut board, COMMANDS_MAX / 4 * 3 - commands.len()));
    let room = COMMANDS_MAX - commands.len();
    commands.extend(evacuate::evacuate(&round, &mut board, room));
    let room = COMMANDS_MAX - commands.len();
    commands.extend(images::images(&round, room));
    commands
}

/// What every concern of one round reads.
pub(crate) struct Round<'a> {
    state: &'a State,
    view: &'a View,
    suspected: BTreeSet<NodeId>,
    /// Declared up in this round: once it is, VMs wait for what it still has to remove.
    rising: BTreeSet<NodeId>,
}

impl Round<'_> {
    /// Silent, though not declared down before this round: nothing new is put there.
    fn is_suspected(&self, node: NodeId) -> bool {
        self.suspected.contains(&node)
    }

    /// Whether a VM may be bound once this round's declarations are applied.
    fn may_bind(&self, vm: &Vm) -> bool {
        let rises = |node: NodeId| self.rising.contains(&node);
        self.state.may_bind(vm) && !self.state.evictions_of(vm.id).any(|eviction| rises(eviction.node))
    }

    /// Heard again, though not declared up before this round: nothing is taken from there any more.
    fn is_back(&self, node: NodeId) -> bool {
        node == self.view.me || self.view.heard.contains(&node) && !self.is_suspected(node)
    }
}
