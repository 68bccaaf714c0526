//! Both minds together: a leader's scheduler and four nodes' agents, each on its server, through
//! `apply`. Nodes are cut off, lose their power, drain and come back; VMs come, crash and go. When it
//! is quiet again every VM runs exactly once, and neither mind has anything left to do: they never
//! work against each other.

#[path = "server/mod.rs"]
mod server;
#[path = "../../scheduler/tests/town/mod.rs"]
mod town;

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use scp_agent::{Agent, Plan, Standing};
use scp_model::{
    Actor, Command, NodeId, Timestamp, VmId,
    command::{DeleteVm, DrainNode, SetNodeSchedulable},
    fact::RunState,
    image::IMAGE_REPLICAS,
    node::Evidence,
};
use scp_scheduler::{Suspicion, View};
use server::Server;
use town::{NodeShape, Town, VmShape};

const NODES: [&str; 4] = ["n1", "n2", "n3", "n4"];
const ZONES: [&str; 4] = ["a", "a", "b", "c"];
const VMS: [&str; 6] = ["v1", "v2", "v3", "v4", "v5", "v6"];
/// Two groups of two, and two VMs that are alone.
const GROUPS: [Option<&str>; 6] = [Some("g"), Some("g"), Some("h"), Some("h"), None, None];

/// Milliseconds between two looks of everybody.
const TICK_MS: u64 = 500;
/// What the scheduler calls silent, in milliseconds.
const SILENCE_MS: u64 = 1_000;

#[derive(Debug, Clone)]
enum Happening {
    Create(usize),
    Delete(usize),
    Crash(usize),
    /// One node at most is away at a time; its guests go on, or end with its power.
    Lose {
        node: usize,
        power: bool,
    },
    Return,
    Drain(usize),
    Uncordon(usize),
    Restart(usize),
    Ticks(u8),
}

fn a_happening() -> impl Strategy<Value = Happening> {
    let (vm, node) = (0..VMS.len(), 0..NODES.len());
    prop_oneof![
        4 => vm.clone().prop_map(Happening::Create),
        1 => vm.clone().prop_map(Happening::Delete),
        1 => vm.prop_map(Happening::Crash),
        2 => (node.clone(), any::<bool>()).prop_map(|(node, power)| Happening::Lose { node, power }),
        2 => Just(Happening::Return),
        1 => node.clone().prop_map(Happening::Drain),
        1 => node.clone().prop_map(Happening::Uncordon),
        1 => node.prop_map(Happening::Restart),
        8 => (1..12u8).prop_map(Happening::Ticks),
    ]
}

struct City {
    town: Town,
    agents: BTreeMap<NodeId, Agent>,
    servers: BTreeMap<NodeId, Server>,
    heard_at: BTreeMap<NodeId, Timestamp>,
    away: Option<NodeId>,
}

impl City {
    fn new() -> Self {
        let shape = |at: usize| NodeShape { zone: ZONES[at], ..town::node(NODES[at]) };
        let mut town = Town::new(&shape(0));
        (1..NODES.len()).for_each(|at| town.join(&shape(at)));
        town.image("cirros", "n1");
        let ids: Vec<NodeId> = NODES.iter().map(|name| town.node(name)).collect();
        let mut servers: BTreeMap<NodeId, Server> = ids.iter().map(|id| (*id, Server::default())).collect();
        servers.get_mut(&ids[0]).expect("n1 has a server").images.insert(town.image_id("cirros"));
        let agents = ids.iter().map(|id| (*id, Agent::new(*id))).collect();
        let heard_at = ids.iter().map(|id| (*id, town.now)).collect();
        Self { town, agents, servers, heard_at, away: None }
    }

    fn happens(&mut self, happening: &Happening) {
        match happening {
            Happening::Create(at) => {
                let exists = self.town.state.vms.values().any(|vm| vm.spec.name.as_str() == VMS[*at]);
                if !exists {
                    self.town.create(&VmShape { group: GROUPS[*at], ..town::vm(VMS[*at]) });
                }
            }
            Happening::Delete(at) => {
                let vm = self.town.find_vm(VMS[*at]).unwrap_or_default();
                let _ = self.lead(Command::DeleteVm(DeleteVm { vm }));
            }
            Happening::Crash(at) => {
                let vm = self.town.find_vm(VMS[*at]).unwrap_or_default();
                self.servers.values_mut().for_each(|server| drop(server.end(vm, RunState::Crashed)));
            }
            Happening::Lose { node, power } => self.lose(*node, *power),
            Happening::Return => self.away = None,
            Happening::Drain(at) => {
                let node = self.town.node(NODES[*at]);
                let _ = self.lead(Command::DrainNode(DrainNode { node }));
            }
            Happening::Uncordon(at) => self.uncordon(*at),
            Happening::Restart(at) => {
                let node = self.town.node(NODES[*at]);
                self.agents.insert(node, Agent::new(node));
            }
            Happening::Ticks(ticks) => (0..*ticks).for_each(|_| self.tick(TICK_MS)),
        }
    }

    fn lose(&mut self, at: usize, power: bool) {
        if self.away.is_some() {
            return;
        }
        let node = self.town.node(NODES[at]);
        self.away = Some(node);
        if power {
            self.servers.get_mut(&node).expect("it has a server").power_cut();
            self.agents.insert(node, Agent::new(node));
        }
    }

    fn uncordon(&mut self, at: usize) {
        let node = self.town.node(NODES[at]);
        let _ = self.lead(Command::SetNodeSchedulable(SetNodeSchedulable { node, schedulable: true }));
    }

    fn present(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.heard_at.keys().copied().filter(|node| Some(*node) != self.away)
    }

    fn leader(&self) -> NodeId {
        self.present().next().expect("one node at most is away")
    }

    fn lead(&mut self, command: Command) -> Result<(), scp_model::Rejection> {
        self.town.propose(Actor::Leader(self.leader()), command)
    }

    /// Everybody who is there looks once.
    fn tick(&mut self, ms: u64) {
        self.town.pass_ms(ms);
        let now = self.town.now;
        for node in self.present().collect::<Vec<_>>() {
            self.heard_at.insert(node, now);
            let plan = self.look(node);
            let name = self.town.node_name(node).to_owned();
            if !plan.reports.is_empty() {
                self.town.report(&name, plan.reports);
            }
            let (server, agent) = (self.servers.get_mut(&node), self.agents.get_mut(&node));
            let (server, agent) = (server.expect("it has a server"), agent.expect("it has an agent"));
            for op in plan.ops {
                agent.finished(&op, server.carry_out(&op), now);
            }
        }
        for command in self.schedule() {
            let told = format!("{command:?}");
            self.lead(command).unwrap_or_else(|rejection| panic!("{told}: {rejection}"));
        }
    }

    fn look(&mut self, node: NodeId) -> Plan {
        let now = self.town.now;
        let (server, agent) = (self.servers.get_mut(&node), self.agents.get_mut(&node));
        let (server, agent) = (server.expect("it has a server"), agent.expect("it has an agent"));
        server.now = now;
        agent.observed(server.observe());
        agent.plan(&self.town.state, Standing::CaughtUp, now)
    }

    fn schedule(&self) -> Vec<Command> {
        let now = self.town.now;
        let silence = |node: &NodeId| now.since_ms(self.heard_at[node]);
        let up = |node: &NodeId| self.town.state.nodes.get(node).is_some_and(|node| node.is_up());
        let silent = self.heard_at.keys().copied().filter(|node| up(node) && silence(node) >= SILENCE_MS);
        let suspicions = silent.map(|node| {
            let observers = self.present().map(|observer| (observer, Some(silence(&node)))).collect();
            Suspicion { node, evidence: Evidence { leader_silence_ms: silence(&node), observers } }
        });
        let heard: BTreeSet<NodeId> = self.present().collect();
        let (me, suspicions) = (self.leader(), suspicions.collect());
        scp_scheduler::plan(
            &self.town.state,
            &View { now, me, leader_since: Timestamp(0), suspicions, heard },
        )
    }

    /// Everybody is back, and time passes: slowly at first, then as long as the longest pause takes.
    fn calm_down(&mut self) {
        self.away = None;
        (0..NODES.len()).for_each(|at| self.uncordon(at));
        (0..120).for_each(|_| self.tick(TICK_MS));
        (0..60).for_each(|_| self.tick(20_000));
    }

    fn check_quiet(&mut self) {
        assert_eq!(self.schedule(), Vec::new(), "the scheduler rests");
        for node in self.heard_at.keys().copied().collect::<Vec<_>>() {
            let plan = self.look(node);
            assert_eq!((plan.ops, plan.reports), (Vec::new(), Vec::new()), "the agent rests");
        }
        let mut running: BTreeMap<VmId, Vec<NodeId>> = BTreeMap::new();
        for (node, server) in &self.servers {
            for vm in server.vms.keys() {
                running.entry(*vm).or_default().push(*node);
            }
        }
        let wanted = self.town.state.vms.values().map(|vm| (vm.id, vm.node().into_iter().collect()));
        assert_eq!(running, wanted.collect(), "every VM is where the state says, once, and nothing else is");
        let run = self.servers.values().flat_map(|server| server.vms.values());
        assert!(
            run.clone().all(|instance| instance.fact.run == RunState::Running),
            "{:?}",
            run.collect::<Vec<_>>()
        );
        let image = self.town.image_id("cirros");
        let holders: Vec<NodeId> = self.town.state.images[&image].holders().collect();
        assert!(holders.len() >= IMAGE_REPLICAS);
        assert!(holders.iter().all(|node| self.servers[node].images.contains(&image)));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_every_vm_ends_up_running_exactly_once(
        happenings in prop::collection::vec(a_happening(), 1..40),
    ) {
        let mut city = City::new();
        happenings.iter().for_each(|happening| city.happens(happening));
        city.calm_down();
        city.check_quiet();
    }
}

/// The story of the demo: a server dies, its VM runs elsewhere within the time allowed, the server
/// comes back, and nothing runs twice.
#[test]
fn a_vm_of_a_lost_node_runs_elsewhere_within_five_seconds_and_never_twice_in_the_end() {
    let mut city = City::new();
    (0..20).for_each(|_| city.tick(TICK_MS));
    city.happens(&Happening::Create(4));
    (0..10).for_each(|_| city.tick(TICK_MS));
    let vm = city.town.vm_id("v5");
    let first = city.town.vm("v5").node().expect("it is placed");
    let at = NODES.iter().position(|name| city.town.node(name) == first).expect("on one of them");
    let lost_at = city.town.now;
    city.happens(&Happening::Lose { node: at, power: false });
    let mut down_after = None;
    let started_after = loop {
        city.tick(100);
        let after = city.town.now.since_ms(lost_at);
        let down = !city.town.state.nodes[&first].is_up();
        down_after = down_after.or(down.then_some(after));
        let elsewhere = city.servers.iter().filter(|(node, _)| **node != first);
        if elsewhere.flat_map(|(_, server)| server.vms.keys()).any(|id| *id == vm) {
            break after;
        }
        assert!(after < 10_000, "it is not started anew");
    };
    assert!(down_after.is_some_and(|after| after <= 3_000), "declared dead after {down_after:?} ms");
    assert!(started_after <= 5_000, "started after {started_after} ms");
    city.happens(&Happening::Return);
    city.calm_down();
    city.check_quiet();
}
