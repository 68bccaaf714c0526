//! Golden scripts: what happens to a node, and what its agent makes of it. `REWRITE=1` rewrites the
//! expected parts. The node of the story is `n1`; `n2` is the rest of the city.
//!
//! ```text
//! image cirros on n2                      an image, held by one node
//! vm web image=cirros restart=never       is asked for
//! bind web n1 | evacuate web | delete web | start web | stop web | reboot web | assign cirros n1
//! down n1 | up n1                         as the leader declares it
//! crash web | shut web | pause web        the guest ends, and the engine tells
//! lose web | lose cirros | orphan win95   somebody meddles with the server
//! restart                                 the process starts anew, and looks
//! power-cut                               the server does
//! behind | caught-up                      whether the copy of the state follows
//! wait 1000                               milliseconds pass
//! plan                                    prints ops and reports; reports reach the state
//! done | fails retryable disk is full     answers the oldest op that is under way
//! done-but-fails                          it took effect, and its answer was lost
//! run                                     plans and carries out until nothing is left to do now
//! here | state                            prints the server's instances and images | the state's view
//! ```

#[path = "server/mod.rs"]
mod server;
#[path = "../../scheduler/tests/town/mod.rs"]
mod town;

use std::fmt::Write;

use scp_agent::{Agent, Failure, FailureClass, Standing};
use scp_model::{
    Actor, Command, Epoch, Op, Report, Timestamp, VmId,
    command::{AssignImage, BindVm, DeleteVm, EvacuateVm, MarkNodeUp, RebootVm, SetVmPower},
    fact::RunState,
    node::Orphan,
    sandbox::{Power, RestartPolicy},
};
use scp_state::State;
use server::Server;
use town::{Town, VmShape};

/// Plans after which a story that still has something to do is in a loop.
const PLANS_MAX: usize = 30;

struct Story {
    town: Town,
    agent: Agent,
    server: Server,
    under_way: Vec<Op>,
    behind: Option<State>,
    /// Timestamps are told as milliseconds since the story began.
    began: Timestamp,
}

#[test]
fn stories() {
    datadriven::walk("tests/stories", |file| {
        let mut story = Story::new();
        file.run(|case| {
            assert_eq!(case.directive, "story", "every block is a story");
            case.input.lines().fold(String::new(), |out, line| out + &story.line(line))
        });
    });
}

impl Story {
    fn new() -> Self {
        let mut town = Town::new(&town::node("n1"));
        town.join(&town::node("n2"));
        let mut agent = Agent::new(town.node("n1"));
        agent.observed(Vec::new());
        let server = Server { now: town.now, ..Server::default() };
        let began = town.now;
        Self { town, agent, server, under_way: Vec::new(), behind: None, began }
    }

    fn line(&mut self, line: &str) -> String {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            [] => return String::new(),
            ["plan"] => return self.plan(),
            ["run"] => return self.run(),
            ["here"] => return self.here(),
            ["look"] => self.agent.observed(self.server.observe()),
            ["state"] => return self.state(),
            ["done"] => self.done(),
            ["done-but-fails"] => {
                let op = self.under_way.first().expect("an op is under way").clone();
                self.server.carry_out(&op).expect("the server can do it");
                self.fails("retryable", "its answer was lost");
            }
            ["fails", class, ..] => self.fails(class, &words[2..].join(" ")),
            ["image", image, "on", node] => self.town.image(image, node),
            ["vm", name, ref options @ ..] => self.vm(name, options),
            ["wait", ms] => {
                self.town.pass_ms(ms.parse().expect("milliseconds"));
                self.server.now = self.town.now;
            }
            ["behind"] => self.behind = Some(self.town.state.clone()),
            ["caught-up"] => self.behind = None,
            ["restart"] => self.restart(),
            ["power-cut"] => {
                self.server.power_cut();
                self.restart();
            }
            ["down", node] => self.town.kill(node),
            ["orphan", name] => {
                self.server.orphans.insert(Orphan { name: name.into(), detail: "not ours".into() });
                self.agent.observed(self.server.observe());
            }
            [verb, subject] => return self.about(verb, subject),
            ["bind", vm, node] => {
                let vm = self.town.vm(vm);
                let (vm, basis) = (vm.id, vm.generation);
                return self.lead(Command::BindVm(BindVm { vm, node: self.town.node(node), basis }));
            }
            ["assign", image, node] => {
                let (image, node) = (self.town.image_id(image), self.town.node(node));
                return self.lead(Command::AssignImage(AssignImage { image, node, wanted: true }));
            }
            ["unassign", image, node] => {
                let (image, node) = (self.town.image_id(image), self.town.node(node));
                return self.lead(Command::AssignImage(AssignImage { image, node, wanted: false }));
            }
            _ => panic!("{line} is not in the vocabulary"),
        }
        String::new()
    }

    fn about(&mut self, verb: &str, subject: &str) -> String {
        let ended = |run| (self.town.vm_id(subject), run);
        match verb {
            "crash" | "shut" | "pause" => {
                let (vm, run) = ended(match verb {
                    "crash" => RunState::Crashed,
                    "shut" => RunState::Shutdown,
                    _ => RunState::Paused,
                });
                let fact = self.server.end(vm, run).expect("only what runs can end");
                self.agent.noticed(fact);
                String::new()
            }
            "lose" => {
                match self.town.find_vm(subject) {
                    Some(vm) => drop(self.server.vms.remove(&vm)),
                    None => drop(self.server.images.remove(&self.town.image_id(subject))),
                }
                self.agent.observed(self.server.observe());
                String::new()
            }
            "hold" => {
                self.server.images.insert(self.town.image_id(subject));
                String::new()
            }
            "up" => self.lead(Command::MarkNodeUp(MarkNodeUp { node: self.town.node(subject) })),
            "evacuate" => {
                let vm = self.town.vm(subject);
                let (vm, epoch) = (vm.id, vm.placement.expect("it is placed").epoch);
                self.lead(Command::EvacuateVm(EvacuateVm { vm, epoch }))
            }
            "delete" => self.lead(Command::DeleteVm(DeleteVm { vm: self.town.vm_id(subject) })),
            "reboot" => self.lead(Command::RebootVm(RebootVm { vm: self.town.vm_id(subject) })),
            "start" | "stop" => {
                let power = if verb == "start" { Power::Running } else { Power::Stopped };
                self.lead(Command::SetVmPower(SetVmPower { vm: self.town.vm_id(subject), power }))
            }
            other => panic!("{other} is not in the vocabulary"),
        }
    }

    fn vm(&mut self, name: &str, options: &[&str]) {
        let option =
            |key: &str| options.iter().find_map(|option| option.strip_prefix(key)?.strip_prefix('='));
        let restart = match option("restart") {
            Some("always") => RestartPolicy::Always,
            Some("never") => RestartPolicy::Never,
            _ => RestartPolicy::OnFailure,
        };
        let image = option("image").unwrap_or("cirros");
        self.town.create(&VmShape { restart, image, ..town::vm(name) });
    }

    fn lead(&mut self, command: Command) -> String {
        let leader = Actor::Leader(self.town.node("n2"));
        let answer = self.town.propose(leader, command);
        answer.err().map_or_else(String::new, |rejection| format!("rejected: {rejection}\n"))
    }

    fn restart(&mut self) {
        self.under_way.clear();
        self.agent = Agent::new(self.town.node("n1"));
        self.agent.observed(self.server.observe());
    }

    fn done(&mut self) {
        let op = self.under_way.remove(0);
        let facts = self.server.carry_out(&op);
        self.agent.finished(&op, facts, self.town.now);
    }

    fn fails(&mut self, class: &str, message: &str) {
        let class = match class {
            "retryable" => FailureClass::Retryable,
            "terminal" => FailureClass::Terminal,
            "fenced" => FailureClass::Fenced,
            other => panic!("{other} is no class of failures"),
        };
        let op = self.under_way.remove(0);
        self.agent.finished(&op, Err(Failure { class, message: message.into() }), self.town.now);
    }

    fn plan(&mut self) -> String {
        let standing = if self.behind.is_some() { Standing::Behind } else { Standing::CaughtUp };
        let state = self.behind.as_ref().unwrap_or(&self.town.state).clone();
        let plan = self.agent.plan(&state, standing, self.town.now);
        let mut out = String::new();
        for op in &plan.ops {
            writeln!(out, "op: {}", self.tell_op(op)).expect("a String takes everything");
        }
        for report in &plan.reports {
            writeln!(out, "report: {}", self.tell_report(report)).expect("a String takes everything");
        }
        if !plan.reports.is_empty() {
            self.town.report("n1", plan.reports);
        }
        let quiet = out.is_empty();
        if let Some(at) = plan.wake_at.filter(|_| quiet) {
            writeln!(out, "nothing until {}", at.since_ms(self.began)).expect("a String takes everything");
        } else if quiet {
            out.push_str("nothing\n");
        }
        self.under_way.extend(plan.ops);
        out
    }

    fn run(&mut self) -> String {
        let mut out = String::new();
        for _ in 0..PLANS_MAX {
            let told = self.plan();
            out += &told;
            if told.starts_with("nothing") && self.under_way.is_empty() {
                return out;
            }
            while !self.under_way.is_empty() {
                self.done();
            }
        }
        panic!("it never ends:\n{out}")
    }

    fn tell_op(&self, op: &Op) -> String {
        let epoch = |vm: VmId, epoch: Epoch| format!("{} ({})", self.town.vm_name(vm), self.grant(vm, epoch));
        match op {
            Op::EnsureImage(order) => {
                let from: Vec<&str> = order.sources.iter().map(|node| self.town.node_name(*node)).collect();
                format!("ensure image {} from {}", self.town.image_name(order.image), from.join(","))
            }
            Op::RemoveImage { image } => format!("remove image {}", self.town.image_name(*image)),
            Op::EnsureVm(order) => format!(
                "ensure vm {} generation {} reboots {}",
                epoch(order.vm, order.epoch),
                order.generation,
                order.reboots
            ),
            Op::StopVm { vm, epoch: e, generation, grace_ms } => {
                format!("stop vm {} generation {generation} within {grace_ms} ms", epoch(*vm, *e))
            }
            Op::RebootVm { vm, epoch: e, reboots, .. } => {
                format!("reboot vm {} reboots {reboots}", epoch(*vm, *e))
            }
            Op::RemoveVm { vm, epoch: e } => format!("remove vm {}", epoch(*vm, *e)),
        }
    }

    /// Epochs are indices of the log and say nothing in a story; whether they are granted does.
    fn grant(&self, vm: VmId, epoch: Epoch) -> &'static str {
        let placement = self.town.state.vms.get(&vm).and_then(|vm| vm.placement);
        match placement.is_some_and(|placement| placement.epoch == epoch) {
            true => "granted",
            false => "no longer granted",
        }
    }

    fn tell_report(&self, report: &Report) -> String {
        match report {
            Report::Vm { vm, observed_generation, phase, message, failures, .. } => {
                let name = self.town.vm_name(*vm);
                let message = message.as_deref().map_or_else(String::new, |message| format!(": {message}"));
                format!("{name} {phase:?} generation {observed_generation} failures {failures}{message}")
            }
            Report::VmGone { vm, .. } => format!("{} is gone", self.town.vm_name(*vm)),
            Report::VmShutdown { vm, .. } => format!("{} shut itself down", self.town.vm_name(*vm)),
            Report::ImageHeld { image } => format!("{} is held", self.town.image_name(*image)),
            Report::ImageGone { image } => format!("{} is gone", self.town.image_name(*image)),
            Report::ImageFailed { image, message } => {
                format!("{} failed: {message}", self.town.image_name(*image))
            }
            Report::Orphans { orphans } => {
                let names: Vec<&str> = orphans.iter().map(|orphan| orphan.name.as_str()).collect();
                format!("orphans: {}", names.join(", "))
            }
        }
    }

    fn here(&self) -> String {
        let vms = self.server.vms.iter().map(|(vm, instance)| {
            let name = self.town.vm_name(*vm);
            format!("vm {name} {:?}, started {} times\n", instance.fact.run, instance.starts)
        });
        let images =
            self.server.images.iter().map(|image| format!("image {}\n", self.town.image_name(*image)));
        let out: String = vms.chain(images).collect();
        if out.is_empty() { "empty\n".into() } else { out }
    }

    fn state(&self) -> String {
        let tell = |vm: &scp_model::vm::Vm| {
            let at = vm.node().map_or("nowhere", |node| self.town.node_name(node));
            format!("{} {:?} on {at}, wanted {:?}\n", vm.spec.name, vm.status.phase, vm.spec.power)
        };
        self.town.state.vms.values().map(tell).collect()
    }
}
