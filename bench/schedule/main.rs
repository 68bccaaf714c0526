//! Placement at the size of a large city, through the state machine: each VM is created, planned and
//! bound by commands that `State::apply` takes in place; nothing is published, sent or stored.
//!
//! # What is measured
//! - **Fill**: 6,100 nodes in 8 zones, two sizes; VMs of five flavors and eight images are asked for in
//!   batches, a tenth of them bound to a zone and a tenth in anti-affinity groups of five, until one is
//!   refused; nodes report the copies of images that the scheduler asks them for. After 2,000,000
//!   placements the clock is read. Nomad's C2M placed 2,000,000 containers on 6,100 clients in 22 minutes.
//! - **Decision**: a round's time by what it bound; and a whole round in which one VM waits.
//! - **Loss**: a fifth of the nodes is lost at once in a city of 10,000 VMs; from the evidence to the
//!   last of some 2,000 bound anew.
//!
//! # What is checked, off the clock
//! All constraints from the records alone; the state's own invariants; the first choice of every
//! 250th round against looking at every node; at the first refusal that no node would have done.
//!
//! `SCP_BENCH_VMS` and `SCP_BENCH_NODES` shrink it.

mod city;
mod measure;
mod oracle;

use std::{collections::BTreeSet, time::Duration};

use city::City;
use measure::{Goal, cpu, percentile, print, print_goal, timed};
use mimalloc::MiMalloc;
use scp_model::{
    Actor, Command, NodeId, Report, Timestamp,
    fact::ReportBatch,
    node::{Evidence, Node},
};
use scp_scheduler::{COMMANDS_MAX, Suspicion, View, plan};
use scp_state::invariants;

/// The node's.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// VMs that are asked for between two rounds: what one round places.
const BATCH: u64 = COMMANDS_MAX as u64 / 4 * 3;
const NODES: u64 = 6_100;
const VMS: u64 = 2_000_000;
/// Every so manieth round is compared with the exhaustive choice.
const CHECK_EVERY: usize = 250;
/// Rounds with one VM that are timed.
const LONE_ROUNDS: usize = 500;
/// VMs of the city that loses nodes; a fifth is on them.
const LOSS_VMS: u64 = 10_000;

fn main() {
    let nodes = number("SCP_BENCH_NODES", NODES);
    fill(nodes, number("SCP_BENCH_VMS", VMS));
    lose_a_fifth(nodes, LOSS_VMS);
}

fn number(variable: &str, default: u64) -> u64 {
    match std::env::var(variable) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{variable} is a whole number, not {text:?}")),
        Err(_) => default,
    }
}

/// What the parts of a run took.
#[derive(Default)]
struct Times {
    create: Duration,
    plan: Duration,
    apply: Duration,
}

impl Times {
    fn all(&self) -> Duration {
        self.create + self.plan + self.apply
    }
}

fn ask(city: &mut City) {
    for _ in 0..BATCH {
        city.create();
    }
}

fn view(city: &City, suspicions: Vec<Suspicion>) -> View {
    View { now: city.now, me: city.leader, leader_since: Timestamp(0), suspicions, heard: BTreeSet::new() }
}

/// One round. The number of bindings in it, and the time that planning took.
fn round(city: &mut City, view: &View, times: &mut Times) -> (u64, Duration) {
    let mut planning = Duration::ZERO;
    let commands = timed(&mut planning, || plan(&city.state, view));
    times.plan += planning;
    let bound = timed(&mut times.apply, || apply(city, commands));
    (bound, planning)
}

/// Nodes fetch at once what they are to fetch.
fn apply(city: &mut City, commands: Vec<Command>) -> u64 {
    let mut bound = 0;
    for command in commands {
        let fetched = match &command {
            Command::AssignImage(assign) if assign.wanted => Some((assign.node, assign.image)),
            Command::BindVm(_) => {
                bound += 1;
                None
            }
            _ => None,
        };
        city.lead(command);
        if let Some((node, image)) = fetched {
            let reports = vec![Report::ImageHeld { image }];
            city.must(Actor::Node(node), Command::Report(ReportBatch { node, reports }));
        }
    }
    bound
}

fn fill(nodes: u64, vms: u64) {
    let mut city = City::new(nodes);
    let (mut times, cpu_before) = (Times::default(), cpu());
    let (mut cpu_checks, mut decisions, mut rounds) = (Duration::ZERO, Vec::new(), Vec::new());
    let (mut placed, mut checked, mut wrong, mut reached) = (0, 0, 0, None);
    loop {
        timed(&mut times.create, || ask(&mut city));
        city.now = city.now.plus_ms(1);
        if rounds.len().is_multiple_of(CHECK_EVERY) {
            let before = cpu();
            checked += 1;
            wrong += u64::from(!first_is_best(&city));
            cpu_checks += cpu() - before;
        }
        let view = view(&city, Vec::new());
        let (bound, planning) = round(&mut city, &view, &mut times);
        placed += bound;
        rounds.push(planning.as_secs_f64() * 1e3);
        decisions.push(planning.as_secs_f64() * 1e6 / bound.max(1) as f64);
        if placed >= vms && reached.is_none() {
            reached = Some((times.all(), cpu() - cpu_before - cpu_checks));
            report_times(&times, placed);
        }
        if bound < BATCH {
            break;
        }
    }
    let (wall, cpu) = reached.unwrap_or((Duration::MAX, Duration::MAX));
    print("nodes", nodes as f64, "nodes");
    print("placed_at_first_refusal", placed as f64, "VMs");
    print_goal("fill_wall", wall.as_secs_f64(), (Goal::AtMost(60.0), "s"));
    print_goal("fill_cpu", cpu.as_secs_f64(), (Goal::AtMost(120.0), "s"));
    print("times_faster_than_c2m", 22.0 * 60.0 / wall.as_secs_f64(), "ratio");
    print_goal("decision_p99", percentile(&mut decisions, 99) / 1e3, (Goal::AtMost(1.0), "ms"));
    print("decision_p50", percentile(&mut decisions, 50) / 1e3, "ms");
    print("round_p99", percentile(&mut rounds, 99), "ms");
    print("round_p50", percentile(&mut rounds, 50), "ms");
    print_goal("full_at_first_refusal", oracle::fullness(&city.state), (Goal::AtLeast(95.0), "%"));
    print("choices_compared", checked as f64, "rounds");
    print_goal("choices_not_the_best", wrong as f64, (Goal::AtMost(0.0), "rounds"));
    check(&city);
    lone_rounds(city);
    print("memory_max", measure::memory_mib_max() as f64, "MiB");
}

fn report_times(times: &Times, placed: u64) {
    for (name, part) in [("create", times.create), ("plan", times.plan), ("apply", times.apply)] {
        print(&format!("{name}_per_vm"), part.as_secs_f64() * 1e6 / placed as f64, "us");
    }
}

/// The first choice of the coming round, against looking at every node.
fn first_is_best(city: &City) -> bool {
    let first = plan(&city.state, &view(city, Vec::new())).into_iter().find_map(|command| match command {
        Command::BindVm(bind) => Some(bind),
        _ => None,
    });
    let Some(bind) = first else { return false };
    let vm = city.state.vms.get(&bind.vm);
    vm.is_some_and(|vm| oracle::best(&city.state, vm) == Some(bind.node))
}

/// Constraints, invariants, and that whatever waits fits nowhere.
fn check(city: &City) {
    let state = &city.state;
    let unjust = state.pending_vms().filter(|vm| oracle::best(state, vm).is_some()).count();
    let violations = oracle::violations(state);
    print_goal("violated_constraints", violations as f64, (Goal::AtMost(0.0), "VMs and nodes"));
    print_goal("refused_though_feasible", unjust as f64, (Goal::AtMost(0.0), "VMs"));
    print("refused", state.pending.len() as f64, "VMs");
    if let Err(broken) = invariants::check(state) {
        panic!("the state's invariants are broken: {broken}");
    }
}

/// Rounds in which one VM more waits, in the full city.
fn lone_rounds(mut city: City) {
    let (mut times, cpu_before) = (Vec::new(), cpu());
    for _ in 0..LONE_ROUNDS {
        city.create();
        city.now = city.now.plus_ms(1);
        let view = view(&city, Vec::new());
        let (_, planning) = round(&mut city, &view, &mut Times::default());
        times.push(planning.as_secs_f64() * 1e3);
    }
    let used = (cpu() - cpu_before).as_secs_f64() * 1e3 / LONE_ROUNDS as f64;
    // With what it takes to create and bind it.
    print("lone_decision_cpu_mean", used, "ms");
    print_goal("lone_decision_p99", percentile(&mut times, 99), (Goal::AtMost(1.0), "ms"));
    print("lone_decision_p50", percentile(&mut times, 50), "ms");
}

fn lose_a_fifth(nodes: u64, vms: u64) {
    let mut city = City::new(nodes);
    for _ in 0..vms.div_ceil(BATCH) {
        ask(&mut city);
        let view = view(&city, Vec::new());
        round(&mut city, &view, &mut Times::default());
    }
    let leader = city.leader;
    let lost: BTreeSet<NodeId> =
        city.state.nodes.keys().copied().filter(|node| *node != leader).step_by(5).collect();
    let witnesses: Vec<NodeId> =
        city.state.nodes.keys().copied().filter(|node| !lost.contains(node)).take(5).collect();
    let displaced = lost.iter().map(|node| city.state.vms_on(*node).count()).sum::<usize>();
    let suspicion = |node: &NodeId| {
        let observers = witnesses.iter().map(|witness| (*witness, Some(3_000))).collect();
        Suspicion { node: *node, evidence: Evidence { leader_silence_ms: 3_000, observers } }
    };
    let (mut times, cpu_before, mut rounds) = (Times::default(), cpu(), 0);
    while lost.iter().any(|node| city.state.vms_on(*node).next().is_some()) || !city.state.pending.is_empty()
    {
        let silent = lost.iter().filter(|node| city.state.nodes.get(*node).is_some_and(Node::is_up));
        let view = view(&city, silent.map(suspicion).collect());
        round(&mut city, &view, &mut times);
        rounds += 1;
        assert!(rounds < 1_000, "what was lost finds a place within bounded rounds");
    }
    let used = cpu() - cpu_before;
    print("loss_vms", displaced as f64, "VMs");
    print("loss_rounds", f64::from(rounds), "rounds");
    print_goal("loss_wall", times.all().as_secs_f64() * 1e3, (Goal::AtMost(250.0), "ms"));
    print("loss_plan", times.plan.as_secs_f64() * 1e3, "ms");
    print("loss_cpu", used.as_secs_f64() * 1e3, "ms");
    let violations = oracle::violations(&city.state);
    print_goal("loss_violated_constraints", violations as f64, (Goal::AtMost(0.0), "VMs and nodes"));
    if let Err(broken) = invariants::check(&city.state) {
        panic!("the state's invariants are broken: {broken}");
    }
}
