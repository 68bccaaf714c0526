//! The stories: `golden/*.txt`. Commands in, answers and events out. `REWRITE=1 cargo test -p scp-state
//! --test law` writes what the state does today into them; read the difference before committing.

use crate::support::{
    World,
    coverage::{COMMANDS, REJECTIONS, Seen},
};

/// Rejections that `apply` never gives: the brake is the scheduler's, who then proposes nothing.
const OTHERS: &[&str] = &["BrakeEngaged"];

#[test]
fn stories_are_told_as_written_and_cover_every_command_and_rejection() {
    let mut seen = Seen::default();
    datadriven::walk("tests/golden", |file| {
        let mut world = World::new();
        file.run(|case| {
            assert_eq!(case.directive, "run");
            world.run(&case.input)
        });
        seen.merge(world.seen);
    });
    let without_effect: Vec<_> = COMMANDS.iter().filter(|name| !seen.commands.contains(*name)).collect();
    assert!(without_effect.is_empty(), "no story has these commands take effect: {without_effect:?}");
    let never_given: Vec<_> =
        REJECTIONS.iter().filter(|name| !seen.rejections.contains(*name) && !OTHERS.contains(name)).collect();
    assert!(never_given.is_empty(), "no story has these rejections: {never_given:?}");
}
