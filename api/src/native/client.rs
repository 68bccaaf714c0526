//! A program's side: callers ask one at a time, their asks travel together.
//!
//! While a batch is under way, what is asked meanwhile gathers and becomes the next one, which does not wait for
//! the answer once it has [`COMPANY`]. So batches are as large as the load, and a lone caller never waits.

use std::{collections::BTreeMap, future::Future, sync::Arc};

use scp_model::{KeypairId, NodeId, RequestId};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf},
    sync::{mpsc, oneshot, watch},
};
use uuid::Uuid;

use super::{
    ASKS_MAX, Answers, Ask, Batch, Failure, Hello, KeptKeypair, NewKeypair, Purpose, Said, frame, read_frame,
    write_frame,
};

/// Batches under way: one is carried out while another travels.
const WINDOW: usize = 2;
/// Asks of which a batch travels beside another: what a batch costs, whatever is in it, is then a small part of it.
const COMPANY: usize = 64;
/// Callers waiting for their asks to leave; beyond it they wait to wait.
const WAITING_MAX: usize = 4096;

/// Why there was no answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum NativeError {
    /// The city says no.
    #[error("{0}")]
    Refused(#[from] Failure),
    /// The stream ended: a write that was under way may have been carried out. Repeat it with the same
    /// request id, at any node.
    #[error("the connection is gone: {why}")]
    Gone { why: String },
}

struct Waiting {
    ask: Ask,
    answer: oneshot::Sender<Result<Said, NativeError>>,
}

/// Who leads, as the city said last; clones are the same.
#[derive(Debug, Clone)]
pub(super) struct Leader(Arc<watch::Sender<Option<NodeId>>>);

impl Default for Leader {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(None)))
    }
}

impl Leader {
    pub(super) fn get(&self) -> Option<NodeId> {
        *self.0.borrow()
    }

    fn told(&self, leader: Option<NodeId>) {
        self.0.send_if_modified(|known| std::mem::replace(known, leader) != leader);
    }
}

/// One stream to one node, shared by any number of callers; clones are the same. It ends with the last.
#[derive(Clone)]
pub struct NativeClient {
    asks: mpsc::Sender<Waiting>,
}

/// Says who we are, and hears that we are welcome.
pub(super) async fn greet<S: AsyncRead + AsyncWrite + Send + 'static>(
    stream: S,
    token: &str,
    purpose: Purpose,
) -> Result<(ReadHalf<S>, WriteHalf<S>), NativeError> {
    let (mut reader, mut writer) = tokio::io::split(stream);
    write_frame(&mut writer, &Hello { token: token.into(), purpose }).await.map_err(gone)?;
    let welcome: Option<Result<(), Failure>> = read_frame(&mut reader).await.map_err(gone)?;
    welcome.ok_or_else(|| gone("it ended without a word"))??;
    Ok((reader, writer))
}

pub(super) fn gone(why: impl std::fmt::Display) -> NativeError {
    NativeError::Gone { why: why.to_string() }
}

impl NativeClient {
    /// Says who we are on a stream to a node that has proven itself.
    pub async fn open(
        stream: impl AsyncRead + AsyncWrite + Send + 'static,
        token: &str,
    ) -> Result<Self, NativeError> {
        Self::open_under(Leader::default(), stream, token).await
    }

    /// The same, and tells `leader` who leads.
    pub(super) async fn open_under(
        leader: Leader,
        stream: impl AsyncRead + AsyncWrite + Send + 'static,
        token: &str,
    ) -> Result<Self, NativeError> {
        let (reader, writer) = greet(stream, token, Purpose::Ask).await?;
        let (asks, waiting) = mpsc::channel(WAITING_MAX);
        tokio::spawn(carry(reader, writer, (waiting, leader)));
        Ok(Self { asks })
    }
}

impl Asking for NativeClient {
    async fn ask(&self, ask: Ask) -> Result<Said, NativeError> {
        let (answer, answered) = oneshot::channel();
        self.asks.send(Waiting { ask, answer }).await.map_err(|_| gone("it was closed"))?;
        answered.await.unwrap_or_else(|_| Err(gone("it was closed")))
    }
}

/// What can be asked on the native lane, of a node or of a city.
pub trait Asking: Sync {
    /// Asks, and waits for the answer.
    fn ask(&self, ask: Ask) -> impl Future<Output = Result<Said, NativeError>> + Send;

    /// The index at which the keypair was committed.
    fn create_keypair(&self, keypair: NewKeypair) -> impl Future<Output = Result<u64, NativeError>> + Send {
        let asked = self.ask(Ask::CreateKeypair { request: RequestId(Uuid::now_v7()), keypair });
        async { written(asked.await?) }
    }

    fn delete_keypair(&self, id: KeypairId) -> impl Future<Output = Result<u64, NativeError>> + Send {
        let asked = self.ask(Ask::DeleteKeypair { request: RequestId(Uuid::now_v7()), id });
        async { written(asked.await?) }
    }

    fn keypair(&self, id: KeypairId) -> impl Future<Output = Result<KeptKeypair, NativeError>> + Send {
        let asked = self.ask(Ask::ShowKeypair { id });
        async {
            match asked.await? {
                Said::Keypair(keypair) => Ok(*keypair),
                Said::Written { .. } => Err(gone("it answered another question")),
            }
        }
    }
}

fn written(said: Said) -> Result<u64, NativeError> {
    match said {
        Said::Written { index } => Ok(index),
        Said::Keypair(_) => Err(gone("it answered another question")),
    }
}

type Callers = Vec<oneshot::Sender<Result<Said, NativeError>>>;

/// Sends what waits and hands out what is answered, until either side has no more to say.
async fn carry<S: AsyncRead + AsyncWrite + Send + 'static>(
    mut reader: ReadHalf<S>,
    mut writer: WriteHalf<S>,
    (mut waiting, leader): (mpsc::Receiver<Waiting>, Leader),
) {
    // Frames are read aside: reading one must not be given up half way.
    let (frames, mut answered) = mpsc::channel(WINDOW);
    let reading = tokio::spawn(async move {
        while let Ok(Some(answers)) = read_frame::<Answers>(&mut reader).await {
            if frames.send(answers).await.is_err() {
                return;
            }
        }
    });
    let mut under_way: BTreeMap<u64, Callers> = BTreeMap::new();
    let mut number = 0;
    let mut next: Vec<Waiting> = Vec::new();
    loop {
        let more = ASKS_MAX - next.len();
        tokio::select! {
            biased;
            answers = answered.recv() => match answers {
                Some(answers) => {
                    leader.told(answers.leader);
                    hand_out(&mut under_way, answers);
                }
                None => break,
            },
            count = waiting.recv_many(&mut next, more), if more > 0 => {
                if count == 0 {
                    break;
                }
            }
        }
        let room = if next.len() < COMPANY { 1 } else { WINDOW };
        if next.is_empty() || under_way.len() >= room {
            continue;
        }
        // Callers that were answered together ask again together: each gets its turn before the batch leaves.
        tokio::task::yield_now().await;
        while next.len() < ASKS_MAX
            && let Ok(asked) = waiting.try_recv()
        {
            next.push(asked);
        }
        number += 1;
        let (asks, callers) = next.drain(..).map(|it| (it.ask, it.answer)).unzip();
        under_way.insert(number, callers);
        let Ok(bytes) = frame(&Batch { number, asks }) else { break };
        if writer.write_all(&bytes).await.is_err() || writer.flush().await.is_err() {
            break;
        }
    }
    // Whoever still waits hears that it is closed, by the end of their channel.
    reading.abort();
    let _ = writer.shutdown().await;
}

fn hand_out(under_way: &mut BTreeMap<u64, Callers>, answers: Answers) {
    let Some(callers) = under_way.remove(&answers.number) else { return };
    for (caller, answer) in callers.into_iter().zip(answers.answers) {
        // Whoever asked may have gone.
        let _ = caller.send(answer.map_err(NativeError::from));
    }
}
