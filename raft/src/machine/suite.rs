//! The checks that every implementation of [`Machine`](super::Machine) passes.

use std::io;

use super::{Machine, MachineSnapshot};

/// Runs all checks with machines made by `make` and commands that it understands; more than one, and
/// such that some change its state.
pub fn check(make: impl Fn() -> Box<dyn Machine>, commands: &[Vec<u8>]) {
    the_same_commands_give_the_same_answers_and_snapshots(&make, commands);
    a_snapshot_is_not_changed_by_later_commands(&make, commands);
    a_restored_machine_goes_on_like_the_original(&make, commands);
    a_failed_restore_changes_nothing(&make, commands);
}

fn feed(machine: &mut dyn Machine, commands: &[Vec<u8>], first: u64) -> Vec<Vec<u8>> {
    let answers = (first..).zip(commands).map(|(index, command)| machine.apply(index, command)).collect();
    machine.settle();
    answers
}

fn bytes(snapshot: &dyn MachineSnapshot) -> Vec<u8> {
    let mut bytes = Vec::new();
    snapshot.write(&mut bytes).expect("memory takes it");
    bytes
}

fn the_same_commands_give_the_same_answers_and_snapshots(
    make: &impl Fn() -> Box<dyn Machine>,
    commands: &[Vec<u8>],
) {
    let (mut one, mut other) = (make(), make());
    assert_eq!(feed(&mut *one, commands, 1), feed(&mut *other, commands, 1));
    assert_eq!(bytes(&*one.snapshot()), bytes(&*other.snapshot()));
}

fn a_snapshot_is_not_changed_by_later_commands(make: &impl Fn() -> Box<dyn Machine>, commands: &[Vec<u8>]) {
    let mut machine = make();
    let before = machine.snapshot();
    let written = bytes(&*before);
    feed(&mut *machine, commands, 1);
    assert_eq!(bytes(&*before), written);
    assert_ne!(bytes(&*machine.snapshot()), written, "the commands change the state");
}

fn a_restored_machine_goes_on_like_the_original(make: &impl Fn() -> Box<dyn Machine>, commands: &[Vec<u8>]) {
    let (first, second) = commands.split_at(commands.len() / 2);
    let mut original = make();
    feed(&mut *original, first, 1);
    let snapshot = bytes(&*original.snapshot());
    let mut restored = make();
    // Not empty: what was there before must go.
    feed(&mut *restored, second, 1);
    restored.restore(&mut snapshot.as_slice()).expect("it was written so");
    assert_eq!(bytes(&*restored.snapshot()), snapshot);
    let next = 1 + first.len() as u64;
    assert_eq!(feed(&mut *restored, second, next), feed(&mut *original, second, next));
    assert_eq!(bytes(&*restored.snapshot()), bytes(&*original.snapshot()));
}

fn a_failed_restore_changes_nothing(make: &impl Fn() -> Box<dyn Machine>, commands: &[Vec<u8>]) {
    struct Broken;
    impl io::Read for Broken {
        fn read(&mut self, _into: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("the disk failed"))
        }
    }
    let mut machine = make();
    feed(&mut *machine, commands, 1);
    let before = bytes(&*machine.snapshot());
    machine.restore(&mut Broken).expect_err("nothing was read");
    machine.restore(&mut &before[..before.len() / 2]).expect_err("half of it was read");
    assert_eq!(bytes(&*machine.snapshot()), before);
}
