//! The crash suite of the log: power loss after every operation, torn, lost and kept writes, damaged
//! tails, rot, full disks, failing syncs.
//!
//! The oracle: what the log holds after a crash is what some prefix of the requests gives, and that
//! prefix holds at least every answered request.

use std::{collections::VecDeque, sync::Arc};

use proptest::prelude::*;
use rand::{Rng, SeedableRng, rngs::StdRng};
use scp_model::NodeId;

use super::{
    LogError,
    format::{ALIGN, HEAD_BYTES, SegmentHead, parse_seal},
    record::{Ballot, Base, Content, LogEntry, Position, Record},
    recover::Recovered,
    writer::Writer,
};
use crate::{
    disk::{Disk, DiskError, FileDisk},
    sim::{Loss, MemDisk},
};

/// Small, so that a short workload crosses segments.
const SEGMENT_BYTES: u64 = 8 << 10;

/// What the log ought to hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Model {
    base: Base,
    entries: VecDeque<LogEntry>,
}

impl Model {
    fn apply(&mut self, records: &[Record]) {
        for record in records {
            match record {
                Record::Vote(ballot) => self.base.vote = Some(*ballot),
                Record::Entry(entry) => self.entries.push_back(entry.clone()),
                Record::TruncateAfter(at) => {
                    self.entries.retain(|entry| at.is_some_and(|at| entry.at.index <= at.index));
                }
                Record::Purge(at) => {
                    self.entries.retain(|entry| entry.at.index > at.index);
                    self.base.purged = Some(*at);
                }
                Record::Committed(at) => self.base.committed = Some(*at),
            }
        }
    }

    fn last(&self) -> Option<u64> {
        self.entries.back().map(|entry| entry.at.index).or(self.base.purged.map(|at| at.index))
    }
}

fn position(term: u64, index: u64) -> Position {
    Position { term, leader: NodeId(term), index }
}

/// Requests as a node of a living group makes them: votes, appends, truncations of the tail, purges.
fn workload(seed: u64, length: usize) -> Vec<Vec<Record>> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut model = Model::default();
    let mut term = 1;
    let mut requests = Vec::new();
    while requests.len() < length {
        let purged = model.base.purged.map_or(0, |at| at.index);
        let last = model.last().unwrap_or(0);
        let request = match rng.random_range(0..12) {
            0 => {
                term += 1;
                let won = rng.random();
                vec![Record::Vote(Ballot { term, candidate: NodeId(term), won })]
            }
            1 if last > purged + 2 => {
                let keep = rng.random_range(purged + 1..last);
                let kept = model.entries.iter().find(|entry| entry.at.index == keep).expect("it is held");
                vec![Record::TruncateAfter(Some(kept.at))]
            }
            2 if last > purged + 4 => {
                let upto = rng.random_range(purged + 1..=last);
                let entry = model.entries.iter().find(|entry| entry.at.index == upto).expect("it is held");
                vec![Record::Purge(entry.at)]
            }
            // A snapshot from the leader, beyond all that is here.
            3 if rng.random_ratio(1, 4) => vec![Record::Purge(position(term, last + 7))],
            _ => append(&mut rng, &model, term),
        };
        model.apply(&request);
        requests.push(request);
    }
    requests
}

fn append(rng: &mut StdRng, model: &Model, term: u64) -> Vec<Record> {
    let first = model.last().map_or(0, |last| last + 1);
    let mut records = Vec::new();
    if let Some(entry) = model.entries.front().filter(|_| rng.random()) {
        records.push(Record::Committed(entry.at));
    }
    for index in first..first + rng.random_range(1..6) {
        let mut bytes = vec![0; rng.random_range(0..700)];
        rng.fill(&mut bytes[..]);
        let content = Content::Command(bytes.into());
        records.push(Record::Entry(LogEntry { at: position(term, index), content }));
    }
    records
}

/// Runs requests until one fails; returns how many were answered.
fn run(disk: &MemDisk, requests: &[Vec<Record>]) -> usize {
    let Ok((mut writer, _)) = Writer::open(Arc::new(disk.clone()), SEGMENT_BYTES, None) else { return 0 };
    for (answered, request) in requests.iter().enumerate() {
        let written = writer.replenish().and_then(|()| writer.commit(request));
        if written.is_err() {
            return answered;
        }
        // As the loop does when it is idle, which is not always.
        if answered % 3 != 0 && writer.seal(false).is_err() {
            return answered + 1;
        }
    }
    requests.len()
}

fn open(disk: &MemDisk) -> Result<Recovered, LogError> {
    Writer::open(Arc::new(disk.clone()), SEGMENT_BYTES, None).map(|(_, recovered)| recovered)
}

/// What is held may lack the last request or the last groups of one that took several, which was not
/// answered; so compare with every prefix in records.
fn holds_a_prefix(recovered: &Recovered, requests: &[Vec<Record>], answered: usize) -> bool {
    let mut model = Model::default();
    requests[..answered].iter().for_each(|request| model.apply(request));
    let mut candidates = vec![model.clone()];
    if let Some(next) = requests.get(answered) {
        for record in next {
            model.apply(std::slice::from_ref(record));
            candidates.push(model.clone());
        }
    }
    candidates.iter().any(|model| {
        let mut wanted = model.base;
        // A commit position is a hint: it may be forgotten with the entries that it points into.
        wanted.committed = recovered.base.committed;
        let committed_was_there =
            recovered.base.committed.is_none() || recovered.base.committed == model.base.committed;
        recovered.base == wanted && recovered.entries == model.entries && committed_was_there
    })
}

#[test]
fn nothing_answered_is_lost_whatever_operation_the_power_fails_at() {
    for seed in 0..3 {
        let requests = workload(seed, 60);
        let whole = MemDisk::new();
        assert_eq!(run(&whole, &requests), requests.len());
        for operation in 0..=whole.operations() {
            let disk = MemDisk::new();
            disk.crash_at(operation);
            let answered = run(&disk, &requests);
            let losses = [Loss::All, Loss::Nothing, Loss::Torn(operation), Loss::Torn(operation ^ 0x5bd1)];
            for loss in losses {
                let found = disk.crash(loss);
                let recovered = open(&found)
                    .unwrap_or_else(|error| panic!("seed {seed} operation {operation} {loss:?}: {error}"));
                assert!(
                    holds_a_prefix(&recovered, &requests, answered),
                    "seed {seed} operation {operation} {loss:?}: {answered} answered, found {recovered:?}"
                );
                goes_on(&found, &recovered);
            }
        }
    }
}

/// After a recovery the log takes writes, and loses none of them to the next crash.
fn goes_on(disk: &MemDisk, recovered: &Recovered) {
    let (mut writer, again) =
        Writer::open(Arc::new(disk.clone()), SEGMENT_BYTES, None).expect("it opened before");
    assert_eq!((&again.base, &again.entries), (&recovered.base, &recovered.entries));
    assert!(!again.cut, "the first opening cut all there was to cut");
    let mut model = Model { base: again.base, entries: again.entries };
    let index = model.last().map_or(0, |last| last + 1);
    let entry = LogEntry { at: position(99, index), content: Content::Blank };
    let more = [Record::Entry(entry), Record::Vote(Ballot { term: 99, candidate: NodeId(1), won: true })];
    writer.commit(&more).expect("the disk works");
    model.apply(&more);
    let last = open(&disk.crash(Loss::All)).expect("a synced log opens");
    assert_eq!((last.base, last.entries), (model.base, model.entries));
}

#[test]
fn a_crash_while_recovering_loses_nothing() {
    let requests = workload(7, 40);
    let disk = MemDisk::new();
    let whole = MemDisk::new();
    run(&whole, &requests);
    disk.crash_at(whole.operations() - 3);
    let answered = run(&disk, &requests);
    let torn = disk.crash(Loss::Torn(3));
    let rehearsal = torn.fork(Loss::Nothing);
    open(&rehearsal).expect("opens");
    for operation in 0..=rehearsal.operations() {
        for loss in [Loss::All, Loss::Nothing, Loss::Torn(operation)] {
            let disk = torn.fork(Loss::Nothing);
            disk.crash_at(operation);
            let _ = open(&disk);
            let recovered = open(&disk.crash(loss)).expect("opens the second time");
            assert!(holds_a_prefix(&recovered, &requests, answered), "operation {operation} {loss:?}");
        }
    }
}

#[test]
fn a_sync_that_failed_makes_its_group_void() {
    let requests = workload(11, 30);
    for failing in 1..requests.len() {
        let disk = MemDisk::new();
        let (mut writer, _) = Writer::open(Arc::new(disk.clone()), SEGMENT_BYTES, None).expect("opens");
        for request in &requests[..failing] {
            writer.replenish().and_then(|()| writer.commit(request)).expect("the disk works");
        }
        writer.replenish().expect("the disk works");
        disk.fail_syncs(1);
        let void_from = writer.next_group();
        assert!(writer.commit(&requests[failing]).is_err());
        let void_from = writer.next_group().max(void_from);
        drop(writer);
        // The bytes are still in the page cache, where a reader would take them for durable.
        let (_, recovered) =
            Writer::open(Arc::new(disk.clone()), SEGMENT_BYTES, Some(void_from)).expect("opens");
        assert!(holds_a_prefix(&recovered, &requests, failing), "request {failing}");
        let after_power_loss = open(&disk.crash(Loss::All)).expect("opens");
        assert_eq!(after_power_loss.entries, recovered.entries, "what was read was durable");
        assert_eq!(after_power_loss.base, recovered.base);
    }
}

#[test]
fn what_a_new_process_reads_is_durable_even_if_its_sync_failed_in_the_old_one() {
    let requests = workload(11, 30);
    let disk = MemDisk::new();
    assert_eq!(run(&disk, &requests[..29]), 29);
    let (mut writer, _) = Writer::open(Arc::new(disk.clone()), SEGMENT_BYTES, None).expect("opens");
    writer.replenish().expect("there is space");
    disk.fail_syncs(1);
    assert!(writer.commit(&[Record::Vote(Ballot { term: 77, candidate: NodeId(1), won: false })]).is_err());
    // The process dies and starts again; the page cache still has the group, and calls it clean.
    let again = disk.crash(Loss::Nothing);
    let read = open(&again).expect("opens");
    assert_eq!(read.base.vote.map(|vote| vote.term), Some(77));
    let after_power_loss = open(&again.crash(Loss::All)).expect("opens");
    assert_eq!(after_power_loss.base.vote, read.base.vote, "a vote that was read back was given");
}

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

#[test]
fn a_full_disk_leaves_a_segment_of_reserve_and_then_refuses() {
    let disk = MemDisk::new();
    let (mut writer, _) = Writer::open(Arc::new(disk.clone()), SEGMENT_BYTES, None).expect("opens");
    writer.replenish().expect("there is space");
    disk.set_capacity(Some(disk.used()));
    let entry = |index| {
        let content = Content::Command(vec![7; 500].into());
        [Record::Entry(LogEntry { at: position(1, index), content })]
    };
    let mut index = 0;
    // Into the spare: from here on there is no other.
    while writer.has_spare() {
        writer.commit(&entry(index)).expect("it fits");
        index += 1;
    }
    assert_eq!(writer.replenish(), Err(DiskError::Full));
    let reserve = writer.reserve();
    assert!(reserve > SEGMENT_BYTES / 4, "{reserve} bytes are left for votes and started writes");
    while writer.reserve() > 600 {
        writer.commit(&entry(index)).expect("the reserve takes it");
        index += 1;
    }
    assert_eq!(writer.commit(&entry(index)), Err(DiskError::Full));
    assert_eq!(writer.commit(&[Record::Vote(Ballot { term: 9, candidate: NodeId(1), won: false })]), Ok(()));
    disk.set_capacity(None);
    writer.replenish().expect("space came back");
    writer.commit(&entry(index)).expect("and writes go on");
    let recovered = open(&disk.crash(Loss::All)).expect("opens");
    assert_eq!(recovered.entries.len() as u64, index + 1);
    assert_eq!(recovered.base.vote.map(|vote| vote.term), Some(9));
}

#[test]
fn a_spare_made_aside_is_reported_used_and_waited_for() {
    let dir = tempfile::tempdir().expect("a directory is to be had");
    let disk: Arc<dyn Disk> = Arc::new(FileDisk::open(dir.path()).expect("opens"));
    let (mut writer, _) = Writer::open(disk.clone(), SEGMENT_BYTES, None).expect("opens");
    let (wake, woken) = std::sync::mpsc::channel();
    let aside = |writer: &mut Writer| {
        let wake = wake.clone();
        writer.replenish_aside(move || wake.send(()).expect("the test listens"))
    };
    aside(&mut writer).expect("a thread is to be had");
    woken.recv().expect("it ends");
    aside(&mut writer).expect("it was made");
    assert!(writer.has_spare());
    // From here on each segment is made while the one before fills up; a roll waits for it if it must.
    let mut written = 0;
    for index in 0..200 {
        let content = Content::Command(vec![7; 500].into());
        writer
            .commit(&[Record::Entry(LogEntry { at: position(1, index), content })])
            .expect("there is space");
        aside(&mut writer).expect("there is space");
        written += 1;
    }
    writer.settle();
    drop(writer);
    let (_, recovered) = Writer::open(disk, SEGMENT_BYTES, None).expect("opens");
    assert_eq!(recovered.entries.len(), written);
}

#[test]
fn purged_segments_give_their_space_back() {
    let disk = MemDisk::new();
    let (mut writer, _) = Writer::open(Arc::new(disk.clone()), SEGMENT_BYTES, None).expect("opens");
    let mut most = 0;
    for index in 0..400 {
        let content = Content::Command(vec![7; 500].into());
        writer
            .commit(&[Record::Entry(LogEntry { at: position(1, index), content })])
            .expect("there is space");
        if index % 20 == 19 {
            writer.commit(&[Record::Purge(position(1, index - 5))]).expect("there is space");
            most = most.max(disk.used());
        }
    }
    assert!(most <= 6 * SEGMENT_BYTES, "{most} bytes for some 25 entries");
    let recovered = open(&disk.crash(Loss::All)).expect("opens");
    assert_eq!(recovered.entries.front().map(|entry| entry.at.index), Some(395));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_workload_reads_back_as_written(seed: u64) {
        let requests = workload(seed, 40);
        let disk = MemDisk::new();
        prop_assert_eq!(run(&disk, &requests), requests.len());
        let recovered = open(&disk.crash(Loss::All)).expect("a synced log opens");
        prop_assert!(holds_a_prefix(&recovered, &requests, requests.len()));
    }

    #[test]
    fn arbitrary_bytes_behind_the_head_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..4000)) {
        let disk = MemDisk::new();
        run(&disk, &workload(1, 2));
        let names = disk.list().expect("lists");
        let name = names.iter().find(|name| name.starts_with("segment-")).expect("there is one");
        disk.open(name).expect("opens").write_at(4096, &bytes).expect("writes");
        let _ = open(&disk);
    }
}
