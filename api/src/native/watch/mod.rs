//! Watching over the native lane: many subscriptions on one stream.
//!
//! ```text
//!   program                                                 any node
//!     Hello{token, Watch}                               ▶   the signature is checked, once
//!                                                       ◀   Welcome, or why not; then it ends
//!     Orders[Subscribe{id, filter, after} …]            ▶   a linearizable read; each subscription's permission
//!                                                       ◀   Told: Ready{id, sequence}, or Ended{id, why}
//!                                                       ◀   Told: events, each once, and whom each is for
//!     Orders[End{id}]                                   ▶   it is told nothing more
//! ```
//! What is told is what HTTP's watch tells the same user, permitted by the same table at the moment it is
//! told. An event travels once a frame, however many subscriptions of the stream want it: beside it is the
//! number of its *audience*, a list of subscriptions that the frame names once.
//!
//! # Guarantees
//! - After [`Ready`](Note::Ready) every event with a higher number that the filter has and the user may see
//!   is told, once, in order. A subscription that misses one is told so, and ends.
//! - It is resumed, at any node, by what [`Subscription::position`] says.
//! - A node keeps no events for a reader: a stream has a place in the state's ring and one frame under way.
//!   Who reads slower than the ring moves on is told the gap ([`WatchEnd::Gap`]) and loses the subscription.
//!   A program that does not take its events loses the subscription that is behind, and no other
//!   ([`WatchEnd::FellBehind`]).
//! - A token that expires or is revoked ends the stream, by the next event or within [`STILL_HERE`].
//!
//! # Caveats
//! - It reads the local state: a node that lags tells later, never less.
//! - Subscriptions far behind hold up the others of their stream while they catch up, by a ring at most.

mod client;
mod session;

use scp_model::{Event, ProjectId, Subject};
use serde::{Deserialize, Serialize};

pub use self::client::{Subscription, WAITING_MAX, WatchClient};
pub(super) use self::session::{Watching, tell};
use super::Failure;
#[cfg(any(test, fuzzing))]
use super::{FRAME_BYTES_MAX, VERSION};
use crate::server::seen::SubjectKind;

/// Subscriptions of one stream.
pub const SUBSCRIPTIONS_MAX: usize = 1024;
/// Subscriptions of all streams of one node: what is kept of each is a number and its share of a filter.
pub const NODE_SUBSCRIPTIONS_MAX: usize = 64 << 10;
/// Orders of one frame: all the subscriptions of a stream begun, and as many ended.
const ORDERS_MAX: usize = 2 * SUBSCRIPTIONS_MAX;
/// Events of one frame: few enough that a frame of them, each with an audience of its own, has 1 MiB.
const EVENTS_MAX: usize = 256;
/// At least this often a quiet stream says how far it is, and the token is looked at.
pub const STILL_HERE: std::time::Duration = std::time::Duration::from_secs(15);

/// Which events a subscription is about: those that all its parts have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Filter {
    /// About this kind of thing.
    pub kind: Option<SubjectKind>,
    /// About this thing.
    pub subject: Option<Subject>,
    /// Of this project.
    pub project: Option<ProjectId>,
}

impl Filter {
    pub fn has(&self, event: &Event) -> bool {
        self.kind.is_none_or(|kind| kind == SubjectKind::of(&event.subject))
            && self.subject.is_none_or(|subject| subject == event.subject)
            && self.project.is_none_or(|project| event.project == Some(project))
    }
}

/// What a program asks of its stream. Numbers of subscriptions are the program's own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum Order {
    /// From after the event `after` on, or from now on.
    Subscribe { id: u32, filter: Filter, after: Option<u64> },
    /// Tell it nothing more. One that is not there has ended already.
    End { id: u32 },
}

/// Orders that travel together.
type Orders = Vec<Order>;

/// What a node says on a watch's stream. `E` is an event, or a reference to one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum FromNode<E> {
    Told(Told<E>),
    /// The last frame: why the stream ends, with all its subscriptions.
    Over(Failure),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Told<E> {
    notes: Vec<Note>,
    /// Lists of subscriptions.
    audiences: Vec<Vec<u32>>,
    /// In order, each with the number of its audience.
    events: Vec<(u32, E)>,
    /// Every subscription of the stream has been told what it is to be told up to here.
    upto: u64,
}

/// About one subscription, before the events of the same frame.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum Note {
    /// It is there, and is told everything with a higher sequence number.
    Ready {
        id: u32,
        sequence: u64,
    },
    Ended {
        id: u32,
        why: WatchEnd,
    },
}

/// Why a subscription tells no more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum WatchEnd {
    /// Events between `asked` and `oldest` are kept no longer: look again at what is watched, then watch
    /// from `sequence` on.
    #[error("events after {asked} are missing: the oldest that is kept is {oldest}")]
    Gap { asked: u64, oldest: u64, sequence: u64 },
    /// The program did not take its events: some are lost here. The node still has those after `position`,
    /// most likely: watch from there.
    #[error("the program did not take its events: watch again after {position}")]
    FellBehind { position: u64 },
    /// The city says no, or no longer yes.
    #[error("{0}")]
    Refused(Failure),
    /// The stream ended. Watch again at another node, from where this one was.
    #[error("the connection is gone: {why}")]
    Gone { why: String },
}

/// One frame of either side, for decoding what nobody wrote.
#[cfg(any(test, fuzzing))]
pub(super) fn read_any(bytes: &[u8]) {
    let _: Result<Orders, scp_codec::CodecError> = scp_codec::decode(VERSION, bytes, FRAME_BYTES_MAX);
    let said: Result<FromNode<Event>, scp_codec::CodecError> =
        scp_codec::decode(VERSION, bytes, FRAME_BYTES_MAX);
    if let Ok(said) = said {
        client::take_any(said);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use scp_model::{Actor, EventKind, NodeId, Timestamp};

    use super::*;

    fn event(sequence: u64) -> Event {
        let (time, actor) = (Timestamp(1), Actor::Local(NodeId(1)));
        let (subject, kind) = (Subject::City, EventKind::SettingsChanged);
        Event { sequence, index: 1, time, actor, subject, project: None, kind }
    }

    fn told() -> impl Strategy<Value = FromNode<Event>> {
        let note = prop_oneof![
            any::<(u32, u64)>().prop_map(|(id, sequence)| Note::Ready { id: id % 4, sequence }),
            any::<u32>().prop_map(|id| Note::Ended { id: id % 4, why: WatchEnd::Gone { why: "x".into() } }),
        ];
        let audience = proptest::collection::vec(0u32..4, 0..4);
        let told = (
            proptest::collection::vec(note, 0..4),
            proptest::collection::vec(audience, 0..4),
            proptest::collection::vec((0u32..5, any::<u64>().prop_map(event)), 0..8),
            any::<u64>(),
        );
        told.prop_map(|(notes, audiences, events, upto)| {
            FromNode::Told(Told { notes, audiences, events, upto })
        })
    }

    proptest! {
        #[test]
        fn no_bytes_make_a_reader_panic(bytes: Vec<u8>) {
            read_any(&bytes);
            read_any(&scp_codec::frame(VERSION, &bytes).expect("it is short"));
        }

        #[test]
        fn what_a_node_says_is_read_as_it_was_said_and_nothing_of_it_makes_a_program_panic(said in told()) {
            let bytes = scp_codec::encode(VERSION, &said).expect("it is small");
            let read: FromNode<Event> = scp_codec::decode(VERSION, &bytes, FRAME_BYTES_MAX).expect("it was said");
            prop_assert_eq!(&read, &said);
            client::take_any(said);
        }
    }

    #[test]
    fn the_largest_frame_is_within_its_bound() {
        let subscriptions = u32::try_from(SUBSCRIPTIONS_MAX).expect("it is small");
        let everybody: Vec<u32> = (u32::MAX - subscriptions..u32::MAX).collect();
        let ended =
            |id: &u32| Note::Ended { id: *id, why: WatchEnd::Gap { asked: 1, oldest: 2, sequence: 3 } };
        let said = FromNode::Told(Told {
            notes: everybody.iter().map(ended).collect(),
            audiences: vec![everybody.clone(); EVENTS_MAX],
            events: (0..EVENTS_MAX as u64).map(|at| (at as u32, event(u64::MAX - at))).collect(),
            upto: u64::MAX,
        });
        assert!(scp_codec::encode(VERSION, &said).expect("it encodes").len() < FRAME_BYTES_MAX / 4);
    }
}
