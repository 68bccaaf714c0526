//! Servers, for real: namespaces, power cuts, and what is left of a run whose owner was killed.

use std::{
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use scp_servers::{Options, Run, Servers, output, run, wait_until};

/// Generous: the machine may be loaded; what is waited for takes milliseconds.
const SOON: Duration = Duration::from_secs(60);

fn two() -> Servers {
    Servers::build(&Options { count: 2, libvirt: false })
        .expect("servers can be built: root and iproute2 are there")
}

fn namespaces_of(run: &Run) -> usize {
    let list = output(Command::new("ip").args(["netns", "list"])).expect("namespaces can be listed");
    list.lines().filter(|line| line.starts_with(&format!("scp-{}-", run.id))).count()
}

#[test]
fn a_power_cut_loses_run_and_keeps_the_disks() {
    let mut servers = two();
    let n1 = servers.get("n1").expect("was built");
    n1.start().expect("switches on");
    run(n1.command("sh").expect("is on").args(["-c", "echo disk >/var/lib/scp/file; echo ram >/run/file"]))
        .expect("both can be written");
    let mut sleeper = n1.command("sleep").expect("is on");
    let pid = n1.spawn("sleeper", sleeper.arg("1000")).expect("starts");
    let is_inside = || n1.pids().expect("/proc is readable").contains(&pid).then_some(());
    assert!(wait_until(SOON, is_inside).is_some(), "the sleeper runs on the server");
    assert!(!Path::new("/run/file").exists(), "the server's /run is not the machine's");

    assert_eq!(n1.kill_everything().expect("all die"), 2, "the anchor and the sleeper");
    assert!(!n1.is_on());
    assert_eq!(n1.pids().expect("/proc is readable"), []);

    n1.start().expect("switches on again");
    let seen =
        output(n1.command("sh").expect("is on").args(["-c", "cat /var/lib/scp/file; ls /run/file || true"]));
    assert_eq!(seen.expect("the disk is there"), "disk\n");
    servers.end().expect("ends");
}

#[test]
fn servers_reach_each_other_until_the_cable_is_pulled() {
    let mut servers = two();
    for name in ["n1", "n2"] {
        servers.get(name).expect("was built").start().expect("switches on");
    }
    let address = servers.get("n2").expect("was built").address.clone();
    let n1 = servers.get("n1").expect("was built");
    let hostname = output(&mut n1.command("hostname").expect("is on")).expect("has a name");
    assert_eq!(hostname.trim(), "n1");
    // ARP answers without any daemon: a neighbour entry with a hardware address is a reached neighbour.
    let reaches = |server: &scp_servers::Server| {
        let script = format!("exec 3<>/dev/udp/{address}/9 && echo >&3; ip neigh show {address}");
        let seen = output(server.command("bash").expect("is on").args(["-c", &script])).unwrap_or_default();
        seen.contains("lladdr") && !seen.contains("FAILED")
    };
    assert!(wait_until(SOON, || reaches(n1).then_some(())).is_some(), "n2 is reached over the bridge");
    n1.set_cable(false).expect("is pulled");
    run(n1.command("ip").expect("is on").args(["neigh", "flush", "dev", "eth0"])).expect("flushes");
    assert!(!reaches(n1), "nothing is reached without a cable");
    n1.set_cable(true).expect("is plugged in");
    assert!(wait_until(SOON, || reaches(n1).then_some(())).is_some(), "n2 is reached again");
}

/// The owner of the next test: runs as its child only.
#[test]
fn an_owner_that_waits_to_be_killed() {
    if std::env::var_os("SCP_SERVERS_OWNER").is_none() {
        return;
    }
    let mut servers = two();
    servers.get("n1").expect("was built").start().expect("switches on");
    println!("run {}", servers.run.id);
    let _ = std::io::stdin().read_line(&mut String::new());
}

#[test]
fn nothing_is_left_of_a_run_whose_owner_is_killed() {
    let mut owner = Command::new(std::env::current_exe().expect("the test knows itself"))
        .args(["--exact", "an_owner_that_waits_to_be_killed", "--nocapture"])
        .env("SCP_SERVERS_OWNER", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the owner starts");
    let stdout = std::io::BufReader::new(owner.stdout.take().expect("is a pipe"));
    let id = std::io::BufRead::lines(stdout)
        .map_while(Result::ok)
        .find_map(|line| Some(line.split_once("run ")?.1.to_string()).filter(|id| !id.contains(' ')))
        .expect("the owner says which run it built");
    let run = Run { dir: scp_servers::runs_dir().join(&id), id };
    assert_eq!(namespaces_of(&run), 3, "two servers and their network");

    owner.kill().expect("is killed");
    owner.wait().expect("ends");

    assert!(wait_until(SOON, || (namespaces_of(&run) == 0).then_some(())).is_some(), "namespaces remain");
    assert!(wait_until(SOON, || (!run.dir.exists()).then_some(())).is_some(), "the disks remain");
}
