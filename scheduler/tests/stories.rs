//! Golden scripts: what happens in a city, and what the scheduler makes of it. `REWRITE=1` rewrites
//! the expected parts.
//!
//! ```text
//! node n1 zone=a memory=4096 vcpus=4 disk=100000     joins (the first one begins the city)
//! node n2 compute=none                               joins, runs no VMs
//! image cirros on=n1                                 an image, held by one node
//! vm web memory=512 zone=a group=db power=stopped    is asked for
//! wait 60000                                         milliseconds pass
//! silent n2 2600 by=n3:2600,n1:-                     is silent at the leader; what observers say
//! kill n2                                            is declared down without further ado
//! heard n2                                           is heard (and not silent any more)
//! cordon / uncordon / drain / remove n2              as an operator does
//! removed web n1 | running web | crashed web | held cirros n2 | failed cirros n2 | delete web
//! plan                                               prints a round
//! round                                              prints a round and applies it
//! rounds                                             rounds until nothing is left to do
//! where                                              prints VMs and where they are
//! explain web | survives n1,n2,n3 | voters n1 me=n1 caught_up=n2,n3
//! ```

#[path = "town/mod.rs"]
mod town;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
};

use scp_model::{
    Command, NodeId, Report, Resources, Timestamp,
    command::{DeleteVm, DrainNode, RemoveNode, SetNodeSchedulable},
    node::{Compute, Evidence},
    sandbox::Power,
    vm::VmPhase,
};
use scp_scheduler::{Suspicion, View, VoterView};
use town::{NodeShape, Town, VmShape};

/// Rounds after which a story that still has something to do is in a loop.
const ROUNDS_MAX: usize = 50;

/// Since when, and what the observers say.
type Silence = (Timestamp, Vec<(NodeId, Option<u64>)>);

#[derive(Default)]
struct Story {
    town: Option<Town>,
    silent: BTreeMap<NodeId, Silence>,
    heard: BTreeSet<NodeId>,
}

#[test]
fn stories() {
    datadriven::walk("tests/stories", |file| {
        let mut story = Story::default();
        file.run(|case| {
            assert_eq!(case.directive, "story", "every block is a story");
            case.input.lines().fold(String::new(), |out, line| out + &story.line(line))
        });
    });
}

/// The words of one line.
struct Words<'a> {
    plain: Vec<&'a str>,
    named: BTreeMap<&'a str, &'a str>,
}

impl<'a> Words<'a> {
    fn of(line: &'a str) -> Self {
        let (named, plain): (Vec<&str>, Vec<&str>) =
            line.split_whitespace().partition(|word| word.contains('='));
        Self { plain, named: named.iter().filter_map(|word| word.split_once('=')).collect() }
    }

    fn at(&self, at: usize) -> &'a str {
        self.plain.get(at).unwrap_or_else(|| panic!("word {at} is missing in {:?}", self.plain))
    }

    fn number(&self, name: &str, default: u64) -> u64 {
        self.named.get(name).map_or(default, |text| text.parse().expect("a number"))
    }
}

impl Story {
    fn line(&mut self, line: &str) -> String {
        let words = Words::of(line);
        match *words.plain.first().unwrap_or(&"#") {
            "#" => String::new(),
            "node" => self.node(&words),
            "plan" => self.round(false),
            "round" => self.round(true),
            "rounds" => {
                (0..ROUNDS_MAX).map(|_| self.round(true)).take_while(|out| out != "nothing\n").collect()
            }
            "where" => self.places(),
            "explain" => self.explain(words.at(1)),
            "survives" => self.survives(words.at(1)),
            "voters" => self.voters(&words),
            _ => self.change(&words),
        }
    }

    fn town(&mut self) -> &mut Town {
        self.town.as_mut().expect("the story begins with a node")
    }

    fn node(&mut self, words: &Words<'_>) -> String {
        let plain = town::node(words.at(1));
        let compute = match words.named.get("compute") {
            Some(_) => Compute::None { reason: "libvirt is not installed".into() },
            None => plain.compute.clone(),
        };
        let capacity = Resources {
            vcpus: words.number("vcpus", plain.capacity.vcpus),
            memory_mib: words.number("memory", plain.capacity.memory_mib),
            disk_mib: words.number("disk", plain.capacity.disk_mib),
        };
        let zone = words.named.get("zone").copied().unwrap_or(plain.zone);
        let shape = NodeShape { zone, capacity, compute, ..plain };
        match &mut self.town {
            None => self.town = Some(Town::new(&shape)),
            Some(town) => town.join(&shape),
        }
        String::new()
    }

    fn change(&mut self, words: &Words<'_>) -> String {
        let (verb, subject) = (words.at(0), words.at(1));
        match verb {
            "image" => self.town().image(subject, words.named["on"]),
            "vm" => self.vm(words),
            "kill" => self.town().kill(subject),
            "wait" => self.town().pass_ms(subject.parse().expect("milliseconds")),
            "silent" => self.silent(words),
            "heard" => {
                let node = self.town().node(subject);
                self.silent.remove(&node);
                self.heard.insert(node);
            }
            "cordon" | "uncordon" | "drain" | "remove" => {
                let node = self.town().node(subject);
                let command = match verb {
                    "drain" => Command::DrainNode(DrainNode { node }),
                    "remove" => Command::RemoveNode(RemoveNode { node, force: true }),
                    _ => Command::SetNodeSchedulable(SetNodeSchedulable {
                        node,
                        schedulable: verb == "uncordon",
                    }),
                };
                return self.lead(command);
            }
            "delete" => {
                let vm = self.town().vm_id(subject);
                return self.lead(Command::DeleteVm(DeleteVm { vm }));
            }
            "removed" | "running" | "crashed" | "held" | "failed" => self.report(words),
            other => panic!("{other} is not in the vocabulary"),
        }
        String::new()
    }

    fn lead(&mut self, command: Command) -> String {
        match self.town().lead(command) {
            Ok(()) => String::new(),
            Err(rejection) => format!("rejected: {rejection}\n"),
        }
    }

    fn vm(&mut self, words: &Words<'_>) {
        let plain = town::vm(words.at(1));
        let resources = Resources {
            vcpus: words.number("vcpus", plain.resources.vcpus),
            memory_mib: words.number("memory", plain.resources.memory_mib),
            disk_mib: words.number("disk", plain.resources.disk_mib),
        };
        let named = |name| words.named.get(name).copied();
        let power = if named("power") == Some("stopped") { Power::Stopped } else { Power::Running };
        let (zone, group) = (named("zone"), named("group"));
        let image = named("image").unwrap_or(plain.image);
        self.town().create(&VmShape { resources, image, zone, group, power, ..plain });
    }

    fn silent(&mut self, words: &Words<'_>) {
        let town = self.town();
        let node = town.node(words.at(1));
        let silence: u64 = words.at(2).parse().expect("milliseconds");
        let since = Timestamp(town.now.0 - silence);
        let observers = words.named.get("by").into_iter().flat_map(|by| by.split(','));
        let observers = observers.map(|said| {
            let (name, silence) = said.split_once(':').expect("observer:milliseconds");
            (town.node(name), silence.parse().ok())
        });
        let observers = observers.collect();
        self.heard.remove(&node);
        self.silent.insert(node, (since, observers));
    }

    fn report(&mut self, words: &Words<'_>) {
        let town = self.town();
        let subject = words.at(1);
        let (node, report) = match words.at(0) {
            "held" => (words.at(2).to_owned(), Report::ImageHeld { image: town.image_id(subject) }),
            "failed" => {
                let (image, message) = (town.image_id(subject), "disk full".into());
                (words.at(2).to_owned(), Report::ImageFailed { image, message })
            }
            "removed" => {
                let (vm, node) = (town.vm_id(subject), town.node(words.at(2)));
                let epoch = town.state.evictions.get(&(node, vm)).expect("it is evicted from there").epoch;
                (words.at(2).to_owned(), Report::VmGone { vm, epoch })
            }
            verb => {
                let vm = town.vm(subject);
                let placement = vm.placement.expect("what runs is placed");
                let phase = if verb == "running" { VmPhase::Running } else { VmPhase::Crashed };
                let report = Report::Vm {
                    vm: vm.id,
                    epoch: placement.epoch,
                    observed_generation: vm.generation,
                    phase,
                    message: None,
                    failures: 0,
                };
                (town.node_name(placement.node).to_owned(), report)
            }
        };
        town.report(&node, vec![report]);
    }

    /// The leader is the first node of the story that is neither silent nor down.
    fn view(&mut self) -> View {
        let silent = self.silent.clone();
        let heard = self.heard.clone();
        let town = self.town();
        let up = town.state.nodes_up().map(|node| node.id).filter(|node| !silent.contains_key(node));
        let me = up.min_by_key(|node| town.node_name(*node).to_owned()).expect("somebody leads");
        let now = town.now;
        let evidence =
            |(since, observers): Silence| Evidence { leader_silence_ms: now.since_ms(since), observers };
        let up = |node: &NodeId| town.state.nodes.get(node).is_some_and(|node| node.is_up());
        let suspicions = silent.into_iter().filter(|(node, _)| up(node));
        let suspicions =
            suspicions.map(|(node, seen)| Suspicion { node, evidence: evidence(seen) }).collect();
        View { now, me, leader_since: Timestamp(0), suspicions, heard }
    }

    fn round(&mut self, apply: bool) -> String {
        let view = self.view();
        let commands = scp_scheduler::plan(&self.town().state, &view);
        if commands.is_empty() {
            return "nothing\n".into();
        }
        let mut out = String::new();
        for command in commands {
            let told = self.tell(&command);
            let answer = match apply {
                true => self.lead_as(view.me, command),
                false => String::new(),
            };
            writeln!(out, "{told}{answer}").expect("a String takes everything");
        }
        out
    }

    fn lead_as(&mut self, me: NodeId, command: Command) -> String {
        let answer = self.town().propose(scp_model::Actor::Leader(me), command);
        answer.err().map_or_else(String::new, |rejection| format!(" -> rejected: {rejection}"))
    }

    fn tell(&mut self, command: &Command) -> String {
        let town = self.town();
        match command {
            Command::BindVm(bind) => {
                format!("bind {} to {}", town.vm_name(bind.vm), town.node_name(bind.node))
            }
            Command::EvacuateVm(evacuate) => {
                let vm = town.vm_name(evacuate.vm);
                let from = town.vm(vm).node().map_or("nowhere", |node| town.node_name(node));
                format!("evacuate {vm} from {from}")
            }
            Command::MarkNodeDown(mark) => {
                format!(
                    "{} is down: silent for {} ms",
                    town.node_name(mark.node),
                    mark.evidence.leader_silence_ms
                )
            }
            Command::MarkNodeUp(mark) => format!("{} is up", town.node_name(mark.node)),
            Command::AssignImage(assign) => {
                let verb = if assign.wanted { "copy" } else { "drop" };
                format!("{verb} {} on {}", town.image_name(assign.image), town.node_name(assign.node))
            }
            other => panic!("the scheduler proposed {other:?}"),
        }
    }

    fn places(&mut self) -> String {
        let town = self.town();
        let mut lines: Vec<String> = town
            .state
            .vms
            .values()
            .map(|vm| {
                let at = vm.node().map_or("nowhere", |node| town.node_name(node));
                format!("{} {:?} on {at}\n", vm.spec.name, vm.status.phase)
            })
            .collect();
        lines.sort();
        lines.concat()
    }

    fn explain(&mut self, name: &str) -> String {
        let town = self.town();
        let explanation = scp_scheduler::explain(&town.state, town.vm_id(name), town.now);
        let explanation = explanation.expect("the VM exists");
        let mut lines: Vec<String> = explanation
            .nodes
            .iter()
            .map(|verdict| {
                let obstacle = verdict.obstacle.as_ref().map_or("is feasible".into(), ToString::to_string);
                format!("  {} {obstacle}\n", verdict.name)
            })
            .collect();
        lines.sort();
        let remedy = explanation.remedy.map_or_else(String::new, |remedy| format!("  remedy: {remedy}\n"));
        format!("{}\n{}{remedy}", explanation.summary, lines.concat())
    }

    fn survives(&mut self, voters: &str) -> String {
        let town = self.town();
        let voters = voters.split(',').map(|voter| town.node(voter)).collect();
        let survival = scp_scheduler::survives(&town.state, &voters);
        let reasons = survival.reasons.iter().map(|reason| format!("  {reason}\n"));
        format!("any {} nodes, any {} voters\n", survival.nodes, survival.voters)
            + &reasons.collect::<String>()
    }

    fn voters(&mut self, words: &Words<'_>) -> String {
        let town = self.town();
        let set = |text: &str| text.split(',').map(|name| town.node(name)).collect::<BTreeSet<NodeId>>();
        let view = VoterView {
            now: town.now,
            me: town.node(words.named["me"]),
            voters: set(words.at(1)),
            caught_up: words.named.get("caught_up").map(|text| set(text)).unwrap_or_default(),
        };
        match scp_scheduler::choose_voters(&town.state, &view) {
            None => "as they are\n".into(),
            Some(voters) => {
                let names: BTreeSet<&str> = voters.iter().map(|voter| town.node_name(*voter)).collect();
                format!("{}\n", names.into_iter().collect::<Vec<_>>().join(","))
            }
        }
    }
}
