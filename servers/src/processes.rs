//! Reads /proc: who runs in which network namespace, and which processes are VMs.

use std::{fs, os::unix::fs::MetadataExt, path::Path, time::Duration};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::clock;

/// A running QEMU, found by looking at the machine rather than by asking anyone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmProcess {
    pub pid: u32,
    /// Inode of its network namespace: which server it runs on.
    pub namespace: u64,
    /// The UUID it was started with.
    pub uuid: String,
}

impl VmProcess {
    /// Whether a signal has stopped it: it is there, and does nothing.
    pub fn is_stopped(&self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with(['T', 't']))
    }
}

/// Pids of everything alive; a zombie has no namespace and no command line, so it drops out below.
fn pids() -> Result<Vec<u32>> {
    let entries = fs::read_dir("/proc").context("/proc cannot be read")?;
    Ok(entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect())
}

/// Inode of the namespace file: equal for equal namespaces.
pub(crate) fn namespace_of(path: &Path) -> Option<u64> {
    fs::metadata(path).ok().map(|meta| meta.ino())
}

fn namespace_of_pid(pid: u32) -> Option<u64> {
    namespace_of(Path::new(&format!("/proc/{pid}/ns/net")))
}

/// Everything in that network namespace.
pub(crate) fn pids_in(namespace: u64) -> Result<Vec<u32>> {
    Ok(pids()?.into_iter().filter(|pid| namespace_of_pid(*pid) == Some(namespace)).collect())
}

/// A signal for everything in that network namespace.
pub(crate) fn signal_all_in(namespace: u64, signal: Signal) -> Result<()> {
    for pid in pids_in(namespace)? {
        if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
            // One that is gone needs none.
            let _ = kill_process(pid, signal);
        }
    }
    Ok(())
}

/// SIGKILL for everything in that network namespace, until nothing is left: a process that forks while
/// it is killed is met in the next round.
pub(crate) fn kill_all_in(namespace: u64) -> Result<usize> {
    let mut killed = 0;
    let done = clock::wait_until(Duration::from_secs(20), || {
        let pids = pids_in(namespace).ok()?;
        for pid in &pids {
            let pid = i32::try_from(*pid).ok().and_then(Pid::from_raw)?;
            // Gone already is as good as killed.
            killed += usize::from(kill_process(pid, Signal::KILL).is_ok());
        }
        pids.is_empty().then_some(())
    });
    if done.is_none() {
        bail!("processes {:?} in namespace {namespace} do not die", pids_in(namespace)?);
    }
    Ok(killed)
}

/// When the process began, in clock ticks since boot: tells a process from a later one with its pid.
pub(crate) fn began(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold blanks: fields are counted from behind it; this is the 22nd.
    stat.rsplit_once(") ")?.1.split(' ').nth(19)?.parse().ok()
}

/// Every QEMU on this machine, in whichever namespace.
pub fn vm_processes() -> Result<Vec<VmProcess>> {
    Ok(pids()?.into_iter().filter_map(vm_process).collect())
}

fn vm_process(pid: u32) -> Option<VmProcess> {
    let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let mut words = line.split(|byte| *byte == 0).map(String::from_utf8_lossy);
    let program = words.next()?;
    if !Path::new(program.as_ref()).file_name()?.to_str()?.starts_with("qemu-system-") {
        return None;
    }
    let uuid = words.skip_while(|word| word != "-uuid").nth(1)?.into_owned();
    Some(VmProcess { pid, namespace: namespace_of_pid(pid)?, uuid })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_found_in_its_own_namespace() {
        let own = namespace_of_pid(std::process::id()).expect("own namespace is readable");
        assert!(pids_in(own).expect("/proc is readable").contains(&std::process::id()));
    }

    #[test]
    fn the_beginning_of_a_process_does_not_change() {
        let first = began(std::process::id()).expect("own stat is readable");
        assert_eq!(began(std::process::id()), Some(first));
        assert_eq!(began(u32::MAX), None);
    }
}
