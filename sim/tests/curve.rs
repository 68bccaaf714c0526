//! The curve's small sizes: every promise of gossip and failure detection holds.

use std::process::Command;

fn holds(members: &str) {
    let output = Command::new(env!("CARGO_BIN_EXE_scp-sim"))
        .args(["curve", "--members", members])
        .output()
        .expect("the simulator runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn ten_members_know_an_update_within_a_second_and_a_death_within_three() {
    holds("10");
}

#[test]
fn a_hundred_members_know_an_update_within_a_second_and_a_death_within_three() {
    holds("100");
}
