//! A fake hypervisor with faults, for tests and simulation; never what a user gets.
//!
//! The [`Engine`] is the server: it outlives drivers, as libvirt and its guests outlive `scpd`. A
//! [`Fake`] is a driver on it and passes the same suite as the real one. Deterministic: no randomness,
//! no threads, time from tokio's clock and the injected one.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use scp_model::{
    Epoch, Fact, ImageId, Op, Timestamp, VmId,
    fact::{RunState, VmFact},
    node::Orphan,
    op::EnsureVm,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::{broadcast, mpsc},
};

use crate::{
    Clock, Driver, DriverError, Hypervisor, VmStats,
    console::{ConsoleError, ConsoleStream, VIEWERS_MAX},
    domain_xml::{definition_digest, domain_name},
    record::{Off, Power, Record, off_state},
};

/// A guest from this image ignores the power button.
pub const STUBBORN: ImageId = ImageId::from_u128(0x0570_bb12);
/// Hints wait here.
const EVENTS_MAX: usize = 256;
/// A fake console log keeps its end.
const LOG_BYTES_MAX: usize = 64 << 10;

/// What goes wrong. Everything off by default.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    /// Ops and observations that fail next, in order.
    pub fail_next: VecDeque<DriverError>,
    /// Every call fails as retryable: libvirtd is down. Guests run on.
    pub engine_down: bool,
    /// Hints are lost.
    pub lose_events: bool,
    /// Every op takes this long.
    pub op_ms: u64,
    /// These VMs crash as soon as they are started.
    pub crash_at_start: BTreeSet<VmId>,
}

#[derive(Debug)]
struct Instance {
    record: Record,
    stubborn: bool,
    /// None: running.
    off: Option<Off>,
    log: Vec<u8>,
    /// Viewers of this run of the guest.
    output: broadcast::Sender<Bytes>,
}

impl Instance {
    fn new(record: Record, stubborn: bool) -> Self {
        let (output, _) = broadcast::channel(VIEWERS_MAX * 32);
        Self { record, stubborn, off: Some(Off::Otherwise), log: Vec::new(), output }
    }

    fn fact(&self) -> Fact {
        Fact::Vm(VmFact {
            vm: self.record.vm,
            epoch: self.record.epoch,
            generation: self.record.generation,
            reboots: self.record.reboots,
            run: self.off.map_or(RunState::Running, |off| off_state(self.record.power, off)),
            started_at: if self.off.is_none() { self.record.started_at } else { None },
        })
    }

    fn say(&mut self, bytes: &[u8]) {
        self.log.extend_from_slice(bytes);
        let over = self.log.len().saturating_sub(LOG_BYTES_MAX);
        self.log.drain(..over);
        // Nobody may be looking.
        let _ = self.output.send(Bytes::copy_from_slice(bytes));
    }

    fn end(&mut self, off: Off) {
        self.off = Some(off);
        // Viewers' streams end with the guest.
        self.output = broadcast::channel(VIEWERS_MAX * 32).0;
    }
}

#[derive(Default)]
struct Server {
    instances: BTreeMap<VmId, Instance>,
    foreign: BTreeSet<String>,
    faults: Faults,
    watchers: Vec<mpsc::Sender<Fact>>,
    /// Starts per VM, for a simulation that counts double runs.
    starts: BTreeMap<VmId, u64>,
    /// Whenever what runs may have changed.
    changes: u64,
    /// Placements of which a run came to its end, for a simulation that judges what is told of them.
    ended: BTreeSet<(VmId, Epoch)>,
}

impl Server {
    fn tell(&mut self, fact: Fact) {
        self.watchers.retain(|watcher| !watcher.is_closed());
        if !self.faults.lose_events {
            self.watchers.iter().for_each(|watcher| drop(watcher.try_send(fact.clone())));
        }
    }

    /// Ends a run of a guest and tells of it.
    fn end(&mut self, vm: VmId, off: Off) {
        if let Some(instance) = self.instances.get_mut(&vm).filter(|instance| instance.off.is_none()) {
            instance.end(off);
            self.ended.insert((vm, instance.record.epoch));
            self.changes += 1;
            let fact = instance.fact();
            self.tell(fact);
        }
    }

    fn forget(&mut self, vm: VmId) {
        if let Some(instance) = self.instances.remove(&vm).filter(|instance| instance.off.is_none()) {
            self.ended.insert((vm, instance.record.epoch));
        }
        self.changes += 1;
    }

    /// What the one-sector guest does with a key; see [`crate::suite`].
    fn key(&mut self, vm: VmId, key: u8) {
        let Some(instance) = self.instances.get_mut(&vm).filter(|instance| instance.off.is_none()) else {
            return;
        };
        match key {
            b'q' => self.end(vm, Off::InOrder),
            b'p' => {
                instance.say(b"panic\r\n");
                self.end(vm, Off::Otherwise);
            }
            _ => instance.say(&[key]),
        }
    }
}

/// A server that runs fake guests. Clones are the same server.
#[derive(Clone, Default)]
pub struct Engine {
    server: Arc<Mutex<Server>>,
}

impl Engine {
    fn lock(&self) -> MutexGuard<'_, Server> {
        self.server.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes what goes wrong.
    pub fn faults(&self, change: impl FnOnce(&mut Faults)) {
        change(&mut self.lock().faults);
    }

    /// The guest ends otherwise than in order.
    pub fn crash(&self, vm: VmId) {
        self.lock().end(vm, Off::Otherwise);
    }

    /// The guest powers itself off.
    pub fn shut_down(&self, vm: VmId) {
        self.lock().end(vm, Off::InOrder);
    }

    /// Power loss: nothing runs any more, definitions and disks remain.
    pub fn lose_power(&self) {
        let mut guard = self.lock();
        let server = &mut *guard;
        server.instances.values_mut().filter(|instance| instance.off.is_none()).for_each(|instance| {
            instance.end(Off::Otherwise);
            server.ended.insert((instance.record.vm, instance.record.epoch));
        });
        server.changes += 1;
        server.watchers.clear();
    }

    /// The VMs that run, with the epoch of each.
    pub fn running(&self) -> BTreeMap<VmId, Epoch> {
        let server = self.lock();
        let running = server.instances.iter().filter(|(_, instance)| instance.off.is_none());
        running.map(|(vm, instance)| (*vm, instance.record.epoch)).collect()
    }

    /// Rises whenever what [`Self::running`] gives may have changed.
    pub fn changes(&self) -> u64 {
        self.lock().changes
    }

    /// Whether a run of the VM under this epoch ever came to its end.
    pub fn has_ended(&self, vm: VmId, epoch: Epoch) -> bool {
        self.lock().ended.contains(&(vm, epoch))
    }

    /// How often a VM was started here.
    pub fn starts(&self, vm: VmId) -> u64 {
        self.lock().starts.get(&vm).copied().unwrap_or(0)
    }

    /// Puts an instance there that is not ours.
    pub fn plant(&self, name: &str) {
        self.lock().foreign.insert(name.to_owned());
    }

    pub fn is_planted(&self, name: &str) -> bool {
        self.lock().foreign.contains(name)
    }

    /// Whether anything of the VM is here.
    pub fn holds(&self, vm: VmId) -> bool {
        self.lock().instances.contains_key(&vm)
    }
}

/// A driver on an [`Engine`].
pub struct Fake {
    engine: Engine,
    clock: Clock,
    events: Mutex<Option<mpsc::Receiver<Fact>>>,
}

impl Fake {
    pub fn new(engine: &Engine, clock: Clock) -> Self {
        let (watcher, events) = mpsc::channel(EVENTS_MAX);
        engine.lock().watchers.push(watcher);
        Self { engine: engine.clone(), clock, events: Mutex::new(Some(events)) }
    }

    /// The faults that a call meets before it does anything.
    async fn meet_faults(&self, doing: &str) -> Result<(), DriverError> {
        let op_ms = self.engine.lock().faults.op_ms;
        if op_ms > 0 {
            tokio::time::sleep(Duration::from_millis(op_ms)).await;
        }
        let mut server = self.engine.lock();
        if server.faults.engine_down {
            return Err(DriverError::retryable(doing, "the engine is down"));
        }
        server.faults.fail_next.pop_front().map_or(Ok(()), Err)
    }

    fn ensure(&self, order: &EnsureVm) -> Result<Vec<Fact>, DriverError> {
        let (vm, now) = (order.vm, (self.clock)());
        let mut server = self.engine.lock();
        let present = server.instances.get(&vm).map(|instance| instance.record.epoch);
        match present {
            Some(epoch) if epoch > order.epoch => return Err(fenced("starting", order.epoch, epoch)),
            Some(epoch) if epoch < order.epoch => server.forget(vm),
            Some(_) | None => {}
        }
        let record = Record {
            vm,
            epoch: order.epoch,
            generation: order.generation,
            reboots: order.reboots,
            power: Power::Stopped,
            started_at: None,
            definition: definition_digest(order),
        };
        let fresh = || Instance::new(record, order.disk.image == STUBBORN);
        let instance = server.instances.entry(vm).or_insert_with(fresh);
        instance.record.generation = instance.record.generation.max(order.generation);
        if instance.off.is_some() {
            instance.record.reboots = instance.record.reboots.max(order.reboots);
            begin(&mut server, vm, now);
        } else {
            instance.record.power = Power::Running;
        }
        Ok(told(&server, vm))
    }

    fn stop(&self, vm: VmId, epoch: Epoch, generation: u64) -> Result<Vec<Fact>, DriverError> {
        let mut server = self.engine.lock();
        if let Some(instance) = own(&mut server, "stopping", vm, epoch)? {
            instance.record.generation = instance.record.generation.max(generation);
            instance.record.power = Power::Stopped;
            press(&mut server, vm);
        }
        Ok(told(&server, vm))
    }

    fn reboot(&self, order: (VmId, Epoch, u64, u64)) -> Result<Vec<Fact>, DriverError> {
        let (vm, epoch, generation, reboots) = order;
        let now = (self.clock)();
        let mut server = self.engine.lock();
        if let Some(instance) = own(&mut server, "rebooting", vm, epoch)? {
            instance.record.generation = instance.record.generation.max(generation);
            let due = instance.record.reboots < reboots;
            let running = instance.off.is_none();
            if due {
                instance.record.reboots = reboots;
            }
            if due && running {
                instance.record.power = Power::Rebooting;
                press(&mut server, vm);
                begin(&mut server, vm, now);
            }
        }
        Ok(told(&server, vm))
    }

    fn remove(&self, vm: VmId, epoch: Epoch) -> Result<Vec<Fact>, DriverError> {
        let mut server = self.engine.lock();
        if own(&mut server, "removing", vm, epoch)?.is_some() {
            server.forget(vm);
        }
        Ok(told(&server, vm))
    }
}

fn fenced(doing: &str, got: Epoch, granted: Epoch) -> DriverError {
    DriverError::Fenced { doing: doing.into(), got: got.0, granted: granted.0 }
}

fn own<'a>(
    server: &'a mut Server,
    doing: &str,
    vm: VmId,
    epoch: Epoch,
) -> Result<Option<&'a mut Instance>, DriverError> {
    match server.instances.get_mut(&vm) {
        Some(instance) if instance.record.epoch > epoch => Err(fenced(doing, epoch, instance.record.epoch)),
        found => Ok(found),
    }
}

fn begin(server: &mut Server, vm: VmId, now: Timestamp) {
    *server.starts.entry(vm).or_default() += 1;
    server.changes += 1;
    let crashes = server.faults.crash_at_start.contains(&vm);
    let instance = server.instances.get_mut(&vm).expect("the caller has just looked at it");
    instance.off = None;
    instance.record.power = Power::Running;
    // Strictly later than the start before, as a clock that does not move would have it otherwise.
    let before = instance.record.started_at.map_or(0, |at| at.0 + 1);
    instance.record.started_at = Some(Timestamp(now.0.max(before)));
    instance.say(b"up\r\n");
    if crashes {
        server.end(vm, Off::Otherwise);
    }
}

/// The power button, and force for those that ignore it. A fake guest needs no grace.
fn press(server: &mut Server, vm: VmId) {
    let instance = server.instances.get_mut(&vm).expect("the caller has just looked at it");
    if instance.off.is_none() && !instance.stubborn {
        instance.say(b"bye\r\n");
    }
    server.end(vm, Off::InOrder);
}

fn told(server: &Server, vm: VmId) -> Vec<Fact> {
    vec![server.instances.get(&vm).map_or(Fact::VmGone { vm }, Instance::fact)]
}

#[async_trait]
impl Driver for Fake {
    async fn carry_out(&self, op: &Op) -> Result<Vec<Fact>, DriverError> {
        self.meet_faults("carrying out an op").await?;
        let foreign = |vm: VmId| match self.engine.is_planted(&domain_name(vm)) {
            true => Err(DriverError::terminal("carrying out an op", "an orphan has this VM's name")),
            false => Ok(()),
        };
        match op {
            Op::EnsureVm(order) => foreign(order.vm).and_then(|()| self.ensure(order)),
            Op::StopVm { vm, epoch, generation, grace_ms: _ } => {
                foreign(*vm).and_then(|()| self.stop(*vm, *epoch, *generation))
            }
            Op::RebootVm { vm, epoch, generation, reboots } => {
                foreign(*vm).and_then(|()| self.reboot((*vm, *epoch, *generation, *reboots)))
            }
            Op::RemoveVm { vm, epoch } => foreign(*vm).and_then(|()| self.remove(*vm, *epoch)),
            Op::EnsureImage(_) | Op::RemoveImage { .. } => {
                Err(DriverError::terminal("carrying out a VM op", "this op is about an image"))
            }
        }
    }

    async fn observe(&self) -> Result<Vec<Fact>, DriverError> {
        self.meet_faults("looking at the VMs").await?;
        let server = self.engine.lock();
        let orphan = |name: &String| Fact::Orphan(Orphan { name: name.clone(), detail: "planted".into() });
        let orphans = server.foreign.iter().map(orphan);
        Ok(server.instances.values().map(Instance::fact).chain(orphans).collect())
    }

    fn events(&self) -> Option<mpsc::Receiver<Fact>> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

#[async_trait]
impl Hypervisor for Fake {
    async fn console(&self, vm: VmId) -> Result<ConsoleStream, ConsoleError> {
        let server = self.engine.lock();
        let instance = server.instances.get(&vm).ok_or(ConsoleError::NotHere { vm })?;
        if instance.off.is_some() {
            return Err(ConsoleError::NotRunning { vm });
        }
        if instance.output.receiver_count() >= VIEWERS_MAX {
            return Err(ConsoleError::TooManyViewers { vm, viewers: VIEWERS_MAX });
        }
        let (ours, theirs) = tokio::io::duplex(4 << 10);
        tokio::spawn(view(self.engine.clone(), vm, ours, instance.output.subscribe()));
        Ok(theirs)
    }

    async fn console_log(&self, vm: VmId, bytes_max: u64) -> Result<Bytes, ConsoleError> {
        let server = self.engine.lock();
        let log = &server.instances.get(&vm).ok_or(ConsoleError::NotHere { vm })?.log;
        let keep = usize::try_from(bytes_max).unwrap_or(usize::MAX).min(log.len());
        Ok(Bytes::copy_from_slice(&log[log.len() - keep..]))
    }

    async fn stats(&self, vm: VmId) -> Result<VmStats, DriverError> {
        let running = self.engine.running().contains_key(&vm);
        let used = VmStats { cpu_time_ms: 1, memory_rss_kib: 1, disk_read_bytes: 512, ..VmStats::default() };
        if running {
            Ok(used)
        } else {
            Err(DriverError::retryable("reading a VM's usage", "it does not run"))
        }
    }
}

/// Serves one viewer until it or the guest leaves.
async fn view(engine: Engine, vm: VmId, viewer: ConsoleStream, mut output: broadcast::Receiver<Bytes>) {
    let (mut from_viewer, mut to_viewer) = tokio::io::split(viewer);
    let show = async move {
        while let Ok(bytes) = output.recv().await {
            if to_viewer.write_all(&bytes).await.is_err() {
                return;
            }
        }
    };
    let hear = async move {
        let mut key = [0; 1];
        while let Ok(1) = from_viewer.read(&mut key).await {
            engine.lock().key(vm, key[0]);
        }
    };
    tokio::select! { () = show => {} () = hear => {} }
}
