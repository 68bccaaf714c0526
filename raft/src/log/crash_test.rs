//! The crash suite of the log: power loss after every operation, torn, lost and kept writes, full disks,
//! failing syncs. What was damaged is in `damage_test`.
//!
//! The oracle: what the log holds after a crash is what some prefix of the requests gives, and that
//! prefix holds at least every answered request.

use std::{collections::VecDeque, sync::Arc};

use proptest::prelude::*;
use rand::{Rng, SeedableRng, rngs::StdRng};
use scp_model::NodeId;

use super::{
    LogError,
    record::{Ballot, Base, Content, LogEntry, Position, Record},
    recover::Recovered,
    writer::Writer,
};
use crate::{
    disk::{Disk, DiskError, FileDisk},
    sim::{Loss, MemDisk},
};

/// Small, so that a short workload crosses segments.
pub(super) const SEGMENT_BYTES: u64 = 8 << 10;

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

pub(super) fn position(term: u64, index: u64) -> Position {
    Position { term, leader: NodeId(term), index }
}

/// Requests as a node of a living group makes them: votes, appends, truncations of the tail, purges.
pub(super) fn workload(seed: u64, length: usize) -> Vec<Vec<Record>> {
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
pub(super) fn run(disk: &MemDisk, requests: &[Vec<Record>]) -> usize {
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

pub(super) fn open(disk: &MemDisk) -> Result<Recovered, LogError> {
    Writer::open(Arc::new(disk.clone()), SEGMENT_BYTES, None).map(|(_, recovered)| recovered)
}

/// What is held may lack the last request or the last groups of one that took several, which was not
/// answered; so compare with every prefix in records.
pub(super) fn holds_a_prefix(recovered: &Recovered, requests: &[Vec<Record>], answered: usize) -> bool {
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
