//! Cities with the production mesh inside: QUIC and TLS over links that lose, delay and repeat datagrams.
//! Nothing is broken, and the same seed gives the same trace.

use std::process::Command;

fn run(seed: u64) -> (bool, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_scp-sim"))
        .args(["--seed", &seed.to_string(), "--transport", "quic", "--trace-hash"])
        .output()
        .expect("the simulator runs");
    (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
}

fn keeps_its_promises(seed: u64) -> String {
    let (ok, first) = run(seed);
    assert!(ok, "{first}");
    assert!(first.starts_with(&format!("seed {seed}\ntrace ")), "{first}");
    first
}

#[test]
fn seed_17_keeps_its_promises_and_gives_one_trace() {
    let first = keeps_its_promises(17);
    let (_, second) = run(17);
    assert_eq!(first, second, "seed 17 gave two traces");
}

/// Certificates have run out when the troubles begin.
#[test]
fn seed_20_keeps_its_promises() {
    keeps_its_promises(20);
}

/// Certificates come due on the way.
#[test]
fn seed_5_keeps_its_promises() {
    keeps_its_promises(5);
}
