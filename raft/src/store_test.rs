//! openraft's own storage suite, on both disks; the disks' contract.

use std::{io, sync::Arc};

use openraft::{
    StorageError,
    testing::log::{StoreBuilder, Suite},
};

use scp_model::NodeId;

use crate::{
    Disk, FileDisk, Machine, MachineSnapshot, Network,
    applier::Applier,
    disk::suite,
    log::Log,
    network::Answerer,
    sim::{MemDisk, Switch},
    snapshot::Snapshots,
    types::Types,
    worker::Worker,
};

/// Remembers what it was told.
#[derive(Default, Clone)]
struct Lines(Vec<Vec<u8>>);

impl Machine for Lines {
    fn apply(&mut self, _index: u64, command: &[u8]) -> Vec<u8> {
        self.0.push(command.to_vec());
        command.to_vec()
    }

    fn snapshot(&self) -> Box<dyn MachineSnapshot> {
        Box::new(self.clone())
    }

    fn restore(&mut self, snapshot: &mut dyn io::Read) -> io::Result<()> {
        let mut bytes = Vec::new();
        snapshot.read_to_end(&mut bytes)?;
        self.0 = scp_codec::from_payload(&bytes).map_err(io::Error::other)?;
        Ok(())
    }
}

impl MachineSnapshot for Lines {
    fn write(&self, out: &mut dyn io::Write) -> io::Result<()> {
        out.write_all(&scp_codec::to_payload(&self.0).map_err(io::Error::other)?)
    }
}

fn store(disk: Arc<dyn Disk>) -> (Log, Applier) {
    let (log, _) = Log::open(disk.clone(), 64 << 10, None).expect("an empty disk opens");
    let worker = Worker::spawn(disk.place()).expect("threads are to be had");
    let snapshots = Snapshots::open(disk).expect("an empty disk opens");
    (log, Applier::new(Box::new(Lines::default()), snapshots, worker))
}

struct OnFiles;

impl StoreBuilder<Types, Log, Applier, tempfile::TempDir> for OnFiles {
    async fn build(&self) -> Result<(tempfile::TempDir, Log, Applier), StorageError<Types>> {
        let dir = tempfile::tempdir().expect("a directory is to be had");
        let disk = FileDisk::open(dir.path().join("raft")).expect("an empty directory opens");
        let (log, applier) = store(Arc::new(disk));
        Ok((dir, log, applier))
    }
}

struct InMemory;

impl StoreBuilder<Types, Log, Applier, ()> for InMemory {
    async fn build(&self) -> Result<((), Log, Applier), StorageError<Types>> {
        let (log, applier) = store(Arc::new(MemDisk::new()));
        Ok(((), log, applier))
    }
}

#[tokio::test]
async fn store_on_files_passes_openrafts_suite() {
    Suite::test_all(OnFiles).await.expect("every check holds");
}

#[tokio::test]
async fn store_in_memory_passes_openrafts_suite() {
    Suite::test_all(InMemory).await.expect("every check holds");
}

#[test]
fn files_pass_the_disk_suite() {
    let dir = tempfile::tempdir().expect("a directory is to be had");
    suite::check(&FileDisk::open(dir.path()).expect("opens"));
}

#[test]
fn the_simulated_disk_passes_the_disk_suite() {
    suite::check(&MemDisk::new());
}

#[test]
fn the_machine_of_these_tests_passes_the_machine_suite() {
    let commands: Vec<Vec<u8>> = (0..20u8).map(|number| vec![number; usize::from(number)]).collect();
    crate::machine::suite::check(|| Box::new(Lines::default()), &commands);
}

struct Switched(Switch);

impl crate::network::suite::Fixture for Switched {
    fn port(&self, node: NodeId) -> Arc<dyn Network> {
        self.0.port(node)
    }

    fn serve(&self, node: NodeId, answerer: Answerer) {
        self.0.plug_answerer(node, answerer);
    }
}

#[tokio::test(start_paused = true)]
async fn the_simulated_network_passes_the_network_suite() {
    crate::network::suite::check(&Switched(Switch::default())).await;
}

#[test]
fn a_directory_has_one_user() {
    let dir = tempfile::tempdir().expect("a directory is to be had");
    let first = FileDisk::open(dir.path()).expect("opens");
    assert!(FileDisk::open(dir.path()).is_err(), "a second user would write over the first");
    drop(first);
    FileDisk::open(dir.path()).expect("the first is gone");
}
