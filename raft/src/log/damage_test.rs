//! The damage suite of the log: rot, cut and torn tails, missing segments, and what only looks like damage.

use std::sync::Arc;

use rand::{Rng, SeedableRng, rngs::StdRng};

use super::{
    LogError,
    crash_test::{SEGMENT_BYTES, holds_a_prefix, open, position, run, workload},
    format::{ALIGN, HEAD_BYTES, SegmentHead, parse_seal},
    record::{Content, LogEntry, Record},
    recover::Recovered,
    writer::Writer,
};
use crate::{
    disk::{Disk, FileDisk},
    sim::{Loss, MemDisk},
};

#[test]
fn a_rotten_bit_in_synced_data_is_an_error_and_never_cut() {
    let requests = workload(5, 60);
    let disk = MemDisk::new();
    assert_eq!(run(&disk, &requests), requests.len());
    let before = open(&disk.fork(Loss::Nothing)).expect("opens");
    let names = disk.list().expect("lists");
    let segments: Vec<&String> = names.iter().filter(|name| name.starts_with("segment-")).collect();
    assert!(segments.len() > 1, "the workload crosses segments");
    let mut rng = StdRng::seed_from_u64(1);
    let mut found = 0;
    for name in &segments {
        let written = disk.bytes(name);
        let end = written.iter().rposition(|&byte| byte != 0).expect("it is not empty");
        for _ in 0..60 {
            let at = rng.random_range(0..=end) as u64;
            let rotten = disk.fork(Loss::Nothing);
            rotten.flip(name, at, rng.random_range(0..8));
            let bytes = rotten.bytes(name);
            match open(&rotten) {
                Err(LogError::Corrupt { file, .. }) => {
                    assert_eq!(&&file, name);
                    assert_eq!(rotten.bytes(name), bytes, "a damaged log is left as it is");
                    found += 1;
                }
                // Padding, or the seal itself: nothing that was written is concerned.
                Ok(recovered) => assert_eq!(recovered.entries, before.entries, "{name} byte {at}"),
                Err(LogError::Version { .. }) => assert!(at < 16, "only the head has a version"),
                Err(error @ LogError::Disk(_)) => panic!("{error}"),
            }
        }
    }
    assert!(found > 100, "most of a segment is records: {found}");
}

#[test]
fn damaged_tails_of_real_files_are_errors_unless_nothing_tells_them_from_torn_writes() {
    let requests = workload(21, 25);
    let mut rng = StdRng::seed_from_u64(2);
    let dir = tempfile::tempdir().expect("a directory is to be had");
    let open = || {
        let disk: Arc<dyn Disk> = Arc::new(FileDisk::open(dir.path()).expect("opens"));
        Writer::open(disk, SEGMENT_BYTES, None)
    };
    let (mut writer, _) = open().expect("an empty directory opens");
    requests.iter().for_each(|request| writer.commit(request).expect("the disk works"));
    writer.seal(true).expect("the disk works");
    drop(writer);
    let last = segments(dir.path()).pop().expect("there is one");
    let original = std::fs::read(&last).expect("reads");
    let end = original.iter().rposition(|&byte| byte != 0).expect("it is not empty") + 1;
    let answered = |recovered: &Recovered| holds_a_prefix(recovered, &requests, requests.len());
    for round in 0..90 {
        let mut bytes = original.clone();
        let at = rng.random_range(0..end);
        match round % 3 {
            0 => bytes[at..].fill(0),
            1 => bytes.truncate(at),
            _ => bytes[at] ^= 1 << rng.random_range(0..8),
        }
        std::fs::write(&last, &bytes).expect("writes");
        match open().map(|(_, recovered)| recovered) {
            // A disk that forgot synced writes to the end: a prefix, and no record invented.
            Ok(recovered) if round % 3 == 0 => {
                assert!((0..=requests.len()).any(|kept| holds_a_prefix(&recovered, &requests, kept)), "{at}");
            }
            // Padding or the seal was hit.
            Ok(recovered) => assert!(round % 3 == 2 && answered(&recovered), "round {round} byte {at}"),
            Err(LogError::Corrupt { .. } | LogError::Version { .. }) => {}
            Err(LogError::Disk(error)) => panic!("byte {at}: {error}"),
        }
        std::fs::write(&last, &original).expect("writes");
    }
    assert!(answered(&open().expect("the original opens").1));
}

/// It is not synced, and may lie across two sectors of which power loss leaves one.
#[test]
fn a_torn_seal_is_no_damage_though_segments_follow() {
    // Each a record that does not fit behind the last seal of a segment.
    let entry = |index| {
        Record::Entry(LogEntry { at: position(1, index), content: Content::Command(vec![7; 900].into()) })
    };
    let requests: Vec<_> = (0..40).map(|index| vec![entry(index)]).collect();
    let dir = tempfile::tempdir().expect("a directory is to be had");
    let open = || {
        let disk: Arc<dyn Disk> = Arc::new(FileDisk::open(dir.path()).expect("opens"));
        Writer::open(disk, SEGMENT_BYTES, None).map(|(writer, recovered)| (writer.next_group(), recovered))
    };
    let disk: Arc<dyn Disk> = Arc::new(FileDisk::open(dir.path()).expect("opens"));
    let (mut writer, _) = Writer::open(disk, SEGMENT_BYTES, None).expect("an empty directory opens");
    for request in &requests {
        writer.commit(request).expect("the disk works");
        writer.seal(false).expect("the disk works");
    }
    drop(writer);
    let sealed = open().expect("nothing happened to it");
    let mut all = segments(dir.path());
    all.pop().expect("there is one");
    assert!(!all.is_empty(), "nothing is tried without a segment that others follow");
    for path in all {
        let original = std::fs::read(&path).expect("reads");
        let salt = SegmentHead::decode(&original).expect("it begins like a segment").salt;
        let seals = (HEAD_BYTES..original.len()).step_by(ALIGN);
        let sealed_at = seals.into_iter().rfind(|&at| parse_seal(salt, &original[at..]).is_some());
        let seal = sealed_at.expect("it was sealed after its last group");
        for lost in [seal..seal + 8, seal + 8..seal + 16] {
            let mut bytes = original.clone();
            bytes[lost].fill(0);
            std::fs::write(&path, &bytes).expect("writes");
            assert_eq!(open().expect("no group is concerned"), sealed);
        }
        let mut bytes = original.clone();
        bytes[seal - 16] ^= 1;
        bytes[seal..].fill(0);
        std::fs::write(&path, &bytes).expect("writes");
        assert!(matches!(open(), Err(LogError::Corrupt { .. })), "the last group is damaged");
        std::fs::write(&path, &original).expect("writes");
    }
}

fn segments(dir: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut found: Vec<_> = std::fs::read_dir(dir)
        .expect("lists")
        .map(|entry| entry.expect("reads").path())
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("segment-")))
        .collect();
    found.sort();
    found
}

#[test]
fn a_missing_segment_is_an_error() {
    let disk = MemDisk::new();
    let mut requests = workload(5, 200);
    requests.retain(|request| matches!(request[..], [Record::Vote(_)]));
    let names = loop {
        requests.extend_from_within(..);
        assert_eq!(run(&disk, &requests), requests.len());
        let names = disk.list().expect("lists");
        if names.len() > 4 {
            break names;
        }
    };
    let segments: Vec<&String> = names.iter().filter(|name| name.starts_with("segment-")).collect();
    let missing = disk.fork(Loss::Nothing);
    missing.remove(segments[1]).expect("removes");
    assert!(matches!(open(&missing), Err(LogError::Corrupt { .. })));
}

#[test]
fn a_newer_format_is_named_and_not_touched() {
    let disk = MemDisk::new();
    run(&disk, &workload(5, 3));
    let name = disk.list().expect("lists").into_iter().find(|name| name.starts_with("segment-"));
    let name = name.expect("there is one");
    disk.open(&name).expect("opens").write_at(8, &9u16.to_le_bytes()).expect("writes");
    let error = open(&disk).err();
    assert_eq!(error, Some(LogError::Version { file: name, found: 9, supported: 1 }));
}
