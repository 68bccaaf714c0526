//! What holds for every sequence of commands, not only for the ones in the stories. `World` already
//! checks after each command that the invariants hold, that a rejection left no trace and that a
//! repeated request changes nothing.

use std::collections::BTreeSet;

use crate::support::World;
use proptest::prelude::*;
use scp_model::{EventKind, NodeId, ProjectId, Proposal, Resources, Subject, VmId};
use scp_state::State;

const PRELUDE: &str = "
    init capacity=2/2048/20000
    token t1
    admit b token=t1 zone=north capacity=2/2048/20000
    token t2
    admit c token=t2 capacity=2/4096/20000
    create-image debian public virtual=1
    create-project p quota=vms:3,vcpus:6,memory:2048,disk:9000,images:1,keypairs:1
    create-vm v0 size=1/256/1000
    create-vm v1 size=1/256/1000 project=p";

fn one_of(words: &'static [&'static str]) -> impl Strategy<Value = &'static str> {
    prop::sample::select(words)
}

fn node() -> impl Strategy<Value = &'static str> {
    one_of(&["a", "b", "c", "d"])
}

fn vm() -> impl Strategy<Value = &'static str> {
    one_of(&["v0", "v1", "v2", "v3"])
}

/// Mostly sensible: half of these would be refused if they were drawn from everything.
fn line() -> impl Strategy<Value = String> {
    let project = || one_of(&["default", "p"]);
    let size = one_of(&["1/128/100", "1/256/1000", "2/512/2000", "9/64/10"]);
    let extra =
        one_of(&["", "group=g", "zone=north", "restart=always", "restart=never", "name=v0", "mac=v1"]);
    let evidence =
        one_of(&["observers=b:2500,c:2500", "observers=a:2500,b:-,c:2500", "observers=", "observers=d:9000"]);
    let phase = one_of(&["bound", "starting", "running", "stopping", "stopped", "crashed", "deleting"]);
    prop_oneof![
        8 => (vm(), project(), size, extra).prop_map(|(v, p, s, x)| format!("create-vm {v} project={p} size={s} {x}")),
        16 => (vm(), node()).prop_map(|(v, n)| format!("bind {v} {n}")),
        6 => vm().prop_map(|v| format!("evacuate {v}")),
        4 => (vm(), one_of(&["start", "stop", "reboot"])).prop_map(|(v, verb)| format!("{verb} {v}")),
        5 => vm().prop_map(|v| format!("delete-vm {v}")),
        6 => (node(), phase, vm(), 0..4u32).prop_map(|(n, p, v, f)| format!("report {n} {p} {v} failures={f}")),
        8 => (node(), vm()).prop_map(|(n, v)| format!("report {n} gone {v}")),
        2 => (node(), vm(), 0..30u32).prop_map(|(n, v, e)| format!("report {n} gone {v} epoch={e}")),
        2 => (node(), vm()).prop_map(|(n, v)| format!("report {n} shutdown {v}")),
        4 => (node(), evidence).prop_map(|(n, e)| format!("down {n} {e}")),
        5 => node().prop_map(|n| format!("up {n}")),
        4 => (node(), one_of(&["drain", "cordon", "uncordon"])).prop_map(|(n, verb)| format!("{verb} {n}")),
        3 => (node(), one_of(&["", "force"])).prop_map(|(n, force)| format!("remove-node {n} {force}")),
        2 => (node(), one_of(&["t1", "t2", "t3"])).prop_map(|(n, t)| format!("admit {n} token={t}")),
        1 => one_of(&["t1", "t2", "t3"]).prop_map(|t| format!("token {t}")),
        10 => temptation(),
        2 => node().prop_map(|n| format!("revoke-token new\n token new\n admit {n} token=new")),
        3 => tenancy(),
        3 => images(),
        1 => (1..100_000u32).prop_map(|ms| format!("wait ms={ms}")),
        1 => (1..500u32).prop_map(|ms| format!("clock-back ms={ms}")),
    ]
}

/// What tempts the law to let a VM run twice: it leaves a node that is up, or that comes back.
fn temptation() -> impl Strategy<Value = String> {
    let down = "observers=a:2500,b:2500,c:2500";
    prop_oneof![
        (vm(), node(), node()).prop_map(|(v, from, to)| {
            format!("create-vm {v} size=1/128/100\n uncordon {from}\n uncordon {to}\n bind {v} {from}\n drain {from}\n evacuate {v}\n bind {v} {to}\n uncordon {from}\n bind {v} {from}")
        }),
        (vm(), node(), node()).prop_map(move |(v, from, to)| {
            let down = down.replace(&format!("{from}:2500"), "d:-");
            format!("create-vm {v} size=1/128/100\n uncordon {from}\n uncordon {to}\n bind {v} {from}\n down {from} {down}\n evacuate {v}\n up {from}\n bind {v} {to}")
        }),
        (vm(), node(), node()).prop_map(move |(v, from, to)| {
            let down = down.replace(&format!("{from}:2500"), "d:-");
            format!("create-vm {v} size=1/128/100\n uncordon {from}\n uncordon {to}\n bind {v} {from}\n down {from} {down}\n evacuate {v}\n bind {v} {to}\n up {from}\n drain {to}\n evacuate {v}\n bind {v} {from}")
        }),
    ]
}

fn tenancy() -> impl Strategy<Value = String> {
    let user = || one_of(&["root", "ana", "rui"]);
    prop_oneof![
        user().prop_map(|u| format!("create-user {u} grants=p:member")),
        (user(), one_of(&["admin", "none", "operator"]))
            .prop_map(|(u, r)| format!("update-user {u} roles={r}")),
        (user(), one_of(&["yes", "no"])).prop_map(|(u, e)| format!("update-user {u} enabled={e}")),
        user().prop_map(|u| format!("delete-user {u}")),
        one_of(&["k1", "k2"]).prop_map(|k| format!("create-keypair {k} project=p")),
        one_of(&["k1", "k2"]).prop_map(|k| format!("delete-keypair {k}")),
        one_of(&["vms:1", "vms:5,vcpus:9", "memory:100"]).prop_map(|q| format!("quota p {q}")),
        one_of(&["create-project p", "delete-project p", "delete-project default"]).prop_map(str::to_owned),
        one_of(&["create-department d", "delete-department d", "overcommit vcpus=100"])
            .prop_map(str::to_owned),
        one_of(&["create-flavor f", "delete-flavor f", "update-node b zone=south"]).prop_map(str::to_owned),
    ]
}

fn images() -> impl Strategy<Value = String> {
    let image = || one_of(&["debian", "own"]);
    prop_oneof![
        (image(), node()).prop_map(|(i, n)| format!("create-image {i} project=p on={n}")),
        (image(), node(), one_of(&["assign", "unassign"])).prop_map(|(i, n, verb)| format!("{verb} {i} {n}")),
        (image(), node(), one_of(&["held", "image-gone", "failed"]))
            .prop_map(|(i, n, what)| format!("report {n} {what} {i}")),
        image().prop_map(|i| format!("delete-image {i}")),
    ]
}

/// Where each VM may be running, told from the events alone: where it was granted and not yet removed.
#[derive(Default)]
struct Owners(BTreeSet<(VmId, NodeId)>);

impl Owners {
    /// A grant while another node that is up may still run the VM would be a double run.
    fn follow(&mut self, state: &State, from: u64) -> Result<(), TestCaseError> {
        for event in state.events_from(from).expect("the ring holds the last command's events") {
            let vm = match event.subject {
                Subject::Vm(vm) => vm,
                Subject::Node(gone) if matches!(event.kind, EventKind::NodeRemoved { .. }) => {
                    // No longer a member: its instances are fenced, and nobody talks to it.
                    self.0.retain(|(_, node)| *node != gone);
                    continue;
                }
                _ => continue,
            };
            match event.kind {
                EventKind::VmBound { node, .. } => {
                    let others = self.0.iter().filter(|(other, _)| *other == vm);
                    for (_, other) in others {
                        let up = state.nodes.get(other).is_some_and(|node| node.is_up());
                        prop_assert!(!up, "vm {vm} is granted to {node} while {other} may run it");
                    }
                    self.0.insert((vm, node));
                }
                EventKind::EvictionFulfilled { node } => {
                    self.0.remove(&(vm, node));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// Counted from the VMs alone: after a creation, the project is within its quota.
fn quota_is_kept(state: &State, from: u64) -> Result<(), TestCaseError> {
    for event in state.events_from(from).expect("the ring holds the last command's events") {
        let (EventKind::VmCreated { .. }, Some(project)) = (&event.kind, event.project) else { continue };
        let (count, sum) = used(state, project);
        let quota = state.projects.get(&project).expect("the VM's project is known").quota;
        let limit = Resources { vcpus: quota.vcpus, memory_mib: quota.memory_mib, disk_mib: quota.disk_mib };
        prop_assert!(count <= quota.vms && limit.holds(sum), "{count} VMs with {sum:?} of {quota:?}");
    }
    Ok(())
}

fn used(state: &State, project: ProjectId) -> (u64, Resources) {
    let own = state.vms.values().filter(|vm| vm.spec.project == project);
    own.fold((0, Resources::default()), |(count, sum), vm| (count + 1, sum.plus(vm.spec.resources)))
}

fn replay(mut state: State, log: &[(u64, Proposal)]) -> State {
    for (index, proposal) in log {
        state.apply(*index, proposal);
    }
    state
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn any_sequence_keeps_the_law(lines in prop::collection::vec(line(), 1..60), cut: prop::sample::Index) {
        let mut world = World::new();
        world.run(PRELUDE);
        let mut owners = Owners::default();
        for line in lines.iter().flat_map(|line| line.lines()) {
            let from = world.state.next_event;
            world.run(line);
            owners.follow(&world.state, from)?;
            quota_is_kept(&world.state, from)?;
        }
        let (digest, log) = (world.state.digest(), &world.log);

        // The state is a function of the log.
        let again = replay(State::default(), log);
        prop_assert!(again == world.state);
        prop_assert_eq!(again.digest(), digest);

        // Also with a snapshot in the middle.
        let (before, after) = log.split_at(cut.index(log.len()));
        let middle = replay(State::default(), before);
        let restored = State::from_bytes(&middle.to_bytes()).expect("a snapshot can be read");
        prop_assert!(restored == middle);
        prop_assert_eq!(replay(restored, after).digest(), digest);
    }
}

#[test]
fn the_generated_sequences_are_not_mostly_refusals() {
    use proptest::{strategy::ValueTree, test_runner::TestRunner};
    let mut runner = TestRunner::deterministic();
    let mut taken = std::collections::BTreeMap::new();
    for _ in 0..16 {
        let lines = prop::collection::vec(line(), 60).new_tree(&mut runner);
        let lines = lines.expect("lines can be drawn").current();
        let mut world = World::new();
        world.run(PRELUDE);
        for line in lines.iter().flat_map(|line| line.lines()) {
            let events = world.state.next_event;
            world.run(line);
            let verb = line.trim().split(' ').next().expect("a line has a verb").to_owned();
            *taken.entry(verb).or_insert(0) += u32::from(world.state.next_event > events);
        }
    }
    for verb in ["create-vm", "bind", "evacuate", "delete-vm", "down", "up", "remove-node", "admit", "report"]
    {
        assert!(
            taken.get(verb).is_some_and(|count| *count >= 3),
            "{verb} hardly ever took effect: {taken:?}"
        );
    }
}
