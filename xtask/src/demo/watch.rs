//! Watchers beside the demo: they look at the machine and at the city's events while things happen.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use scp_servers::{now, pause, vm_processes};
use serde_json::Value;

/// How often the process table is read: a tenth of what starting a VM takes, so no double run hides
/// between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What was seen of one VM's processes.
#[derive(Debug, Clone, Default)]
pub struct Sightings {
    /// When each process was first seen: by pid, with the server's name.
    pub first: BTreeMap<u32, (Instant, String)>,
    /// How many times more than one was seen at once, after a look that saw at most one.
    pub double_runs: u64,
    /// How many looks were taken.
    pub looks: u64,
}

impl Sightings {
    /// Takes one look into account.
    fn add(&mut self, at: Instant, alive: &BTreeMap<u32, String>, were_double: &mut bool) {
        self.looks += 1;
        for (pid, server) in alive {
            self.first.entry(*pid).or_insert_with(|| (at, server.clone()));
        }
        let are_double = alive.len() > 1;
        self.double_runs += u64::from(are_double && !*were_double);
        *were_double = are_double;
    }
}

/// Looks at every QEMU with one UUID, in all namespaces, until it is told to stop.
#[derive(Debug)]
pub struct ProcessWatch {
    seen: Arc<Mutex<Sightings>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl ProcessWatch {
    /// `names`: the servers by their namespace.
    pub fn start(uuid: &str, names: BTreeMap<u64, String>) -> Self {
        let (seen, stop) = (Arc::new(Mutex::new(Sightings::default())), Arc::new(AtomicBool::new(false)));
        let (uuid, sightings, told) = (uuid.to_string(), Arc::clone(&seen), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            let mut were_double = false;
            while !told.load(Ordering::Relaxed) {
                // A look that fails is no look: the next one follows at once.
                let Ok(processes) = vm_processes() else { continue };
                let ours = processes.into_iter().filter(|process| process.uuid == uuid);
                let alive =
                    ours.map(|it| (it.pid, names.get(&it.namespace).cloned().unwrap_or_default())).collect();
                lock(&sightings).add(now(), &alive, &mut were_double);
                pause(LOOK_EVERY);
            }
        });
        Self { seen, stop, thread: Some(thread) }
    }

    /// What was seen so far.
    pub fn seen(&self) -> Sightings {
        lock(&self.seen).clone()
    }

    /// Ends it.
    pub fn end(mut self) -> Sightings {
        self.halt();
        self.seen()
    }

    fn halt(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the watcher does not panic");
        }
    }
}

impl Drop for ProcessWatch {
    fn drop(&mut self) {
        self.halt();
    }
}

/// Nothing panics while it holds one of these locks, so what is inside is whole.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Follows the city's events through one node; each gets the time at which it arrived here.
#[derive(Debug)]
pub struct EventWatch {
    child: Child,
    seen: Arc<Mutex<Vec<(Instant, Value)>>>,
}

impl EventWatch {
    /// `command`: `scpctl events --follow --output json`.
    pub fn start(command: &mut Command) -> Result<Self> {
        let command = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().context("scpctl cannot be started")?;
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (stdout, events) =
            (child.stdout.take().expect("stdout was asked to be a pipe"), Arc::clone(&seen));
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if let Ok(event) = serde_json::from_str(&line) {
                    lock(&events).push((now(), event));
                }
            }
        });
        Ok(Self { child, seen })
    }

    /// How many arrived so far.
    pub fn count(&self) -> usize {
        lock(&self.seen).len()
    }

    /// When the first event of that kind about that subject arrived, among those after `since`.
    pub fn arrival(&self, since: Instant, kind: &str, subject: &str) -> Option<Instant> {
        let events = lock(&self.seen);
        let found = events.iter().find(|(at, event)| {
            *at >= since && event["kind"] == kind && (event["subject"]["id"] == subject || subject.is_empty())
        });
        found.map(|(at, _)| *at)
    }

    /// Kinds that arrived, for a message about one that did not.
    pub fn kinds(&self, since: Instant) -> BTreeSet<String> {
        let events = lock(&self.seen);
        let later = events.iter().filter(|(at, _)| *at >= since);
        later.filter_map(|(_, event)| event["kind"].as_str().map(String::from)).collect()
    }
}

impl Drop for EventWatch {
    fn drop(&mut self) {
        // Ours, by its handle; gone already is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alive(pids: &[u32]) -> BTreeMap<u32, String> {
        pids.iter().map(|pid| (*pid, format!("n{pid}"))).collect()
    }

    #[test]
    fn two_at_once_is_one_double_run_however_often_it_is_seen() {
        let (mut seen, mut were_double) = (Sightings::default(), false);
        for pids in [&[1][..], &[], &[2], &[1, 2], &[1, 2], &[2], &[2, 3]] {
            seen.add(now(), &alive(pids), &mut were_double);
        }
        assert_eq!(seen.double_runs, 2);
        assert_eq!(seen.looks, 7);
        assert_eq!(seen.first.keys().copied().collect::<Vec<_>>(), [1, 2, 3]);
    }

    #[test]
    fn one_after_the_other_is_no_double_run() {
        let (mut seen, mut were_double) = (Sightings::default(), false);
        for pids in [&[1][..], &[], &[2], &[]] {
            seen.add(now(), &alive(pids), &mut were_double);
        }
        assert_eq!(seen.double_runs, 0);
    }
}
