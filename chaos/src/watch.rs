//! Looks at how the nodes stand while things happen: who leads, in which term, how far each has applied.
//!
//! It only tells: a node that does not answer is not written down, and nothing is judged by it. What lies
//! between two looks is not seen: a leader of a tenth of a second may be missed.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use anyhow::{Context, Result};
use futures::future::join_all;
use scp_api::{client::Client, v1::Consistency};

use crate::{
    city::City,
    history::{Clock, Micros},
};

/// Four times a second: an election takes longer, and a look costs a node a millisecond.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// A node that is paused does not hold up the others' next look.
const ANSWER_WITHIN: Duration = Duration::from_millis(200);

/// One node, once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sighting {
    pub at: Micros,
    pub node: String,
    pub term: u64,
    pub leads: bool,
    pub applied: u64,
}

#[derive(Debug, Default)]
struct Shared {
    /// Each node's socket and id, by server.
    doors: Mutex<BTreeMap<String, (PathBuf, String)>>,
    sightings: Mutex<Vec<Sighting>>,
    stop: AtomicBool,
}

/// Nothing panics while it holds one of these locks, so what is inside is whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The looking thread.
pub struct Watch {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    pub fn start(clock: Clock) -> Result<Self> {
        let shared = Arc::<Shared>::default();
        let inside = shared.clone();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.context("the async runtime cannot be made")?;
        let thread = std::thread::Builder::new().name("watch".into());
        let thread = thread.spawn(move || runtime.block_on(inside.run(clock)));
        Ok(Self { shared, thread: Some(thread.context("the watching thread cannot be started")?) })
    }

    /// The servers whose sockets are to be asked from now on: they change whenever a server is switched on.
    pub fn follow(&self, city: &City) {
        let door = |(name, id): (&String, &String)| {
            Some((name.clone(), (city.server(name).ok()?.path(crate::city::SOCKET).ok()?, id.clone())))
        };
        *lock(&self.shared.doors) = city.members.iter().filter_map(door).collect();
    }

    /// Everything so far.
    pub fn sightings(&self) -> Vec<Sighting> {
        lock(&self.shared.sightings).clone()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic there was told by itself.
            let _ = thread.join();
        }
    }
}

impl Shared {
    async fn run(&self, clock: Clock) {
        while !self.stop.load(Ordering::Relaxed) {
            let doors = lock(&self.doors).clone();
            let looks = doors.into_iter().map(|(node, door)| look(clock, node, door));
            let seen = join_all(looks).await;
            lock(&self.sightings).extend(seen.into_iter().flatten());
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

async fn look(clock: Clock, node: String, (path, id): (PathBuf, String)) -> Option<Sighting> {
    let client = Client::unix(path).ok()?.with_deadline(ANSWER_WITHIN).with_consistency(Consistency::Stale);
    let status = client.status().await.ok()?;
    let leads = status.leader.is_some_and(|leader| leader == id);
    Some(Sighting { at: clock.now(), node, term: status.term, leads, applied: status.applied_index })
}
