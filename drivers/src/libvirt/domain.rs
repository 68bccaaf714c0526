//! What one domain is, read back from libvirt, and the single steps that change it. All of it blocks
//! and runs on the threads of [`link`](super::link).

use scp_model::{
    Fact, VmId,
    fact::{RunState, VmFact},
    node::Orphan,
};
use virt::{
    connect::Connect,
    domain::Domain,
    error::{Error, ErrorNumber},
};
use virt_sys as sys;

use crate::{
    VmStats,
    domain_xml::{NAME_PREFIX, domain_name},
    record::{NAMESPACE, Off, PREFIX, Power, Record, RecordError, off_state},
};

/// A domain with a VM's id.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub(super) record: Result<Record, RecordError>,
    pub(super) state: State,
}

/// Whether there is a process, and what state the guest in it is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Running,
    Paused,
    /// The process is there, the guest in it is dead.
    Dead,
    Off(Off),
}

impl State {
    pub(super) fn is_active(self) -> bool {
        match self {
            Self::Running | Self::Paused | Self::Dead => true,
            Self::Off(_) => false,
        }
    }

    /// Dead is not: its process goes in a moment.
    fn has_a_guest(self) -> bool {
        matches!(self, Self::Running | Self::Paused)
    }

    fn run(self, power: Power) -> RunState {
        match self {
            Self::Running => RunState::Running,
            Self::Paused => RunState::Paused,
            Self::Dead => RunState::Crashed,
            Self::Off(off) => off_state(power, off),
        }
    }
}

/// libvirt's state and reason, in our words.
fn state_of(state: sys::virDomainState, reason: i32) -> State {
    let reason = reason as u32;
    match state {
        sys::VIR_DOMAIN_RUNNING | sys::VIR_DOMAIN_BLOCKED | sys::VIR_DOMAIN_SHUTDOWN => State::Running,
        sys::VIR_DOMAIN_PAUSED => match reason {
            sys::VIR_DOMAIN_PAUSED_STARTING_UP | sys::VIR_DOMAIN_PAUSED_SHUTTING_DOWN => State::Running,
            sys::VIR_DOMAIN_PAUSED_CRASHED => State::Dead,
            _ => State::Paused,
        },
        sys::VIR_DOMAIN_SHUTOFF => State::Off(match reason {
            sys::VIR_DOMAIN_SHUTOFF_SHUTDOWN => Off::InOrder,
            sys::VIR_DOMAIN_SHUTOFF_FAILED => Off::StartFailed,
            _ => Off::Otherwise,
        }),
        sys::VIR_DOMAIN_CRASHED => State::Dead,
        _ => State::Paused,
    }
}

/// Turns "there is none" into `None`.
fn there<T>(result: Result<T, Error>) -> Result<Option<T>, Error> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.code() == ErrorNumber::NoDomain => Ok(None),
        Err(error) => Err(error),
    }
}

fn lookup(connect: &Connect, vm: VmId) -> Result<Option<Domain>, Error> {
    there(Domain::lookup_by_uuid(connect, vm.0))
}

fn record_of(domain: &Domain) -> Result<Result<Record, RecordError>, Error> {
    let kind = sys::VIR_DOMAIN_METADATA_ELEMENT as i32;
    match domain.get_metadata(kind, Some(NAMESPACE), sys::VIR_DOMAIN_AFFECT_CURRENT) {
        Ok(element) => Ok(Record::parse(&element)),
        Err(error) if error.code() == ErrorNumber::NoDomainMetadata => {
            Ok(Err(RecordError("it has none".into())))
        }
        Err(error) => Err(error),
    }
}

fn found(domain: &Domain) -> Result<Found, Error> {
    let (state, reason) = domain.get_state()?;
    let (name, uuid) = (domain.get_name()?, VmId(domain.get_uuid()?));
    let record = record_of(domain)?.and_then(|record| {
        if record.vm == uuid && name == domain_name(uuid) {
            Ok(record)
        } else {
            Err(RecordError(format!("it speaks of VM {}", record.vm)))
        }
    });
    Ok(Found { record, state: state_of(state, reason) })
}

/// The domain of a VM, whoever made it.
pub(super) fn find(connect: &Connect, vm: VmId) -> Result<Option<Found>, Error> {
    match lookup(connect, vm)? {
        // It may end between the two calls.
        Some(domain) => there(found(&domain)),
        None => Ok(None),
    }
}

/// What a domain means to the agent.
fn fact(name: &str, found: &Found) -> Fact {
    match &found.record {
        Ok(record) => Fact::Vm(VmFact {
            vm: record.vm,
            epoch: record.epoch,
            generation: record.generation,
            reboots: record.reboots,
            run: found.state.run(record.power),
            started_at: record.started_at.filter(|_| found.state.has_a_guest()),
        }),
        Err(why) => {
            let running = if found.state.is_active() { "running" } else { "off" };
            let detail = if name.starts_with(NAME_PREFIX) {
                format!("a libvirt domain with our name, {running}: {why}")
            } else {
                format!("a libvirt domain that is not ours, {running}")
            };
            Fact::Orphan(Orphan { name: name.into(), detail })
        }
    }
}

/// The fact of one VM; none when nothing of it is here.
pub(super) fn fact_of(connect: &Connect, vm: VmId) -> Result<Option<Fact>, Error> {
    Ok(find(connect, vm)?.map(|found| fact(&domain_name(vm), &found)))
}

/// Every domain's fact, and the VMs that have a domain.
pub(super) fn facts(connect: &Connect) -> Result<Vec<Fact>, Error> {
    let mut facts = Vec::new();
    for domain in connect.list_all_domains(0)? {
        let name = domain.get_name()?;
        if let Some(found) = there(found(&domain))? {
            facts.push(fact(&name, &found));
        }
    }
    Ok(facts)
}

fn expect(connect: &Connect, vm: VmId) -> Result<Domain, Error> {
    Domain::lookup_by_uuid(connect, vm.0)
}

/// Writes the record, into the running instance too.
pub(super) fn write_record(connect: &Connect, record: &Record) -> Result<(), Error> {
    let domain = expect(connect, record.vm)?;
    let mut flags = sys::VIR_DOMAIN_AFFECT_CONFIG;
    if domain.is_active()? {
        flags |= sys::VIR_DOMAIN_AFFECT_LIVE;
    }
    let kind = sys::VIR_DOMAIN_METADATA_ELEMENT as i32;
    domain.set_metadata(kind, Some(&record.element()), Some(PREFIX), Some(NAMESPACE), flags).map(drop)
}

/// Defines the domain anew; it must not be running.
pub(super) fn define(connect: &Connect, xml: &str) -> Result<(), Error> {
    let domain = Domain::define_xml(connect, xml)?;
    // A server that was restarted starts nothing by itself: only the state says what runs where.
    domain.set_autostart(false).map(drop)
}

/// Starts it, then writes down that it runs. In this order: a record that says "running" on a domain
/// that was not started yet would read as a crash.
pub(super) fn start(connect: &Connect, record: &Record) -> Result<(), Error> {
    expect(connect, record.vm)?.create()?;
    write_record(connect, record)
}

pub(super) fn resume(connect: &Connect, vm: VmId) -> Result<(), Error> {
    expect(connect, vm)?.resume().map(drop)
}

/// Presses the power button.
pub(super) fn power_button(connect: &Connect, vm: VmId) -> Result<(), Error> {
    let Some(domain) = lookup(connect, vm)? else { return Ok(()) };
    match domain.shutdown_flags(sys::VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN) {
        Err(error) if error.code() != ErrorNumber::OperationInvalid => Err(error),
        // Not running any more.
        _ => Ok(()),
    }
}

/// Ends the process, if there is one.
pub(super) fn destroy(connect: &Connect, vm: VmId) -> Result<(), Error> {
    let Some(domain) = lookup(connect, vm)? else { return Ok(()) };
    match domain.destroy() {
        Err(error) if error.code() != ErrorNumber::OperationInvalid => Err(error),
        _ => Ok(()),
    }
}

/// Forgets the domain, if it is there.
pub(super) fn undefine(connect: &Connect, vm: VmId) -> Result<(), Error> {
    let Some(domain) = lookup(connect, vm)? else { return Ok(()) };
    let flags = sys::VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
        | sys::VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
        | sys::VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA
        | sys::VIR_DOMAIN_UNDEFINE_NVRAM;
    there(domain.undefine_flags(flags)).map(drop)
}

/// What a running VM has used. Of QEMU's user-mode network libvirt counts nothing: 0.
pub(super) fn stats(connect: &Connect, vm: VmId) -> Result<VmStats, Error> {
    let domain = expect(connect, vm)?;
    let info = domain.get_info()?;
    let disk = domain.get_block_stats("vda")?;
    let memory = domain.memory_stats(0)?;
    let count = |value: i64| u64::try_from(value).unwrap_or(0);
    Ok(VmStats {
        cpu_time_ms: info.cpu_time / 1_000_000,
        memory_rss_kib: memory
            .iter()
            .find(|stat| stat.tag == sys::VIR_DOMAIN_MEMORY_STAT_RSS)
            .map_or(0, |stat| stat.val),
        disk_read_bytes: count(disk.rd_bytes),
        disk_write_bytes: count(disk.wr_bytes),
        net_rx_bytes: 0,
        net_tx_bytes: 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_of_libvirts_states_is_one_of_ours() {
        let off = |reason| state_of(sys::VIR_DOMAIN_SHUTOFF, reason as i32);
        assert_eq!(off(sys::VIR_DOMAIN_SHUTOFF_SHUTDOWN), State::Off(Off::InOrder));
        assert_eq!(off(sys::VIR_DOMAIN_SHUTOFF_FAILED), State::Off(Off::StartFailed));
        for reason in [
            sys::VIR_DOMAIN_SHUTOFF_UNKNOWN,
            sys::VIR_DOMAIN_SHUTOFF_DESTROYED,
            sys::VIR_DOMAIN_SHUTOFF_CRASHED,
            sys::VIR_DOMAIN_SHUTOFF_DAEMON,
        ] {
            assert_eq!(off(reason), State::Off(Off::Otherwise));
        }
        let paused = |reason| state_of(sys::VIR_DOMAIN_PAUSED, reason as i32);
        assert_eq!(paused(sys::VIR_DOMAIN_PAUSED_IOERROR), State::Paused);
        assert_eq!(paused(sys::VIR_DOMAIN_PAUSED_CRASHED), State::Dead);
        assert_eq!(paused(sys::VIR_DOMAIN_PAUSED_STARTING_UP), State::Running);
        assert_eq!(state_of(sys::VIR_DOMAIN_SHUTDOWN, 0), State::Running);
        assert_eq!(state_of(sys::VIR_DOMAIN_CRASHED, 0), State::Dead);
        assert!(State::Dead.is_active() && !State::Dead.has_a_guest());
    }
}
