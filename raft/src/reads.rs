//! Linearizable reads, many at a time.
//!
//! A read may use the answer of any confirmation that *began* after the read did. So reads that arrive
//! while one confirmation is under way wait for the next, and share it: one round of messages serves
//! them all, on the leader as on the others.

use std::{sync::Arc, time::Duration};

use tokio::sync::{mpsc, oneshot};

use crate::{
    error::ReadError,
    peers::ask,
    raft::Inner,
    wire::{Refusal, Request, Response},
};

/// Reads waiting for a confirmation. Each is one waiting caller; beyond this they wait to wait.
const READS_MAX: usize = 16384;
/// Pause before a read that found no leader asks again.
pub(crate) const READ_PAUSE: Duration = Duration::from_millis(20);

pub(crate) type Reads = mpsc::Sender<oneshot::Sender<Result<u64, ReadError>>>;

/// Ends when the last handle is gone.
pub(crate) fn queue() -> (Reads, mpsc::Receiver<oneshot::Sender<Result<u64, ReadError>>>) {
    mpsc::channel(READS_MAX)
}

pub(crate) async fn serve(
    inner: std::sync::Weak<Inner>,
    mut reads: mpsc::Receiver<oneshot::Sender<Result<u64, ReadError>>>,
) {
    let mut waiting = Vec::new();
    while reads.recv_many(&mut waiting, READS_MAX).await > 0 {
        let Some(inner) = inner.upgrade() else { return };
        let confirmed = confirm(&inner).await;
        for read in waiting.drain(..) {
            let _ = read.send(confirmed.clone());
        }
    }
}

/// One confirmation, here or by the leader.
async fn confirm(inner: &Arc<Inner>) -> Result<u64, ReadError> {
    let core = inner.core().ok_or(ReadError::Stopped)?;
    let node = inner.parts.config.node;
    let leader = core.raft.current_leader().await.ok_or(ReadError::NoLeader)?;
    if leader == node {
        return core.read_index().await.map_err(|refusal| refused(leader, refusal));
    }
    // A dead leader is replaced after one to two of these.
    let timeout = inner.parts.config.election_timeout_max * 2;
    match ask(&*inner.parts.network, leader, &Request::ReadIndex, timeout).await {
        Ok(Response::ReadIndex(index)) => Ok(index),
        Ok(Response::Refused(refusal)) => Err(refused(leader, refusal)),
        Ok(other) => Err(ReadError::Leader { leader, why: format!("it answered {other:?}") }),
        Err(error) => Err(ReadError::Leader { leader, why: error.to_string() }),
    }
}

fn refused(leader: scp_model::NodeId, refusal: Refusal) -> ReadError {
    match refusal {
        Refusal::NoQuorum => ReadError::NoQuorum,
        Refusal::NotLeader => ReadError::NoLeader,
        Refusal::Stopped | Refusal::ReadOnly(_) | Refusal::Invalid(_) | Refusal::Disk(_) => {
            ReadError::Leader { leader, why: refusal.to_string() }
        }
    }
}
