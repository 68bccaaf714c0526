//! The program itself, with its logs: what a request was called stands in them.

use std::{
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use scp_api::{
    client::{Client, ClientError},
    local::LocalInit,
};
use tokio::time::Instant;

/// Generous: two loaded cores.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running `scpd`; it ends with the test, however that ends.
struct Scpd(Child);

impl Drop for Scpd {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(dir: &Path, socket: &Path) -> Scpd {
    let log = std::fs::File::create(dir.join("scpd.log")).expect("a log");
    let process = std::process::id();
    // The whole of 127/8 is this machine: an address of its own for each process of the tests.
    let listen = format!("127.{}.{}.77", process % 200 + 20, process / 200 % 200);
    let mut command = Command::new(env!("CARGO_BIN_EXE_scpd"));
    command.arg("--data-dir").arg(dir.join("data")).arg("--socket").arg(socket);
    command.args(["--listen", &listen, "--name", "n1", "--accelerator", "none", "--log-json"]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    Scpd(command.spawn().expect("scpd starts"))
}

#[tokio::test]
async fn a_request_is_found_in_the_logs_by_the_id_that_its_answer_told() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let socket = dir.path().join("sock");
    let mut scpd = start(dir.path(), &socket);
    let deadline = Instant::now() + PATIENCE;
    while tokio::net::UnixStream::connect(&socket).await.is_err() {
        assert!(Instant::now() < deadline, "scpd does not listen");
        assert!(scpd.0.try_wait().expect("it can be asked").is_none(), "scpd ended at once");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let client = Client::unix(&socket).expect("a client").with_deadline(PATIENCE);
    let order = LocalInit {
        city: "agueda".into(),
        country: "PT".into(),
        node_name: None,
        zone: None,
        admin_password: Some("correct horse battery staple".into()),
    };
    client.local_init(&order).await.expect("the city is founded");
    let Err(ClientError::Problem(problem)) = client.get_vm("nowhere", None).await else {
        panic!("there is no such VM");
    };
    assert_eq!(problem.code, "not_found");
    let pid = rustix::process::Pid::from_child(&scpd.0);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it is ours");
    assert!(scpd.0.wait().expect("it ends").success(), "it goes down in order");

    let log = std::fs::read_to_string(dir.path().join("scpd.log")).expect("a log");
    let lines: Vec<serde_json::Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}")))
        .collect();
    let told = lines.iter().find(|line| line["span"]["request_id"] == *problem.request_id);
    let told = told.unwrap_or_else(|| panic!("{} is not in\n{log}", problem.request_id));
    assert_eq!((&told["fields"]["status"], &told["span"]["route"]), (&404.into(), &"/v1/vms/{vm}".into()));
    assert!(!log.contains("correct horse"), "a password is in no log");
}
