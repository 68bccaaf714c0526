//! A group of nodes in one process: simulated disks and network, virtual time.
#![allow(dead_code)] // Each test binary uses its part.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use scp_model::NodeId;
use scp_raft::{
    Applied, Config, Disk, Machine, MachineSnapshot, Ports, Raft, Role, Status, WriteError,
    sim::{Loss, MemDisk, Switch},
};
use tokio::time::{Instant, sleep, timeout};

/// Virtual, so generous.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Commands with their indices.
type Lines = Vec<(u64, Vec<u8>)>;

/// The machine: every command once, in order, with the index it was applied at.
#[derive(Clone, Default)]
pub struct Ledger {
    lines: Lines,
    restored: bool,
    /// What readers see; published by `settle`.
    public: Arc<Mutex<Lines>>,
    /// Snapshots cannot be written.
    broken: Arc<AtomicBool>,
}

impl Ledger {
    pub fn view(&self) -> View {
        View { lines: self.public.clone(), broken: self.broken.clone() }
    }
}

#[derive(Clone)]
pub struct View {
    lines: Arc<Mutex<Lines>>,
    broken: Arc<AtomicBool>,
}

impl View {
    pub fn lines(&self) -> Lines {
        self.lines.lock().expect("no panics").clone()
    }

    pub fn break_snapshots(&self, broken: bool) {
        self.broken.store(broken, Ordering::Relaxed);
    }

    pub fn commands(&self) -> Vec<Vec<u8>> {
        self.lines().into_iter().map(|(_, command)| command).collect()
    }

    pub fn holds(&self, command: &[u8]) -> bool {
        self.lines().iter().any(|(_, line)| line == command)
    }
}

impl Machine for Ledger {
    fn apply(&mut self, index: u64, command: &[u8]) -> Vec<u8> {
        self.lines.push((index, command.to_vec()));
        [b"did ", command].concat()
    }

    fn settle(&mut self) {
        let mut public = self.public.lock().expect("no panics");
        // Restored: not a continuation.
        if self.restored {
            public.clear();
            self.restored = false;
        }
        let from = public.len();
        public.extend_from_slice(&self.lines[from..]);
    }

    fn snapshot(&self) -> Box<dyn MachineSnapshot> {
        Box::new(Frozen(self.lines.clone(), self.broken.clone()))
    }

    fn restore(&mut self, snapshot: &mut dyn io::Read) -> io::Result<()> {
        let mut bytes = Vec::new();
        snapshot.read_to_end(&mut bytes)?;
        self.lines = scp_codec::from_payload(&bytes).map_err(io::Error::other)?;
        self.restored = true;
        Ok(())
    }
}

struct Frozen(Lines, Arc<AtomicBool>);

impl MachineSnapshot for Frozen {
    fn write(&self, out: &mut dyn io::Write) -> io::Result<()> {
        if self.1.load(Ordering::Relaxed) {
            return Err(io::Error::other("this machine writes no snapshot"));
        }
        out.write_all(&scp_codec::to_payload(&self.0).map_err(io::Error::other)?)
    }
}

pub struct Member {
    pub raft: Raft,
    pub view: View,
    pub disk: MemDisk,
}

impl Member {
    pub fn status(&self) -> Status {
        self.raft.status().borrow().clone()
    }
}

/// Nodes 1 to n.
pub struct Group {
    pub switch: Switch,
    pub members: BTreeMap<NodeId, Member>,
    pub tune: fn(&mut Config),
}

/// Small segments and snapshots, so that short tests cross them.
pub fn small(config: &mut Config) {
    config.segment_bytes = 64 << 10;
    config.snapshot_log_bytes = 64 << 10;
    config.keep_log_bytes = 4 << 10;
    config.chunk_bytes = 4 << 10;
}

/// Nothing is ever compacted.
pub fn whole_log(config: &mut Config) {
    config.segment_bytes = 256 << 10;
}

impl Group {
    /// One voter.
    pub async fn single(tune: fn(&mut Config)) -> Self {
        let mut group = Self { switch: Switch::default(), members: BTreeMap::new(), tune };
        group.boot(NodeId(1), MemDisk::new()).await;
        group.raft(NodeId(1)).initialize().await.expect("an empty node founds a group");
        group
    }

    /// So many voters.
    pub async fn of(size: u64, tune: fn(&mut Config)) -> Self {
        let mut group = Self::single(tune).await;
        for node in 2..=size {
            group.boot(NodeId(node), MemDisk::new()).await;
            group.join(NodeId(node)).await;
        }
        let voters: BTreeSet<NodeId> = (1..=size).map(NodeId).collect();
        group.raft(NodeId(1)).change_voters(voters.clone()).await.expect("all have caught up");
        for node in voters {
            group
                .until(node, "knows all voters", |status| status.voters.len() as u64 == size && !status.joint)
                .await;
        }
        group
    }

    /// Starts a node on a disk.
    pub async fn boot(&mut self, node: NodeId, disk: MemDisk) {
        let mut config = Config::new(node);
        (self.tune)(&mut config);
        let ledger = Ledger::default();
        let view = ledger.view();
        let ports = Ports {
            machine: Box::new(ledger),
            network: self.switch.port(node),
            disk: Arc::new(disk.clone()) as Arc<dyn Disk>,
        };
        let raft = Raft::start(config, ports).await.expect("the node starts");
        self.switch.plug(node, raft.clone());
        self.members.insert(node, Member { raft, view, disk });
    }

    /// Makes a booted node a learner that has caught up.
    pub async fn join(&self, node: NodeId) {
        let leader = self.leader().await;
        self.raft(leader).add_learner(node).await.expect("the leader adds it");
        let last = self.member(leader).status().last_log;
        self.until(node, "catches up", |status| status.applied >= last).await;
        self.until(leader, "sees it caught up", |status| {
            status.peers.get(&node).is_some_and(|peer| peer.matched >= Some(last))
        })
        .await;
    }

    /// Power loss.
    pub fn kill(&mut self, node: NodeId, loss: Loss) -> MemDisk {
        self.switch.unplug(node);
        let member = self.members.remove(&node).expect("it runs");
        let disk = member.disk.crash(loss);
        // What still runs of it: a dead node runs nothing.
        tokio::spawn(async move { member.raft.shutdown().await });
        disk
    }

    pub fn member(&self, node: NodeId) -> &Member {
        self.members.get(&node).expect("it runs")
    }

    pub fn raft(&self, node: NodeId) -> &Raft {
        &self.member(node).raft
    }

    /// The node that a majority of those running follow.
    pub async fn leader(&self) -> NodeId {
        self.leader_but(None).await
    }

    /// A leader other than `old`.
    pub async fn leader_but(&self, old: Option<NodeId>) -> NodeId {
        let found = async {
            loop {
                for (&node, member) in &self.members {
                    if member.status().role == Role::Leader && Some(node) != old {
                        return node;
                    }
                }
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, found).await.expect("a leader is elected")
    }

    pub async fn until(&self, node: NodeId, what: &str, holds: impl Fn(&Status) -> bool) -> Status {
        let mut status = self.raft(node).status();
        let seen = timeout(PATIENCE, status.wait_for(|status| holds(status))).await;
        match seen {
            Ok(seen) => seen.expect("the node runs").clone(),
            Err(_) => panic!("node {node} never {what}: {:?}", self.member(node).status()),
        }
    }

    /// Writes through whoever leads, as a client with request ids would: again while the outcome is
    /// certain to be nothing.
    pub async fn write(&self, command: &str) -> Result<Applied, WriteError> {
        self.write_but(None, command).await
    }

    /// Many at once; all must be acknowledged.
    pub async fn fill(&self, from: usize, to: usize) -> Vec<String> {
        let commands: Vec<String> =
            (from..to).map(|number| format!("line {number} {}", "x".repeat(200))).collect();
        for some in commands.chunks(40) {
            let writes = some.iter().map(|command| self.write(command));
            for outcome in futures::future::join_all(writes).await {
                outcome.expect("a majority is up");
            }
        }
        commands
    }

    /// The same, at any node but `not`.
    pub async fn write_but(&self, not: Option<NodeId>, command: &str) -> Result<Applied, WriteError> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let leader = self.leader_but(not).await;
            match self.raft(leader).write(Bytes::copy_from_slice(command.as_bytes())).await {
                Err(WriteError::NotLeader { .. } | WriteError::Overloaded) if Instant::now() < deadline => {
                    sleep(Duration::from_millis(10)).await;
                }
                outcome => return outcome,
            }
        }
    }

    /// All running nodes hold the same, and `wanted` in it.
    pub async fn agree(&self, wanted: &[String]) {
        for (&node, member) in &self.members {
            member.raft.linearizable().await.unwrap_or_else(|error| panic!("node {node}: {error}"));
        }
        let mut views = self.members.values().map(|member| member.view.lines());
        let first = views.next().expect("a node runs");
        assert!(views.all(|view| view == first), "all nodes applied the same at the same indices");
        for command in wanted {
            let times = first.iter().filter(|(_, line)| line == command.as_bytes()).count();
            assert_eq!(times, 1, "{command} was acknowledged");
        }
    }
}
