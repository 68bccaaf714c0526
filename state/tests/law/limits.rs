//! Tables have a bound, and say so when it is reached.

use scp_state::{
    invariants,
    limits::{FLAVORS_MAX, INIT_FLAVORS_MAX, JOIN_TOKENS_MAX, ORPHAN_NAME_BYTES_MAX, ORPHANS_MAX},
};

use crate::support::World;

#[test]
fn join_tokens_are_bounded_and_spent_ones_make_room() {
    let mut world = World::unchecked();
    world.run("init");
    for at in 0..JOIN_TOKENS_MAX {
        let told = world.run(&format!("token t{at} for-ms=86400000"));
        assert!(told.starts_with("ok"), "{told}");
    }
    let told = world.run("token more");
    assert!(told.starts_with("rejected: join tokens that can still be used: at most 1000"), "{told}");
    // A used one no longer counts; it is remembered as used.
    world.run("admit b token=t7");
    assert!(world.run("token more").starts_with("ok"));
    assert!(world.run("admit c token=t7").starts_with("rejected: the join token has been used"));
    assert_eq!(world.state.join_tokens.len(), JOIN_TOKENS_MAX + 1);
    // They all expire. New ones come, and of the old ones only so many are remembered.
    world.run("wait ms=90000000");
    for at in 0..10 {
        assert!(world.run(&format!("token n{at}")).starts_with("ok"));
    }
    assert_eq!(world.state.join_tokens.len(), JOIN_TOKENS_MAX - 1 + 10);
    assert!(world.run("admit c token=t0").starts_with("rejected: the join token is unknown"));
    assert_eq!(invariants::check(&world.state), Ok(()));
    assert!(world.run("admit c token=t999").starts_with("rejected: the join token has expired"));
}

#[test]
fn flavors_are_bounded() {
    let many: Vec<String> = (0..=INIT_FLAVORS_MAX).map(|at| format!("f{at}")).collect();
    let told = World::new().run(&format!("init flavors={}", many.join(",")));
    assert!(told.starts_with("rejected: flavors at the beginning: at most 32"), "{told}");

    let mut world = World::unchecked();
    world.run("init");
    for at in 0..FLAVORS_MAX {
        world.run(&format!("create-flavor f{at}"));
    }
    assert_eq!(world.run("create-flavor more"), "rejected: flavors: at most 1000\n");
}

#[test]
fn orphans_are_clipped_in_number_and_in_length() {
    let mut world = World::new();
    world.run("init");
    let names = vec!["x".repeat(ORPHAN_NAME_BYTES_MAX + 50); ORPHANS_MAX + 50];
    world.run(&format!("report a orphans {}", names.join(",")));
    let node = world.state.nodes.values().next().expect("there is a node");
    assert_eq!(node.orphans.len(), ORPHANS_MAX);
    assert!(node.orphans.iter().all(|orphan| orphan.name.len() <= ORPHAN_NAME_BYTES_MAX));
}

#[test]
fn evidence_names_a_bounded_number_of_observers() {
    let mut world = World::new();
    world.run("init\n token t\n admit b token=t");
    let many: Vec<String> = (0..65).map(|at| format!("n{at}:2500")).collect();
    let told = world.run(&format!("down b observers={}", many.join(",")));
    assert_eq!(told, "rejected: observers: at most 64\n");
}
