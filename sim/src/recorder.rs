//! Writes down what a person wants to see of a run, from the events that the digest is made of and from what
//! the checks look at. It only reads: with it or without it, a seed gives the same digest.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use scp_chronicle::{Operation, Outcome, Record, Role, What};
use scp_model::{Epoch, EventKind, NodeId, Subject, VmId, command::Command};
use scp_raft::Status;
use scp_state::State;

use crate::{
    city::{City, WINDOW_US},
    host::{Host, News, Sizes},
    options::Options,
    workload::{self, Task},
};

/// An applied index is written down this often: ten times what a page can show.
const APPLIED_EVERY_US: u64 = 5 * WINDOW_US;

/// Outlives the city, so that a run that panics can be read too.
#[derive(Debug, Clone, Default)]
pub struct SharedRecord(Arc<Mutex<Record>>);

impl SharedRecord {
    pub fn lock(&self) -> MutexGuard<'_, Record> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What was seen last, so that only what changed is written down.
#[derive(Debug)]
pub struct Recorder {
    record: SharedRecord,
    nodes: Vec<NodeId>,
    standings: BTreeMap<usize, (Role, u64)>,
    applied: BTreeMap<usize, u64>,
    index: u64,
    next_event: u64,
    grants: BTreeMap<VmId, (usize, Epoch)>,
    running: BTreeSet<(NodeId, VmId, Epoch)>,
    names: BTreeMap<VmId, String>,
}

impl Recorder {
    pub fn new(record: SharedRecord, hosts: &[Host], options: &Options) -> Self {
        {
            let mut record = record.lock();
            record.nodes = hosts.iter().map(|host| host.name.to_string()).collect();
            record.names = hosts.iter().map(|host| (host.id.to_string(), host.name.to_string())).collect();
            record.facts.push(("options".into(), told(options)));
        }
        Self {
            record,
            nodes: hosts.iter().map(|host| host.id).collect(),
            standings: BTreeMap::new(),
            applied: BTreeMap::new(),
            index: 0,
            next_event: 0,
            grants: BTreeMap::new(),
            running: BTreeSet::new(),
            names: BTreeMap::new(),
        }
    }

    fn push(&self, at_us: u64, what: What) {
        self.record.lock().push(at_us, what);
    }

    /// A line of the trace; `who` is a node's name, or something that is none.
    pub fn line(&self, at_us: u64, who: &str, text: &str) {
        let mut record = self.record.lock();
        let node = record.nodes.iter().position(|name| name == who);
        record.push(at_us, What::Said { node, text: text.into() });
    }

    pub fn what(&mut self, at_us: u64, what: What) {
        self.push(at_us, what);
    }

    /// The process of that host begins anew: what it was, it is no longer.
    pub fn killed(&mut self, at: usize) {
        self.standings.remove(&at);
    }

    /// What is new about a process.
    pub fn process(&mut self, at_us: u64, at: usize, news: &News) {
        self.stand(at_us, at, &news.status);
        let due_us = self.applied.get(&at).map_or(0, |last_us| last_us + APPLIED_EVERY_US);
        if at_us >= due_us {
            self.applied.insert(at, at_us);
            self.push(at_us, What::Applied { node: at, index: news.state.index });
        }
        self.front(at_us, &news.state);
    }

    fn stand(&mut self, at_us: u64, node: usize, status: &Status) {
        let role = match status.role {
            scp_raft::Role::Learner => Role::Learner,
            scp_raft::Role::Follower => Role::Follower,
            scp_raft::Role::Candidate => Role::Candidate,
            scp_raft::Role::Leader => Role::Leader,
            scp_raft::Role::Restarting | scp_raft::Role::Stopped => Role::Out,
        };
        let standing = (role, status.term);
        if self.standings.insert(node, standing) != Some(standing) {
            self.push(at_us, What::Standing { node, role, term: status.term });
        }
    }

    /// What the newest state of the city says that no older one did.
    fn front(&mut self, at_us: u64, state: &State) {
        if state.index <= self.index {
            return;
        }
        self.index = state.index;
        let new = state.events.iter().rev().take_while(|event| event.sequence >= self.next_event);
        let new: Vec<_> = new.collect();
        for event in new.into_iter().rev() {
            if let (Subject::Node(id), Some(text)) = (&event.subject, sentence(&event.kind)) {
                let node = self.place(*id);
                self.push(at_us, What::Said { node, text });
            }
        }
        self.next_event = state.next_event;
        self.grants(at_us, state);
    }

    fn grants(&mut self, at_us: u64, state: &State) {
        let mut granted = BTreeMap::new();
        for vm in state.vms.values() {
            if !self.names.contains_key(&vm.id) {
                let name = vm.spec.name.to_string();
                self.record.lock().names.push((vm.id.to_string(), name.clone()));
                self.names.insert(vm.id, name);
            }
            if let Some(placement) = vm.placement
                && let Some(node) = self.place(placement.node)
            {
                granted.insert(vm.id, (node, placement.epoch));
            }
        }
        let before = std::mem::replace(&mut self.grants, granted);
        for (vm, (node, epoch)) in before.iter().filter(|(vm, grant)| self.grants.get(*vm) != Some(*grant)) {
            self.push(at_us, What::GrantEnded { node: *node, vm: self.name(*vm), epoch: epoch.0 });
        }
        for (vm, (node, epoch)) in self.grants.iter().filter(|(vm, grant)| before.get(*vm) != Some(*grant)) {
            self.push(at_us, What::Granted { node: *node, vm: self.name(*vm), epoch: epoch.0 });
        }
    }

    /// What runs, whenever that changed.
    pub fn running(&mut self, at_us: u64, running: &[(NodeId, VmId, Epoch)]) {
        let before = std::mem::replace(&mut self.running, running.iter().copied().collect());
        for (id, vm, epoch) in before.difference(&self.running) {
            if let Some(node) = self.place(*id) {
                self.push(at_us, What::Stopped { node, vm: self.name(*vm), epoch: epoch.0 });
            }
        }
        for (id, vm, epoch) in self.running.difference(&before) {
            if let Some(node) = self.place(*id) {
                self.push(at_us, What::Started { node, vm: self.name(*vm), epoch: epoch.0 });
            }
        }
    }

    /// One asking of one node, when it is over.
    pub fn asked(&mut self, task: &Task, asking: Asking) {
        let Asking { node, begun_us, ended_us, outcome } = asking;
        let operation = Operation {
            client: format!("client {}", task.client + 1),
            node,
            begun: begun_us,
            ended: ended_us,
            what: described(task),
            outcome,
        };
        self.record.lock().operations.push(operation);
    }

    fn place(&self, id: NodeId) -> Option<usize> {
        self.nodes.iter().position(|known| *known == id)
    }

    fn name(&self, vm: VmId) -> String {
        self.names.get(&vm).cloned().unwrap_or_else(|| vm.to_string())
    }
}

/// What the city tells its recorder, if it has one.
impl City {
    /// The digest takes the line; people see the phase.
    pub fn begin_phase(&self, line: impl Into<String>, text: &str) {
        let trace = &mut self.net.lock().trace;
        trace.told(self.now_us() / 1000, "city", line);
        trace.record(self.now_us(), || What::Phase { text: text.into() });
    }

    pub fn record_news(&self, at: usize, news: &News) {
        if let Some(recorder) = &mut self.net.lock().trace.recorder {
            recorder.process(self.hosts[at].time.city_us(), at, news);
        }
    }

    pub fn record_running(&self, at: usize, running: &[(NodeId, VmId, Epoch)]) {
        if let Some(recorder) = &mut self.net.lock().trace.recorder {
            recorder.running(self.hosts[at].time.city_us(), running);
        }
    }

    pub fn record_kill(&self, at: usize) {
        if let Some(recorder) = &mut self.net.lock().trace.recorder {
            recorder.killed(at);
        }
    }

    pub fn record_asking(&self, task: &Task, asking: Asking) {
        if let Some(recorder) = &mut self.net.lock().trace.recorder {
            recorder.asked(task, asking);
        }
    }
}

/// How asking a node went.
#[derive(Debug, Clone, Copy)]
pub struct Asking {
    pub node: Option<usize>,
    pub begun_us: u64,
    /// None: it never answered.
    pub ended_us: Option<u64>,
    pub outcome: Outcome,
}

fn described(task: &Task) -> String {
    match &task.what {
        workload::What::ReadRegister(project) => format!("read {}", register(*project)),
        workload::What::Write(Command::SetQuota(set)) => {
            format!("write {} = {}", register(set.project), set.quota.vms.unwrap_or_default())
        }
        workload::What::Write(command) => {
            // The variant's name is what it does; what it holds is long.
            let text = format!("{command:?}");
            text.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default().to_string()
        }
    }
}

fn register(project: scp_model::ProjectId) -> String {
    let number = (0..workload::REGISTERS).find(|number| workload::register(*number) == project);
    number.map_or_else(|| project.to_string(), |number| format!("register-{number}"))
}

/// What the city decided about a node.
fn sentence(kind: &EventKind) -> Option<String> {
    match kind {
        EventKind::NodeDown { evidence } => Some(format!(
            "is declared down: the leader has not heard it for {} ms",
            evidence.leader_silence_ms
        )),
        EventKind::NodeUp => Some("is declared up".into()),
        EventKind::NodeDrainStarted => Some("is drained".into()),
        EventKind::NodeSchedulableSet { schedulable: false } => Some("takes no more VMs".into()),
        EventKind::NodeSchedulableSet { schedulable: true } => Some("takes VMs again".into()),
        // Of all others only the count is of interest, and requests have it.
        _ => None,
    }
}

/// In words, without what is the same in every run.
fn told(options: &Options) -> String {
    let Options { nodes, zones, link, fault_every_ms, think_ms, clients, sizes, faults, .. } = options;
    // The fields' own names, in the words of options.rs; what has no weight is left out.
    let weights = format!("{faults:?}").replace("Faults { ", "").replace(" }", "");
    let weights: Vec<_> = weights.split(", ").filter(|weight| !weight.ends_with(" 0")).collect();
    let Sizes { segment_bytes, snapshot_log_bytes, keep_log_bytes, chunk_bytes } = sizes;
    format!(
        "{nodes} nodes in {zones} zones; links {} to {} µs, {} ‰ lost; {clients} clients every {think_ms} ms; \
         a fault every {fault_every_ms} ms, by weight {}; bytes a segment {segment_bytes}, a snapshot every \
         {snapshot_log_bytes} of log, {keep_log_bytes} kept, chunks of {chunk_bytes}",
        link.delay_us,
        link.delay_us + link.jitter_us,
        link.loss_permille,
        weights.join(", ")
    )
}
