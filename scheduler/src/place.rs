//! Pending VMs -> `BindVm`.
//!
//! Filter ([`Board::obstacle`]), then the smallest [`Rank`](crate::rank::Rank). Those that wait longest
//! come first. One that fits nowhere is passed over and holds up nobody: a large VM may therefore wait
//! while small ones fill the gaps; `explain` tells what would help it. There is no preemption and no
//! rebalancing of what runs: a VM's disk is local, so moving it costs its owner something.
//!
//! A VM that was evacuated from a node that is up waits until that node confirms the removal
//! (`Round::may_bind`): it never runs twice for the sake of a drain. A node that is silent gets nothing
//! while it is not clear whether it is down.

use std::collections::BTreeSet;

use scp_model::{Command, Name, Resources, command::BindVm};

use crate::{Round, board::Board};

/// Bindings for at most `room` VMs, written to the board as they are made.
pub(crate) fn place<'a>(round: &Round<'a>, board: &mut Board<'a>, room: usize) -> Vec<Command> {
    let state = round.state;
    // What fits nowhere: what is free only becomes less in the round, so its like need not be tried.
    let mut unfit: BTreeSet<(Option<&Name>, Resources)> = BTreeSet::new();
    let mut commands = Vec::new();
    for vm in state.pending_vms() {
        if commands.len() == room {
            break;
        }
        let needs = (vm.spec.zone.as_ref(), vm.spec.resources);
        if unfit.contains(&needs) || !round.may_bind(vm) {
            continue;
        }
        match board.best(vm, |node| round.is_suspected(node)) {
            Some(node) => {
                board.bind(vm, node);
                commands.push(Command::BindVm(BindVm { vm: vm.id, node, basis: vm.generation }));
            }
            None if vm.spec.anti_affinity.is_none() => drop(unfit.insert(needs)),
            None => {}
        }
    }
    commands
}
