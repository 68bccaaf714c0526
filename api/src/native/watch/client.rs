//! A program's side: one task reads the stream and hands each subscription what is for it.
//!
//! The task never waits for who is told: a subscription that does not take its events is ended, so that the
//! others go on. Events that came in one frame are shared by all who are told them.

use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
};

use futures::Stream;
use scp_model::Event;
use tokio::{
    io::{AsyncRead, AsyncWrite, WriteHalf},
    sync::{mpsc, oneshot},
};

use super::{
    super::{NativeError, Purpose, client::greet, read_frame, write_frame},
    Filter, FromNode, Note, ORDERS_MAX, Order, Orders, Told, WatchEnd,
};

/// Events that wait for one subscription's reader. A ring's worth would be no better: who is that far behind
/// is told so by the node.
pub const WAITING_MAX: usize = 4096;
/// Orders of callers on their way to the task; beyond it callers wait.
const ORDERS_WAITING: usize = 64;
/// Frames that were read and not handed out yet.
const FRAMES_WAITING: usize = 2;

/// One stream to one node, for any number of subscriptions; clones are the same. It ends with the last of them
/// and of its subscriptions.
#[derive(Debug, Clone)]
pub struct WatchClient {
    wishes: mpsc::Sender<Wish>,
}

/// What callers want of the task.
#[derive(Debug)]
enum Wish {
    Subscribe { filter: Filter, after: Option<u64>, answer: oneshot::Sender<Result<Subscribed, WatchEnd>> },
    End { id: u32 },
}

#[derive(Debug)]
struct Subscribed {
    id: u32,
    sequence: u64,
    runs: mpsc::Receiver<Run>,
    progress: Arc<Progress>,
    end: oneshot::Receiver<End>,
}

/// Events that came together.
type Run = Arc<[Arc<Event>]>;

/// What a subscription and the task know of each other.
#[derive(Debug, Default)]
struct Progress {
    /// Events that the program has not taken yet.
    waiting: AtomicUsize,
    /// Said by the node while none waited: nothing else is to be told up to here.
    upto: AtomicU64,
}

/// Why the task tells no more.
#[derive(Debug)]
enum End {
    FellBehind,
    Said(WatchEnd),
}

fn gone(why: impl std::fmt::Display) -> WatchEnd {
    WatchEnd::Gone { why: why.to_string() }
}

impl WatchClient {
    /// Says who we are on a stream to a node that has proven itself.
    pub async fn open(
        stream: impl AsyncRead + AsyncWrite + Send + 'static,
        token: &str,
    ) -> Result<Self, NativeError> {
        let (mut reader, writer) = greet(stream, token, Purpose::Watch).await?;
        let (frames, told) = mpsc::channel(FRAMES_WAITING);
        // Frames are read aside: reading one must not be given up half way.
        let reading = tokio::spawn(async move {
            while let Ok(Some(said)) = read_frame::<FromNode<Event>>(&mut reader).await {
                if frames.send(said).await.is_err() {
                    return;
                }
            }
        });
        let (wishes, wished) = mpsc::channel(ORDERS_WAITING);
        tokio::spawn(async move {
            carry(writer, told, wished).await;
            reading.abort();
        });
        Ok(Self { wishes })
    }

    /// Watches from now on, or from after an event. Returns when the node has begun: what happens after that,
    /// and what had happened after `after`, is told.
    pub async fn subscribe(&self, filter: Filter, after: Option<u64>) -> Result<Subscription, WatchEnd> {
        let (answer, answered) = oneshot::channel();
        let wish = Wish::Subscribe { filter, after, answer };
        self.wishes.send(wish).await.map_err(|_| gone("it was closed"))?;
        let it = answered.await.unwrap_or_else(|_| Err(gone("it was closed")))?;
        let (position, wishes) = (it.sequence, self.wishes.clone());
        Ok(Subscription { it, position, run: Arc::new([]), at: 0, wishes })
    }
}

/// What one subscription is told, in order; its last word is why it ended. Dropping it ends it.
#[derive(Debug)]
pub struct Subscription {
    it: Subscribed,
    /// Of the last event that the program took.
    position: u64,
    run: Run,
    /// Which of the run is the next.
    at: usize,
    wishes: mpsc::Sender<Wish>,
}

impl Subscription {
    /// Sequence number up to which the program has been told everything that it asked for: a subscription
    /// after it, here or at another node, goes on from there.
    pub fn position(&self) -> u64 {
        self.position.max(self.it.progress.upto.load(Ordering::Relaxed))
    }

    /// The next event; none after the end was told.
    pub async fn next(&mut self) -> Option<Result<Arc<Event>, WatchEnd>> {
        futures::StreamExt::next(self).await
    }
}

impl Stream for Subscription {
    type Item = Result<Arc<Event>, WatchEnd>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(event) = self.run.get(self.at).cloned() {
                self.at += 1;
                self.position = event.sequence;
                if self.at == self.run.len() {
                    self.it.progress.waiting.fetch_sub(self.at, Ordering::Relaxed);
                }
                return Poll::Ready(Some(Ok(event)));
            }
            if let Some(run) = ready!(self.it.runs.poll_recv(cx)) {
                (self.run, self.at) = (run, 0);
                continue;
            }
            return Poll::Ready(match self.it.end.try_recv() {
                Ok(End::FellBehind) => Some(Err(WatchEnd::FellBehind { position: self.position() })),
                Ok(End::Said(why)) => Some(Err(why)),
                Err(_) => None,
            });
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        // Where there is no room for this, the task notices by the next thing it has to tell.
        let _ = self.wishes.try_send(Wish::End { id: self.it.id });
    }
}

/// Reads, hands out and asks, until either side has no more to say.
async fn carry(
    writer: WriteHalf<impl AsyncWrite + Send + 'static>,
    mut told: mpsc::Receiver<FromNode<Event>>,
    mut wishes: mpsc::Receiver<Wish>,
) {
    // Orders are written aside: while the node waits for us to read, it may not read.
    let (orders, ordered) = mpsc::channel(1);
    let writing = tokio::spawn(write(writer, ordered));
    let mut desk = Desk::default();
    let why = loop {
        tokio::select! {
            biased;
            said = told.recv() => match said.map(|said| desk.hear(said)) {
                Some(Ok(())) => {}
                Some(Err(why)) => break why,
                None => break gone("the node closed it"),
            },
            room = orders.reserve(), if !desk.orders.is_empty() => match room {
                Ok(room) => room.send(desk.next_orders()),
                Err(_) => break gone("it cannot be written to"),
            },
            wish = wishes.recv(), if desk.orders.len() < ORDERS_MAX => match wish {
                Some(wish) => desk.wish(wish),
                None => break gone("it was closed"),
            },
        }
    };
    desk.close(&why);
    writing.abort();
}

async fn write(mut writer: WriteHalf<impl AsyncWrite>, mut ordered: mpsc::Receiver<Orders>) {
    while let Some(orders) = ordered.recv().await {
        if write_frame(&mut writer, &orders).await.is_err() {
            return;
        }
    }
}

/// Who is told what.
#[derive(Default)]
struct Desk {
    next_id: u32,
    asked: BTreeMap<u32, oneshot::Sender<Result<Subscribed, WatchEnd>>>,
    subscribers: BTreeMap<u32, Subscriber>,
    orders: Orders,
}

struct Subscriber {
    runs: mpsc::Sender<Run>,
    progress: Arc<Progress>,
    end: oneshot::Sender<End>,
}

impl Desk {
    fn wish(&mut self, wish: Wish) {
        match wish {
            Wish::Subscribe { filter, after, answer } => {
                self.next_id += 1;
                self.asked.insert(self.next_id, answer);
                self.orders.push(Order::Subscribe { id: self.next_id, filter, after });
            }
            Wish::End { id } => {
                if self.subscribers.remove(&id).is_some() {
                    self.orders.push(Order::End { id });
                }
            }
        }
    }

    fn next_orders(&mut self) -> Orders {
        let rest = self.orders.split_off(self.orders.len().min(ORDERS_MAX));
        std::mem::replace(&mut self.orders, rest)
    }

    /// What the node says, or why nothing more is believed.
    fn hear(&mut self, said: FromNode<Event>) -> Result<(), WatchEnd> {
        let Told { notes, audiences, events, upto } = match said {
            FromNode::Told(told) => told,
            FromNode::Over(failure) => return Err(WatchEnd::Refused(failure)),
        };
        if notes.is_empty() && events.is_empty() {
            self.subscribers.values().for_each(|subscriber| subscriber.is_upto(upto));
        }
        notes.into_iter().for_each(|note| self.note(note));
        let mut events = events.into_iter().peekable();
        while let Some((audience, first)) = events.next() {
            let mut run = vec![Arc::new(first)];
            while let Some((_, event)) = events.next_if(|(other, _)| *other == audience) {
                run.push(Arc::new(event));
            }
            let ids = usize::try_from(audience).ok().and_then(|at| audiences.get(at));
            let ids = ids.ok_or_else(|| gone("the node told events to nobody"))?;
            self.tell(ids, &run.into());
        }
        Ok(())
    }

    fn note(&mut self, note: Note) {
        match note {
            Note::Ready { id, sequence } => {
                let Some(answer) = self.asked.remove(&id) else { return };
                // Each run has an event at least: the room is that for events.
                let (runs, told) = mpsc::channel(WAITING_MAX);
                let (end, ended) = oneshot::channel();
                let progress = Arc::new(Progress::default());
                let it = Subscribed { id, sequence, runs: told, progress: progress.clone(), end: ended };
                match answer.send(Ok(it)) {
                    Ok(()) => {
                        self.subscribers.insert(id, Subscriber { runs, progress, end });
                    }
                    // Whoever asked has gone.
                    Err(_) => self.orders.push(Order::End { id }),
                }
            }
            Note::Ended { id, why } => {
                if let Some(answer) = self.asked.remove(&id) {
                    let _ = answer.send(Err(why));
                } else if let Some(subscriber) = self.subscribers.remove(&id) {
                    let _ = subscriber.end.send(End::Said(why));
                }
            }
        }
    }

    fn tell(&mut self, ids: &[u32], run: &Run) {
        for id in ids {
            if let Some(subscriber) = self.subscribers.get(id)
                && !subscriber.take(run)
                && let Some(Subscriber { end, .. }) = self.subscribers.remove(id)
            {
                let _ = end.send(End::FellBehind);
                self.orders.push(Order::End { id: *id });
            }
        }
    }

    fn close(self, why: &WatchEnd) {
        for (_, answer) in self.asked {
            let _ = answer.send(Err(why.clone()));
        }
        for (_, subscriber) in self.subscribers {
            let _ = subscriber.end.send(End::Said(why.clone()));
        }
    }
}

impl Subscriber {
    /// False: its reader is gone, or too far behind.
    fn take(&self, run: &Run) -> bool {
        let before = self.progress.waiting.fetch_add(run.len(), Ordering::Relaxed);
        before + run.len() <= WAITING_MAX && self.runs.try_send(run.clone()).is_ok()
    }

    fn is_upto(&self, sequence: u64) {
        // Who has events waiting learns from the last of them how far it is.
        if self.progress.waiting.load(Ordering::Relaxed) == 0 {
            self.progress.upto.fetch_max(sequence, Ordering::Relaxed);
        }
    }
}

/// Hands out what anybody may have said.
#[cfg(any(test, fuzzing))]
pub(super) fn take_any(said: FromNode<Event>) {
    let mut desk = Desk::default();
    let mut answers = Vec::new();
    for _ in 0..2 {
        let (answer, answered) = oneshot::channel();
        desk.wish(Wish::Subscribe { filter: Filter::default(), after: None, answer });
        answers.push(answered);
    }
    desk.note(Note::Ready { id: 1, sequence: 0 });
    let _ = desk.hear(said);
    desk.close(&gone("all was told"));
}
