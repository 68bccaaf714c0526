//! Full disks on real file systems: what the door answers, that nothing is left half-written, and that all
//! is well again once there is room.

mod site;
#[path = "../../drivers/tests/support/mod.rs"]
#[allow(dead_code, reason = "each test binary uses its part")]
mod support;

use std::{fs, path::Path, sync::Arc};

use bytes::Bytes;
use scp_api::cluster::{Cluster, ClusterError, Consistency};
use scp_mesh::SystemClock;
use scp_model::{Actor, Command, ImageId, KeypairId, ProjectId, Proposal, RequestId, command::CreateKeypair};
use site::{Server, Site, department, door, eventually, join, propose, voting};
use support::{in_server, run};
use tempfile::TempDir;
use uuid::Uuid;

/// A file system of its own, of so many MiB, at that directory.
fn small_disk(at: &Path, mib: u32) {
    fs::create_dir_all(at).expect("the directory is made");
    let at = at.to_str().expect("UTF-8");
    run("mount", &["-t", "tmpfs", "-o", &format!("size={mib}m"), "tmpfs", at]);
}

/// Takes all the room there is.
fn fill(dir: &Path) {
    let full = std::process::Command::new("dd")
        .args(["if=/dev/zero", "bs=64k"])
        .arg(format!("of={}", dir.join("filler").display()))
        .output();
    let said = full.expect("dd runs").stderr;
    assert!(String::from_utf8_lossy(&said).contains("No space left"), "the disk is full");
}

fn alone(test: &str, body: impl AsyncFnOnce()) {
    in_server(test, || {
        run("ip", &["link", "set", "lo", "up"]);
        tokio::runtime::Runtime::new().expect("a runtime starts").block_on(body());
    });
}

fn files_under(dir: &Path) -> usize {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    entries.map(|path| if path.is_dir() { files_under(&path) } else { 1 }).sum()
}

/// A raw disk that is nowhere the same.
fn disk(mib: u32) -> Bytes {
    (0..mib << 18).flat_map(|word| word.wrapping_mul(2_654_435_761).to_le_bytes()).collect()
}

async fn upload(door: &dyn Cluster, disk: Bytes) -> Result<(), ClusterError> {
    let body = futures::stream::iter([Ok(disk)]);
    door.take_image(ImageId(Uuid::new_v4()), Box::pin(body)).await.map(|_| ())
}

#[test]
fn an_upload_onto_a_full_disk_is_refused_as_that_and_leaves_nothing() {
    alone("an_upload_onto_a_full_disk_is_refused_as_that_and_leaves_nothing", async || {
        let (site, dir) = (Site::new(), TempDir::new().expect("a directory"));
        let images = site.config(1, &dir).data_dir.join("images");
        small_disk(&images, 20);
        let server = site.found(site.server_in(dir, 1, Arc::new(SystemClock)).await).await;
        let door = door(&server);
        let refused = upload(&*door, disk(32)).await;
        let Err(ClusterError::DiskFull { why }) = refused else {
            panic!("it was to be refused for space, and became {refused:?}");
        };
        assert!(why.contains("is full") && why.contains("nothing half-written was kept"), "{why}");
        eventually("nothing is left of it", async || {
            ["chunks", "tmp", "base", "held"].iter().all(|part| files_under(&images.join(part)) == 0)
        })
        .await;
        upload(&*door, disk(4)).await.expect("there is room for a smaller one");
    });
}

/// A write of 256 KiB that the law refuses: it is in the log all the same.
async fn chatter(door: &dyn Cluster) {
    let command = Command::CreateKeypair(CreateKeypair {
        id: KeypairId(Uuid::new_v4()),
        project: ProjectId(Uuid::nil()),
        name: site::name("k"),
        public_key: "k".repeat(256 << 10),
        fingerprint: String::new(),
    });
    propose(door, RequestId(Uuid::new_v4()), command).await.result.expect_err("that is no key");
}

async fn written(door: &dyn Cluster, number: u128) -> Result<(), ClusterError> {
    let (request, time) = (RequestId(Uuid::new_v4()), door.now());
    let proposal = Proposal { request, actor: Actor::Local(door.node()), time, command: department(number) };
    door.propose(proposal).await.map(|answer| answer.result.map(|_| ()).expect("a new department"))
}

/// Three servers, the last on a small disk of its own.
async fn city_with_a_small_disk(site: &Site) -> [Server; 3] {
    let dir = TempDir::new().expect("a directory");
    small_disk(&site.config(3, &dir).data_dir, 256);
    let first = site.found(site.server(1).await).await;
    let (second, small) = (site.server(2).await, site.server_in(dir, 3, Arc::new(SystemClock)).await);
    join(&second, &first).await;
    join(&small, &first).await;
    voting(&first, 3).await;
    [first, second, small]
}

#[test]
fn a_node_whose_disk_is_full_to_the_last_says_so_at_its_door_and_recovers() {
    alone("a_node_whose_disk_is_full_to_the_last_says_so_at_its_door_and_recovers", async || {
        let site = Site::new();
        let [first, second, small] = city_with_a_small_disk(&site).await;
        fill(&small.config.data_dir);
        let (open, full) = (door(&first), door(&small));
        let (mut number, mut acknowledged) = (0, vec![10_000, 10_001]);
        let why = loop {
            number += 1;
            assert!(number < 500, "the reserve of 16 MiB is used up by then");
            chatter(&*open).await;
            match written(&*full, number).await {
                Ok(()) => acknowledged.push(number),
                Err(ClusterError::ReadOnly { why }) => break why,
                Err(error) => panic!("{error}"),
            }
        };
        assert!(why.contains("space"), "{why}");
        written(&*door(&second), 10_000).await.expect("the others go on");
        full.read(Consistency::Stale).await.expect("what it has, it tells");
        fs::remove_file(small.config.data_dir.join("filler")).expect("it is there");
        eventually("it takes writes again", async || written(&*full, 10_001).await.is_ok()).await;
        let there = full.read(Consistency::Linearizable).await.expect("it reads").state;
        for number in acknowledged {
            let id = scp_model::DepartmentId::from_u128(number);
            assert!(there.departments.contains_key(&id), "department {number} was acknowledged");
        }
    });
}
