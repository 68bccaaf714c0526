//! The contract that every [`Hypervisor`] passes, fake and real alike: one function a law.
//!
//! The laws use a guest of one sector ([`Guest`]): it says `up`, echoes what is typed, powers itself off
//! at `q`, panics at `p`, and, if it is obedient, says `bye` and goes when the power button is pressed.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use scp_model::{
    Epoch, Fact, Op, VmId,
    fact::{RunState, VmFact},
    op::EnsureVm,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::mpsc,
    time::{sleep, timeout},
};

use crate::{DriverError, Hypervisor, console::ConsoleError};

/// How the guest takes the power button.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guest {
    Obedient,
    Stubborn,
}

/// The world that a driver works in.
#[async_trait]
pub trait World: Send {
    /// A driver on the world as it is now. A second one is `scpd` after a restart.
    async fn open(&mut self) -> Arc<dyn Hypervisor>;
    /// A complete order; the image of its guest is on the node.
    fn order(&self, vm: VmId, epoch: Epoch, guest: Guest) -> EnsureVm;
    /// Ends the VM's process as the kernel's out-of-memory killer would.
    async fn kill(&mut self, vm: VmId);
    /// Puts an instance there that is not ours.
    async fn plant(&mut self, name: &str);
    async fn is_planted(&mut self, name: &str) -> bool;
    /// Whether any file of the VM is left.
    fn has_files(&self, vm: VmId) -> bool;
}

/// Longer than the slowest guest on the slowest machine takes for anything it is waited for here.
const PATIENCE: Duration = Duration::from_secs(90);
const POLL: Duration = Duration::from_millis(100);
/// An epoch with room below it.
const EPOCH: Epoch = Epoch(10);

/// Puts a driver through every law.
pub async fn all(world: &mut dyn World) {
    let driver = world.open().await;
    let mut events = driver.events().expect("a new driver has its events to give");
    assert!(driver.events().is_none(), "events are taken once");
    starting_twice_is_starting_once(world, &*driver).await;
    a_lower_epoch_is_refused_and_changes_nothing(world, &*driver).await;
    a_higher_epoch_replaces_what_is_there(world, &*driver).await;
    an_obedient_guest_stops_in_order_and_starts_again(world, &*driver).await;
    a_stubborn_guest_is_forced_when_the_grace_is_over(world, &*driver).await;
    a_reboot_is_made_once(world, &*driver).await;
    a_panic_is_a_crash_and_its_last_words_remain(world, &*driver, &mut events).await;
    a_killed_process_is_a_crash(world, &*driver).await;
    a_guest_that_powers_itself_off_has_shut_down(world, &*driver).await;
    viewers_share_a_console(world, &*driver).await;
    what_runs_is_adopted_by_the_next_driver(world, &*driver).await;
    removing_leaves_nothing_and_may_be_repeated(world, &*driver).await;
    what_is_not_ours_is_an_orphan_and_stays(world, &*driver).await;
}

/// What the driver says of a VM when it is asked to observe.
async fn observed(driver: &dyn Hypervisor, vm: VmId) -> Option<VmFact> {
    let facts = driver.observe().await.expect("the engine is there");
    let mut of_vm = facts.into_iter().filter_map(|fact| match fact {
        Fact::Vm(fact) if fact.vm == vm => Some(fact),
        _ => None,
    });
    let first = of_vm.next();
    assert!(of_vm.next().is_none(), "a VM is here once or not at all");
    first
}

async fn until_run(driver: &dyn Hypervisor, vm: VmId, run: RunState) -> VmFact {
    let reached = async {
        loop {
            match observed(driver, vm).await {
                Some(fact) if fact.run == run => return fact,
                _ => sleep(POLL).await,
            }
        }
    };
    timeout(PATIENCE, reached).await.unwrap_or_else(|_| panic!("VM {vm} never became {run:?}"))
}

async fn until_said(driver: &dyn Hypervisor, vm: VmId, words: &str) -> String {
    let mut said = String::new();
    let heard = async {
        loop {
            let log = driver.console_log(vm, 1 << 16).await.unwrap_or_default();
            said = String::from_utf8_lossy(&log).into_owned();
            if said.contains(words) {
                return;
            }
            sleep(POLL).await;
        }
    };
    let heard = timeout(PATIENCE, heard).await;
    assert!(heard.is_ok(), "the guest never said {words:?}, but {said:?}");
    said
}

/// Carries out an op that answers with the state of one VM.
async fn done(driver: &dyn Hypervisor, op: &Op) -> VmFact {
    let facts = driver.carry_out(op).await.unwrap_or_else(|error| panic!("{op:?}: {error}"));
    match facts.as_slice() {
        [Fact::Vm(fact)] => fact.clone(),
        other => panic!("{op:?} answered {other:?}"),
    }
}

async fn start(driver: &dyn Hypervisor, order: &EnsureVm) -> VmFact {
    let fact = done(driver, &Op::EnsureVm(Box::new(order.clone()))).await;
    assert_eq!(fact.run, RunState::Running);
    until_said(driver, order.vm, "up").await;
    fact
}

async fn remove(world: &mut dyn World, driver: &dyn Hypervisor, vm: VmId) {
    let facts = driver.carry_out(&Op::RemoveVm { vm, epoch: Epoch(u64::MAX) }).await;
    assert_eq!(facts, Ok(vec![Fact::VmGone { vm }]));
    assert_eq!(observed(driver, vm).await, None);
    assert!(!world.has_files(vm), "no file of {vm} is left");
}

async fn type_in(driver: &dyn Hypervisor, vm: VmId, keys: &[u8]) {
    let mut console = driver.console(vm).await.expect("a running VM has a console");
    console.write_all(keys).await.expect("the guest reads");
    // The guest answers or goes; either way the keys have arrived.
    let mut answer = [0; 1];
    let _ = timeout(PATIENCE, console.read(&mut answer)).await.expect("the guest reacts to keys");
}

fn stop(vm: VmId, grace: Duration) -> Op {
    let grace_ms = u64::try_from(grace.as_millis()).expect("a grace is short");
    Op::StopVm { vm, epoch: EPOCH, generation: 2, grace_ms }
}

async fn starting_twice_is_starting_once(world: &mut dyn World, driver: &dyn Hypervisor) {
    let vm = VmId::from_u128(0x101);
    let order = world.order(vm, EPOCH, Guest::Obedient);
    let first = start(driver, &order).await;
    assert_eq!((first.epoch, first.generation, first.reboots), (EPOCH, order.generation, order.reboots));
    assert!(first.started_at.is_some());
    let again = done(driver, &Op::EnsureVm(Box::new(order.clone()))).await;
    assert_eq!(again, first);
    let newer = EnsureVm { generation: order.generation + 1, ..order };
    let noted = done(driver, &Op::EnsureVm(Box::new(newer.clone()))).await;
    assert_eq!(
        noted,
        VmFact { generation: newer.generation, ..first },
        "a newer generation touches nothing else"
    );
    let used = driver.stats(vm).await.expect("a running VM is counted");
    assert!(used.memory_rss_kib > 0 && used.disk_read_bytes > 0, "{used:?}");
    remove(world, driver, vm).await;
    assert!(driver.stats(vm).await.is_err());
}

async fn a_lower_epoch_is_refused_and_changes_nothing(world: &mut dyn World, driver: &dyn Hypervisor) {
    let vm = VmId::from_u128(0x102);
    let first = start(driver, &world.order(vm, EPOCH, Guest::Obedient)).await;
    let epoch = Epoch(EPOCH.0 - 1);
    for op in [
        Op::EnsureVm(Box::new(world.order(vm, epoch, Guest::Obedient))),
        Op::StopVm { vm, epoch, generation: 9, grace_ms: 0 },
        Op::RebootVm { vm, epoch, generation: 9, reboots: 9 },
        Op::RemoveVm { vm, epoch },
    ] {
        let refused = driver.carry_out(&op).await;
        assert!(
            matches!(refused, Err(DriverError::Fenced { got: 9, granted: 10, .. })),
            "{op:?} answered {refused:?}"
        );
    }
    assert_eq!(observed(driver, vm).await, Some(first));
    remove(world, driver, vm).await;
}

async fn a_higher_epoch_replaces_what_is_there(world: &mut dyn World, driver: &dyn Hypervisor) {
    let vm = VmId::from_u128(0x103);
    start(driver, &world.order(vm, EPOCH, Guest::Obedient)).await;
    let newer = Epoch(EPOCH.0 + 1);
    let fact = start(driver, &world.order(vm, newer, Guest::Obedient)).await;
    assert_eq!((fact.epoch, fact.run), (newer, RunState::Running));
    assert_eq!(observed(driver, vm).await, Some(fact));
    remove(world, driver, vm).await;
}

async fn an_obedient_guest_stops_in_order_and_starts_again(world: &mut dyn World, driver: &dyn Hypervisor) {
    let vm = VmId::from_u128(0x104);
    let order = world.order(vm, EPOCH, Guest::Obedient);
    start(driver, &order).await;
    let stopped = done(driver, &stop(vm, PATIENCE)).await;
    assert_eq!((stopped.run, stopped.generation, stopped.started_at), (RunState::Stopped, 2, None));
    until_said(driver, vm, "bye").await;
    assert_eq!(done(driver, &stop(vm, PATIENCE)).await, stopped, "stopping twice is stopping once");
    assert_eq!(driver.console(vm).await.err(), Some(ConsoleError::NotRunning { vm }));
    let fact = done(driver, &Op::EnsureVm(Box::new(order))).await;
    assert_eq!(fact.run, RunState::Running);
    remove(world, driver, vm).await;
}

async fn a_stubborn_guest_is_forced_when_the_grace_is_over(world: &mut dyn World, driver: &dyn Hypervisor) {
    let vm = VmId::from_u128(0x105);
    start(driver, &world.order(vm, EPOCH, Guest::Stubborn)).await;
    let stopped = done(driver, &stop(vm, Duration::from_millis(500))).await;
    assert_eq!(stopped.run, RunState::Stopped);
    let log = driver.console_log(vm, 1 << 16).await.expect("the log is there");
    assert!(!String::from_utf8_lossy(&log).contains("bye"), "it did not go by itself");
    remove(world, driver, vm).await;
}

async fn a_reboot_is_made_once(world: &mut dyn World, driver: &dyn Hypervisor) {
    let vm = VmId::from_u128(0x106);
    let order = world.order(vm, EPOCH, Guest::Obedient);
    let first = start(driver, &order).await;
    let op = Op::RebootVm { vm, epoch: EPOCH, generation: 5, reboots: 1 };
    let again = done(driver, &op).await;
    assert_eq!((again.run, again.generation, again.reboots), (RunState::Running, 5, 1));
    assert!(again.started_at > first.started_at, "it was started again");
    until_said(driver, vm, "bye").await;
    assert_eq!(done(driver, &op).await, again, "rebooting twice is rebooting once");
    let adopted = EnsureVm { reboots: 2, generation: 6, ..order };
    let noted = done(driver, &Op::EnsureVm(Box::new(adopted))).await;
    assert_eq!(noted.reboots, 1, "a reboot that was not made is not reported");
    remove(world, driver, vm).await;
}

async fn a_panic_is_a_crash_and_its_last_words_remain(
    world: &mut dyn World,
    driver: &dyn Hypervisor,
    events: &mut mpsc::Receiver<Fact>,
) {
    let vm = VmId::from_u128(0x107);
    let order = world.order(vm, EPOCH, Guest::Obedient);
    start(driver, &order).await;
    type_in(driver, vm, b"z").await;
    while events.try_recv().is_ok() {}
    type_in(driver, vm, b"p").await;
    let told = async {
        loop {
            match events.recv().await.expect("the driver lives") {
                Fact::Vm(fact) if fact.vm == vm && fact.run == RunState::Crashed => return,
                _ => {}
            }
        }
    };
    timeout(PATIENCE, told).await.expect("the engine tells of the crash by itself");
    let crashed = until_run(driver, vm, RunState::Crashed).await;
    assert_eq!((crashed.epoch, crashed.started_at), (EPOCH, None));
    until_said(driver, vm, "panic").await;
    // The restart policy starts it again; what it said before is still there.
    assert_eq!(done(driver, &Op::EnsureVm(Box::new(order))).await.run, RunState::Running);
    until_said(driver, vm, "panic").await;
    remove(world, driver, vm).await;
}

async fn a_killed_process_is_a_crash(world: &mut dyn World, driver: &dyn Hypervisor) {
    let vm = VmId::from_u128(0x108);
    start(driver, &world.order(vm, EPOCH, Guest::Obedient)).await;
    world.kill(vm).await;
    until_run(driver, vm, RunState::Crashed).await;
    // We stop what crashed already: from then on it is stopped.
    assert_eq!(done(driver, &stop(vm, Duration::ZERO)).await.run, RunState::Stopped);
    remove(world, driver, vm).await;
}

async fn a_guest_that_powers_itself_off_has_shut_down(world: &mut dyn World, driver: &dyn Hypervisor) {
    let vm = VmId::from_u128(0x109);
    start(driver, &world.order(vm, EPOCH, Guest::Obedient)).await;
    type_in(driver, vm, b"q").await;
    until_run(driver, vm, RunState::Shutdown).await;
    remove(world, driver, vm).await;
}

async fn viewers_share_a_console(world: &mut dyn World, driver: &dyn Hypervisor) {
    let vm = VmId::from_u128(0x10a);
    assert_eq!(driver.console(vm).await.err(), Some(ConsoleError::NotHere { vm }));
    assert_eq!(driver.console_log(vm, 1).await.err(), Some(ConsoleError::NotHere { vm }));
    start(driver, &world.order(vm, EPOCH, Guest::Obedient)).await;
    let mut first = driver.console(vm).await.expect("a running VM has a console");
    let mut second = driver.console(vm).await.expect("it has room for two");
    first.write_all(b"abc").await.expect("the guest reads");
    let mut seen = [[0; 3]; 2];
    timeout(PATIENCE, first.read_exact(&mut seen[0])).await.expect("in time").expect("the guest echoes");
    timeout(PATIENCE, second.read_exact(&mut seen[1])).await.expect("in time").expect("both see it");
    assert_eq!(seen, [*b"abc", *b"abc"]);
    drop(first);
    second.write_all(b"d").await.expect("the guest reads");
    let mut last = [0; 1];
    timeout(PATIENCE, second.read_exact(&mut last)).await.expect("in time").expect("one may leave");
    assert_eq!(&last, b"d");
    until_said(driver, vm, "abcd").await;
    let tail = driver.console_log(vm, 2).await.expect("the log is there");
    assert_eq!(&tail[..], b"cd", "the log's end is asked for");
    remove(world, driver, vm).await;
    let rest = timeout(PATIENCE, second.read_to_end(&mut Vec::new())).await;
    assert!(rest.is_ok(), "the console ends with its guest");
}

async fn what_runs_is_adopted_by_the_next_driver(world: &mut dyn World, driver: &dyn Hypervisor) {
    let vm = VmId::from_u128(0x10b);
    let order = world.order(vm, EPOCH, Guest::Obedient);
    let first = start(driver, &order).await;
    let next = world.open().await;
    assert_eq!(observed(&*next, vm).await, Some(first.clone()));
    assert_eq!(done(&*next, &Op::EnsureVm(Box::new(order))).await, first);
    type_in(&*next, vm, b"p").await;
    until_run(&*next, vm, RunState::Crashed).await;
    remove(world, &*next, vm).await;
    assert_eq!(observed(driver, vm).await, None);
}

async fn removing_leaves_nothing_and_may_be_repeated(world: &mut dyn World, driver: &dyn Hypervisor) {
    let vm = VmId::from_u128(0x10c);
    let gone = Ok(vec![Fact::VmGone { vm }]);
    assert_eq!(driver.carry_out(&Op::RemoveVm { vm, epoch: EPOCH }).await, gone);
    start(driver, &world.order(vm, EPOCH, Guest::Stubborn)).await;
    assert!(world.has_files(vm));
    assert_eq!(driver.carry_out(&Op::RemoveVm { vm, epoch: EPOCH }).await, gone);
    assert!(!world.has_files(vm));
    assert_eq!(driver.carry_out(&Op::RemoveVm { vm, epoch: EPOCH }).await, gone);
    assert_eq!(driver.carry_out(&stop(vm, Duration::ZERO)).await, gone);
    assert_eq!(observed(driver, vm).await, None);
}

async fn what_is_not_ours_is_an_orphan_and_stays(world: &mut dyn World, driver: &dyn Hypervisor) {
    let planted = |facts: &[Fact], name: &str| {
        facts.iter().filter(|fact| matches!(fact, Fact::Orphan(orphan) if orphan.name == name)).count()
    };
    let vm = VmId::from_u128(0x10d);
    let ours = crate::domain_xml::domain_name(vm);
    for name in ["someone-elses", ours.as_str()] {
        world.plant(name).await;
        let facts = driver.observe().await.expect("the engine is there");
        assert_eq!(planted(&facts, name), 1, "{facts:?}");
    }
    let refused = driver.carry_out(&Op::RemoveVm { vm, epoch: EPOCH }).await;
    assert!(matches!(refused, Err(DriverError::Terminal { .. })), "{refused:?}");
    let refused = driver.carry_out(&Op::EnsureVm(Box::new(world.order(vm, EPOCH, Guest::Obedient)))).await;
    assert!(matches!(refused, Err(DriverError::Terminal { .. })), "{refused:?}");
    assert!(world.is_planted("someone-elses").await && world.is_planted(&ours).await);
}
