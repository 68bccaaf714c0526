//! What earlier releases wrote must stay readable: one folder a format under `tests/golden`.
//! `REWRITE=1` writes the current format's anew; a released one is never rewritten.

use std::{collections::BTreeSet, path::PathBuf, sync::Arc};

use scp_model::NodeId;

use super::{
    record::{Ballot, Base, Content, LogEntry, Members, Position, Record},
    recover::Recovered,
    writer::Writer,
};
use crate::{
    Disk, FileDisk, MachineSnapshot,
    snapshot::Snapshots,
    types::{LogId, Membership, SnapshotMeta, StoredMembership},
};

const SEGMENT_BYTES: u64 = 8 << 10;

fn position(term: u64, index: u64) -> Position {
    Position { term, leader: NodeId(0xabcd), index }
}

fn members() -> Members {
    let voters = BTreeSet::from([NodeId(1), NodeId(2), NodeId(3)]);
    let all = voters.iter().copied().chain([NodeId(4)]).collect();
    Members { voters: vec![voters], all }
}

/// One of each kind.
fn records() -> Vec<Record> {
    let entry = |index, content| Record::Entry(LogEntry { at: position(2, index), content });
    vec![
        Record::Vote(Ballot { term: 2, candidate: NodeId(0xabcd), won: true }),
        entry(5, Content::Members(members())),
        entry(6, Content::Blank),
        entry(7, Content::Command(b"a command".to_vec().into())),
        entry(8, Content::Command(b"void".to_vec().into())),
        Record::TruncateAfter(Some(position(2, 7))),
        Record::Purge(position(2, 5)),
        Record::Committed(position(2, 6)),
    ]
}

fn expected() -> Recovered {
    let base = Base {
        vote: Some(Ballot { term: 2, candidate: NodeId(0xabcd), won: true }),
        purged: Some(position(2, 5)),
        committed: Some(position(2, 6)),
    };
    let entry = |index, content| LogEntry { at: position(2, index), content };
    let entries = [entry(6, Content::Blank), entry(7, Content::Command(b"a command".to_vec().into()))].into();
    Recovered { base, entries, cut: false }
}

struct Text(&'static [u8]);

impl MachineSnapshot for Text {
    fn write(&self, out: &mut dyn std::io::Write) -> std::io::Result<()> {
        out.write_all(self.0)
    }
}

fn meta() -> SnapshotMeta {
    let at = LogId::from(position(2, 5));
    let last_membership = StoredMembership::new(Some(at), Membership::from(members()));
    SnapshotMeta { last_log_id: Some(at), last_membership }
}

fn golden(format: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(format)
}

#[test]
fn files_of_format_1_are_read() {
    let dir = tempfile::tempdir().expect("a directory is to be had");
    if std::env::var_os("REWRITE").is_some() {
        write(&dir.path().join("new"));
        for name in ["segment-0000000000000001", "snapshot"] {
            std::fs::copy(dir.path().join("new").join(name), golden("v1").join(name)).expect("copies");
        }
    }
    for file in std::fs::read_dir(golden("v1")).expect("it is checked in") {
        let file = file.expect("reads");
        std::fs::copy(file.path(), dir.path().join(file.file_name())).expect("copies");
    }
    let disk: Arc<dyn Disk> = Arc::new(FileDisk::open(dir.path()).expect("opens"));
    let (_, recovered) = Writer::open(disk.clone(), SEGMENT_BYTES, None).expect("the format is known");
    assert_eq!(recovered, expected());
    let snapshot = Snapshots::open(disk).expect("the format is known").current().expect("there is one");
    assert_eq!(snapshot.meta, meta());
    let mut state = Vec::new();
    std::io::Read::read_to_end(&mut snapshot.state().expect("it was verified"), &mut state).expect("reads");
    assert_eq!(state, b"a state");
}

fn write(dir: &std::path::Path) {
    let disk: Arc<dyn Disk> = Arc::new(FileDisk::open(dir).expect("opens"));
    let (mut writer, _) = Writer::open(disk.clone(), SEGMENT_BYTES, None).expect("opens");
    records().chunks(3).for_each(|records| writer.commit(records).expect("there is space"));
    writer.seal(true).expect("there is space");
    Snapshots::open(disk).expect("opens").save(&meta(), &Text(b"a state")).expect("there is space");
}
