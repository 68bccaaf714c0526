//! A server of its own for each test: private mounts, network and processes. The test binary runs itself
//! again inside; when it ends, however it ends, the kernel ends everything in it.

use std::{
    process::{Command, Stdio},
    time::Duration,
};

/// Tells the inner run of the test binary which test it is, and that it is inside.
const INSIDE: &str = "SCP_TEST_SERVER";
/// Longer than the slowest server takes to start its daemons.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs `body` in a server of its own. Outside, it only waits for the inner run and fails with it.
pub fn in_server(test: &str, body: impl FnOnce()) {
    match std::env::var(INSIDE) {
        Ok(inside) => {
            assert_eq!(inside, test);
            body();
        }
        Err(_) => run_inside(test),
    }
}

fn run_inside(test: &str) {
    let binary = std::env::current_exe().expect("a test knows its binary");
    let output = Command::new("unshare")
        .args([
            "--mount",
            "--net",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
            "--propagation=private",
        ])
        // A shell as the first process: it buries the children of others, on which libvirt waits.
        .args(["sh", "-c", "\"$0\" \"$@\"; exit $?"])
        .arg(binary)
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(INSIDE, test)
        .stdin(Stdio::null())
        .output()
        .expect("unshare runs");
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "the test failed in its server:\n{said}");
    assert!(said.contains("1 passed"), "the test did run in its server:\n{said}");
}

/// Waits for a condition of the outside world.
#[allow(clippy::disallowed_methods)] // No runtime here: this waits for a process to come up.
pub fn until(what: &str, condition: impl Fn() -> bool) {
    let began = std::time::Instant::now();
    while !condition() {
        assert!(began.elapsed() < PATIENCE, "in {PATIENCE:?} it never came to be that {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Runs a command that must succeed; returns what it printed.
pub fn run(program: &str, arguments: &[&str]) -> String {
    let output =
        Command::new(program).args(arguments).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}
