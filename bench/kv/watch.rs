//! Watch fan-out: one change, told to thousands.
//!
//! Watchers of ours are subscriptions on streams of the native lane, through the client library; etcd's are
//! watches on gRPC streams; a hundred on one stream on either side. Beside it, ours as HTTP responses of
//! server-sent events, a hundred on a connection. Each of our watchers is a task that takes its events one by
//! one; of etcd's and of HTTP's, what arrives is counted, not understood.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use scp_api::{
    native::{Asking, Filter, SubjectKind, Subscription},
    v1::SSE_EVENT,
};
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Instant, timeout},
};
use uuid::Uuid;

use crate::{
    Both,
    city::{self, City},
    etcd,
    load::Run,
};

/// As promised.
pub const WATCHERS: usize = 5_000;
pub const PER_SECOND: f64 = 500_000.0;
/// Changes of one stretch: a million deliveries.
const CHANGES: usize = 200;
/// Writers, so that there is always something to tell.
const WRITERS: usize = 32;
/// Watchers that share a connection; a node takes 128 requests on one.
const SHARING: usize = 100;
const OPEN_MAX: Duration = Duration::from_secs(60);
/// An operator's patience, not a measure.
const TOLD_MAX: Duration = Duration::from_secs(120);
/// Under what etcd's watchers look.
const PREFIX: &[u8] = b"watched/";

/// Watchers that are there, and hear when each of them was told everything.
struct Watchers {
    tasks: JoinSet<Result<()>>,
}

/// By which way ours are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    Native,
    Http,
}

impl Both {
    /// Deliveries a second, on our side.
    pub async fn told(&self, way: Way) -> Result<Run> {
        let watchers = match way {
            Way::Native => Watchers::native(&self.city).await?,
            Way::Http => Watchers::http(&self.city).await?,
        };
        let next = self.next.clone();
        let city = self.city.clone();
        let write = move || {
            let keypair = city.keypair(format!("k{}", next.fetch_add(1, Ordering::Relaxed)));
            let city = city.clone();
            async move {
                city.native.create_keypair(keypair?).await?;
                Ok(())
            }
        };
        measure(watchers, || self.city.cpu(), write).await
    }

    pub async fn etcd_told(&self) -> Result<Run> {
        let watchers = Watchers::etcds(&self.etcd.clients).await?;
        let connection = self.etcd.clients[0].clone();
        let write = move || {
            let connection = connection.clone();
            let id = Uuid::now_v7();
            async move { connection.put([PREFIX, id.as_bytes()].concat(), city::value(id).into_bytes()).await }
        };
        measure(watchers, || self.etcd_cpu(), write).await
    }
}

/// From the first write until the last watcher was told of the last one.
async fn measure<F, Fut>(mut watchers: Watchers, server_cpu: impl Fn() -> Duration, write: F) -> Result<Run>
where
    F: Fn() -> Fut + Clone + Send + 'static,
    Fut: Future<Output = Result<()>> + Send,
{
    let (server, own) = (server_cpu(), crate::process::cpu_of("self"));
    let begin = Instant::now();
    let left = Arc::new(AtomicU64::new(CHANGES as u64));
    let take = |left: &AtomicU64| {
        left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
    };
    let mut writers = JoinSet::new();
    for _ in 0..WRITERS {
        let (write, left) = (write.clone(), left.clone());
        writers.spawn(async move {
            while take(&left) {
                write().await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(done) = writers.join_next().await {
        done.context("a writer panicked")??;
    }
    let all = async {
        while let Some(done) = watchers.tasks.join_next().await {
            done.context("a watcher panicked")??;
        }
        anyhow::Ok(())
    };
    timeout(TOLD_MAX, all).await.context("some watchers were not told everything")??;
    let elapsed = begin.elapsed();
    let count = (WATCHERS * CHANGES) as f64;
    let us = |before: Duration, after: Duration| (after - before).as_secs_f64() * 1e6 / count;
    Ok(Run {
        per_second: count / elapsed.as_secs_f64(),
        server_cpu_us: us(server, server_cpu()),
        client_cpu_us: us(own, crate::process::cpu_of("self")),
        // Of what: each delivery has a change of its own.
        p50_ms: f64::NAN,
        p99_ms: f64::NAN,
    })
}

impl Watchers {
    async fn native(city: &Arc<City>) -> Result<Self> {
        let (mut tasks, (opened, ready)) = (JoinSet::new(), mpsc::channel(WATCHERS));
        let filter = Filter { kind: Some(SubjectKind::Keypair), ..Filter::default() };
        for (connection, count) in shares() {
            let (city, opened) = (city.clone(), opened.clone());
            tasks.spawn(async move {
                let client = city.watch(connection).await?;
                let all = (0..count).map(|_| client.subscribe(filter, None));
                let mut watchers = JoinSet::new();
                for subscription in futures::future::try_join_all(all).await? {
                    opened.send(()).await?;
                    watchers.spawn(count_events(subscription));
                }
                drop(opened);
                all_done(watchers).await
            });
        }
        drop(opened);
        all_ready(ready).await?;
        Ok(Self { tasks })
    }

    async fn http(city: &Arc<City>) -> Result<Self> {
        let (mut tasks, (opened, ready)) = (JoinSet::new(), mpsc::channel(WATCHERS));
        for (connection, count) in shares() {
            let (http, url) = city.http(connection)?;
            let (city, opened) = (city.clone(), opened.clone());
            tasks.spawn(async move {
                let mut watchers = JoinSet::new();
                for _ in 0..count {
                    let request = http.get(&url).bearer_auth(city.token());
                    let response = request.send().await?.error_for_status()?;
                    watchers.spawn(count_frames(response, opened.clone()));
                }
                drop(opened);
                all_done(watchers).await
            });
        }
        drop(opened);
        all_ready(ready).await?;
        Ok(Self { tasks })
    }

    async fn etcds(clients: &[etcd::Client]) -> Result<Self> {
        let (mut tasks, (opened, ready)) = (JoinSet::new(), mpsc::channel(WATCHERS));
        for (connection, count) in shares() {
            let client = clients[connection % clients.len()].clone();
            let opened = opened.clone();
            tasks.spawn(async move {
                let mut watches = client.watch(PREFIX, count).await?;
                let mut events = 0;
                while events < count * CHANGES {
                    let response = watches.message().await?.context("etcd ended a watch")?;
                    ensure!(!response.canceled, "etcd cancelled a watch");
                    if response.created {
                        opened.send(()).await?;
                    }
                    events += response.events.len();
                }
                ensure!(events == count * CHANGES, "more events than changes");
                Ok(())
            });
        }
        drop(opened);
        all_ready(ready).await?;
        Ok(Self { tasks })
    }
}

/// Connections, and how many watchers share each.
fn shares() -> impl Iterator<Item = (usize, usize)> {
    (0..WATCHERS.div_ceil(SHARING)).map(|at| (at, SHARING.min(WATCHERS - at * SHARING)))
}

async fn all_done(mut watchers: JoinSet<Result<()>>) -> Result<()> {
    while let Some(done) = watchers.join_next().await {
        done.context("a watcher panicked")??;
    }
    Ok(())
}

async fn all_ready(mut ready: mpsc::Receiver<()>) -> Result<()> {
    let all = async {
        for _ in 0..WATCHERS {
            ready.recv().await.context("a watcher ended before it was there")?;
        }
        anyhow::Ok(())
    };
    timeout(OPEN_MAX, all).await.context("some watchers are not there")?
}

/// One watcher: until it has been told every change.
async fn count_events(mut subscription: Subscription) -> Result<()> {
    let mut sequence = subscription.position();
    for _ in 0..CHANGES {
        let event = subscription.next().await.context("a watch ended without a word")??;
        ensure!(event.sequence > sequence, "events out of order");
        sequence = event.sequence;
    }
    Ok(())
}

/// The same over HTTP.
async fn count_frames(mut response: reqwest::Response, opened: mpsc::Sender<()>) -> Result<()> {
    let event = format!("event: {SSE_EVENT}\n");
    let (mut rest, mut events, mut is_ready) = (Vec::new(), 0, false);
    while events < CHANGES {
        let chunk = response.chunk().await?.context("a node ended a watch")?;
        // The first frame says that the watch is there.
        if !std::mem::replace(&mut is_ready, true) {
            opened.send(()).await?;
        }
        for piece in chunk.split_inclusive(|byte| *byte == b'\n') {
            rest.extend_from_slice(piece);
            if piece.ends_with(b"\n") {
                events += usize::from(rest == event.as_bytes());
                rest.clear();
            }
        }
    }
    ensure!(events == CHANGES, "more events than changes");
    Ok(())
}
