//! Runs blocking work in order, where the disk wants it: on one thread, or as tasks in a simulation.

use tokio::sync::{mpsc, oneshot};

use crate::disk::Place;

/// Pieces of work waiting. They are snapshots and chunks of snapshots: a handful.
const QUEUE_MAX: usize = 64;

type Work = Box<dyn FnOnce() + Send>;

#[derive(Clone)]
pub(crate) struct Worker {
    queue: mpsc::Sender<Work>,
}

/// The worker ended, because the runtime is shutting down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Gone;

impl Worker {
    pub(crate) fn spawn(place: Place) -> std::io::Result<Self> {
        let (queue, mut work) = mpsc::channel::<Work>(QUEUE_MAX);
        match place {
            Place::Thread => {
                std::thread::Builder::new().name("raft-snapshot".into()).spawn(move || {
                    while let Some(work) = work.blocking_recv() {
                        work();
                    }
                })?;
            }
            Place::Task(gate) => {
                tokio::spawn(async move {
                    while let Some(work) = work.recv().await {
                        gate().await;
                        work();
                    }
                });
            }
        }
        Ok(Self { queue })
    }

    /// Runs `work` after everything asked before it. It runs to its end even if the caller is dropped.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Gone> {
        let (done, result) = oneshot::channel();
        let work: Work = Box::new(move || drop(done.send(work())));
        self.queue.send(work).await.map_err(|_| Gone)?;
        result.await.map_err(|_| Gone)
    }
}
