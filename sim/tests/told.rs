//! What is told of a run follows from the run, and telling it changes nothing.

use std::process::Command;

fn sim(words: &[&str]) -> String {
    let output =
        Command::new(env!("CARGO_BIN_EXE_scp-sim")).args(words).output().expect("the simulator runs");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    said
}

fn digest(said: &str) -> &str {
    let line = said.lines().find_map(|line| line.strip_prefix("trace "));
    line.expect("the digest is printed")
}

#[test]
fn a_run_that_is_told_has_the_digest_of_one_that_is_not() {
    let dir = tempfile::tempdir().expect("a directory for the page");
    let path = dir.path().join("run.html");
    let path = path.to_str().expect("it is text");
    let plain = sim(&["--seed", "2", "--trace-hash"]);
    let told = sim(&["--seed", "2", "--trace-hash", "--report", "--html", path]);
    assert_eq!(digest(&plain), digest(&told));

    for line in told.lines() {
        assert!(line.chars().count() <= 120, "{line}");
    }
    assert!(told.contains("leads in term 1"), "{told}");
    assert!(told.contains("the city is founded; faults begin"), "{told}");
    assert!(told.contains("every promise was kept"), "{told}");
    assert!(told.contains("VMs placed"), "{told}");

    let page = std::fs::read_to_string(path).expect("the page was written");
    assert!(page.contains(digest(&plain)), "the page lacks the digest");
    assert!(page.contains("-- --seed 2 --html run.html"), "the page does not say how to play it again");
    for mark in ["mark leads", "mark fault", "mark vm", "mark op ok", "mark index"] {
        assert!(page.contains(mark), "the page lacks a {mark}");
    }
}
