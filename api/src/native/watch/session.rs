//! The node's side of a watch's stream.
//!
//! Subscriptions that want the same and are equally far are one *class*: what an event costs grows with the
//! classes of a stream, not with its subscriptions. Nothing waits here to be told: whenever the stream takes
//! a frame, the next one is made of what the state's ring has by then.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    mem,
    sync::Arc,
    time::Duration,
};

use scp_model::Event;
use scp_state::State;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::{Instant, sleep_until, timeout},
};

use super::{
    super::{Failure, frame, read_frame},
    EVENTS_MAX, Filter, FromNode, Note, ORDERS_MAX, Order, Orders, STILL_HERE, SUBSCRIPTIONS_MAX, Told,
    WatchEnd,
};
use crate::{
    cluster::{Cluster, Consistency, Snapshot},
    server::{
        Action, Code, Identity, Scope, authorize,
        seen::{is_kept, oldest, visible},
        token::Unverified,
    },
    v1::Problem,
};

/// Orders that were read and not looked at yet, in frames; who sends more is not read from.
const ORDERS_WAITING: usize = 4;
/// A frame that is not taken for so long is not wanted any more.
const STALLED_MAX: Duration = Duration::from_secs(60);

/// Whose stream it is, and where.
pub(in crate::native) struct Watching {
    pub(in crate::native) cluster: Arc<dyn Cluster>,
    pub(in crate::native) token: Unverified,
    /// Of all streams of the node.
    pub(in crate::native) places: Arc<Semaphore>,
}

/// Serves one stream until it ends.
pub(in crate::native) async fn tell(
    watching: Watching,
    mut reader: impl AsyncRead + Unpin,
    mut writer: impl AsyncWrite + Unpin,
) {
    let (orders, ordered) = mpsc::channel(ORDERS_WAITING);
    let reading = async {
        // Reading a frame must not be given up half way: it is a loop of its own.
        while let Ok(Some(read)) = read_frame::<Orders>(&mut reader).await {
            if read.len() > ORDERS_MAX || orders.send(read).await.is_err() {
                return;
            }
        }
    };
    let mut session = Session::new(watching);
    tokio::select! {
        () = reading => {}
        over = session.run(&mut writer, ordered) => {
            if let Some(problem) = over {
                let _ = write(&mut writer, &FromNode::Over(problem.into())).await;
            }
        }
    }
    let _ = writer.shutdown().await;
}

async fn write(writer: &mut (impl AsyncWrite + Unpin), said: &FromNode<&Event>) -> Result<(), ()> {
    let bytes = frame(said).map_err(drop)?;
    let writing = async {
        writer.write_all(&bytes).await?;
        writer.flush().await
    };
    timeout(STALLED_MAX, writing).await.map_err(drop)?.map_err(drop)
}

/// Subscriptions with one filter and one place.
struct Class {
    filter: Filter,
    /// Sequence number of the next event to look at.
    next: u64,
    ids: Vec<u32>,
}

struct Session {
    watching: Watching,
    subscriptions: BTreeMap<u32, OwnedSemaphorePermit>,
    classes: Vec<Class>,
    notes: Vec<Note>,
}

/// The program does what no program does; its stream ends.
struct Nonsense;

impl Session {
    fn new(watching: Watching) -> Self {
        Self { watching, subscriptions: BTreeMap::new(), classes: Vec::new(), notes: Vec::new() }
    }

    /// Until the program is gone; or until it may watch no longer, and why.
    async fn run(
        &mut self,
        writer: &mut (impl AsyncWrite + Unpin),
        mut orders: mpsc::Receiver<Orders>,
    ) -> Option<Problem> {
        let mut applied = self.watching.cluster.applied();
        let mut still_here = Instant::now() + STILL_HERE;
        loop {
            applied.borrow_and_update();
            let state = match self.watching.cluster.read(Consistency::Stale).await {
                Ok(Snapshot { state, .. }) => state,
                Err(error) => return Some(error.into()),
            };
            let identity = match self.identity(&state) {
                Ok(identity) => identity,
                Err(problem) => return Some(problem),
            };
            let is_due = still_here <= Instant::now();
            let told = self.told(&state, &identity);
            if is_due || !told.notes.is_empty() || !told.events.is_empty() {
                write(writer, &FromNode::Told(told)).await.ok()?;
                still_here = Instant::now() + STILL_HERE;
            }
            let is_behind = self.classes.iter().any(|class| class.next < state.next_event);
            tokio::select! {
                biased;
                orders = orders.recv() => self.take(orders?).await.ok()?,
                () = std::future::ready(()), if is_behind => {}
                changed = applied.changed(), if !self.classes.is_empty() => changed.ok()?,
                () = sleep_until(still_here) => {}
            }
        }
    }

    fn identity(&self, state: &State) -> Result<Identity, Problem> {
        let user = self.watching.token.check(state, self.watching.cluster.now())?;
        Ok(Identity::User { id: user.id, city_roles: user.city_roles.clone(), grants: user.grants.clone() })
    }

    async fn take(&mut self, orders: Orders) -> Result<(), Nonsense> {
        // One read for all of them. What a subscription may see is told as of now, not as of what this node
        // knew before; and "from now on" is after every write that was acknowledged before.
        let mut seen = None;
        for order in orders {
            match order {
                Order::End { id } => self.end(id),
                Order::Subscribe { id, filter, after } => {
                    if self.subscriptions.contains_key(&id) {
                        return Err(Nonsense);
                    }
                    if seen.is_none() {
                        seen = Some(self.see().await);
                    }
                    let ready = match seen.as_ref().expect("it was looked at just now") {
                        Ok((state, identity)) => self.begin((id, filter, after), state, identity),
                        Err(problem) => Err(WatchEnd::Refused(problem.clone().into())),
                    };
                    self.notes.push(match ready {
                        Ok(sequence) => Note::Ready { id, sequence },
                        Err(why) => Note::Ended { id, why },
                    });
                }
            }
        }
        Ok(())
    }

    async fn see(&self) -> Result<(Arc<State>, Identity), Problem> {
        let Snapshot { state, .. } = self.watching.cluster.read(Consistency::Linearizable).await?;
        let identity = self.identity(&state)?;
        Ok((state, identity))
    }

    fn begin(
        &mut self,
        (id, filter, after): (u32, Filter, Option<u64>),
        state: &State,
        identity: &Identity,
    ) -> Result<u64, WatchEnd> {
        if let Some(project) = filter.project {
            let there = state.projects.contains_key(&project);
            if !there || authorize(identity, Action::ProjectRead, Scope::Project(project)).is_err() {
                return Err(refused(Problem::not_found("project", &project.to_string())));
            }
        }
        let next = after.map_or(state.next_event, |after| after.saturating_add(1));
        if !is_kept(state, next) {
            return Err(gap(state, next));
        }
        let place = match self.subscriptions.len() < SUBSCRIPTIONS_MAX {
            true => self.watching.places.clone().try_acquire_owned().ok(),
            false => None,
        };
        let place = place.ok_or_else(|| {
            let problem = Problem::new(Code::Overloaded, "too many subscriptions are open");
            refused(problem.remedy("Open another stream, or ask another node."))
        })?;
        self.subscriptions.insert(id, place);
        match self.classes.iter_mut().find(|class| class.filter == filter && class.next == next) {
            Some(class) => class.ids.push(id),
            None => self.classes.push(Class { filter, next, ids: vec![id] }),
        }
        Ok(next.saturating_sub(1))
    }

    fn end(&mut self, id: u32) {
        if self.subscriptions.remove(&id).is_some() {
            self.classes.iter_mut().for_each(|class| class.ids.retain(|other| *other != id));
            self.classes.retain(|class| !class.ids.is_empty());
        }
    }

    /// What is to be said now. Everybody is then as far as it says.
    fn told<'a>(&mut self, state: &'a State, identity: &Identity) -> Told<&'a Event> {
        self.end_those_left_behind(state);
        let notes = mem::take(&mut self.notes);
        let mut told = Told {
            notes,
            audiences: Vec::new(),
            events: Vec::new(),
            upto: state.next_event.saturating_sub(1),
        };
        let Some(from) = self.classes.iter().map(|class| class.next).min() else { return told };
        let events = state.events_from(from).expect("those behind the ring's beginning have ended");
        let mut numbers: BTreeMap<Vec<usize>, u32> = BTreeMap::new();
        let mut next = from;
        for event in events.take(EVENTS_MAX) {
            next = event.sequence + 1;
            if !visible(identity, event) {
                continue;
            }
            let wanting = self.classes.iter().enumerate();
            let wanting =
                wanting.filter(|(_, class)| class.next <= event.sequence && class.filter.has(event));
            let wanting: Vec<usize> = wanting.map(|(at, _)| at).collect();
            if wanting.is_empty() {
                continue;
            }
            let audience = match numbers.entry(wanting) {
                Entry::Occupied(number) => *number.get(),
                Entry::Vacant(new) => {
                    let number = u32::try_from(told.audiences.len()).expect("a frame has few events");
                    let classes = new.key().iter().map(|at| &self.classes[*at]);
                    told.audiences.push(classes.flat_map(|class| class.ids.iter().copied()).collect());
                    *new.insert(number)
                }
            };
            told.events.push((audience, event));
        }
        told.upto = next.saturating_sub(1);
        self.advance(next);
        told
    }

    /// Who has been told all before `next`; those that are alike now become one class.
    fn advance(&mut self, next: u64) {
        let is_apart = self.classes.iter().any(|class| class.next != self.classes[0].next);
        self.classes.iter_mut().for_each(|class| class.next = class.next.max(next));
        if !is_apart {
            return;
        }
        let mut alike: BTreeMap<(u64, Filter), Vec<u32>> = BTreeMap::new();
        for class in self.classes.drain(..) {
            alike.entry((class.next, class.filter)).or_default().extend(class.ids);
        }
        self.classes = alike.into_iter().map(|((next, filter), ids)| Class { filter, next, ids }).collect();
    }

    fn end_those_left_behind(&mut self, state: &State) {
        let oldest = oldest(state);
        let (kept, behind) = mem::take(&mut self.classes).into_iter().partition(|class| class.next >= oldest);
        self.classes = kept;
        let behind: Vec<Class> = behind;
        for class in behind {
            for id in class.ids {
                self.subscriptions.remove(&id);
                self.notes.push(Note::Ended { id, why: gap(state, class.next) });
            }
        }
    }
}

fn refused(problem: Problem) -> WatchEnd {
    WatchEnd::Refused(Failure::from(problem))
}

/// What is missing from `next` on.
fn gap(state: &State, next: u64) -> WatchEnd {
    let sequence = state.next_event.saturating_sub(1);
    WatchEnd::Gap { asked: next.saturating_sub(1), oldest: oldest(state), sequence }
}
