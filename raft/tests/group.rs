//! Groups of nodes: elections, partitions, membership, snapshots, handing over.

mod common;

use std::{collections::BTreeSet, time::Duration};

use bytes::Bytes;
use common::{Group, small, whole_log};
use scp_model::NodeId;
use scp_raft::{
    ChangeError, Config, ReadError, Role, WriteError,
    sim::{Loss, MemDisk},
};
use tokio::time::{Instant, sleep, timeout};

const ONE: NodeId = NodeId(1);
const TWO: NodeId = NodeId(2);
const THREE: NodeId = NodeId(3);
const FOUR: NodeId = NodeId(4);

#[tokio::test(start_paused = true)]
async fn a_write_is_answered_by_the_machine_and_applied_everywhere() {
    let group = Group::of(3, whole_log).await;
    let applied = group.write("hello").await.expect("a majority is up");
    assert_eq!(applied.answer, b"did hello");
    group.agree(&["hello".into()]).await;
    assert_eq!(group.member(TWO).view.lines(), [(applied.index, b"hello".to_vec())]);
}

#[tokio::test(start_paused = true)]
async fn a_follower_refuses_writes_and_names_the_leader() {
    let group = Group::of(3, whole_log).await;
    let leader = group.leader().await;
    let follower = group.members.keys().copied().find(|&node| node != leader).expect("there are two");
    group.until(follower, "knows the leader", |status| status.leader == Some(leader)).await;
    let refused = group.raft(follower).write("no".into()).await;
    assert_eq!(refused, Err(WriteError::NotLeader { leader: Some(leader) }));
}

#[tokio::test(start_paused = true)]
async fn a_killed_leader_is_replaced_within_a_second_and_nothing_acknowledged_is_lost() {
    let mut worst = Duration::ZERO;
    for round in 0..8u64 {
        let mut group = Group::of(3, whole_log).await;
        let mut commands = group.fill(0, 20).await;
        let leader = group.leader().await;
        sleep(Duration::from_millis(round * 13)).await;
        let disk = group.kill(leader, Loss::Torn(round));
        let killed_at = Instant::now();
        group.write_but(Some(leader), "after").await.expect("a majority is up");
        worst = worst.max(killed_at.elapsed());
        commands.push("after".into());
        group.agree(&commands).await;
        group.switch.heal();
        group.boot(leader, disk).await;
        group.agree(&commands).await;
    }
    println!("worst failover: {worst:?}");
    assert!(worst <= Duration::from_secs(1), "{worst:?}");
}

#[tokio::test(start_paused = true)]
async fn a_partitioned_leader_commits_nothing_and_answers_no_linearizable_read() {
    let group = Group::of(3, whole_log).await;
    let old = group.leader().await;
    group.write("before").await.expect("a majority is up");
    group.switch.isolate(old);
    let raft = group.raft(old).clone();
    let lost = tokio::spawn(async move { raft.write("lost".into()).await });
    let stale = group.raft(old).linearizable().await;
    assert!(
        matches!(stale, Err(ReadError::NoQuorum | ReadError::NoLeader | ReadError::Leader { .. })),
        "{stale:?}"
    );
    group.write_but(Some(old), "meanwhile").await.expect("the others are a majority");
    assert!(!group.member(old).view.holds(b"meanwhile"));
    let lost = lost.await.expect("no panic");
    assert!(matches!(lost, Err(WriteError::Unknown { .. })), "{lost:?}");
    group.switch.heal();
    group.agree(&["before".into(), "meanwhile".into()]).await;
    assert!(!group.member(old).view.holds(b"lost"), "it was never committed");
}

#[tokio::test(start_paused = true)]
async fn linearizable_reads_from_every_node_see_every_acknowledged_write() {
    let mut group = Group::of(3, whole_log).await;
    group.boot(FOUR, MemDisk::new()).await;
    group.join(FOUR).await;
    group.switch.set_latency(Duration::from_millis(3));
    for number in 0..20 {
        let command = format!("line {number}");
        group.write(&command).await.expect("a majority is up");
        for (node, member) in &group.members {
            member.raft.linearizable().await.expect("a leader is up");
            assert!(member.view.holds(command.as_bytes()), "node {node} read behind {command}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn many_reads_share_few_rounds() {
    let group = Group::of(3, whole_log).await;
    let leader = group.leader().await;
    let follower = group.members.keys().copied().find(|&node| node != leader).expect("there are two");
    group.until(follower, "knows the leader", |status| status.leader == Some(leader)).await;
    group.switch.set_latency(Duration::from_millis(5));
    let before = group.switch.sent(follower, leader);
    let reads = (0..500).map(|_| {
        let raft = group.raft(follower).clone();
        tokio::spawn(async move { raft.linearizable().await })
    });
    for read in futures::future::join_all(reads).await {
        read.expect("no panic").expect("a leader is up");
    }
    let bytes = group.switch.sent(follower, leader) - before;
    assert!(bytes < 500, "{bytes} bytes were sent for 500 reads that waited together");
}

#[tokio::test(start_paused = true)]
async fn a_learner_catches_up_through_a_snapshot_in_chunks() {
    let mut group = Group::of(3, small).await;
    let commands = group.fill(0, 800).await;
    let leader = group.leader().await;
    let status = group.until(leader, "took a snapshot", |status| status.snapshot > 100).await;
    group.boot(FOUR, MemDisk::new()).await;
    group.join(FOUR).await;
    group.agree(&commands).await;
    let learner = group.until(FOUR, "has the snapshot", |learner| learner.snapshot > 0).await;
    assert!(learner.snapshot >= status.snapshot);
    assert_eq!(learner.role, Role::Learner);
    let largest = group.switch.largest();
    assert!(largest < 1 << 20, "no message holds a whole snapshot: {largest} bytes");
    // What it has survives its next start, without the leader.
    let disk = group.kill(FOUR, Loss::All);
    group.boot(FOUR, disk).await;
    assert!(group.member(FOUR).status().applied >= status.snapshot);
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_transfer_goes_on_after_a_partition() {
    let mut group = Group::of(1, small).await;
    let commands = group.fill(0, 2000).await;
    group.until(ONE, "took a snapshot", |status| status.snapshot > 1000).await;
    group.boot(TWO, MemDisk::new()).await;
    group.switch.set_latency(Duration::from_millis(20));
    group.raft(ONE).add_learner(TWO).await.expect("the leader adds it");
    let before = group.switch.sent(ONE, TWO);
    let total = group.member(ONE).disk.bytes("snapshot").len() as u64;
    // In the middle of it: a second of silence.
    while group.switch.sent(ONE, TWO) - before < total / 2 {
        sleep(Duration::from_millis(10)).await;
    }
    group.switch.isolate(TWO);
    sleep(Duration::from_secs(1)).await;
    group.switch.heal();
    group.agree(&commands).await;
    let sent = group.switch.sent(ONE, TWO) - before;
    assert!(sent < total * 3 / 2, "{sent} bytes sent for a snapshot of {total}: it did not start again");
}

#[tokio::test(start_paused = true)]
async fn voters_are_replaced_one_joint_step_at_a_time() {
    let mut group = Group::of(3, whole_log).await;
    let commands = group.fill(0, 10).await;
    group.boot(FOUR, MemDisk::new()).await;
    let unknown = group.raft(ONE).change_voters(BTreeSet::from([ONE, TWO, FOUR])).await;
    assert!(matches!(unknown, Err(ChangeError::Impossible(_))), "{unknown:?}");
    group.join(FOUR).await;
    let _ = group.kill(THREE, Loss::All);
    let leader = group.leader().await;
    group.raft(leader).change_voters(BTreeSet::from([ONE, TWO, FOUR])).await.expect("all have caught up");
    let status = group.until(FOUR, "votes", |status| status.voters.contains(&FOUR) && !status.joint).await;
    assert_eq!(status.voters, BTreeSet::from([ONE, TWO, FOUR]));
    assert!(matches!(group.raft(leader).remove(ONE).await, Err(ChangeError::Impossible(_))));
    group.raft(leader).remove(THREE).await.expect("it is no voter any more");
    group.until(leader, "forgets it", |status| !status.learners.contains(&THREE)).await;
    // The new voter counts: with it and one old one there is a majority.
    let _ = group.kill(leader, Loss::All);
    group.write_but(Some(leader), "after").await.expect("two of three are up");
    group.agree(&commands).await;
}

#[tokio::test(start_paused = true)]
async fn a_group_of_one_grows_to_three_and_shrinks_to_one() {
    let group = Group::of(3, whole_log).await;
    let leader = group.leader().await;
    group.raft(leader).change_voters(BTreeSet::from([leader])).await.expect("it is itself");
    let status = group.until(leader, "is alone", |status| status.voters.len() == 1 && !status.joint).await;
    assert_eq!(status.learners.len(), 2);
    group.write("alone").await.expect("one of one is up");
    group.agree(&["alone".into()]).await;
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_shuts_down_hands_over_first() {
    let mut group = Group::of(3, whole_log).await;
    let commands = group.fill(0, 10).await;
    let old = group.leader().await;
    let asked_at = Instant::now();
    group.raft(old).shutdown().await;
    group.switch.unplug(old);
    let member = group.members.remove(&old).expect("it ran");
    assert_eq!(member.status().role, Role::Stopped);
    group.write_but(Some(old), "after").await.expect("a majority is up");
    // Well within the leader's lease: nobody waited for an election timeout.
    assert!(asked_at.elapsed() < Duration::from_millis(200), "{:?}", asked_at.elapsed());
    group.boot(old, member.disk.crash(Loss::All)).await;
    group.agree(&commands).await;
}

#[tokio::test(start_paused = true)]
async fn leadership_is_transferred_on_request() {
    let group = Group::of(3, whole_log).await;
    let old = group.leader().await;
    let new = group.raft(old).transfer_leadership().await.expect("two others can take over");
    assert_ne!(new, old);
    assert_eq!(group.leader_but(Some(old)).await, new);
    group.write("after").await.expect("a majority is up");
}

#[tokio::test(start_paused = true)]
async fn a_rejoining_node_disturbs_nobody() {
    let group = Group::of(3, whole_log).await;
    let leader = group.leader().await;
    let follower = group.members.keys().copied().find(|&node| node != leader).expect("there are two");
    group.write("before").await.expect("a majority is up");
    let term = group.member(leader).status().term;
    group.switch.isolate(follower);
    sleep(Duration::from_secs(30)).await;
    assert_eq!(group.member(follower).status().term, term, "it asked before it counted its term up");
    group.switch.heal();
    group.write("after").await.expect("a majority is up");
    sleep(Duration::from_secs(5)).await;
    let status = group.member(leader).status();
    assert_eq!((status.role, status.term), (Role::Leader, term));
    group.agree(&["before".into(), "after".into()]).await;
}

#[tokio::test(start_paused = true)]
async fn a_silent_peer_holds_up_no_other() {
    let group = Group::of(3, whole_log).await;
    let leader = group.leader().await;
    let silent = group.members.keys().copied().find(|&node| node != leader).expect("there are two");
    group.switch.cut(leader, silent);
    let started = Instant::now();
    group.fill(0, 50).await;
    assert!(started.elapsed() < Duration::from_millis(200), "{:?}", started.elapsed());
}

/// Writes to a node without a pause, whatever comes of it.
fn writer(group: &Group, node: NodeId, name: usize) -> tokio::task::JoinHandle<()> {
    let raft = group.raft(node).clone();
    tokio::spawn(async move {
        for number in 0.. {
            let write = raft.write(Bytes::from(format!("{name}/{number}")));
            let _ = timeout(Duration::from_millis(200), write).await;
            sleep(Duration::from_millis(40)).await;
        }
    })
}

/// Entries without an answer are sent again before the others' lease has run out.
fn repeating(config: &mut Config) {
    whole_log(config);
    config.call_timeout = Duration::from_millis(300);
}

/// It hears nobody; the others hear it, and would follow it for ever. What it has to send is no reason
/// for them to do so: neither its heartbeats nor the entries that it repeats.
#[tokio::test(start_paused = true)]
async fn a_leader_that_hears_nobody_falls_silent_and_is_replaced() {
    let mut worst = Duration::ZERO;
    for round in 0..8u64 {
        let group = Group::of(3, if round % 2 == 0 { repeating } else { whole_log }).await;
        group.switch.set_latency(Duration::from_millis(1 + round % 4 * 5));
        let old = group.leader().await;
        let writers: Vec<_> = (0..round as usize % 4).map(|name| writer(&group, old, name)).collect();
        sleep(Duration::from_millis(100 + round * 13)).await;
        for &other in group.members.keys().filter(|&&node| node != old) {
            group.switch.cut(other, old);
        }
        let cut_at = Instant::now();
        group.write_but(Some(old), "after").await.expect("the others are a majority");
        worst = worst.max(cut_at.elapsed());
        writers.iter().for_each(tokio::task::JoinHandle::abort);
        group.switch.heal();
        group.agree(&["after".into()]).await;
    }
    println!("worst failover: {worst:?}");
    assert!(worst <= Duration::from_millis(1500), "{worst:?}");
}

#[tokio::test(start_paused = true)]
async fn a_large_group_does_not_wait_for_the_one_before_and_a_small_one_does() {
    const LARGE: u64 = 100;
    let group = Group::of(3, whole_log).await;
    let leader = group.leader().await;
    sleep(Duration::from_millis(20)).await;
    let before = group.raft(leader).status().borrow().last_log;
    // Nothing is committed from here on, so no group ends.
    group.switch.isolate(leader);
    let mut asked = tokio::task::JoinSet::new();
    let mut ask = |count: u64| {
        let raft = group.raft(leader).clone();
        asked.spawn(async move {
            let commands = (0..count).map(|at| Bytes::from(format!("{count} {at}"))).collect();
            raft.write_many(commands).await
        });
    };
    ask(1);
    sleep(Duration::from_millis(20)).await;
    ask(1);
    sleep(Duration::from_millis(20)).await;
    let last = || group.raft(leader).status().borrow().last_log - before;
    assert_eq!(last(), 1, "the second waits");
    ask(LARGE);
    sleep(Duration::from_millis(20)).await;
    assert_eq!(last(), 2 + LARGE, "it takes along what waits");
    ask(LARGE);
    sleep(Duration::from_millis(20)).await;
    assert_eq!(last(), 2 + LARGE, "two are under way");
}

#[tokio::test(start_paused = true)]
async fn writes_beyond_the_bound_are_refused_at_once() {
    let group = Group::of(3, |config| {
        whole_log(config);
        config.writes_max = 10;
    })
    .await;
    let leader = group.leader().await;
    group.switch.set_latency(Duration::from_millis(10));
    let writes = (0..50).map(|number| {
        let raft = group.raft(leader).clone();
        tokio::spawn(async move { raft.write(Bytes::from(format!("line {number}"))).await })
    });
    let outcomes = futures::future::join_all(writes).await;
    let outcomes: Vec<_> = outcomes.into_iter().map(|outcome| outcome.expect("no panic")).collect();
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 10);
    let refused = outcomes.iter().filter(|outcome| **outcome == Err(WriteError::Overloaded));
    assert_eq!(refused.count(), 40);
    let large = group.raft(leader).write(vec![0; 2 << 20].into()).await;
    assert!(matches!(large, Err(WriteError::TooLarge { .. })), "{large:?}");
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_speaks_for_another_or_nonsense_is_refused_and_changes_nothing() {
    let group = Group::of(3, whole_log).await;
    let before = group.member(ONE).status().term;
    // A real pre-vote or append would do; nonsense must not panic either.
    for bytes in [Bytes::new(), Bytes::from_static(b"nonsense"), vec![0xff; 5000].into()] {
        let answer = group.raft(ONE).answer(NodeId(66), bytes).await;
        assert!(!answer.is_empty(), "a refusal is an answer");
    }
    assert_eq!(group.member(ONE).status().term, before);
    group.write("still").await.expect("a majority is up");
}

#[tokio::test(start_paused = true)]
async fn five_voters_survive_any_two_and_do_nothing_without_a_majority() {
    let mut group = Group::of(5, whole_log).await;
    let mut commands = group.fill(0, 20).await;
    let mut disks = Vec::new();
    for seed in 0..2 {
        let leader = group.leader().await;
        disks.push((leader, group.kill(leader, Loss::Torn(seed))));
        let command = format!("after {seed}");
        group.write_but(Some(leader), &command).await.expect("a majority is up");
        commands.push(command);
    }
    group.agree(&commands).await;
    let third = group.leader().await;
    disks.push((third, group.kill(third, Loss::Torn(2))));
    let (&survivor, member) = group.members.iter().next().expect("two are up");
    assert!(member.raft.linearizable().await.is_err(), "node {survivor} has no quorum behind it");
    assert!(member.raft.write("lost".into()).await.is_err());
    for (node, disk) in disks {
        group.boot(node, disk).await;
    }
    group.agree(&commands).await;
    assert!(!group.member(survivor).view.holds(b"lost"));
}
