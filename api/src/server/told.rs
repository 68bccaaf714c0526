//! What watchers are told, written once for all of them.
//!
//! One event is told to thousands; putting it into words and JSON takes some ten times as long as copying
//! them. So its frame is kept while watchers that follow closely still want it. Who is far behind has it
//! written anew.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard},
};

use bytes::BytesMut;
use scp_model::Event;
use scp_state::State;

use super::view;
use crate::v1::SSE_EVENT;

/// Frames kept, of some 400 bytes each: several batches of a watcher.
const FRAMES_MAX: usize = 2048;

/// The frames of the latest events, by their sequence number.
#[derive(Default)]
pub(crate) struct Told {
    frames: Mutex<BTreeMap<u64, Box<str>>>,
}

impl Told {
    /// Appends the frames of these events, in their order.
    pub(crate) fn append<'a>(
        &self,
        out: &mut BytesMut,
        state: &State,
        events: impl Iterator<Item = &'a Event>,
    ) {
        let mut frames = self.frames();
        for event in events {
            if let Some(frame) = frames.get(&event.sequence) {
                out.extend_from_slice(frame.as_bytes());
                continue;
            }
            let frame = frame(SSE_EVENT, event.sequence, &view::event(state, event));
            out.extend_from_slice(frame.as_bytes());
            let is_late = frames.first_key_value().is_some_and(|(oldest, _)| event.sequence < *oldest);
            if frames.len() == FRAMES_MAX {
                if is_late {
                    continue;
                }
                frames.pop_first();
            }
            frames.insert(event.sequence, frame.into());
        }
    }

    fn frames(&self) -> MutexGuard<'_, BTreeMap<u64, Box<str>>> {
        self.frames.lock().expect("nothing panics while it holds this lock")
    }
}

/// A server-sent event. JSON has no line breaks outside its texts, and in them they are escaped.
pub(crate) fn frame(name: &str, sequence: u64, data: &impl serde::Serialize) -> String {
    let data = serde_json::to_string(data).expect("events are plain data");
    format!("event: {name}\nid: {sequence}\ndata: {data}\n\n")
}

#[cfg(test)]
mod tests {
    use scp_model::{Actor, EventKind, NodeId, Subject, Timestamp};

    use super::*;

    fn event(sequence: u64) -> Event {
        Event {
            sequence,
            index: 1,
            time: Timestamp(1),
            actor: Actor::Local(NodeId(1)),
            subject: Subject::City,
            project: None,
            kind: EventKind::SettingsChanged,
        }
    }

    fn told(told: &Told, events: &[Event]) -> Vec<String> {
        let mut out = BytesMut::new();
        told.append(&mut out, &State::default(), events.iter());
        let text = String::from_utf8(out.to_vec()).expect("text");
        text.split_terminator("\n\n").map(str::to_owned).collect()
    }

    #[test]
    fn a_frame_is_the_same_when_it_is_told_again_and_the_kept_ones_are_bounded() {
        let events: Vec<Event> = (1..=2 * FRAMES_MAX as u64).map(event).collect();
        let kept = Told::default();
        let first = told(&kept, &events);
        assert_eq!(first.len(), events.len());
        assert!(first[0].starts_with("event: event\nid: 1\ndata: {"), "{}", first[0]);
        assert_eq!(told(&kept, &events), first);
        assert_eq!(kept.frames().len(), FRAMES_MAX);
        let newest: Vec<u64> = kept.frames().keys().copied().collect();
        assert_eq!(newest.last(), Some(&(2 * FRAMES_MAX as u64)), "who is late takes nobody's place");
    }
}
