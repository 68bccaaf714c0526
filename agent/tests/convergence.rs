//! Whatever happened, it converges: a random history of orders, crashes, lost reports, failing ops,
//! stale snapshots and restarts; then nothing fails any more, and everything must come out as the
//! state wants it. On the way, no op may do what the design forbids.

#[path = "server/mod.rs"]
mod server;
#[path = "../../scheduler/tests/town/mod.rs"]
mod town;

use std::collections::BTreeMap;

use proptest::prelude::*;
use scp_agent::{Agent, Failure, FailureClass, Plan, REMOVAL_STRICT_MS, Standing};
use scp_model::{
    Actor, Command, Epoch, Fact, NodeId, Op, Report, Timestamp, VmId,
    command::{BindVm, DeleteVm, EvacuateVm, MarkNodeUp, RebootVm, SetVmPower},
    fact::{RunState, VmFact},
    node::Orphan,
    op::OpSubject,
    sandbox::{Power, RestartPolicy},
    vm::VmPhase,
};
use scp_state::State;
use server::{Instance, Server};
use town::{Town, VmShape};

const VMS: [&str; 4] = ["a", "b", "c", "d"];
const POLICIES: [RestartPolicy; 4] =
    [RestartPolicy::OnFailure, RestartPolicy::Always, RestartPolicy::Never, RestartPolicy::OnFailure];

#[derive(Debug, Clone)]
enum Step {
    Create(usize),
    Bind(usize),
    /// Its node is declared down, evacuated, and up again.
    Evacuate(usize),
    Power(usize, Power),
    Reboot(usize),
    Delete(usize),
    End(usize, RunState, bool),
    LoseInstance(usize),
    LoseImage,
    PowerCut,
    /// The process starts anew: what was under way is either done or not.
    Restart {
        done: bool,
    },
    /// The copy of the state stops following, and with it the standing.
    FallBehind,
    Observe,
    Plan {
        lose_reports: bool,
    },
    Finish {
        which: usize,
        outcome: Outcome,
    },
    Wait(u64),
}

#[derive(Debug, Clone, Copy)]
enum Outcome {
    Done,
    Failed(FailureClass),
    /// Done, but the answer is an error.
    DoneAndFailed,
}

fn a_step() -> impl Strategy<Value = Step> {
    let vm = 0..VMS.len();
    let run = prop_oneof![Just(RunState::Crashed), Just(RunState::Shutdown), Just(RunState::Paused)];
    let power = prop_oneof![Just(Power::Running), Just(Power::Stopped)];
    let outcome = prop_oneof![
        6 => Just(Outcome::Done),
        2 => Just(Outcome::Failed(FailureClass::Retryable)),
        1 => Just(Outcome::Failed(FailureClass::Terminal)),
        1 => Just(Outcome::DoneAndFailed),
    ];
    prop_oneof![
        3 => vm.clone().prop_map(Step::Create),
        3 => vm.clone().prop_map(Step::Bind),
        2 => vm.clone().prop_map(Step::Evacuate),
        2 => (vm.clone(), power).prop_map(|(vm, power)| Step::Power(vm, power)),
        1 => vm.clone().prop_map(Step::Reboot),
        1 => vm.clone().prop_map(Step::Delete),
        2 => (vm.clone(), run, any::<bool>()).prop_map(|(vm, run, told)| Step::End(vm, run, told)),
        1 => vm.prop_map(Step::LoseInstance),
        1 => Just(Step::LoseImage),
        1 => Just(Step::PowerCut),
        1 => any::<bool>().prop_map(|done| Step::Restart { done }),
        1 => Just(Step::FallBehind),
        2 => Just(Step::Observe),
        8 => any::<bool>().prop_map(|lose_reports| Step::Plan { lose_reports }),
        8 => (any::<usize>(), outcome).prop_map(|(which, outcome)| Step::Finish { which, outcome }),
        3 => prop_oneof![Just(10u64), Just(1_500), Just(40_000)].prop_map(Step::Wait),
    ]
}

/// One node's agent on its server, in a city of two.
struct Life {
    town: Town,
    me: NodeId,
    agent: Agent,
    server: Server,
    under_way: Vec<Op>,
    /// The copy of the state that the agent sees while it is behind.
    behind: Option<State>,
    /// When each eviction was first there for the agent, by VM: it may forget that on a restart, which
    /// makes it only more careful.
    evicted_since: BTreeMap<VmId, Timestamp>,
}

fn orphan() -> Orphan {
    Orphan { name: "win95".into(), detail: "somebody's own".into() }
}

/// An instance of ours of which the state knows nothing.
fn stranger() -> Instance {
    let fact = VmFact {
        vm: VmId::from_u128(666),
        epoch: Epoch(2),
        generation: 1,
        reboots: 0,
        run: RunState::Running,
        started_at: None,
    };
    Instance { fact, image: None, starts: 1 }
}

impl Life {
    fn new() -> Self {
        let mut town = Town::new(&town::node("n1"));
        town.join(&town::node("n2"));
        town.image("cirros", "n2");
        let me = town.node("n1");
        let mut server = Server { now: town.now, ..Server::default() };
        server.orphans.insert(orphan());
        server.vms.insert(stranger().fact.vm, stranger());
        let mut agent = Agent::new(me);
        agent.observed(server.observe());
        let (under_way, behind, evicted_since) = (Vec::new(), None, BTreeMap::new());
        Self { town, me, agent, server, under_way, behind, evicted_since }
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Create(at) => self.create(*at),
            Step::Bind(at) => self.bind(*at),
            Step::Evacuate(at) => self.evacuate(*at),
            Step::Power(at, power) => {
                let (vm, power) = (self.id(*at), *power);
                self.lead(Command::SetVmPower(SetVmPower { vm, power }));
            }
            Step::Reboot(at) => self.lead(Command::RebootVm(RebootVm { vm: self.id(*at) })),
            Step::Delete(at) => self.lead(Command::DeleteVm(DeleteVm { vm: self.id(*at) })),
            Step::End(at, run, told) => {
                let fact = self.server.end(self.id(*at), *run);
                if let Some(fact) = fact.filter(|_| *told) {
                    self.agent.noticed(fact);
                }
            }
            Step::LoseInstance(at) => {
                self.server.vms.remove(&self.id(*at));
            }
            Step::LoseImage => {
                let used = self.server.vms.values().any(|instance| instance.image.is_some());
                if !used {
                    self.server.images.clear();
                }
            }
            Step::PowerCut => {
                self.server.power_cut();
                self.restart(false);
            }
            Step::Restart { done } => self.restart(*done),
            Step::FallBehind => self.behind = Some(self.town.state.clone()),
            Step::Observe => self.agent.observed(self.server.observe()),
            Step::Plan { lose_reports } => {
                self.plan(*lose_reports);
            }
            Step::Finish { which, outcome } => self.finish(*which, *outcome),
            Step::Wait(ms) => self.wait(*ms),
        }
    }

    /// VMs that are gone come back under new ids; those never created have an id that nobody has.
    fn id(&self, at: usize) -> VmId {
        self.town.find_vm(VMS[at]).unwrap_or_default()
    }

    fn create(&mut self, at: usize) {
        let exists = self.town.state.vms.values().any(|vm| vm.spec.name.as_str() == VMS[at]);
        if !exists {
            self.town.create(&VmShape { restart: POLICIES[at], ..town::vm(VMS[at]) });
        }
        self.bind(at);
    }

    /// To this node if that may be, to the other one otherwise.
    fn bind(&mut self, at: usize) {
        let Some(vm) = self.town.state.vms.get(&self.id(at)) else { return };
        let (vm, basis) = (vm.id, vm.generation);
        if !self.town.state.evictions_of(vm).any(|eviction| eviction.node == self.me) {
            self.lead(Command::BindVm(BindVm { vm, node: self.me, basis }));
        }
        self.lead(Command::BindVm(BindVm { vm, node: self.town.node("n2"), basis }));
    }

    fn evacuate(&mut self, at: usize) {
        let placement = self.town.state.vms.get(&self.id(at)).and_then(|vm| vm.placement);
        let Some(placement) = placement else { return };
        let name = self.town.node_name(placement.node).to_owned();
        self.town.kill(&name);
        self.lead(Command::EvacuateVm(EvacuateVm { vm: self.id(at), epoch: placement.epoch }));
        self.bind(at);
        self.lead(Command::MarkNodeUp(MarkNodeUp { node: placement.node }));
        // The other node has nothing to remove in this test.
        let gone = self.town.state.evictions_on(self.town.node("n2"));
        let gone = gone.map(|eviction| Report::VmGone { vm: eviction.vm, epoch: eviction.epoch }).collect();
        self.town.report("n2", gone);
    }

    fn lead(&mut self, command: Command) {
        // Most of a random history is refused, which is as good a history as another.
        let leader = self.town.state.nodes_up().next().expect("never both are down").id;
        let _ = self.town.propose(Actor::Leader(leader), command);
    }

    fn restart(&mut self, done: bool) {
        for op in std::mem::take(&mut self.under_way).into_iter().filter(|_| done) {
            let _ = self.server.carry_out(&op);
        }
        self.agent = Agent::new(self.me);
        assert_eq!(self.plan(true), Plan::default(), "nothing is planned before anything was seen");
        self.agent.observed(self.server.observe());
    }

    fn wait(&mut self, ms: u64) {
        self.town.pass_ms(ms);
        self.server.now = self.town.now;
    }

    fn plan(&mut self, lose_reports: bool) -> Plan {
        let standing = if self.behind.is_some() { Standing::Behind } else { Standing::CaughtUp };
        let state = self.behind.as_ref().unwrap_or(&self.town.state).clone();
        for eviction in state.evictions_on(self.me) {
            self.evicted_since.entry(eviction.vm).or_insert(self.town.now);
        }
        self.evicted_since.retain(|vm, _| state.evictions.contains_key(&(self.me, *vm)));
        let plan = self.agent.plan(&state, standing, self.town.now);
        plan.ops.iter().for_each(|op| self.check(op, &state, standing));
        self.under_way.extend(plan.ops.iter().cloned());
        plan.reports.iter().for_each(|report| self.check_told(report));
        if standing == Standing::Behind {
            assert!(plan.reports.is_empty(), "what is seen from an old state is not told");
        }
        if !lose_reports && !plan.reports.is_empty() {
            self.town.report("n1", plan.reports.clone());
        }
        plan
    }

    /// What no op may do, whatever happened before.
    fn check(&self, op: &Op, state: &State, standing: Standing) {
        let same = |other: &&Op| other.subject() == op.subject();
        assert!(!self.under_way.iter().any(|other| same(&other)), "two ops at once on one subject: {op:?}");
        let placed = |vm: VmId, epoch: Epoch| {
            let placement = state.vms.get(&vm).and_then(|vm| vm.placement);
            placement.is_some_and(|placement| placement.node == self.me && placement.epoch == epoch)
        };
        match op {
            Op::EnsureVm(order) => {
                assert_eq!(standing, Standing::CaughtUp, "nothing is started from an old state");
                assert!(placed(order.vm, order.epoch), "{op:?} is for a VM that is not placed here");
                self.check_evictions(state);
            }
            Op::EnsureImage(_) => {
                assert_eq!(standing, Standing::CaughtUp, "nothing is fetched from an old state");
                self.check_evictions(state);
            }
            Op::StopVm { vm, epoch, .. } | Op::RebootVm { vm, epoch, .. } => {
                assert!(placed(*vm, *epoch), "{op:?} is for a VM that is not placed here");
            }
            Op::RemoveVm { vm, epoch } => {
                assert!(!placed(*vm, *epoch), "{op:?} takes a VM from its owner");
                assert_ne!(*vm, stranger().fact.vm, "an orphan is never touched");
            }
            Op::RemoveImage { .. } => {}
        }
    }

    /// What counts as stopped does not run, whatever the driver last said.
    fn check_told(&self, report: &Report) {
        if let Report::Vm { vm, epoch, phase: VmPhase::Stopped, .. } = report
            && let Some(instance) = self.server.vms.get(vm).filter(|instance| instance.fact.epoch == *epoch)
        {
            assert_ne!(instance.fact.run, RunState::Running, "VM {vm} is told to have stopped, and runs");
        }
    }

    /// Nothing is begun while something that was evicted is still here, unless it could not be removed
    /// for long.
    fn check_evictions(&self, state: &State) {
        for eviction in state.evictions_on(self.me) {
            let deleting = state.vms.get(&eviction.vm).is_some_and(|vm| vm.is_deleting());
            let here = self.server.vms.get(&eviction.vm).is_some_and(|vm| vm.fact.epoch <= eviction.epoch);
            let since = self.evicted_since.get(&eviction.vm).copied().unwrap_or(self.town.now);
            let long = self.town.now.since_ms(since) >= REMOVAL_STRICT_MS;
            assert!(deleting || !here || long, "something is begun although {} is to go", eviction.vm);
        }
    }

    fn finish(&mut self, which: usize, outcome: Outcome) {
        if self.under_way.is_empty() {
            return;
        }
        let op = self.under_way.remove(which % self.under_way.len());
        let result = match outcome {
            Outcome::Done => self.server.carry_out(&op),
            Outcome::Failed(class) => Err(Failure { class, message: "broken".into() }),
            Outcome::DoneAndFailed => {
                let _ = self.server.carry_out(&op);
                Err(Failure { class: FailureClass::Retryable, message: "the answer was lost".into() })
            }
        };
        self.agent.finished(&op, result, self.town.now);
    }

    /// Nothing fails any more, for a simulated hour.
    fn heal(&mut self) {
        self.behind = None;
        let end = self.town.now.plus_ms(3_600_000);
        while self.town.now < end {
            let plan = self.plan(false);
            while !self.under_way.is_empty() {
                self.finish(0, Outcome::Done);
            }
            self.agent.observed(self.server.observe());
            let soon = self.town.now.plus_ms(60_000);
            let next =
                if plan.ops.is_empty() { plan.wake_at.unwrap_or(soon).min(soon) } else { self.town.now };
            self.wait(next.since_ms(self.town.now).max(1));
        }
    }

    fn check_converged(&self) {
        let state = &self.town.state;
        for vm in state.vms_on(self.me) {
            let name = &vm.spec.name;
            let epoch = vm.placement.expect("it is on this node").epoch;
            let instance = self.server.vms.get(&vm.id);
            let run = instance.map(|instance| instance.fact.run);
            match (vm.spec.power, vm.spec.restart, run) {
                (Power::Running, _, Some(RunState::Running)) => assert_eq!(vm.status.phase, VmPhase::Running),
                (Power::Running, RestartPolicy::Never, Some(RunState::Crashed)) => {
                    assert_eq!(vm.status.phase, VmPhase::Crashed);
                }
                (
                    Power::Stopped,
                    _,
                    None | Some(RunState::Stopped | RunState::Shutdown | RunState::Crashed),
                ) => {
                    assert_eq!(vm.status.phase, VmPhase::Stopped);
                }
                other => panic!("{name} came out as {other:?}"),
            }
            assert_eq!(vm.status.observed_generation, vm.generation, "{name} is told to be carried out");
            if let Some(instance) = instance.filter(|instance| instance.fact.run == RunState::Running) {
                assert_eq!(instance.fact.epoch, epoch, "{name} runs by its present grant");
                assert_eq!(instance.fact.reboots, vm.spec.reboots, "{name} was rebooted as asked");
                assert_eq!(vm.status.failures, 0, "{name} has run for long");
            }
        }
        for (vm, instance) in self.server.vms.iter().filter(|(vm, _)| **vm != stranger().fact.vm) {
            let placed = state.vms.get(vm).and_then(|vm| vm.node());
            assert_eq!(placed, Some(self.me), "{instance:?} is left behind");
        }
        assert_eq!(state.evictions_on(self.me).count(), 0, "every order to remove is fulfilled");
        let here = self.server.vms.get(&stranger().fact.vm).expect("an orphan is never removed");
        assert_eq!((here.starts, here.fact.generation), (1, 1), "an orphan is never touched");
        let listed = state.nodes.get(&self.me).map(|node| node.orphans.len());
        assert_eq!(listed, Some(2), "orphans are listed");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, max_shrink_iters: 2000, ..ProptestConfig::default() })]

    #[test]
    fn every_history_converges_to_what_the_state_wants(steps in prop::collection::vec(a_step(), 1..60)) {
        let mut life = Life::new();
        steps.iter().for_each(|step| life.step(step));
        life.heal();
        life.check_converged();
    }

    /// The same history with an agent that forgets everything after each step ends the same.
    #[test]
    fn forgetting_everything_all_the_time_changes_nothing_in_the_end(
        steps in prop::collection::vec(a_step(), 1..40),
    ) {
        let mut life = Life::new();
        for step in &steps {
            life.step(step);
            life.restart(true);
        }
        life.heal();
        life.check_converged();
    }

    #[test]
    fn a_new_agent_finds_nothing_to_do_where_an_old_one_has_finished(
        steps in prop::collection::vec(a_step(), 1..40),
    ) {
        let mut life = Life::new();
        steps.iter().for_each(|step| life.step(step));
        life.heal();
        let starts = |life: &Life| life.server.vms.values().map(|instance| instance.starts).sum::<u32>();
        let before = starts(&life);
        life.restart(false);
        let plan = life.plan(false);
        prop_assert_eq!(plan.ops, Vec::<Op>::new());
        prop_assert_eq!(plan.reports, Vec::<Report>::new());
        prop_assert_eq!(starts(&life), before);
    }
}

#[test]
fn an_instance_beyond_what_the_copy_of_the_state_knows_is_left_alone() {
    let mut life = Life::new();
    let old = life.town.state.clone();
    life.create(0);
    let vm = life.id(0);
    life.heal();
    let epoch = life.server.vms[&vm].fact.epoch;
    assert!(epoch.0 > old.index);
    let mut agent = Agent::new(life.me);
    agent.observed(life.server.observe());
    let plan = agent.plan(&old, Standing::CaughtUp, life.town.now);
    let about = |op: &Op| op.subject() == OpSubject::Vm(vm);
    assert!(!plan.ops.iter().any(about), "{:?}", plan.ops);
    let listed = |report: &Report| match report {
        Report::Orphans { orphans } => orphans.iter().any(|orphan| orphan.name == vm.to_string()),
        _ => false,
    };
    assert!(!plan.reports.iter().any(listed), "it is no orphan either");
}

#[test]
fn a_late_word_of_a_removed_instance_does_not_bring_it_back() {
    let mut life = Life::new();
    life.create(0);
    life.heal();
    let vm = life.id(0);
    let last_word = Fact::Vm(VmFact { run: RunState::Crashed, ..life.server.vms[&vm].fact.clone() });
    life.lead(Command::DeleteVm(DeleteVm { vm }));
    life.plan(true);
    life.finish(0, Outcome::Done);
    life.agent.noticed(last_word);
    let plan = life.plan(false);
    assert_eq!(plan.ops, Vec::new());
    assert!(plan.reports.iter().any(|report| matches!(report, Report::VmGone { .. })), "{:?}", plan.reports);
    assert!(!life.town.state.vms.contains_key(&vm), "its deletion is over");
}
