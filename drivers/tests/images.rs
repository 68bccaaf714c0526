//! Images: what is taken in, how they travel, and what survives. What is refused is listed in
//! `node/tests/bad_images.rs`.

mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use scp_drivers::{ChunkSource, Driver, DriverError, Images, images::TakeError};
use scp_model::{
    Digest, Fact, ImageId, NodeId, Op,
    image::{CHUNK_BYTES, ImageContent, ImageFormat},
    op::EnsureImage,
};

const IMAGE: ImageId = ImageId::from_u128(1);

/// How a node of the test answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Peer {
    Honest,
    /// Sends other bytes of the right length.
    Lying,
    /// Sends fewer bytes.
    Short,
    Silent,
    /// Answers so many requests, then no more.
    DiesAfter(usize),
}

/// Nodes that serve from one store.
struct Peers {
    store: Images,
    behave: Mutex<BTreeMap<NodeId, Peer>>,
    served: Mutex<Vec<(NodeId, Digest)>>,
    at_once: AtomicUsize,
    at_once_max: AtomicUsize,
}

impl Peers {
    async fn new(dir: &Path, behave: &[(u64, Peer)]) -> Arc<Self> {
        Arc::new(Self {
            store: Images::open(dir, Arc::new(Nobody)).await.expect("opens"),
            behave: Mutex::new(behave.iter().map(|(node, peer)| (NodeId(*node), *peer)).collect()),
            served: Mutex::default(),
            at_once: AtomicUsize::new(0),
            at_once_max: AtomicUsize::new(0),
        })
    }

    fn behave(&self, node: u64, peer: Peer) {
        self.behave.lock().expect("no one panics").insert(NodeId(node), peer);
    }

    fn served(&self) -> Vec<(NodeId, Digest)> {
        self.served.lock().expect("no one panics").clone()
    }
}

struct Nobody;

#[async_trait]
impl ChunkSource for Nobody {
    async fn fetch(&self, from: NodeId, _: Digest, _: u64) -> Result<Bytes, DriverError> {
        Err(DriverError::retryable("fetching", format!("{from} does not exist")))
    }
}

#[async_trait]
impl ChunkSource for Peers {
    async fn fetch(&self, from: NodeId, digest: Digest, bytes_max: u64) -> Result<Bytes, DriverError> {
        let now = self.at_once.fetch_add(1, Ordering::SeqCst) + 1;
        self.at_once_max.fetch_max(now, Ordering::SeqCst);
        // On the wire for a moment, so that fetches which may overlap do.
        tokio::time::sleep(Duration::from_millis(20)).await;
        self.at_once.fetch_sub(1, Ordering::SeqCst);
        let away = || Err(DriverError::retryable("fetching", "the node is away"));
        let peer = {
            let mut behave = self.behave.lock().expect("no one panics");
            let peer = behave.get(&from).copied();
            if let Some(Peer::DiesAfter(left @ 1..)) = behave.get_mut(&from) {
                *left -= 1;
            }
            peer
        };
        let bytes = self.store.read_chunk(digest, bytes_max).await?.expect("the store is whole");
        let answer = match peer {
            None | Some(Peer::Silent | Peer::DiesAfter(0)) => return away(),
            Some(Peer::Honest | Peer::DiesAfter(1..)) => bytes,
            Some(Peer::Lying) => Bytes::from(vec![0xee; bytes.len()]),
            Some(Peer::Short) => bytes.slice(..bytes.len() / 2),
        };
        self.served.lock().expect("no one panics").push((from, digest));
        Ok(answer)
    }
}

/// A disk of that many chunks, each different, and a last half one.
fn disk(chunks: u64) -> Vec<u8> {
    let bytes = chunks * CHUNK_BYTES + CHUNK_BYTES / 2;
    let mut disk = vec![0; usize::try_from(bytes).expect("a small disk")];
    // A number at the head of each sector: no two chunks are alike.
    for (at, sector) in disk.chunks_exact_mut(512).enumerate() {
        sector[..8].copy_from_slice(&(at as u64 + 1).to_le_bytes());
    }
    disk
}

async fn take(images: &Images, bytes: &[u8]) -> Result<ImageContent, TakeError> {
    // Pieces of an awkward size, as a network gives them.
    let pieces: Vec<_> = bytes.chunks(1_000_003).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
    images.take(IMAGE, futures::stream::iter(pieces)).await
}

fn ensure(content: &ImageContent, sources: &[u64]) -> Op {
    let sources = sources.iter().copied().map(NodeId).collect();
    Op::EnsureImage(EnsureImage { image: IMAGE, content: content.clone(), sources })
}

fn base(images: &Images, content: &ImageContent) -> PathBuf {
    images.bases().join(format!("{}.img", content.digest))
}

fn files_under(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).expect("is there") {
        let path = entry.expect("reads").path();
        if path.is_dir() { files.extend(files_under(&path)) } else { files.push(path) }
    }
    files
}

fn qemu_img(arguments: &[&str]) {
    support::run("qemu-img", arguments);
}

const HELD: Fact = Fact::ImageHeld { image: IMAGE };

#[tokio::test]
async fn a_raw_disk_is_taken_in_whole() {
    let dir = tempfile::tempdir().expect("a directory");
    let images = Images::open(dir.path(), Arc::new(Nobody)).await.expect("opens");
    let bytes = disk(2);
    let content = take(&images, &bytes).await.expect("a disk");
    assert_eq!((content.format, content.size_bytes), (ImageFormat::Raw, bytes.len() as u64));
    assert_eq!(content.virtual_size_bytes, content.size_bytes);
    assert_eq!(fs::read(base(&images, &content)).expect("is there"), bytes);
    let manifest = images.read_chunk(content.manifest, 1 << 20).await.expect("reads").expect("is there");
    assert_eq!(manifest.len() as u64, content.chunk_count() * 32);
    assert_eq!(images.observe().await, Ok(vec![HELD]));
    assert_eq!(take(&images, &bytes).await.expect("again"), content, "a retry is the same image");
    let other = take(&images, &disk(1)).await;
    assert!(matches!(other, Err(TakeError::BadContent { code: "image_id_taken", .. })), "{other:?}");
    assert!(images.read_chunk(content.manifest, 3).await.is_err(), "no more than was asked for is read");
}

#[tokio::test]
async fn a_qcow2_image_is_taken_in_by_its_bytes() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("named.iso");
    qemu_img(&["create", "-q", "-f", "qcow2", path.to_str().expect("UTF-8"), "1G"]);
    let images = Images::open(dir.path().join("store"), Arc::new(Nobody)).await.expect("opens");
    let content = take(&images, &fs::read(&path).expect("reads")).await.expect("an image");
    assert_eq!((content.format, content.virtual_size_bytes), (ImageFormat::Qcow2, 1 << 30));
}

#[tokio::test]
async fn nothing_of_a_broken_upload_is_left() {
    let dir = tempfile::tempdir().expect("a directory");
    let images = Images::open(dir.path(), Arc::new(Nobody)).await.expect("opens");
    let broken = [Ok(Bytes::from(disk(2))), Err(std::io::Error::other("the user went away"))];
    let taken = images.take(IMAGE, futures::stream::iter(broken)).await;
    assert!(matches!(taken, Err(TakeError::Broken(_))), "{taken:?}");
    // Collected on a blocking thread, which the next disk access may overtake.
    let gone = || files_under(&dir.path().join("chunks")).is_empty();
    support::until("the chunks are collected", gone);
    assert_eq!(images.observe().await, Ok(vec![]));
}

#[tokio::test]
async fn an_image_is_fetched_from_several_nodes_at_once() {
    let dir = tempfile::tempdir().expect("a directory");
    let peers = Peers::new(&dir.path().join("peers"), &[(1, Peer::Honest), (2, Peer::Honest)]).await;
    let content = take(&peers.store, &disk(5)).await.expect("a disk");
    let images = Images::open(dir.path().join("own"), peers.clone()).await.expect("opens");
    assert_eq!(images.carry_out(&ensure(&content, &[1, 2])).await, Ok(vec![HELD]));
    assert_eq!(fs::read(base(&images, &content)).expect("is there"), disk(5));
    let served = peers.served();
    let from: BTreeSet<_> = served.iter().map(|(node, _)| *node).collect();
    assert_eq!(from.len(), 2, "both were asked");
    assert_eq!(served.len() as u64, content.chunk_count() + 1, "nothing was fetched twice");
    let at_once = peers.at_once_max.load(Ordering::SeqCst);
    assert!((2..=8).contains(&at_once), "{at_once} at once");
    assert_eq!(
        images.carry_out(&ensure(&content, &[])).await,
        Ok(vec![HELD]),
        "what is held needs no source"
    );
    assert_eq!(images.observe().await, Ok(vec![HELD]));
}

#[tokio::test]
async fn what_does_not_match_its_digest_is_not_kept_whoever_sends_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let bad = [(1, Peer::Lying), (2, Peer::Short), (3, Peer::Silent)];
    let peers = Peers::new(&dir.path().join("peers"), &bad).await;
    let content = take(&peers.store, &disk(3)).await.expect("a disk");
    let images = Images::open(dir.path().join("own"), peers.clone()).await.expect("opens");
    let failed = images.carry_out(&ensure(&content, &[1, 2, 3])).await;
    assert!(
        matches!(&failed, Err(DriverError::Retryable { why, .. }) if why.contains("not to be had")),
        "{failed:?}"
    );
    assert_eq!(files_under(&images.dir().join("chunks")), Vec::<PathBuf>::new());
    assert_eq!(images.observe().await, Ok(vec![]));
    peers.behave(4, Peer::Honest);
    assert_eq!(images.carry_out(&ensure(&content, &[1, 2, 3, 4])).await, Ok(vec![HELD]));
    assert_eq!(fs::read(base(&images, &content)).expect("is there"), disk(3));
}

#[tokio::test]
async fn a_fetch_goes_on_where_it_stopped_also_after_a_restart() {
    let dir = tempfile::tempdir().expect("a directory");
    let peers = Peers::new(&dir.path().join("peers"), &[(1, Peer::DiesAfter(4))]).await;
    let content = take(&peers.store, &disk(5)).await.expect("a disk");
    let images = Images::open(dir.path().join("own"), peers.clone()).await.expect("opens");
    assert!(images.carry_out(&ensure(&content, &[1])).await.is_err());
    let progress = images.progress(IMAGE).expect("it was begun");
    assert_eq!(
        (progress.chunks_held, progress.chunks),
        (3, content.chunk_count()),
        "the fourth was the manifest"
    );
    assert_eq!(progress.bytes, content.size_bytes);
    // The last chunk, which is shorter, may be one of them.
    assert!((2 * CHUNK_BYTES + 1..=3 * CHUNK_BYTES).contains(&progress.bytes_held), "{progress:?}");
    drop(images);
    fs::write(dir.path().join("own/tmp/7"), b"half-written").expect("writes");
    let images = Images::open(dir.path().join("own"), peers.clone()).await.expect("opens again");
    assert_eq!(files_under(&dir.path().join("own/tmp")), Vec::<PathBuf>::new());
    peers.behave(1, Peer::Honest);
    assert_eq!(images.carry_out(&ensure(&content, &[1])).await, Ok(vec![HELD]));
    assert_eq!(peers.served().len() as u64, content.chunk_count() + 1, "nothing was fetched twice");
    assert_eq!(images.progress(IMAGE), None, "it is done");
}

#[tokio::test]
async fn a_chunk_that_rots_during_a_fetch_is_found_and_fetched_again() {
    let dir = tempfile::tempdir().expect("a directory");
    let peers = Peers::new(&dir.path().join("peers"), &[(1, Peer::DiesAfter(3))]).await;
    let content = take(&peers.store, &disk(3)).await.expect("a disk");
    let images = Images::open(dir.path().join("own"), peers.clone()).await.expect("opens");
    assert!(images.carry_out(&ensure(&content, &[1])).await.is_err());
    let whole = |path: &PathBuf| fs::metadata(path).expect("is there").len() == CHUNK_BYTES;
    let victim = files_under(&images.dir().join("chunks")).into_iter().find(whole).expect("one was kept");
    fs::write(&victim, vec![0xee; CHUNK_BYTES as usize]).expect("writes");
    peers.behave(1, Peer::Honest);
    let failed = images.carry_out(&ensure(&content, &[1])).await;
    assert!(
        matches!(&failed, Err(DriverError::Retryable { why, .. }) if why.contains("damaged")),
        "{failed:?}"
    );
    assert_eq!(images.carry_out(&ensure(&content, &[1])).await, Ok(vec![HELD]));
    assert_eq!(fs::read(base(&images, &content)).expect("is there"), disk(3));
}

#[tokio::test]
async fn a_node_whose_index_is_deleted_comes_back_whole() {
    let dir = tempfile::tempdir().expect("a directory");
    let images = Images::open(dir.path(), Arc::new(Nobody)).await.expect("opens");
    let content = take(&images, &disk(2)).await.expect("a disk");
    drop(images);
    fs::remove_dir_all(dir.path().join("index")).expect("it was there");
    let images = Images::open(dir.path(), Arc::new(Nobody)).await.expect("opens");
    assert_eq!(images.observe().await, Ok(vec![HELD]));
    assert_eq!(images.carry_out(&ensure(&content, &[])).await, Ok(vec![HELD]));
    assert_eq!(images.scrub().await.expect("reads").images_damaged, []);
    drop(images);
    // A damaged index is as good as none.
    for file in files_under(&dir.path().join("index")) {
        fs::write(file, b"nonsense").expect("writes");
    }
    let images = Images::open(dir.path(), Arc::new(Nobody)).await.expect("opens");
    assert_eq!(images.observe().await, Ok(vec![HELD]));
}

#[tokio::test]
async fn the_scrub_removes_what_rotted_and_the_next_order_mends_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let peers = Peers::new(&dir.path().join("peers"), &[(1, Peer::Honest)]).await;
    let content = take(&peers.store, &disk(4)).await.expect("a disk");
    let images = Images::open(dir.path().join("own"), peers.clone()).await.expect("opens");
    assert_eq!(images.carry_out(&ensure(&content, &[1])).await, Ok(vec![HELD]));
    let sound = images.scrub().await.expect("reads");
    assert_eq!((sound.chunks_checked, sound.chunks_damaged.len()), (content.chunk_count() + 1, 0));
    let victim = files_under(&images.dir().join("chunks"))
        .into_iter()
        .find(|path| fs::metadata(path).expect("is there").len() == CHUNK_BYTES);
    let victim = victim.expect("a whole chunk");
    let mut bytes = fs::read(&victim).expect("reads");
    bytes[17] ^= 1;
    fs::write(&victim, bytes).expect("writes");
    let before = peers.served().len();
    let report = images.scrub().await.expect("reads");
    assert_eq!((report.chunks_damaged.len(), report.images_damaged), (1, vec![IMAGE]));
    assert_eq!(images.observe().await, Ok(vec![]), "a damaged image is not reported as held");
    assert_eq!(images.carry_out(&ensure(&content, &[1])).await, Ok(vec![HELD]));
    assert_eq!(peers.served().len(), before + 1, "only what was missing was fetched");
    // A base file that rots is put together again from its chunks.
    let path = base(&images, &content);
    let mut bytes = fs::read(&path).expect("reads");
    bytes[99] ^= 1;
    fs::remove_file(&path).and_then(|()| fs::write(&path, bytes)).expect("writes");
    assert_eq!(images.scrub().await.expect("reads").images_damaged, [IMAGE]);
    assert_eq!(images.carry_out(&ensure(&content, &[])).await, Ok(vec![HELD]));
    assert_eq!(fs::read(&path).expect("is there"), disk(4));
}

#[tokio::test]
async fn removing_an_image_keeps_what_others_share() {
    let dir = tempfile::tempdir().expect("a directory");
    let images = Images::open(dir.path(), Arc::new(Nobody)).await.expect("opens");
    let content = take(&images, &disk(2)).await.expect("a disk");
    let other = ImageId::from_u128(2);
    let longer = [disk(2).as_slice(), &[1; 512]].concat();
    let first_chunk = &longer[..CHUNK_BYTES as usize];
    let shared = images.take(other, futures::stream::iter([Ok(Bytes::copy_from_slice(&longer))]));
    let shared = shared.await.expect("a disk");
    let gone = images.carry_out(&Op::RemoveImage { image: IMAGE }).await;
    assert_eq!(gone, Ok(vec![Fact::ImageGone { image: IMAGE }]));
    assert!(!base(&images, &content).exists());
    assert_eq!(images.read_chunk(content.manifest, 1 << 20).await, Ok(None));
    assert_eq!(images.observe().await, Ok(vec![Fact::ImageHeld { image: other }]));
    assert_eq!(&fs::read(base(&images, &shared)).expect("is there")[..first_chunk.len()], first_chunk);
    assert_eq!(images.scrub().await.expect("reads").images_damaged, []);
    images.carry_out(&Op::RemoveImage { image: other }).await.expect("is removed");
    assert_eq!(files_under(&images.dir().join("chunks")), Vec::<PathBuf>::new());
    images.carry_out(&Op::RemoveImage { image: other }).await.expect("twice is once");
}

#[test]
fn a_full_disk_is_a_clear_error_and_leaves_nothing_half_written() {
    support::in_server("a_full_disk_is_a_clear_error_and_leaves_nothing_half_written", || {
        let dir = tempfile::tempdir().expect("a directory");
        let mount =
            Command::new("mount").args(["-t", "tmpfs", "-o", "size=20m", "tmpfs"]).arg(dir.path()).status();
        assert!(mount.expect("mount runs").success());
        let runtime = tokio::runtime::Runtime::new().expect("a runtime starts");
        runtime.block_on(async {
            let images = Images::open(dir.path(), Arc::new(Nobody)).await.expect("opens");
            let taken = take(&images, &disk(8)).await;
            let Err(TakeError::Failed(DriverError::DiskFull { why, .. })) = taken else {
                panic!("it was to fail for space, and became {taken:?}");
            };
            assert!(why.contains("is full"), "{why}");
            let gone = || files_under(&dir.path().join("chunks")).is_empty();
            support::until("the chunks are collected", gone);
            assert_eq!(files_under(&dir.path().join("tmp")), Vec::<PathBuf>::new());
            take(&images, &disk(1)).await.expect("there is space for a smaller one");
        });
    });
}
