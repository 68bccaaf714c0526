//! Bytes that a release has written stay readable: `formats/*-v1.bin`. `REWRITE=1` writes them anew,
//! which is right only for as long as no release has been made with them.

use crate::support::{
    World,
    coverage::{COMMANDS, Seen},
};
use proptest::prelude::*;
use scp_model::Proposal;
use scp_state::{Frames, Part, Restore, SnapshotError, State, limits::SNAPSHOT_FRAME_BYTES_MAX};

/// Version of the log's entries.
const LOG_VERSION: u16 = 1;
const ENTRY_BYTES_MAX: usize = 1 << 20;

/// Made once for all cases of a property.
static STORY: std::sync::OnceLock<World> = std::sync::OnceLock::new();

fn world() -> World {
    let mut world = World::new();
    world.run(include_str!("../formats/story.txt"));
    world
}

/// The file of that name, or, with `REWRITE`, `bytes` after they were written there.
#[expect(clippy::disallowed_methods, reason = "the test's own files; the law itself reads none")]
fn golden(name: &str, bytes: &[u8]) -> Vec<u8> {
    let path = format!("{}/tests/formats/{name}", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("REWRITE").is_some() {
        std::fs::write(&path, bytes).expect("the golden file can be written");
    }
    std::fs::read(&path).expect("the golden file is there")
}

#[test]
fn a_snapshot_of_version_1_is_read() {
    let world = world();
    let bytes = golden("snapshot-v1.bin", &world.state.to_bytes());
    let state = State::from_bytes(&bytes).expect("a snapshot of version 1 is read");
    assert!(state == world.state);
    assert_eq!(state.to_bytes(), bytes);
    assert_eq!(state.digest(), world.state.digest());
}

#[test]
fn log_entries_of_version_1_are_read_and_give_the_same_state() {
    let world = world();
    let frames =
        world.log.iter().map(|entry| scp_codec::encode(LOG_VERSION, entry).expect("an entry encodes"));
    let bytes = golden("log-v1.bin", &frames.collect::<Vec<_>>().concat());
    let (mut rest, mut state, mut seen) = (bytes.as_slice(), State::default(), Seen::default());
    while !rest.is_empty() {
        let payload;
        (_, payload, rest) = scp_codec::unframe(rest, ENTRY_BYTES_MAX).expect("a whole frame");
        let (index, proposal) =
            scp_codec::from_payload::<(u64, Proposal)>(payload).expect("an entry is read");
        let applied = state.apply(index, &proposal);
        seen.note(&proposal.command, &applied.answer.result);
    }
    assert!(state == world.state);
    let missing: Vec<_> = COMMANDS.iter().filter(|name| !seen.commands.contains(*name)).collect();
    assert!(missing.is_empty(), "the log has no {missing:?}");
}

/// More than one frame can hold: 64 KiB of user data each.
fn large() -> &'static State {
    static LARGE: std::sync::OnceLock<World> = std::sync::OnceLock::new();
    let world = LARGE.get_or_init(|| {
        let mut world = World::unchecked();
        world.run("init\n create-image debian virtual=1");
        for at in 0..18 {
            world.run(&format!("create-vm vm{at} user-data=65536 size=1/32/1"));
        }
        world
    });
    &world.state
}

#[test]
fn a_large_snapshot_is_cut_into_small_frames_and_read_frame_by_frame() {
    let frames: Vec<Vec<u8>> = large().frames().collect();
    assert_eq!(frames.len(), 3, "head and VMs, more VMs, end");
    let longest = frames.iter().map(Vec::len).max().unwrap_or_default();
    assert!(longest <= SNAPSHOT_FRAME_BYTES_MAX + scp_codec::HEADER_BYTES, "{longest} bytes");
    let mut restore = Restore::default();
    for frame in &frames {
        restore.push(Part::read(frame.clone()).expect("a frame is read")).expect("a frame is taken in");
    }
    assert!(restore.finish().expect("the snapshot is whole") == *large());
}

#[test]
fn frames_that_are_missing_doubled_or_out_of_order_are_refused() {
    let frames: Vec<Vec<u8>> = large().frames().collect();
    let read = |order: &[usize]| {
        let bytes: Vec<u8> = order.iter().flat_map(|at| frames[*at].clone()).collect();
        State::from_bytes(&bytes)
    };
    assert!(read(&[0, 1, 2]).is_ok());
    for order in [&[0, 2][..], &[0, 1], &[1, 0, 2], &[0, 1, 1, 2], &[0, 1, 2, 2], &[1, 2], &[2], &[]] {
        assert!(matches!(read(order), Err(SnapshotError::Inconsistent(_))), "{order:?}");
    }
}

#[test]
fn an_empty_state_has_a_snapshot_too() {
    let state = State::default();
    assert!(State::from_bytes(&state.to_bytes()).expect("it is read") == state);
    assert_ne!(state.digest(), world().state.digest());
}

#[test]
fn taking_a_snapshot_does_not_disturb_the_state_and_sees_one_moment() {
    let mut world = world();
    let digest = world.state.digest();
    let frozen = world.state.clone();
    let mut frames: Frames<'_> = frozen.frames();
    let first = frames.next().expect("there is a frame");
    world.run("create-department later");
    let bytes: Vec<u8> = std::iter::once(first).chain(frames).flatten().collect();
    assert_eq!(State::from_bytes(&bytes).expect("it is read").digest(), digest);
    assert_ne!(world.state.digest(), digest);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn a_snapshot_that_is_cut_or_damaged_is_refused(at: prop::sample::Index, bit in 0u8..8) {
        let bytes = include_bytes!("../formats/snapshot-v1.bin");
        let at = at.index(bytes.len());
        prop_assert!(State::from_bytes(&bytes[..at]).is_err());
        let mut damaged = bytes.to_vec();
        damaged[at] ^= 1 << bit;
        prop_assert!(State::from_bytes(&damaged).is_err());
    }

    #[test]
    fn no_bytes_make_a_decoder_panic(bytes: Vec<u8>) {
        let _ = State::from_bytes(&bytes);
        let _ = scp_codec::from_payload::<Proposal>(&bytes);
        let _ = scp_codec::decode::<Proposal>(LOG_VERSION, &bytes, ENTRY_BYTES_MAX);
    }

    /// Damage that a checksum would find, behind the checksum: a peer that lies, or a fuzzer.
    #[test]
    fn a_damaged_proposal_is_an_error_or_another_proposal(
        entry: prop::sample::Index, at: prop::sample::Index, byte: u8, cut: bool,
    ) {
        let world = STORY.get_or_init(world);
        let (_, proposal) = entry.get(&world.log);
        let mut payload = scp_codec::to_payload(proposal).expect("a proposal encodes");
        prop_assert_eq!(&scp_codec::from_payload::<Proposal>(&payload).expect("it is read"), proposal);
        let at = at.index(payload.len());
        if cut {
            payload.truncate(at);
        } else {
            payload[at] = byte;
        }
        if let Ok(other) = scp_codec::from_payload::<Proposal>(&payload) {
            // Whatever it says, applying it is safe.
            let mut state = world.state.clone();
            state.apply(state.index + 1, &other);
            prop_assert_eq!(scp_state::invariants::check(&state), Ok(()));
        }
    }
}
