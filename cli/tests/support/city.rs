//! A city in this process: the real state and the real API over HTTPS and a unix socket, one node, and a
//! mind and hands that carry out at once what is asked. VMs whose name begins with `stuck` are placed
//! nowhere; with `broken`, they crash.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use async_trait::async_trait;
use axum::body::Bytes;
use ed25519_dalek::{Signer, SigningKey};
use futures::StreamExt;
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use scp_api::{
    cluster::{
        Agreement, ByteStream, Cluster, ClusterError, Consistency, Duplex, JoinHint, Snapshot, VmStats,
    },
    server::{Api, Options, PasswordCost, listen, password},
};
use scp_model::{
    Actor, Answer, CityId, Command, DepartmentId, Digest, FlavorId, ImageId, JoinTokenId, Name, NodeId,
    ProjectId, Proposal, PublicKey, Report, RequestId, Resources, Timestamp, UserId, VmId,
    command::{AdmitNode, BindVm, CreateFlavor, CreateUser, InitCity},
    explain::{Explanation, NodeVerdict, Obstacle},
    fact::ReportBatch,
    image::{ImageContent, ImageFormat},
    node::{Compute, NodeProfile},
    sandbox::Power,
    tenancy::{CityRole, ProjectRole},
    vm::{Vm, VmPhase},
};
use scp_state::{State, node_id_of};
use sha2::Digest as _;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::watch,
};

use super::Place;

pub const PASSWORD: &str = "correct horse battery staple";
const CHEAP: PasswordCost = PasswordCost { memory_kib: 8, passes: 1, lanes: 1 };

pub struct City {
    pub address: String,
    pub ca: String,
    pub cluster: Arc<TestCluster>,
}

impl City {
    /// Begins the city and serves it to the end of the process, on a free port and on the place's socket.
    pub fn begin(place: &Place) -> Self {
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let unix = std::os::unix::net::UnixListener::bind(place.socket()).unwrap();
        tcp.set_nonblocking(true).unwrap();
        unix.set_nonblocking(true).unwrap();
        let address = tcp.local_addr().unwrap();
        let (tls, ca) = certificates();
        let cluster = Arc::new(TestCluster::begin(address));
        let served = cluster.clone();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let options = Options { password_cost: CHEAP, ..Options::default() };
                let api = Api::new(served.clone(), options);
                let unix = tokio::net::UnixListener::from_std(unix).unwrap();
                tokio::spawn(listen::serve_unix(unix, api.router_local(), std::future::pending()));
                tokio::spawn(work(served));
                let tcp = tokio::net::TcpListener::from_std(tcp).unwrap();
                listen::serve_tls(tcp, tls, api.router(), std::future::pending()).await;
            });
        });
        Self { address: address.to_string(), ca, cluster }
    }
}

fn certificates() -> (Arc<rustls::ServerConfig>, String) {
    let ca_key = KeyPair::generate().unwrap();
    let mut ca = CertificateParams::new(Vec::<String>::new()).unwrap();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_pem = ca.self_signed(&ca_key).unwrap().pem();
    let issuer = Issuer::new(ca, ca_key);
    let key = KeyPair::generate().unwrap();
    let mut node = CertificateParams::new(vec!["node".to_owned()]).unwrap();
    node.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let certificate = node.signed_by(&key, &issuer).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::Pkcs8(key.serialize_der().into());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .unwrap();
    (Arc::new(tls), ca_pem)
}

pub struct TestCluster {
    key: SigningKey,
    node: NodeId,
    state: Mutex<State>,
    applied: watch::Sender<u64>,
    quorum: Mutex<bool>,
}

impl TestCluster {
    fn begin(api_address: std::net::SocketAddr) -> Self {
        let key = SigningKey::from_bytes(&[1; 32]);
        let public_key = PublicKey(key.verifying_key().to_bytes());
        let node = node_id_of(&public_key);
        let cluster = Self {
            key,
            node,
            state: Mutex::default(),
            applied: watch::Sender::new(0),
            quorum: Mutex::new(true),
        };
        let profile = NodeProfile {
            name: name("n1"),
            zone: name("rack-1"),
            country: "PT".parse().unwrap(),
            mesh_address: "10.0.0.1:7443".parse().unwrap(),
            api_address,
            software: "0.1.0".into(),
            protocol: scp_model::PROTOCOL,
            capacity: Resources { vcpus: 8, memory_mib: 16 << 10, disk_mib: 100 << 10 },
            reserved: Resources::default(),
            compute: Compute::Tcg,
        };
        let admit = AdmitNode {
            token: JoinTokenId::default(),
            secret_digest: Digest::default(),
            node,
            public_key,
            profile,
        };
        let project = ProjectId::from_u128(0xd);
        cluster.must(Command::InitCity(Box::new(InitCity {
            city: CityId::from_u128(1),
            name: name("lisboa"),
            country: "PT".parse().unwrap(),
            ca_certificate: "PEM".into(),
            ca_key_sealed: vec![1],
            node: admit,
            admin: user(1, "admin", &[CityRole::Admin], &[]),
            department: DepartmentId::from_u128(0xde),
            project,
            flavors: vec![CreateFlavor {
                id: FlavorId::from_u128(1),
                name: name("small"),
                resources: Resources { vcpus: 1, memory_mib: 512, disk_mib: 1024 },
            }],
        })));
        cluster.must(Command::CreateUser(user(2, "ana", &[], &[(project, ProjectRole::Member)])));
        cluster.must(Command::CreateUser(user(3, "rui", &[], &[(project, ProjectRole::Reader)])));
        cluster
    }

    /// Whether the voters reach each other.
    pub fn set_quorum(&self, there: bool) {
        *self.quorum.lock().unwrap_or_else(PoisonError::into_inner) = there;
    }

    fn has_quorum(&self) -> bool {
        *self.quorum.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn snapshot(&self) -> State {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn must(&self, command: Command) {
        self.apply_as(Actor::Local(self.node), command).result.unwrap();
    }

    fn apply_as(&self, actor: Actor, command: Command) -> Answer {
        let request = RequestId(uuid::Uuid::new_v4());
        self.apply(&Proposal { request, actor, time: self.now(), command })
    }

    fn apply(&self, proposal: &Proposal) -> Answer {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let index = state.index + 1;
        let answer = state.apply(index, proposal).answer;
        self.applied.send_replace(index);
        answer
    }

    /// The next thing that a scheduler or an agent would do about the state.
    fn due(&self, state: &State) -> Option<(Actor, Command)> {
        let report = |report| {
            let batch = ReportBatch { node: self.node, reports: vec![report] };
            Some((Actor::Node(self.node), Command::Report(batch)))
        };
        if let Some(eviction) = state.evictions.values().next() {
            return report(Report::VmGone { vm: eviction.vm, epoch: eviction.epoch });
        }
        let bind = |vm: &Vm| {
            let bind = BindVm { vm: vm.id, node: self.node, basis: vm.generation };
            (Actor::Leader(self.node), Command::BindVm(bind))
        };
        for vm in state.vms.values().filter(|vm| !vm.spec.name.as_str().starts_with("stuck")) {
            let Some(placement) = vm.placement else {
                if vm.status.phase == VmPhase::Pending {
                    return Some(bind(vm));
                } else {
                    continue;
                };
            };
            let broken = vm.spec.name.as_str().starts_with("broken");
            let phase = match vm.spec.power {
                Power::Running if broken => VmPhase::Crashed,
                Power::Running => VmPhase::Running,
                Power::Stopped => VmPhase::Stopped,
            };
            if vm.status.phase != phase || vm.status.observed_generation != vm.generation {
                return report(Report::Vm {
                    vm: vm.id,
                    epoch: placement.epoch,
                    observed_generation: vm.generation,
                    phase,
                    message: broken.then(|| "the guest's kernel panicked".into()),
                    failures: u32::from(broken),
                });
            }
        }
        None
    }
}

/// The mind and the hands of the city's only node.
async fn work(cluster: Arc<TestCluster>) {
    let mut applied = cluster.applied.subscribe();
    while applied.changed().await.is_ok() {
        while let Some((actor, command)) = cluster.due(&cluster.snapshot()) {
            cluster.apply_as(actor, command).result.unwrap();
        }
    }
}

fn user(id: u128, text: &str, city: &[CityRole], grants: &[(ProjectId, ProjectRole)]) -> CreateUser {
    CreateUser {
        id: UserId::from_u128(id),
        name: name(text),
        password_hash: password::hash(CHEAP, PASSWORD).unwrap(),
        city_roles: city.iter().copied().collect(),
        grants: grants.iter().copied().collect(),
    }
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

#[async_trait]
impl Cluster for TestCluster {
    fn node(&self) -> NodeId {
        self.node
    }

    fn now(&self) -> Timestamp {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        Timestamp(since.as_millis().try_into().unwrap())
    }

    async fn propose(&self, proposal: Proposal) -> Result<Answer, ClusterError> {
        match self.has_quorum() {
            true => Ok(self.apply(&proposal)),
            false => Err(ClusterError::NoQuorum { why: "2 of 3 voters are silent".into() }),
        }
    }

    async fn read(&self, consistency: Consistency) -> Result<Snapshot, ClusterError> {
        match (consistency, self.has_quorum()) {
            (Consistency::Linearizable, false) => {
                Err(ClusterError::NoQuorum { why: "2 of 3 voters are silent".into() })
            }
            (Consistency::Linearizable, true) => Ok(Snapshot { state: Arc::new(self.snapshot()), age_ms: 0 }),
            (Consistency::Stale, _) => Ok(Snapshot { state: Arc::new(self.snapshot()), age_ms: 7000 }),
        }
    }

    fn applied(&self) -> watch::Receiver<u64> {
        self.applied.subscribe()
    }

    fn agreement(&self) -> Agreement {
        let leader = self.has_quorum().then_some(self.node);
        let applied = *self.applied.borrow();
        Agreement { leader, term: 1, applied, voters: vec![self.node], learners: Vec::new() }
    }

    fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.key.sign(message).to_bytes()
    }

    async fn explain(&self, vm: VmId) -> Result<Explanation, ClusterError> {
        let obstacle = Some(Obstacle::Memory { needs: 512, free: 100, total: 1024 });
        Ok(Explanation {
            vm,
            summary: "it waits: no node is feasible".into(),
            nodes: vec![NodeVerdict { node: self.node, name: name("n1"), obstacle }],
            remedy: Some("scpctl node uncordon n1".into()),
        })
    }

    async fn take_image(&self, _: ImageId, mut body: ByteStream) -> Result<ImageContent, ClusterError> {
        let mut bytes = Vec::new();
        while let Some(chunk) = body.next().await {
            bytes.extend_from_slice(
                &chunk.map_err(|error| ClusterError::Internal { why: error.to_string() })?,
            );
        }
        if bytes.starts_with(b"lies") {
            let why = "the image has a backing file, which could be any file of the server".to_owned();
            return Err(ClusterError::BadContent { code: "backing_file", why });
        }
        let digest = Digest(sha2::Sha256::digest(&bytes).into());
        let size_bytes = bytes.len() as u64;
        let format = ImageFormat::Raw;
        Ok(ImageContent { format, size_bytes, virtual_size_bytes: size_bytes, digest, manifest: digest })
    }

    /// A guest that shouts back.
    async fn console(&self, _: VmId) -> Result<Box<dyn Duplex>, ClusterError> {
        let (ours, mut guest) = tokio::io::duplex(1024);
        tokio::spawn(async move {
            let _ = guest.write_all(b"login: ").await;
            let mut line = vec![0; 1024];
            while let Ok(count @ 1..) = guest.read(&mut line).await {
                let _ = guest.write_all(&line[..count].to_ascii_uppercase()).await;
            }
        });
        Ok(Box::new(ours))
    }

    async fn console_log(&self, _: VmId, _: u64) -> Result<Bytes, ClusterError> {
        Ok(Bytes::from_static(b"Linux version 6.1\r\nlogin: "))
    }

    async fn vm_stats(&self, _: VmId) -> Result<VmStats, ClusterError> {
        Ok(VmStats { cpu_time_ms: 12_000, memory_rss_kib: 2048, ..VmStats::default() })
    }

    fn join_hint(&self) -> JoinHint {
        JoinHint { ca_fingerprint: [7; 32], mesh_address: "10.0.0.1:7443".parse().unwrap() }
    }

    fn join_token_text(&self, id: JoinTokenId, secret: &[u8; 16]) -> String {
        format!("SCP-{id}-{}", uuid::Uuid::from_bytes(*secret))
    }
}
