//! How each VM op is carried out: what is found decides the next step, so that an op that was cut off
//! in the middle goes on where it stopped.
//!
//! ```text
//! EnsureVm   nothing here ─────────────▶ files ─▶ define ─▶ start ─▶ record "running"
//!            off, same epoch ──────────▶ files ─▶ define ─▶ start ─▶ record "running"
//!            running, same epoch ──────▶ (adopted) record, if something in it changed
//!            paused, same epoch ───────▶ resume
//!            lower epoch ──────────────▶ RemoveVm of it, then as if nothing were here
//!            higher epoch ─────────────▶ fenced
//! StopVm     record "stopped" ─▶ power button, again and again ─▶ (grace over) destroy
//! RebootVm   record "rebooting" and its number ─▶ as StopVm ─▶ start
//! RemoveVm   destroy ─▶ files ─▶ undefine
//! ```

use std::time::Duration;

use scp_model::{Epoch, Fact, VmId, op::EnsureVm};
use tokio::time::Instant;

use super::{
    Libvirt,
    domain::{self, Found, State},
    files::disk_error,
};
use crate::{
    DriverError,
    domain_xml::{self, Paths, definition_digest, domain_name},
    record::{Power, Record},
};

/// A guest in early boot ignores the power button: it is pressed again.
const POWER_BUTTON_PAUSE: Duration = Duration::from_secs(3);
/// How often a stopping guest is looked at.
const STOP_POLL: Duration = Duration::from_millis(200);

/// Which instance an op is about.
#[derive(Debug, Clone, Copy)]
pub(super) struct Target {
    pub(super) vm: VmId,
    pub(super) epoch: Epoch,
    pub(super) generation: u64,
}

impl Libvirt {
    pub(super) async fn ensure(&self, order: &EnsureVm) -> Result<Vec<Fact>, DriverError> {
        let doing = format!("starting VM {}", order.vm);
        self.refuse_newer_files(&doing, order.vm, order.epoch).await?;
        match self.find_own(&doing, order.vm).await? {
            None => self.start(&doing, order, order.reboots).await?,
            Some((record, _)) if record.epoch > order.epoch => {
                return Err(fenced(doing, order.epoch, record));
            }
            Some((record, _)) if record.epoch < order.epoch => {
                self.take_away(&doing, order.vm, record.epoch).await?;
                self.start(&doing, order, order.reboots).await?;
            }
            Some((record, state)) => match state {
                State::Running => self.adopt(&doing, order, record).await?,
                State::Paused => {
                    let vm = order.vm;
                    self.link.run(&doing, move |connect| domain::resume(connect, vm)).await?;
                    self.adopt(&doing, order, record).await?;
                }
                State::Dead => {
                    self.destroy(&doing, order.vm).await?;
                    self.start(&doing, order, order.reboots.max(record.reboots)).await?;
                }
                State::Off(_) => self.start(&doing, order, order.reboots.max(record.reboots)).await?,
            },
        }
        self.told(&doing, order.vm).await
    }

    /// Takes note of a newer generation and touches nothing else. Reboots are not taken over: the
    /// guest has not made them yet.
    async fn adopt(&self, doing: &str, order: &EnsureVm, record: Record) -> Result<(), DriverError> {
        if record.definition != definition_digest(order) {
            tracing::warn!(vm = %order.vm, "the running instance was defined otherwise; its next start takes the change");
        }
        let noted = Record {
            generation: record.generation.max(order.generation),
            power: Power::Running,
            started_at: record.started_at.or_else(|| Some((self.config.clock)())),
            ..record
        };
        if noted == record { Ok(()) } else { self.write(doing, noted).await }
    }

    async fn start(&self, doing: &str, order: &EnsureVm, reboots: u64) -> Result<(), DriverError> {
        self.files.prepare(order).await?;
        let record = Record {
            vm: order.vm,
            epoch: order.epoch,
            generation: order.generation,
            reboots,
            power: Power::Stopped,
            started_at: None,
            definition: definition_digest(order),
        };
        let base = self.files.base(order.vm, order.epoch);
        let (overlay, seed) =
            (self.files.overlay(order.vm, order.epoch), self.files.seed(order.vm, order.epoch));
        let log = self.files.console_log(order.vm, order.epoch);
        let socket = self.files.console_socket(order.vm);
        let paths =
            Paths { base: &base, overlay: &overlay, seed: &seed, console_socket: &socket, console_log: &log };
        let xml = domain_xml::build(order, &record, paths, self.server);
        self.link.run(doing, move |connect| domain::define(connect, &xml)).await?;
        self.run(doing, record).await
    }

    /// Starts what is defined.
    async fn run(&self, doing: &str, record: Record) -> Result<(), DriverError> {
        let running = Record { power: Power::Running, started_at: Some((self.config.clock)()), ..record };
        self.link.run(doing, move |connect| domain::start(connect, &running)).await
    }

    pub(super) async fn stop(&self, target: Target, grace_ms: u64) -> Result<Vec<Fact>, DriverError> {
        let Target { vm, epoch, generation } = target;
        let doing = format!("stopping VM {vm}");
        let Some((record, state)) = self.find_own(&doing, vm).await? else {
            return Ok(vec![Fact::VmGone { vm }]);
        };
        if record.epoch > epoch {
            return Err(fenced(doing, epoch, record));
        }
        let generation = record.generation.max(generation);
        let noted = Record { generation, power: Power::Stopped, ..record };
        if noted != record {
            self.write(&doing, noted).await?;
        }
        if state.is_active() {
            self.bring_down(&doing, vm, Duration::from_millis(grace_ms)).await?;
        }
        self.told(&doing, vm).await
    }

    pub(super) async fn reboot(&self, target: Target, reboots: u64) -> Result<Vec<Fact>, DriverError> {
        let Target { vm, epoch, generation } = target;
        let doing = format!("rebooting VM {vm}");
        let Some((record, state)) = self.find_own(&doing, vm).await? else {
            return Ok(vec![Fact::VmGone { vm }]);
        };
        if record.epoch > epoch {
            return Err(fenced(doing, epoch, record));
        }
        let generation = record.generation.max(generation);
        if record.reboots >= reboots {
            let noted = Record { generation, ..record };
            if noted != record {
                self.write(&doing, noted).await?;
            }
            return self.told(&doing, vm).await;
        }
        let power = if state.is_active() { Power::Rebooting } else { record.power };
        let noted = Record { generation, reboots, power, ..record };
        self.write(&doing, noted).await?;
        // A guest that is off begins anew when it is next started, which is all a reboot asks for.
        if state.is_active() {
            self.bring_down(&doing, vm, Duration::from_millis(self.config.reboot_grace_ms)).await?;
            self.run(&doing, noted).await?;
        }
        self.told(&doing, vm).await
    }

    pub(super) async fn remove(&self, vm: VmId, epoch: Epoch) -> Result<Vec<Fact>, DriverError> {
        let doing = format!("removing VM {vm}");
        match self.find_own(&doing, vm).await? {
            Some((record, _)) if record.epoch > epoch => {
                self.remove_files(&doing, vm, epoch).await?;
                Err(fenced(doing, epoch, record))
            }
            Some(_) => {
                self.take_away(&doing, vm, epoch).await?;
                Ok(vec![Fact::VmGone { vm }])
            }
            None => {
                self.remove_files(&doing, vm, epoch).await?;
                Ok(vec![Fact::VmGone { vm }])
            }
        }
    }

    /// Process, files, definition: in this order, see the module's guarantees.
    async fn take_away(&self, doing: &str, vm: VmId, epoch: Epoch) -> Result<(), DriverError> {
        self.destroy(doing, vm).await?;
        self.remove_files(doing, vm, epoch).await?;
        self.link.run(doing, move |connect| domain::undefine(connect, vm)).await
    }

    /// Asks the guest to go, in vain for at most `grace`; then ends its process.
    async fn bring_down(&self, doing: &str, vm: VmId, grace: Duration) -> Result<(), DriverError> {
        let began = Instant::now();
        let mut pressed: Option<Instant> = None;
        while began.elapsed() < grace {
            if pressed.is_none_or(|at| at.elapsed() >= POWER_BUTTON_PAUSE) {
                pressed = Some(Instant::now());
                self.link.run(doing, move |connect| domain::power_button(connect, vm)).await?;
            }
            let found = self.link.run(doing, move |connect| domain::find(connect, vm)).await?;
            match found.map(|found| found.state) {
                None | Some(State::Off(_)) => return Ok(()),
                // Neither can react to the button.
                Some(State::Dead | State::Paused) => break,
                Some(State::Running) => tokio::time::sleep(STOP_POLL).await,
            }
        }
        self.destroy(doing, vm).await
    }

    async fn destroy(&self, doing: &str, vm: VmId) -> Result<(), DriverError> {
        self.link.run(doing, move |connect| domain::destroy(connect, vm)).await
    }

    async fn write(&self, doing: &str, record: Record) -> Result<(), DriverError> {
        self.link.run(doing, move |connect| domain::write_record(connect, &record)).await
    }

    async fn remove_files(&self, doing: &str, vm: VmId, epoch: Epoch) -> Result<(), DriverError> {
        let files = self.files.clone();
        let removed = tokio::task::spawn_blocking(move || files.remove(vm, epoch)).await;
        removed.expect("removing files does not panic").map_err(|error| disk_error(doing, &error))
    }

    /// Files outlive a definition that was lost: their epoch fences too.
    async fn refuse_newer_files(&self, doing: &str, vm: VmId, epoch: Epoch) -> Result<(), DriverError> {
        let files = self.files.clone();
        let epochs = tokio::task::spawn_blocking(move || files.epochs(vm)).await;
        let epochs = epochs.expect("listing does not panic").map_err(|error| disk_error(doing, &error))?;
        match epochs.into_iter().max().filter(|newest| *newest > epoch) {
            Some(newest) => Err(DriverError::Fenced { doing: doing.into(), got: epoch.0, granted: newest.0 }),
            None => Ok(()),
        }
    }

    /// The domain of a VM, if there is one and it is ours.
    async fn find_own(&self, doing: &str, vm: VmId) -> Result<Option<(Record, State)>, DriverError> {
        let found = self.link.run(doing, move |connect| domain::find(connect, vm)).await?;
        match found {
            None => Ok(None),
            Some(Found { record: Ok(record), state }) => Ok(Some((record, state))),
            Some(Found { record: Err(why), .. }) => {
                let name = domain_name(vm);
                let why = format!(
                    "a domain with this VM's id is here that is not known to be ours ({why}); look at it with \
                     `virsh dumpxml {vm}`; if it may go: `virsh destroy {vm}; virsh undefine {vm}` (ours are named {name})"
                );
                Err(DriverError::terminal(doing, why))
            }
        }
    }

    /// What is here now, read back.
    async fn told(&self, doing: &str, vm: VmId) -> Result<Vec<Fact>, DriverError> {
        let fact = self.link.run(doing, move |connect| domain::fact_of(connect, vm)).await?;
        Ok(vec![fact.unwrap_or(Fact::VmGone { vm })])
    }
}

fn fenced(doing: String, got: Epoch, record: Record) -> DriverError {
    DriverError::Fenced { doing, got: got.0, granted: record.epoch.0 }
}
