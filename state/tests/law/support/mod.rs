//! A city driven by short textual commands. Every command applied here is also checked: the invariants
//! hold, a rejection left no trace, and the same request again is answered and changes nothing.

pub mod coverage;
pub mod words;

use std::collections::BTreeMap;

use scp_model::{
    Actor, Command, Event, NodeId, Proposal, PublicKey, Rejection, RequestId, Timestamp, VmId,
    node::NodeProfile,
};
use scp_state::{State, invariants, node_id_of};
use sha2::{Digest as _, Sha256};

/// A line of a script: a verb, what it is about, and settings.
pub struct Line<'a> {
    pub verb: &'a str,
    pub subjects: Vec<&'a str>,
    pub settings: BTreeMap<&'a str, &'a str>,
}

impl<'a> Line<'a> {
    fn parse(text: &'a str) -> Self {
        let mut words = text.split_whitespace();
        let verb = words.next().expect("a line of a script has a verb");
        let mut line = Line { verb, subjects: Vec::new(), settings: BTreeMap::new() };
        for word in words {
            match word.split_once('=') {
                Some((key, value)) => {
                    assert!(line.settings.insert(key, value).is_none(), "{key} twice: {text}")
                }
                None => line.subjects.push(word),
            }
        }
        line
    }

    pub fn subject(&self, at: usize) -> &'a str {
        self.subjects.get(at).unwrap_or_else(|| panic!("{} needs {} words", self.verb, at + 1))
    }

    pub fn setting(&self, key: &str) -> Option<&'a str> {
        self.settings.get(key).copied()
    }

    pub fn number(&self, key: &str) -> Option<u64> {
        self.setting(key).map(|value| value.parse().unwrap_or_else(|_| panic!("{key}={value} is no number")))
    }
}

/// The city under test, and the short names of everything in its script.
#[derive(Default)]
pub struct World {
    pub state: State,
    pub seen: coverage::Seen,
    /// Everything applied so far, with its index.
    pub log: Vec<(u64, Proposal)>,
    unchecked: bool,
    clock: u64,
    requests: u128,
    /// Long text of an id to its short name.
    ids: BTreeMap<String, String>,
}

impl World {
    pub fn new() -> Self {
        Self { clock: 1_000_000, ..Self::default() }
    }

    /// One that is filled without checks after every command: its table is large, its steps are plain.
    pub fn unchecked() -> Self {
        Self { unchecked: true, ..Self::new() }
    }

    /// The number that stands for a short name; kinds do not collide.
    pub fn number(&mut self, kind: &str, name: &str) -> u128 {
        let hash = Sha256::digest(format!("{kind} {name}"));
        let number = u128::from_be_bytes(*hash.first_chunk().expect("SHA-256 has 32 bytes"));
        self.ids.insert(VmId::from_u128(number).to_string(), name.to_owned());
        number
    }

    pub fn key(&self, name: &str) -> PublicKey {
        PublicKey(Sha256::digest(format!("key {name}")).into())
    }

    pub fn node(&mut self, name: &str) -> NodeId {
        let id = node_id_of(&self.key(name));
        self.ids.insert(id.to_string(), name.to_owned());
        self.ids.insert(format!("NodeId({})", id.0), format!("NodeId({name})"));
        id
    }

    pub fn now(&self) -> Timestamp {
        Timestamp(self.clock)
    }

    /// The node's profile now, or a new one.
    pub fn profile(&mut self, name: &str) -> Option<NodeProfile> {
        let id = self.node(name);
        self.state.nodes.get(&id).map(|node| node.profile.clone())
    }

    /// Runs a script's lines, and tells what came of each.
    pub fn run(&mut self, script: &str) -> String {
        let lines: Vec<&str> = script.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        let mut out = String::new();
        for text in &lines {
            if lines.len() > 1 {
                out += &format!("> {text}\n");
            }
            out += &self.line(text);
        }
        out
    }

    fn line(&mut self, text: &str) -> String {
        let line = Line::parse(text);
        match line.verb {
            "wait" => {
                self.clock += line.number("ms").expect("wait ms=…");
                String::new()
            }
            "clock-back" => {
                self.clock -= line.number("ms").expect("clock-back ms=…");
                String::new()
            }
            "show" => self.show(),
            "repeat" => self.repeat(&line),
            _ => {
                let (command, actor) = words::command(self, &line);
                let actor = line.setting("as").map_or(actor, |name| words::actor(self, name));
                let result = self.apply(command, actor);
                self.answer(result)
            }
        }
    }

    /// Applies a command and checks what must hold whatever it was.
    pub fn apply(&mut self, command: Command, actor: Actor) -> (Result<(), Rejection>, Vec<Event>) {
        self.clock += 1_000;
        self.requests += 1;
        let request = RequestId::from_u128(self.requests);
        let proposal = Proposal { request, actor, time: self.now(), command };
        self.propose(&proposal)
    }

    fn propose(&mut self, proposal: &Proposal) -> (Result<(), Rejection>, Vec<Event>) {
        let before = self.state.clone();
        let index = self.state.index + 1;
        self.log.push((index, proposal.clone()));
        let applied = self.state.apply(index, proposal);
        if self.unchecked {
            return (applied.answer.result, applied.events);
        }
        let holds = invariants::check(&self.state);
        assert_eq!(holds, Ok(()), "after {proposal:?}");
        assert_eq!(applied.answer.index, index);
        if applied.answer.result.is_err() {
            assert!(applied.events.is_empty());
            let mut untouched = self.state.clone();
            untouched.index = before.index;
            untouched.time = before.time;
            untouched.audit_head = before.audit_head;
            untouched.requests = before.requests.clone();
            assert!(untouched == before, "a rejection left a trace: {proposal:?}");
        }
        let mut again = self.state.clone();
        let repeated = again.apply(index + 1, proposal);
        assert_eq!((repeated.answer, repeated.events), (applied.answer.clone(), Vec::new()));
        again.index = self.state.index;
        assert!(again == self.state, "a repeated request changed something: {proposal:?}");
        self.seen.note(&proposal.command, &applied.answer.result);
        (applied.answer.result, applied.events)
    }

    /// Proposes the last request again, with other contents.
    fn repeat(&mut self, line: &Line<'_>) -> String {
        let rest: Vec<&str> = line.subjects.clone();
        let text = rest.join(" ");
        let inner = Line::parse(&text);
        let (command, actor) = words::command(self, &inner);
        let request = RequestId::from_u128(self.requests);
        let index = self.state.index + 1;
        let proposal = Proposal { request, actor, time: self.now(), command };
        self.log.push((index, proposal.clone()));
        let applied = self.state.apply(index, &proposal);
        let first = applied.answer.index;
        let answer = self.answer((applied.answer.result, applied.events));
        format!("applied at {first}, asked again at {index}\n{answer}")
    }

    fn answer(&self, (result, events): (Result<(), Rejection>, Vec<Event>)) -> String {
        let mut out = match result {
            Ok(()) => "ok\n".to_owned(),
            Err(rejection) => format!("rejected: {rejection}\n"),
        };
        for event in events {
            let shown = match event.project {
                Some(_) => "",
                None => " (operators)",
            };
            out += &format!("  #{} {}: {:?}{shown}\n", event.sequence, event.subject, event.kind);
        }
        self.short(out)
    }

    /// A text with every id replaced by its name in the script.
    pub fn short(&self, text: String) -> String {
        self.ids.iter().fold(text, |text, (id, name)| text.replace(id, name))
    }

    /// What is where.
    fn show(&self) -> String {
        let mut out = String::new();
        for node in self.state.nodes.values() {
            let free = self.state.free(node);
            let liveness = if node.is_up() { "up" } else { "down" };
            let cordon = match (node.draining, node.schedulable) {
                (true, _) => ", draining",
                (false, true) => "",
                (false, false) => ", cordoned",
            };
            let (vcpus, memory, disk) = (free.vcpus, free.memory_mib, free.disk_mib);
            out += &format!("node {} {liveness}{cordon}, free {vcpus}/{memory}/{disk}\n", node.profile.name);
        }
        for vm in self.state.vms.values() {
            let place =
                vm.placement.map(|p| format!(" on {} epoch {}", p.node, p.epoch.0)).unwrap_or_default();
            let may_bind = if self.state.may_bind(vm) { ", may be bound" } else { "" };
            let (name, phase, power) = (&vm.spec.name, vm.status.phase, vm.spec.power);
            let generations = format!("generation {}/{}", vm.status.observed_generation, vm.generation);
            let message = vm.status.message.as_deref().map(|m| format!(", {m:?}")).unwrap_or_default();
            out += &format!("vm {name} {phase:?}{place}, {power:?}, {generations}{may_bind}{message}\n");
        }
        for eviction in self.state.evictions.values() {
            out +=
                &format!("eviction of {} on {} to epoch {}\n", eviction.vm, eviction.node, eviction.epoch.0);
        }
        for image in self.state.images.values() {
            out += &format!("image {} {:?}\n", image.name, image.replicas);
        }
        for (project, usage) in &self.state.usage {
            let size = usage.resources;
            let resources = format!("{}/{}/{}", size.vcpus, size.memory_mib, size.disk_mib);
            let (vms, images, keypairs) = (usage.vms, usage.images, usage.keypairs);
            out +=
                &format!("usage of {project}: {vms} vms {resources}, {images} images, {keypairs} keypairs\n");
        }
        // Sorted: the ids are hashes, and their order tells nothing.
        let mut lines: Vec<String> = self.short(out).lines().map(str::to_owned).collect();
        lines.sort();
        lines.join("\n") + "\n"
    }
}
