//! The state as bytes: frames of at most 1 MiB, table by table.
//!
//! ```text
//! snapshot:  frame, frame, …, last frame
//! frame:     scp-codec's frame, version 1; its payload is a sequence of  | length u32 | row |
//! rows:      Head, City, Node…, JoinToken…, …, Request…, Event…, and alone in the last frame: End
//! ```
//!
//! # Guarantees
//! - The same state gives the same bytes on every node of one release, so [`State::digest`] compares
//!   nodes. Nothing derived is in them; it is counted anew.
//! - Writing holds one frame in memory and no lock: it walks a pointer copy of the state.
//! - Reading takes what any peer sends without panic: each frame has its checksum and its bound, the
//!   end names the number of rows and the digest of all frames before it, and what was read passes
//!   [`crate::invariants::check`] before anyone sees it.
//!
//! # Caveats
//! - The order of a row's fields and of [`Row`]'s variants is the format. A release that changes a
//!   stored type raises [`VERSION`] and keeps the reader of the version before; golden files in
//!   `tests/golden/` hold it to that.

use std::borrow::Cow;

use scp_codec::CodecError;
use scp_model::{
    Answer, Digest, Event, ImageId, NodeId, RequestId, Timestamp,
    flavor::Flavor,
    image::{Image, ReplicaStatus},
    node::Node,
    tenancy::{City, Department, JoinToken, Keypair, Project, User},
    units::Overcommit,
    vm::{Eviction, Vm},
};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::{State, derived, invariants, limits::SNAPSHOT_FRAME_BYTES_MAX};

/// Version of the frames that are written. Version 1 is also read.
pub const VERSION: u16 = 1;

/// Why bytes are not a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    #[error("snapshot: {0}")]
    Frame(#[from] CodecError),
    #[error("snapshot: {0}")]
    Inconsistent(String),
}

fn inconsistent(why: impl Into<String>) -> SnapshotError {
    SnapshotError::Inconsistent(why.into())
}

/// A row's length.
const ENTRY_HEAD_BYTES: usize = size_of::<u32>();

/// One record: the state's own while it is written, so that writing copies nothing. New tables go before `End`'s
/// place in the stream and behind it in this list.
#[derive(Serialize, Deserialize)]
enum Row<'a> {
    Head(Head),
    City(Cow<'a, City>),
    Node(Cow<'a, Node>),
    JoinToken(Cow<'a, JoinToken>),
    Department(Cow<'a, Department>),
    Project(Cow<'a, Project>),
    User(Cow<'a, User>),
    Keypair(Cow<'a, Keypair>),
    Flavor(Cow<'a, Flavor>),
    /// Without its replicas: they are rows of their own, so that every row is small.
    Image(Cow<'a, Image>),
    ImageReplica(ImageId, NodeId, ReplicaStatus),
    Vm(Cow<'a, Vm>),
    Eviction(Cow<'a, Eviction>),
    Request(RequestId, Cow<'a, Answer>),
    Event(Cow<'a, Event>),
    End {
        /// Rows before this one.
        rows: u64,
        /// SHA-256 of all frames before this one.
        digest: Digest,
    },
}

/// What is there once.
#[derive(Serialize, Deserialize)]
struct Head {
    index: u64,
    time: Timestamp,
    audit_head: Digest,
    overcommit: Overcommit,
    next_event: u64,
}

/// A snapshot, frame by frame. Holds the state, not its bytes.
pub struct Frames<'a> {
    rows: Box<dyn Iterator<Item = Row<'a>> + 'a>,
    /// A row that no longer fitted the frame before.
    left_over: Vec<u8>,
    hash: Sha256,
    count: u64,
    digest: Option<Digest>,
}

impl Iterator for Frames<'_> {
    type Item = Vec<u8>;

    fn next(&mut self) -> Option<Vec<u8>> {
        if self.digest.is_some() {
            return None;
        }
        let mut payload = std::mem::take(&mut self.left_over);
        payload.reserve(SNAPSHOT_FRAME_BYTES_MAX);
        for row in self.rows.by_ref() {
            let before = payload.len();
            append_entry(&mut payload, &row);
            self.count += 1;
            if before > 0 && payload.len() > SNAPSHOT_FRAME_BYTES_MAX {
                self.left_over = payload.split_off(before);
                break;
            }
        }
        if payload.is_empty() {
            let digest = Digest(self.hash.finalize_reset().into());
            self.digest = Some(digest);
            return Some(framed(&entry(&Row::End { rows: self.count, digest })));
        }
        let frame = framed(&payload);
        self.hash.update(&frame);
        Some(frame)
    }
}

/// A row behind its length.
fn append_entry(payload: &mut Vec<u8>, row: &Row<'_>) {
    let begin = payload.len();
    payload.extend_from_slice(&[0; ENTRY_HEAD_BYTES]);
    scp_codec::append_payload(payload, row).expect("rows have no type that bincode refuses");
    let length = u32::try_from(payload.len() - begin - ENTRY_HEAD_BYTES);
    let length = length.expect("every row is bounded far below 4 GiB");
    payload[begin..begin + ENTRY_HEAD_BYTES].copy_from_slice(&length.to_le_bytes());
}

fn entry(row: &Row<'_>) -> Vec<u8> {
    let mut entry = Vec::new();
    append_entry(&mut entry, row);
    entry
}

fn framed(payload: &[u8]) -> Vec<u8> {
    scp_codec::frame(VERSION, payload).expect("a snapshot frame is below the codec's bound")
}

fn rows(state: &State) -> impl Iterator<Item = Row<'_>> {
    let State { index, time, audit_head, overcommit, next_event, .. } = *state;
    let head = Head { index, time, audit_head, overcommit, next_event };
    let images = state.images.iter().flat_map(|(&id, image)| {
        let replicas = image.replicas.iter();
        let replicas = replicas.map(move |(node, status)| Row::ImageReplica(id, *node, status.clone()));
        let alone = Image { replicas: Default::default(), ..image.clone() };
        std::iter::once(Row::Image(Cow::Owned(alone))).chain(replicas)
    });
    let requests = state.requests.order.iter().filter_map(|request| {
        let answer = state.requests.answers.get(request)?;
        Some(Row::Request(*request, Cow::Borrowed(answer)))
    });
    std::iter::once(Row::Head(head))
        .chain(state.city.iter().map(|city| Row::City(Cow::Borrowed(city))))
        .chain(state.nodes.values().map(|node| Row::Node(Cow::Borrowed(node))))
        .chain(state.join_tokens.values().map(|token| Row::JoinToken(Cow::Borrowed(token))))
        .chain(state.departments.values().map(|department| Row::Department(Cow::Borrowed(department))))
        .chain(state.projects.values().map(|project| Row::Project(Cow::Borrowed(project))))
        .chain(state.users.values().map(|user| Row::User(Cow::Borrowed(user))))
        .chain(state.keypairs.values().map(|keypair| Row::Keypair(Cow::Borrowed(keypair))))
        .chain(state.flavors.values().map(|flavor| Row::Flavor(Cow::Borrowed(flavor))))
        .chain(images)
        .chain(state.vms.values().map(|vm| Row::Vm(Cow::Borrowed(vm))))
        .chain(state.evictions.values().map(|eviction| Row::Eviction(Cow::Borrowed(eviction))))
        .chain(requests)
        .chain(state.events.iter().map(|event| Row::Event(Cow::Borrowed(event))))
}

/// A frame and the rows in it. To read them takes longer than to take them in, and needs nothing but the frame: it
/// may be done elsewhere, and ahead.
pub struct Part {
    frame: Vec<u8>,
    rows: Vec<Row<'static>>,
}

impl Part {
    /// Reads exactly one frame.
    pub fn read(frame: Vec<u8>) -> Result<Self, SnapshotError> {
        let (version, mut payload, rest) = scp_codec::unframe(&frame, SNAPSHOT_FRAME_BYTES_MAX)?;
        if version != VERSION {
            return Err(CodecError::Version { found: version, expected: VERSION }.into());
        }
        if !rest.is_empty() {
            return Err(CodecError::Trailing(rest.len()).into());
        }
        let mut rows = Vec::new();
        while !payload.is_empty() {
            let row;
            (row, payload) = split_entry(payload)?;
            rows.push(scp_codec::from_payload(row)?);
        }
        Ok(Self { frame, rows })
    }
}

/// Takes a snapshot in, frame by frame.
#[derive(Default)]
pub struct Restore {
    state: State,
    hash: Sha256,
    count: u64,
    ended: bool,
}

impl Restore {
    /// Takes the next frame. After an error the whole snapshot is to be thrown away.
    pub fn push(&mut self, part: Part) -> Result<(), SnapshotError> {
        part.rows.into_iter().try_for_each(|row| self.take(row))?;
        self.hash.update(&part.frame);
        Ok(())
    }

    /// The state, when every frame has been taken in.
    pub fn finish(self) -> Result<State, SnapshotError> {
        if !self.ended {
            return Err(inconsistent("its last frame is missing"));
        }
        let mut state = self.state;
        derived::rebuild(&mut state).map_err(inconsistent)?;
        invariants::check_recounted(&state).map_err(inconsistent)?;
        Ok(state)
    }

    fn take(&mut self, row: Row<'_>) -> Result<(), SnapshotError> {
        let first = self.count == 0;
        if self.ended || first != matches!(row, Row::Head(_)) {
            return Err(inconsistent("its rows are out of order"));
        }
        if let Row::End { rows, digest } = row {
            let found = Digest(self.hash.finalize_reset().into());
            if rows != self.count || digest != found {
                return Err(inconsistent("a frame is missing or out of order"));
            }
            self.ended = true;
            return Ok(());
        }
        self.count += 1;
        let new = insert(&mut self.state, row)?;
        if new { Ok(()) } else { Err(inconsistent("a record is there twice")) }
    }
}

fn split_entry(payload: &[u8]) -> Result<(&[u8], &[u8]), SnapshotError> {
    let cut = || inconsistent("a row is cut short");
    let (length, rest) = payload.split_first_chunk().ok_or_else(cut)?;
    let length = u32::from_le_bytes(*length) as usize;
    rest.split_at_checked(length).ok_or_else(cut)
}

/// Whether the row was new.
fn insert(state: &mut State, row: Row<'_>) -> Result<bool, SnapshotError> {
    let new = match row {
        Row::Head(Head { index, time, audit_head, overcommit, next_event }) => {
            *state = State { index, time, audit_head, overcommit, next_event, ..State::default() };
            true
        }
        Row::City(city) => state.city.replace(city.into_owned()).is_none(),
        Row::Node(node) => state.nodes.insert(node.id, node.into_owned()).is_none(),
        Row::JoinToken(token) => state.join_tokens.insert(token.id, token.into_owned()).is_none(),
        Row::Department(department) => {
            state.departments.insert(department.id, department.into_owned()).is_none()
        }
        Row::Project(project) => state.projects.insert(project.id, project.into_owned()).is_none(),
        Row::User(user) => state.users.insert(user.id, user.into_owned()).is_none(),
        Row::Keypair(keypair) => state.keypairs.insert(keypair.id, keypair.into_owned()).is_none(),
        Row::Flavor(flavor) => state.flavors.insert(flavor.id, flavor.into_owned()).is_none(),
        Row::Image(image) => state.images.insert(image.id, image.into_owned()).is_none(),
        Row::ImageReplica(id, node, status) => {
            let image = state.images.get_mut(&id);
            let image =
                image.ok_or_else(|| inconsistent(format!("a replica of image {id}, which is not there")))?;
            image.replicas.insert(node, status).is_none()
        }
        Row::Vm(vm) => state.vms.insert(vm.id, vm.into_owned()).is_none(),
        Row::Eviction(eviction) => {
            state.evictions.insert((eviction.node, eviction.vm), eviction.into_owned()).is_none()
        }
        Row::Request(request, answer) => {
            state.requests.order.push_back(request);
            state.requests.answers.insert(request, answer.into_owned()).is_none()
        }
        Row::Event(event) => {
            state.events.push_back(event.into_owned());
            true
        }
        Row::End { .. } => return Err(inconsistent("its end is not at its end")),
    };
    Ok(new)
}

impl State {
    /// The snapshot's frames, made one by one as they are asked for.
    pub fn frames(&self) -> Frames<'_> {
        let rows = Box::new(rows(self));
        Frames { rows, left_over: Vec::new(), hash: Sha256::new(), count: 0, digest: None }
    }

    /// The whole snapshot: its frames, one after the other.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.frames().flatten().collect()
    }

    /// Reads what [`State::to_bytes`] wrote.
    pub fn from_bytes(mut bytes: &[u8]) -> Result<Self, SnapshotError> {
        let mut restore = Restore::default();
        while !bytes.is_empty() {
            let (_, _, rest) = scp_codec::unframe(bytes, SNAPSHOT_FRAME_BYTES_MAX)?;
            let frame;
            (frame, bytes) = bytes.split_at(bytes.len() - rest.len());
            restore.push(Part::read(frame.to_vec())?)?;
        }
        restore.finish()
    }

    /// Identifies the state's whole contents: the same on every node at the same index.
    pub fn digest(&self) -> Digest {
        let mut frames = self.frames();
        frames.by_ref().for_each(drop);
        frames.digest.expect("the frames end with their digest")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Behind the row's length and its variant.
    const HEAD_INDEX_AT: usize = 5;

    /// Whole and well signed, and yet not what a state can be: from a peer that lies.
    fn with_byte(at: usize, byte: u8) -> Vec<u8> {
        let golden = include_bytes!("../tests/formats/snapshot-v1.bin");
        let (_, payload, _) =
            scp_codec::unframe(golden, SNAPSHOT_FRAME_BYTES_MAX).expect("the golden file is whole");
        let (mut rest, mut rows) = (payload, 0);
        while !rest.is_empty() {
            (_, rest) = split_entry(rest).expect("the golden file is whole");
            rows += 1;
        }
        let mut payload = payload.to_vec();
        let at = at % payload.len();
        payload[at] = byte;
        let body = framed(&payload);
        let digest = Digest(Sha256::digest(&body).into());
        [body, framed(&entry(&Row::End { rows, digest }))].concat()
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

        #[test]
        fn a_forged_snapshot_is_refused_or_keeps_the_invariants(at: usize, byte: u8) {
            if let Ok(state) = State::from_bytes(&with_byte(at, byte)) {
                prop_assert_eq!(invariants::check(&state), Ok(()));
            }
        }
    }

    #[test]
    fn one_that_is_forged_well_gets_through_so_the_property_is_not_about_checksums() {
        // The first byte of the head's index: 1 to 250 are the index itself.
        let at = (0..250u8).filter(|byte| State::from_bytes(&with_byte(HEAD_INDEX_AT, *byte)).is_ok());
        assert!(at.count() > 10);
    }
}
