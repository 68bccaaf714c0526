//! Proposals of many callers, on their way together.
//!
//! While [`BATCHES_MAX`] batches are under way, what is proposed meanwhile gathers and becomes the next
//! one: one request to the leader, one hand-over to Raft, one answer. A lone proposal never waits.

use std::sync::Arc;

use bytes::Bytes;
use scp_mesh::Transport;
use scp_model::Answer;
use scp_raft::Raft;
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::proposer::{Try, attempt_many};
use scp_api::cluster::ClusterError;

/// Batches under way: one is being replicated while another travels.
const BATCHES_MAX: usize = 2;
/// Proposals of one batch: as many as one request of the native lane has.
const BATCH_MAX: usize = 512;
/// Bytes of one batch, roughly: with one more entry of the largest size it still fits the forward lane.
const BATCH_BYTES_MAX: usize = 4 << 20;
/// Proposals that wait for a batch: what Raft takes at once. Beyond it they are refused.
const WAITING_MAX: usize = 4096;

struct Waiting {
    entry: Bytes,
    answer: oneshot::Sender<Result<Answer, Try>>,
}

/// Cheap to clone. Its task ends with the last of them.
#[derive(Clone)]
pub struct Together {
    queue: mpsc::Sender<Waiting>,
}

impl Together {
    pub fn start(raft: Raft, transport: Arc<dyn Transport>) -> Self {
        let (queue, waiting) = mpsc::channel(WAITING_MAX);
        tokio::spawn(gather(raft, transport, waiting));
        Self { queue }
    }

    /// Proposes once, without repeating, in the company of others.
    pub async fn attempt(&self, entry: Bytes) -> Result<Answer, Try> {
        let (answer, answered) = oneshot::channel();
        self.queue.try_send(Waiting { entry, answer }).map_err(|_| Try::Never(ClusterError::Overloaded))?;
        answered.await.unwrap_or_else(|_| Err(Try::Again("this node is going down".into())))
    }
}

async fn gather(raft: Raft, transport: Arc<dyn Transport>, mut waiting: mpsc::Receiver<Waiting>) {
    let places = Arc::new(Semaphore::new(BATCHES_MAX));
    loop {
        let place = places.clone().acquire_owned().await.expect("this semaphore is never closed");
        let Some(first) = waiting.recv().await else { return };
        // Requests that arrived together are carried out in turns: each gets its own before the batch leaves.
        tokio::task::yield_now().await;
        let mut bytes = first.entry.len();
        let mut entries = vec![first.entry];
        let mut callers = vec![first.answer];
        while entries.len() < BATCH_MAX
            && bytes < BATCH_BYTES_MAX
            && let Ok(Waiting { entry, answer }) = waiting.try_recv()
        {
            bytes += entry.len();
            entries.push(entry);
            callers.push(answer);
        }
        let (raft, transport) = (raft.clone(), transport.clone());
        tokio::spawn(async move {
            let answers = attempt_many(&raft, &*transport, entries).await;
            drop(place);
            for (caller, answer) in callers.into_iter().zip(answers) {
                // Whoever proposed may have gone.
                let _ = caller.send(answer);
            }
        });
    }
}
