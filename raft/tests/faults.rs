//! The crash suite of whole nodes: power loss at every operation and of all nodes at once, full,
//! failing and stalling disks. What was acknowledged is there afterwards, always.

mod common;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use common::{Group, Ledger, Member, small, whole_log};
use scp_model::NodeId;
use scp_raft::{
    Config, Disk, FileDisk, Ports, Raft, ReadError, Role, StartError, WriteError,
    sim::{Loss, MemDisk, Switch},
};
use tokio::time::{Instant, sleep, timeout};

const ONE: NodeId = NodeId(1);

/// A node alone on `disk`.
async fn alone(disk: &MemDisk) -> Result<Member, StartError> {
    let mut config = Config::new(ONE);
    small(&mut config);
    config.segment_bytes = 16 << 10;
    config.snapshot_log_bytes = 8 << 10;
    config.write_timeout = Duration::from_millis(500);
    let ledger = Ledger::default();
    let view = ledger.view();
    let ports = Ports {
        machine: Box::new(ledger),
        network: Switch::default().port(ONE),
        disk: Arc::new(disk.clone()) as Arc<dyn Disk>,
    };
    Ok(Member { raft: Raft::start(config, ports).await?, view, disk: disk.clone() })
}

/// Founds and writes until the disk dies; returns what was acknowledged.
async fn until_it_dies(disk: &MemDisk, writes: usize) -> Vec<Vec<u8>> {
    let mut acknowledged = Vec::new();
    let Ok(member) = alone(disk).await else { return acknowledged };
    // A disk that dies now never lets it lead: the bound is virtual time.
    let founded = timeout(Duration::from_secs(2), member.raft.initialize()).await;
    if matches!(founded, Ok(Ok(()))) {
        for number in 0..writes {
            let command = format!("line {number} {}", "x".repeat(700)).into_bytes();
            match member.raft.write(command.clone().into()).await {
                Ok(_) => acknowledged.push(command),
                Err(_) => break,
            }
        }
    }
    member.raft.shutdown().await;
    acknowledged
}

#[tokio::test(start_paused = true)]
async fn a_node_that_loses_power_at_any_operation_keeps_what_it_acknowledged() {
    const WRITES: usize = 28;
    let whole = MemDisk::new();
    assert_eq!(until_it_dies(&whole, WRITES).await.len(), WRITES);
    let operations = whole.operations();
    assert!(whole.list().expect("lists").contains(&"snapshot".to_owned()), "it crosses snapshots");
    let mut acknowledged_most = 0;
    for operation in 0..operations {
        let disk = MemDisk::new();
        disk.crash_at(operation);
        let acknowledged = until_it_dies(&disk, WRITES).await;
        acknowledged_most = acknowledged_most.max(acknowledged.len());
        let loss = [Loss::All, Loss::Torn(operation), Loss::Nothing][operation as usize % 3];
        let member = alone(&disk.crash(loss))
            .await
            .unwrap_or_else(|error| panic!("operation {operation} {loss:?}: {error}"));
        member.raft.initialize().await.expect("an empty node founds, another goes on");
        member.raft.linearizable().await.expect("it leads itself");
        let held = member.view.commands();
        assert!(held.len() >= acknowledged.len(), "operation {operation} {loss:?}");
        assert_eq!(held[..acknowledged.len()], acknowledged[..], "operation {operation} {loss:?}");
        assert!(held.len() <= acknowledged.len() + 1, "nothing was invented");
        member.raft.write("after".into()).await.expect("the disk works");
        member.raft.shutdown().await;
    }
    assert!(acknowledged_most > WRITES / 2, "the sweep reaches into the writes");
}

#[tokio::test(start_paused = true)]
async fn all_nodes_killed_at_once_lose_nothing_acknowledged() {
    for seed in 0..6u64 {
        let mut group = Group::of(3, small).await;
        let acknowledged = Arc::new(Mutex::new(Vec::new()));
        let leader = group.leader().await;
        for writer in 0..20 {
            let (raft, acknowledged) = (group.raft(leader).clone(), acknowledged.clone());
            tokio::spawn(async move {
                for number in 0.. {
                    let command = format!("{writer}/{number} {}", "x".repeat(150));
                    if raft.write(command.clone().into()).await.is_err() {
                        return;
                    }
                    acknowledged.lock().expect("no panics").push(command);
                    tokio::task::yield_now().await;
                }
            });
        }
        let enough = 200 + 30 * seed as usize;
        while acknowledged.lock().expect("no panics").len() < enough {
            sleep(Duration::from_millis(1)).await;
        }
        let disks: Vec<_> = (1..=3).map(|node| (NodeId(node), seed * 3 + node)).collect();
        // Taken before the power goes: a write acknowledged after this is not asked for.
        let acknowledged = acknowledged.lock().expect("no panics").clone();
        let disks: Vec<_> =
            disks.into_iter().map(|(node, seed)| (node, group.kill(node, Loss::Torn(seed)))).collect();
        for (node, disk) in disks {
            group.boot(node, disk).await;
        }
        group.agree(&acknowledged).await;
        group.write("after").await.expect("a majority is up");
    }
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_makes_a_node_read_only_until_space_returns() {
    let group = Group::single(small).await;
    let member = group.member(ONE);
    let mut written = group.fill(0, 10).await;
    let term = member.status().term;
    member.disk.set_capacity(Some(member.disk.used()));
    let why = loop {
        let command = format!("line {} {}", written.len(), "x".repeat(200));
        match member.raft.write(command.clone().into()).await {
            Ok(_) => written.push(command),
            Err(WriteError::ReadOnly { why }) => break why,
            Err(error) => panic!("{error}"),
        }
    };
    assert_eq!(why, "no space left on the disk");
    let status = group.until(ONE, "says so", |status| status.read_only.is_some()).await;
    assert_eq!((status.role, status.term), (Role::Leader, term), "it is up");
    group.agree(&written).await;
    member.disk.set_capacity(None);
    group.until(ONE, "recovers", |status| status.read_only.is_none()).await;
    written.extend(group.fill(written.len(), written.len() + 300).await);
    group.agree(&written).await;
    assert_eq!(member.status().term, term, "it never restarted");
}

#[tokio::test(start_paused = true)]
async fn a_leader_with_a_full_disk_hands_over_and_catches_up_when_space_returns() {
    let group = Group::of(3, small).await;
    let old = group.leader().await;
    let disk = group.member(old).disk.clone();
    disk.set_capacity(Some(disk.used()));
    let mut written = 0;
    let mut commands = Vec::new();
    // Writes go on: at most one pause while another takes over.
    while commands.len() < 600 {
        let command = format!("line {written} {}", "x".repeat(200));
        written += 1;
        match group.write(&command).await {
            Ok(_) => commands.push(command),
            Err(WriteError::ReadOnly { .. }) => sleep(Duration::from_millis(50)).await,
            Err(error) => panic!("{error}"),
        }
    }
    assert_ne!(group.leader().await, old);
    let status = group.until(old, "says so", |status| status.read_only.is_some()).await;
    assert!(status.role == Role::Follower, "{status:?}");
    disk.set_capacity(None);
    group.until(old, "recovers", |status| status.read_only.is_none()).await;
    group.agree(&commands).await;
}

#[tokio::test(start_paused = true)]
async fn a_follower_whose_reserve_is_used_up_says_so_at_once_and_holds_up_nobody() {
    let group = Group::of(3, small).await;
    let leader = group.leader().await;
    let full = group.members.keys().copied().find(|&node| node != leader).expect("there are two");
    let disk = group.member(full).disk.clone();
    disk.set_capacity(Some(disk.used()));
    let mut commands = Vec::new();
    while group.raft(full).stuck().is_none() {
        let command = format!("line {} {}", commands.len(), "x".repeat(200));
        group.write(&command).await.expect("two of three disks take it");
        commands.push(command);
        assert!(commands.len() < 5000, "the reserve has an end");
    }
    let asked_at = Instant::now();
    commands.push("meanwhile".into());
    group.write("meanwhile").await.expect("two of three disks take it");
    assert!(asked_at.elapsed() < Duration::from_millis(100), "{:?}", asked_at.elapsed());
    assert_eq!(group.leader().await, leader, "nobody stood for election");

    let asked_at = Instant::now();
    let read = group.raft(full).linearizable().await;
    assert!(matches!(read, Err(ReadError::Behind { .. })), "{read:?}");
    assert!(asked_at.elapsed() < Duration::from_secs(1), "{:?}", asked_at.elapsed());
    assert_eq!(group.raft(full).stuck().as_deref(), Some("no space left on the disk"));

    disk.set_capacity(None);
    group.until(full, "recovers", |status| status.read_only.is_none()).await;
    assert_eq!(group.raft(full).stuck(), None);
    group.agree(&commands).await;
}

#[tokio::test(start_paused = true)]
async fn with_all_disks_full_reads_and_elections_go_on() {
    let mut group = Group::of(3, small).await;
    let mut commands = group.fill(0, 10).await;
    for member in group.members.values() {
        member.disk.set_capacity(Some(member.disk.used()));
    }
    let mut refused = 0;
    while refused < 20 {
        let command = format!("line {} {}", commands.len(), "x".repeat(200));
        match group.write(&command).await {
            Ok(_) => commands.push(command),
            Err(WriteError::ReadOnly { .. }) => {
                refused += 1;
                sleep(Duration::from_millis(100)).await;
            }
            Err(error) => panic!("{error}"),
        }
    }
    group.agree(&commands).await;
    let old = group.leader().await;
    let disk = group.kill(old, Loss::All);
    group.leader_but(Some(old)).await;
    group.agree(&commands).await;
    disk.set_capacity(None);
    for member in group.members.values() {
        member.disk.set_capacity(None);
    }
    group.boot(old, disk).await;
    while let Err(error) = group.write("after").await {
        assert!(matches!(error, WriteError::ReadOnly { .. }), "{error}");
        sleep(Duration::from_millis(100)).await;
    }
    commands.push("after".into());
    group.agree(&commands).await;
}

#[tokio::test(start_paused = true)]
async fn a_node_whose_disk_fails_comes_back_by_itself() {
    let mut group = Group::single(small).await;
    let mut commands = group.fill(0, 50).await;
    group.member(ONE).disk.fail_syncs(2);
    let lost = group.raft(ONE).write("lost".into()).await;
    assert!(matches!(lost, Err(WriteError::Unknown { .. })), "{lost:?}");
    group.until(ONE, "waits", |status| status.role == Role::Restarting && status.read_only.is_some()).await;
    assert_eq!(group.raft(ONE).applied(), group.member(ONE).status().applied, "its state is still read");
    group.until(ONE, "is back", |status| status.role == Role::Leader && status.read_only.is_none()).await;
    commands.extend(group.fill(50, 100).await);
    group.agree(&commands).await;
    // What was read after the failure was durable.
    let disk = group.kill(ONE, Loss::All);
    group.boot(ONE, disk).await;
    group.agree(&commands).await;
}

#[tokio::test(start_paused = true)]
async fn a_leader_whose_disk_fails_is_replaced_and_rejoins() {
    let mut group = Group::of(3, small).await;
    let mut commands = group.fill(0, 50).await;
    let old = group.leader().await;
    group.member(old).disk.fail_syncs(1);
    let _ = group.raft(old).write("maybe".into()).await;
    group.write_but(Some(old), "after").await.expect("the others are a majority");
    commands.push("after".into());
    group.until(old, "is back", |status| status.read_only.is_none() && status.leader.is_some()).await;
    group.agree(&commands).await;
    let disk = group.kill(old, Loss::All);
    group.boot(old, disk).await;
    group.agree(&commands).await;
}

#[tokio::test(start_paused = true)]
async fn without_snapshots_the_log_grows_to_a_bound_and_no_further() {
    let group = Group::single(small).await;
    let member = group.member(ONE);
    member.view.break_snapshots(true);
    let mut written = Vec::new();
    let why = loop {
        let command = format!("line {} {}", written.len(), "x".repeat(4000));
        match group.write(&command).await {
            Ok(_) => written.push(command),
            Err(WriteError::ReadOnly { why }) => break why,
            Err(error) => panic!("{error}"),
        }
        assert!(written.len() < 1000, "a bound is kept");
    };
    assert!(why.contains("snapshot"), "{why}");
    group.agree(&written).await;
    member.view.break_snapshots(false);
    group.until(ONE, "recovers", |status| status.read_only.is_none()).await;
    written.push("after".into());
    group.write("after").await.expect("the log is short again");
    group.agree(&written).await;
}

#[tokio::test(start_paused = true)]
async fn a_stalled_disk_of_one_node_holds_up_nobody() {
    let group = Group::of(3, whole_log).await;
    let leader = group.leader().await;
    let stalled = group.members.keys().copied().find(|&node| node != leader).expect("there are two");
    for node in [stalled, leader] {
        group.member(node).disk.set_stalled(true);
        let commands = timeout(Duration::from_secs(5), group.fill(0, 50)).await;
        let commands = commands.expect("two of three disks work");
        group.member(node).disk.set_stalled(false);
        group.raft(node).linearizable().await.expect("it catches up");
        assert!(commands.iter().all(|command| group.member(node).view.holds(command.as_bytes())));
    }
}

#[tokio::test(start_paused = true)]
async fn a_directory_of_another_node_is_refused() {
    let disk = MemDisk::new();
    alone(&disk).await.expect("an empty disk starts").raft.shutdown().await;
    let ports = Ports {
        machine: Box::new(Ledger::default()),
        network: Switch::default().port(NodeId(2)),
        disk: Arc::new(disk),
    };
    let refused = Raft::start(Config::new(NodeId(2)), ports).await.err();
    assert_eq!(refused, Some(StartError::Identity { found: ONE, expected: NodeId(2) }));
}

#[tokio::test(start_paused = true)]
async fn a_node_that_has_taken_part_does_not_start_without_its_log() {
    let start = async |disk: &MemDisk| {
        let mut config = Config { has_taken_part: true, ..Config::new(ONE) };
        small(&mut config);
        config.segment_bytes = 16 << 10;
        let ports = Ports {
            machine: Box::new(Ledger::default()),
            network: Switch::default().port(ONE),
            disk: Arc::new(disk.clone()) as Arc<dyn Disk>,
        };
        Raft::start(config, ports).await
    };
    let empty = MemDisk::new();
    for _ in 0..2 {
        assert_eq!(start(&empty).await.err(), Some(StartError::Forgotten(ONE)), "not by trying again either");
    }
    let disk = MemDisk::new();
    let member = alone(&disk).await.expect("an empty disk starts");
    member.raft.initialize().await.expect("founds");
    member.raft.shutdown().await;
    start(&disk).await.expect("its log is there").shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_damaged_snapshot_is_an_error_and_not_ignored() {
    let mut group = Group::single(small).await;
    group.fill(0, 800).await;
    group.until(ONE, "took a snapshot", |status| status.snapshot > 100).await;
    let disk = group.kill(ONE, Loss::All);
    let length = disk.bytes("snapshot").len() as u64;
    for byte in [3, length / 2, length - 1] {
        let rotten = disk.fork(Loss::Nothing);
        rotten.flip("snapshot", byte, 1);
        let error = alone(&rotten).await.err();
        assert!(matches!(error, Some(StartError::Snapshot { .. })), "byte {byte}: {error:?}");
    }
}

/// Real threads, real files, real time.
#[tokio::test]
async fn a_group_on_real_files_keeps_everything_through_a_restart_of_all() {
    let dir = tempfile::tempdir().expect("a directory is to be had");
    let switch = Switch::default();
    let start = async |node: u64| {
        let node = NodeId(node);
        let mut config = Config::new(node);
        config.segment_bytes = 256 << 10;
        config.snapshot_log_bytes = 100 << 10;
        config.keep_log_bytes = 10 << 10;
        let ledger = Ledger::default();
        let view = ledger.view();
        // The lock goes with the last task of the run before.
        let open = async {
            loop {
                match FileDisk::open(dir.path().join(node.to_string())) {
                    Ok(disk) => return disk,
                    Err(_) => sleep(Duration::from_millis(10)).await,
                }
            }
        };
        let disk = timeout(common::PATIENCE, open).await.expect("the run before ends");
        let ports = Ports { machine: Box::new(ledger), network: switch.port(node), disk: Arc::new(disk) };
        let raft = Raft::start(config, ports).await.expect("starts");
        switch.plug(node, raft.clone());
        (raft, view)
    };
    let (one, _) = start(1).await;
    one.initialize().await.expect("founds");
    let (two, _) = start(2).await;
    one.add_learner(NodeId(2)).await.expect("adds");
    let caught_up = |status: &scp_raft::Status| {
        status.peers.get(&NodeId(2)).is_some_and(|peer| peer.matched == Some(status.last_log))
    };
    let mut status = one.status();
    timeout(common::PATIENCE, status.wait_for(|status| caught_up(status)))
        .await
        .expect("in time")
        .expect("runs");
    one.change_voters([ONE, NodeId(2)].into()).await.expect("changes");
    for some in 0..6 {
        let line = |number| format!("line {some}/{number} {}", "x".repeat(400));
        let writes = (0..100).map(|number| one.write(line(number).into()));
        for outcome in futures::future::join_all(writes).await {
            outcome.expect("both are up");
        }
    }
    two.shutdown().await;
    one.shutdown().await;
    switch.unplug(ONE);
    switch.unplug(NodeId(2));
    drop((one, two));
    let (one, one_view) = start(1).await;
    let (two, two_view) = start(2).await;
    one.linearizable().await.expect("a leader is elected");
    two.linearizable().await.expect("a leader is elected");
    assert_eq!(one_view.lines().len(), 600);
    assert_eq!(one_view.lines(), two_view.lines());
    one.shutdown().await;
    two.shutdown().await;
}

/// Snapshots at every few entries; larger segments, so that more waits for a quorum than calls for one.
fn eager(config: &mut Config) {
    small(config);
    config.snapshot_log_bytes = 4 << 10;
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_is_not_taken_again_while_what_is_too_much_waits_for_a_quorum() {
    let group = Group::of(3, eager).await;
    let mut commands = group.fill(0, 20).await;
    let leader = group.leader().await;
    for &other in group.members.keys().filter(|&&node| node != leader) {
        group.switch.cut(leader, other);
    }
    let mut waiting = Vec::new();
    for number in 20..32 {
        let (raft, command) = (group.raft(leader).clone(), format!("line {number} {}", "x".repeat(1_000)));
        commands.push(command.clone());
        waiting.push(tokio::spawn(async move { raft.write(command.into_bytes().into()).await }));
    }
    // Virtual time passes only while nobody is busy: one that took it again and again would wait here
    // for ever. Nobody stands for election yet.
    sleep(Duration::from_millis(50)).await;
    group.switch.heal();
    for write in waiting {
        write.await.expect("the task ends").expect("it was appended, and the quorum is back");
    }
    group.agree(&commands).await;
}
