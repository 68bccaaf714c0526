//! Pending VMs -> `BindVm`.
//!
//! Filter ([`Board::obstacle`]), then the smallest [`Rank`](crate::rank::Rank). Those that wait longest
//! come first. One that fits nowhere is passed over and holds up nobody: a large VM may therefore wait
//! while small ones fill the gaps; `explain` tells what would help it. There is no preemption and no
//! rebalancing of what runs: a VM's disk is local, so moving it costs its owner something.
//!
//! A VM that was evacuated from a node that is up waits until that node confirms the removal
//! (`State::may_bind`): it never runs twice for the sake of a drain. A node that is silent gets nothing
//! while it is not clear whether it is down.

use crate::{Round, board::Board};
use scp_model::{Command, command::BindVm};

/// Bindings for at most `room` VMs, written to the board as they are made.
pub(crate) fn place<'a>(round: &Round<'a>, board: &mut Board<'a>, room: usize) -> Vec<Command> {
    let Round { state, survey, .. } = round;
    let mut commands = Vec::new();
    for vm in survey.pending.iter().copied().filter(|vm| state.may_bind(vm)) {
        if commands.len() == room {
            break;
        }
        if let Some(node) = board.best(vm, |node| round.is_suspected(node)) {
            board.bind(vm, node);
            commands.push(Command::BindVm(BindVm { vm: vm.id, node, basis: vm.generation }));
        }
    }
    commands
}
