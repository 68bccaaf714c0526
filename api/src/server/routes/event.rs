//! Events: lists, and the watch.
//!
//! ```text
//! watch ─▶ ready{sequence}              everything with a higher number is seen
//!       ─▶ event{...} id: sequence      resume with Last-Event-ID
//!       ─▶ resync{oldest, sequence}     the ring has moved on: list again, the watch goes on
//! ```
//!
//! A watch ends when its token does. It reads the local state: a node that lags tells later, never less.

use std::{convert::Infallible, time::Duration};

use axum::{
    body::Body,
    http::{HeaderMap, HeaderValue, header},
    response::IntoResponse,
};
use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt, stream};
use scp_model::{Event, ProjectId};
use scp_state::State;
use tokio::{
    sync::{OwnedSemaphorePermit, watch},
    time::{Instant, timeout_at},
};

use crate::{
    cluster::{Consistency, Snapshot},
    server::{
        Code, Server,
        body::Params,
        call::{Answer, Call, Check, identify},
        invalid::Invalid,
        seen::{SubjectKind, is_kept, oldest, visible},
        token::Unverified,
        told::frame,
        view,
    },
    v1::{self, EventQuery, LIMIT_DEFAULT, LIMIT_MAX, Problem, Ready, Resync, SSE_READY, SSE_RESYNC},
};

/// Often enough for proxies, and for a client to notice that a node is gone.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Events taken from the ring at once.
const BATCH: usize = 256;

/// Which events somebody wants to see.
#[derive(Debug, Clone)]
struct Wanted {
    kind: Option<SubjectKind>,
    subject_id: Option<String>,
    project: Option<ProjectId>,
}

impl Wanted {
    fn new(call: &Call, query: &EventQuery) -> Result<Self, Problem> {
        let mut invalid = Invalid::default();
        let project = query.project.as_deref().and_then(|text| {
            let project = call.find_project(text).map_err(|problem| problem.detail);
            invalid.take("project", project).map(|project| project.id)
        });
        let kind = query.subject_kind.as_deref().map(SubjectKind::from_word);
        if kind == Some(None) {
            let words: Vec<_> = SubjectKind::ALL.iter().map(|kind| kind.word()).collect();
            invalid.add("subject_kind", format!("is one of {}", words.join(", ")));
        }
        invalid.finish()?;
        Ok(Self { kind: kind.flatten(), subject_id: query.subject_id.clone(), project })
    }

    fn has(&self, event: &Event) -> bool {
        self.kind.is_none_or(|kind| kind == SubjectKind::of(&event.subject))
            && self.project.is_none_or(|project| event.project == Some(project))
            && self.subject_id.as_deref().is_none_or(|id| id == event.subject.id())
    }
}

/// What happened, oldest first, as far as it is kept.
#[utoipa::path(get, path = "/v1/events", tag = "events", params(EventQuery),
    responses(
        (status = 200, body = v1::EventList),
        (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn list(call: Call, Params(query): Params<EventQuery>) -> Answer {
    let mut invalid = Invalid::default();
    let limit = invalid.number("limit", query.limit, (1, LIMIT_DEFAULT, LIMIT_MAX)) as usize;
    invalid.finish()?;
    let wanted = Wanted::new(&call, &query)?;
    let state = &call.state;
    let oldest = oldest(state);
    let from = query.after.map_or(0, |after| after.saturating_add(1)).max(oldest);
    let skip = usize::try_from(from - oldest).unwrap_or(usize::MAX);
    let keep = |event: &&Event| wanted.has(event) && visible(&call.identity, event);
    let list = if query.newest {
        let kept = state.events.iter().skip(skip).rev().filter(keep);
        let mut items: Vec<_> = kept.take(limit).map(|event| view::event(state, event)).collect();
        items.reverse();
        v1::EventList { items, after: state.next_event.saturating_sub(1), more: false, oldest }
    } else {
        let mut kept = state.events.iter().skip(skip).filter(keep);
        let items: Vec<_> = kept.by_ref().take(limit).map(|event| view::event(state, event)).collect();
        let more = kept.next().is_some();
        let last = items.last().map(|event| event.sequence);
        let after = if more { last.unwrap_or_default() } else { state.next_event.saturating_sub(1) };
        v1::EventList { items, after, more, oldest }
    };
    call.ok(&list)
}

/// Watch what happens: server-sent events `ready`, `event` and `resync`. Resumes after `Last-Event-ID`.
#[utoipa::path(get, path = "/v1/events/watch", tag = "events", params(EventQuery),
    responses(
        (status = 200, body = String, content_type = "text/event-stream"),
        (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn watch(call: Call, headers: HeaderMap, Params(query): Params<EventQuery>) -> Answer {
    let wanted = Wanted::new(&call, &query)?;
    let after = last_event_id(&headers)?.or(query.after);
    let place = call.server.shared.watches.clone().try_acquire_owned();
    let place = place.map_err(|_| {
        Problem::new(Code::Overloaded, "too many watches are open on this node").remedy("Ask another node.")
    })?;
    let applied = call.server.shared.cluster.applied();
    let next = after.map_or(call.state.next_event, |after| after.saturating_add(1));
    let start = Position::of(&call.state, next);
    let (server, token) = (call.server.clone(), call.token.clone());
    let silent_until = Instant::now() + KEEP_ALIVE;
    let watcher = Watcher { server, token, wanted, applied, next: start.next, silent_until, _place: place };
    let first = stream::iter([Ok(Bytes::from(start.frame))]);
    let frames = Body::from_stream(first.chain(watcher.frames()));
    let is_stream = (header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    Ok(call.stamp(([is_stream], frames).into_response()))
}

fn last_event_id(headers: &HeaderMap) -> Result<Option<u64>, Problem> {
    let Some(value) = headers.get("last-event-id") else { return Ok(None) };
    let number = value.to_str().ok().and_then(|text| text.parse().ok());
    number.map(Some).ok_or_else(|| Problem::invalid_field("Last-Event-ID", "is not a sequence number"))
}

/// Where a watch begins, and the frame that says so.
struct Position {
    next: u64,
    frame: String,
}

impl Position {
    fn of(state: &State, next: u64) -> Self {
        if is_kept(state, next) {
            let sequence = next.saturating_sub(1);
            return Self { next, frame: frame(SSE_READY, sequence, &Ready { sequence }) };
        }
        Self::resync(state, next)
    }

    fn resync(state: &State, next: u64) -> Self {
        let sequence = state.next_event.saturating_sub(1);
        let resync = Resync { asked: next.saturating_sub(1), oldest: oldest(state), sequence };
        Self { next: state.next_event, frame: frame(SSE_RESYNC, sequence, &resync) }
    }
}

struct Watcher {
    server: Server,
    token: Option<Unverified>,
    wanted: Wanted,
    applied: watch::Receiver<u64>,
    next: u64,
    /// By then something is said, if only that we are here.
    silent_until: Instant,
    _place: OwnedSemaphorePermit,
}

impl Watcher {
    /// What is sent, piece by piece.
    fn frames(self) -> impl Stream<Item = Result<Bytes, Infallible>> + Send {
        stream::unfold(self, async |mut watcher| Some((Ok(watcher.batch().await?), watcher)))
    }

    /// The next frames; none when the watch ends: the token does, or the node.
    async fn batch(&mut self) -> Option<Bytes> {
        loop {
            self.applied.borrow_and_update();
            let shared = &self.server.shared;
            let Snapshot { state, .. } = shared.cluster.read(Consistency::Stale).await.ok()?;
            let identity = identify(&self.token, &state, &self.server, Check::Again).ok()?;
            let Ok(events) = state.events_from(self.next) else {
                let resync = Position::resync(&state, self.next);
                self.next = resync.next;
                return Some(self.said(resync.frame.into()));
            };
            let mut seen = 0;
            let mut next = self.next;
            let told = events.take(BATCH).inspect(|event| (seen, next) = (seen + 1, event.sequence + 1));
            let told = told.filter(|event| self.wanted.has(event) && visible(&identity, event));
            let mut frames = BytesMut::new();
            shared.told.append(&mut frames, &state, told);
            self.next = next;
            if !frames.is_empty() {
                return Some(self.said(frames.freeze()));
            }
            if seen == BATCH {
                continue;
            }
            match timeout_at(self.silent_until, self.applied.changed()).await {
                Ok(changed) => changed.ok()?,
                // A comment: nothing happened, and we are here.
                Err(_) => return Some(self.said(Bytes::from_static(b":\n\n"))),
            }
        }
    }

    fn said(&mut self, frames: Bytes) -> Bytes {
        self.silent_until = Instant::now() + KEEP_ALIVE;
        frames
    }
}
