//! What an operator may delete from a node that is down, and what not.

mod site;

use std::{fs, sync::Arc};

use bytes::Bytes;
use scp_api::cluster::{Cluster, Consistency};
use scp_drivers::{
    Drivers, Images,
    fake::{Engine, Fake},
    hypervisor::settled,
};
use scp_mesh::{Clock, IdentityDirectory, SystemClock};
use scp_model::{
    Command, Fact, ImageId, ProjectId, RequestId, Resources, VmId,
    command::{CreateImage, CreateVm, RemoveNode},
    image::{CHUNK_BYTES, ReplicaStatus, Visibility},
    node::Compute,
    sandbox::{Power, RestartPolicy},
    vm::VmSpec,
};
use scp_node::{
    chunks::{Engines, MeshChunks},
    config::{Config, Names},
    daemon::Daemon,
    server,
};
use site::{Site, department, door, eventually, id, name, propose, token};
use uuid::Uuid;

const IMAGE: ImageId = ImageId::from_u128(7);

/// Fake guests that outlive the daemon, and the real image store.
async fn engines(engine: &Engine, config: &Config) -> server::Server {
    let chunks = Arc::new(MeshChunks::default());
    let images = Images::open(config.data_dir.join("images"), chunks.clone()).await.expect("opens");
    let images = Arc::new(images);
    let hypervisor = Arc::new(Fake::new(engine, Arc::new(|| SystemClock.now())));
    let driver = Arc::new(Drivers::new(images.clone(), hypervisor.clone()));
    server::Server {
        engines: Engines { driver, hypervisor, images: images.clone() },
        images,
        chunks,
        compute: settled(Compute::Tcg),
        capacity: Resources { vcpus: 4, memory_mib: 4096, disk_mib: 64 << 10 },
    }
}

async fn start_on(server: server::Server, config: &Config) -> Daemon {
    let directory = IdentityDirectory::open(config.data_dir.join("identity")).expect("opens");
    Daemon::start_on(server, config.clone(), Arc::new(SystemClock), directory).await.expect("starts")
}

/// Takes in an image of two chunks and a half.
async fn take_image(door: &dyn Cluster, project: ProjectId) {
    let mut disk = vec![0; CHUNK_BYTES as usize * 5 / 2];
    for (number, sector) in disk.chunks_exact_mut(512).enumerate() {
        sector[..8].copy_from_slice(&(number as u64 + 1).to_le_bytes());
    }
    let body = Box::pin(futures::stream::iter([Ok(Bytes::from(disk))]));
    let content = door.take_image(IMAGE, body).await.expect("a disk");
    let create = CreateImage {
        id: IMAGE,
        project,
        name: name("image"),
        visibility: Visibility::Public,
        content,
        held_by: door.node(),
    };
    let answer = propose(door, RequestId(Uuid::new_v4()), Command::CreateImage(Box::new(create))).await;
    answer.result.expect("created");
}

async fn create_vm(door: &dyn Cluster, project: ProjectId, number: u8) -> VmId {
    let id = VmId::from_u128(u128::from(number));
    let spec = VmSpec {
        name: name(&format!("vm-{number}")),
        project,
        flavor: name("tiny"),
        resources: Resources { vcpus: 1, memory_mib: 64, disk_mib: 16 },
        image: IMAGE,
        ssh_keys: Vec::new(),
        user_data: Vec::new(),
        mac: [2, 0, 0, 0, 0, number],
        zone: None,
        anti_affinity: None,
        restart: RestartPolicy::Always,
        power: Power::Running,
        reboots: 0,
    };
    let create = Command::CreateVm(Box::new(CreateVm { id, spec }));
    propose(door, RequestId(Uuid::new_v4()), create).await.result.expect("created");
    id
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_sled_directory_is_deleted_comes_back_whole() {
    let site = Site::new();
    let first = &site.city(1).await[0];
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (config, engine) = (site.config(2, &dir), Engine::default());
    let daemon = start_on(engines(&engine, &config).await, &config).await;
    daemon.join(first.config.mesh_address, token(first).await, Names::default()).await.expect("joins");
    let node = daemon.node().expect("a key");
    let second = daemon.member().expect("a member").door.clone();
    let state = second.read(Consistency::Linearizable).await.expect("reads").state;
    let project = *state.projects.keys().next().expect("a city begins with a project");
    take_image(&*second, project).await;
    let vm = create_vm(&*second, project, 1).await;
    eventually("the VM runs", async || engine.running().contains_key(&vm)).await;
    let (before, index) = (engine.running(), config.data_dir.join("images/index"));

    drop(second);
    daemon.shutdown().await;
    drop(daemon);
    fs::remove_dir_all(&index).expect("the node kept records in it");
    let server = engines(&engine, &config).await;
    let (driver, images) = (server.engines.driver.clone(), server.images.clone());
    let daemon = start_on(server, &config).await;

    // Also a round of everything else that the agent does: it has seen what is here.
    let further = create_vm(&*door(first), project, 2).await;
    eventually("a further VM runs beside it", async || engine.running().contains_key(&further)).await;
    assert_eq!((engine.starts(vm), engine.running().get(&vm)), (1, before.get(&vm)), "it ran through");
    let facts = driver.observe().await.expect("observes");
    assert!(facts.contains(&Fact::ImageHeld { image: IMAGE }), "{facts:?}");
    let state = door(first).read(Consistency::Linearizable).await.expect("reads").state;
    assert_eq!(state.images[&IMAGE].replicas.get(&node), Some(&ReplicaStatus::Held));
    let scrub = images.scrub().await.expect("reads");
    assert_eq!((scrub.images_damaged.len(), scrub.chunks_damaged.len()), (0, 0));
    assert_eq!(scrub.chunks_checked, state.images[&IMAGE].content.chunk_count() + 1);
    assert!(index.exists(), "its records are made anew");
    daemon.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_whose_log_was_deleted_does_not_start_and_says_how_it_joins_anew() {
    let servers = Site::new().city(3).await;
    let (lost, config) = (id(&servers[2]), servers[2].config.clone());
    servers[2].daemon.shutdown().await;
    fs::remove_dir_all(config.data_dir.join("raft")).expect("the log was there");
    let mut why = String::new();
    // Once the daemon before has let go of its addresses.
    eventually("it is refused for want of its log", async || {
        why = format!("{:#}", Daemon::start(config.clone()).await.err().expect("refused"));
        why.contains("could vote twice")
    })
    .await;
    for told in ["scpctl node remove n3 --force", "rm -r ", "scpctl join ADDRESS TOKEN"] {
        assert!(why.contains(told), "{told} is not in: {why}");
    }

    // The commands do what was said.
    let remove = Command::RemoveNode(RemoveNode { node: lost, force: true });
    eventually("it is removed", async || {
        propose(&*door(&servers[0]), RequestId(Uuid::new_v4()), remove.clone()).await.result.is_ok()
    })
    .await;
    fs::remove_dir_all(&config.data_dir).expect("the data directory was there");
    let daemon = Daemon::start(config).await.expect("a server without a city");
    assert_ne!(daemon.node().expect("a key"), lost, "a new node");
    let address = servers[0].config.mesh_address;
    daemon.join(address, token(&servers[0]).await, Names::default()).await.expect("joins");
    let door = daemon.member().expect("a member").door.clone();
    let answer = propose(&*door, RequestId(Uuid::new_v4()), department(1)).await;
    assert_eq!(answer.result, Ok(()));
    daemon.shutdown().await;
}
