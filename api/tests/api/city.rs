//! A city for tests: one state, applied at once, and knobs for what can go wrong.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use axum::{Router, body::Bytes, http::Method};
use ed25519_dalek::{Signer, SigningKey};
use futures::StreamExt;
use scp_api::{
    cluster::{
        Agreement, ByteStream, Cluster, ClusterError, Consistency, Duplex, JoinHint, Snapshot, VmStats,
    },
    server::{Api, Options, PasswordCost, password},
};
use scp_model::{
    Actor, Answer, CityId, Command, Country, DepartmentId, Digest, FlavorId, ImageId, JoinTokenId, Name,
    NodeId, ProjectId, Proposal, PublicKey, RequestId, Resources, Timestamp, UserId, VmId,
    command::{AdmitNode, BindVm, CreateFlavor, CreateJoinToken, CreateProject, CreateUser, InitCity},
    explain::{Explanation, NodeVerdict, Obstacle},
    image::{ImageContent, ImageFormat},
    node::{Compute, NodeProfile},
    tenancy::{CityRole, ProjectRole, Quota},
};
use scp_state::{State, node_id_of};
use serde_json::Value;
use sha2::Digest as _;
use tokio::{io::AsyncReadExt, io::AsyncWriteExt, sync::watch};
use uuid::Uuid;

use crate::ask::{Ask, Reply};

pub const CHEAP: PasswordCost = PasswordCost { memory_kib: 8, passes: 1, lanes: 1 };
pub const PASSWORD: &str = "correct horse battery staple";
pub const DEFAULT: ProjectId = ProjectId::from_u128(0xd);
pub const OTHER: ProjectId = ProjectId::from_u128(0xe);
pub const DEPARTMENT: DepartmentId = DepartmentId::from_u128(0xde);
/// 2026-01-01.
pub const BEGINNING: u64 = 1_767_225_600_000;

/// What goes wrong at the next call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    NoQuorum,
    ReadOnly,
    Overloaded,
    /// The command is applied, and the answer is lost.
    AnswerLost,
    Panic,
    /// Never answers.
    Hang,
    /// The command is applied, and no answer ever comes.
    AppliedAndHang,
}

pub struct TestCluster {
    key: SigningKey,
    node: NodeId,
    pub state: Mutex<State>,
    applied: watch::Sender<u64>,
    pub now: AtomicU64,
    fault: Mutex<Option<Fault>>,
    pub proposals: AtomicU64,
    pub images: Mutex<BTreeMap<ImageId, Bytes>>,
    pub quorum: Mutex<bool>,
    voters: Mutex<Vec<NodeId>>,
}

impl TestCluster {
    fn new(seed: u8) -> Self {
        let key = SigningKey::from_bytes(&[seed; 32]);
        let node = node_id_of(&PublicKey(key.verifying_key().to_bytes()));
        Self {
            key,
            node,
            state: Mutex::default(),
            applied: watch::Sender::new(0),
            now: AtomicU64::new(BEGINNING),
            fault: Mutex::new(None),
            proposals: AtomicU64::new(0),
            images: Mutex::default(),
            quorum: Mutex::new(true),
            voters: Mutex::new(vec![node]),
        }
    }

    pub fn fail_next(&self, fault: Fault) {
        *self.fault.lock().expect("no panic") = Some(fault);
    }

    pub fn set_voters(&self, voters: Vec<NodeId>) {
        *self.voters.lock().expect("no panic") = voters;
    }

    pub fn set_quorum(&self, there: bool) {
        *self.quorum.lock().expect("no panic") = there;
    }

    /// Applies a command as somebody, whatever the API thinks of it.
    pub fn apply_as(&self, actor: Actor, command: Command) -> Answer {
        let time = self.now();
        self.apply(Proposal { request: RequestId(Uuid::new_v4()), actor, time, command })
    }

    fn apply(&self, proposal: Proposal) -> Answer {
        let mut state = self.state.lock().expect("no panic");
        let index = state.index + 1;
        let answer = state.apply(index, &proposal).answer;
        self.applied.send_replace(index);
        answer
    }

    pub fn must(&self, command: Command) {
        let answer = self.apply_as(Actor::Local(self.node), command);
        answer.result.expect("the test's own command is accepted");
    }

    pub fn advance_ms(&self, ms: u64) {
        self.now.fetch_add(ms, Ordering::Relaxed);
    }

    pub fn snapshot(&self) -> State {
        self.state.lock().expect("no panic").clone()
    }
}

#[async_trait]
impl Cluster for TestCluster {
    fn node(&self) -> NodeId {
        self.node
    }

    fn now(&self) -> Timestamp {
        Timestamp(self.now.load(Ordering::Relaxed))
    }

    async fn propose(&self, proposal: Proposal) -> Result<Answer, ClusterError> {
        self.proposals.fetch_add(1, Ordering::Relaxed);
        let fault = self.fault.lock().expect("no panic").take();
        let why = || "the test wants it".to_owned();
        match fault {
            None => Ok(self.apply(proposal)),
            Some(Fault::AnswerLost) => {
                self.apply(proposal);
                Err(ClusterError::NoQuorum { why: why() })
            }
            Some(Fault::NoQuorum) => Err(ClusterError::NoQuorum { why: why() }),
            Some(Fault::ReadOnly) => Err(ClusterError::ReadOnly { why: why() }),
            Some(Fault::Overloaded) => Err(ClusterError::Overloaded),
            Some(Fault::Panic) => panic!("the test wants it"),
            Some(Fault::Hang) => std::future::pending().await,
            Some(Fault::AppliedAndHang) => {
                self.apply(proposal);
                std::future::pending().await
            }
        }
    }

    async fn read(&self, consistency: Consistency) -> Result<Snapshot, ClusterError> {
        let quorum = *self.quorum.lock().expect("no panic");
        let age_ms = match (consistency, quorum) {
            (Consistency::Linearizable, false) => {
                return Err(ClusterError::NoQuorum { why: "the test wants it".into() });
            }
            (Consistency::Linearizable, true) => 0,
            (Consistency::Stale, true) => 7,
            (Consistency::Stale, false) => 7000,
        };
        Ok(Snapshot { state: Arc::new(self.snapshot()), age_ms })
    }

    fn applied(&self) -> watch::Receiver<u64> {
        self.applied.subscribe()
    }

    fn agreement(&self) -> Agreement {
        let quorum = *self.quorum.lock().expect("no panic");
        let applied = *self.applied.borrow();
        let leader = quorum.then_some(self.node);
        let voters = self.voters.lock().expect("no panic").clone();
        Agreement { leader, term: 3, applied, voters, learners: Vec::new() }
    }

    fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.key.sign(message).to_bytes()
    }

    async fn explain(&self, vm: VmId) -> Result<Explanation, ClusterError> {
        let group = name("secret-group");
        let obstacle = Some(Obstacle::AntiAffinity { group, vm: name("secret-vm") });
        let nodes = vec![NodeVerdict { node: self.node, name: name("n1"), obstacle }];
        Ok(Explanation { vm, summary: "waits".into(), nodes, remedy: Some("add a node".into()) })
    }

    async fn take_image(&self, image: ImageId, mut body: ByteStream) -> Result<ImageContent, ClusterError> {
        let mut bytes = Vec::new();
        while let Some(chunk) = body.next().await {
            let broken = |error: std::io::Error| ClusterError::BadContent {
                code: "broken_off",
                why: error.to_string(),
            };
            bytes.extend_from_slice(&chunk.map_err(broken)?);
        }
        if bytes.starts_with(b"lies") {
            let why = "has a backing file, which could be any file of the server".to_owned();
            return Err(ClusterError::BadContent { code: "backing_file", why });
        }
        let digest = Digest(sha2::Sha256::digest(&bytes).into());
        let size_bytes = bytes.len() as u64;
        self.images.lock().expect("no panic").insert(image, bytes.into());
        let format = ImageFormat::Raw;
        Ok(ImageContent { format, size_bytes, virtual_size_bytes: size_bytes, digest, manifest: digest })
    }

    async fn console(&self, _: VmId) -> Result<Box<dyn Duplex>, ClusterError> {
        let (ours, mut guest) = tokio::io::duplex(1024);
        tokio::spawn(async move {
            let _ = guest.write_all(b"login: ").await;
            let mut line = vec![0; 1024];
            while let Ok(count @ 1..) = guest.read(&mut line).await {
                if line[..count].ends_with(b"exit\n") {
                    break;
                }
                let _ = guest.write_all(&line[..count].to_ascii_uppercase()).await;
            }
        });
        Ok(Box::new(ours))
    }

    async fn console_log(&self, _: VmId, bytes_max: u64) -> Result<Bytes, ClusterError> {
        Ok(Bytes::from(format!("<html>{bytes_max}")))
    }

    async fn vm_stats(&self, vm: VmId) -> Result<VmStats, ClusterError> {
        match self.snapshot().vms.get(&vm).and_then(scp_model::vm::Vm::node) {
            Some(_) => Ok(VmStats { cpu_time_ms: 12, ..VmStats::default() }),
            None => Err(ClusterError::NotFound { why: format!("VM {vm} runs nowhere") }),
        }
    }

    fn join_hint(&self) -> JoinHint {
        JoinHint { ca_fingerprint: [7; 32], mesh_address: "10.0.0.1:7100".parse().expect("an address") }
    }

    fn join_token_text(&self, id: JoinTokenId, secret: &[u8; 16]) -> String {
        format!("SCP-{id}-{}", Uuid::from_bytes(*secret))
    }
}

pub fn name(text: &str) -> Name {
    Name::new(text).expect("the test's names are names")
}

pub fn profile(text: &str) -> NodeProfile {
    NodeProfile {
        name: name(text),
        zone: name("z1"),
        country: "PT".parse::<Country>().expect("a country"),
        mesh_address: "10.0.0.1:7100".parse().expect("an address"),
        api_address: "10.0.0.1:8443".parse().expect("an address"),
        software: "0.1.0".into(),
        protocol: scp_model::PROTOCOL,
        capacity: Resources { vcpus: 8, memory_mib: 16 << 10, disk_mib: 100 << 10 },
        reserved: Resources { vcpus: 1, memory_mib: 1 << 10, disk_mib: 1 << 10 },
        compute: Compute::Tcg,
    }
}

/// A city with a user of each role, whose tokens are at hand, and its API.
pub struct City {
    pub cluster: Arc<TestCluster>,
    pub api: Api,
    pub router: Router,
    tokens: BTreeMap<&'static str, String>,
}

impl City {
    pub async fn new() -> Self {
        Self::with(Options { password_cost: CHEAP, ..Options::default() }).await
    }

    pub async fn with(options: Options) -> Self {
        let cluster = Arc::new(TestCluster::new(1));
        found(&cluster);
        let api = Api::new(cluster.clone(), options);
        let router = api.router();
        let mut city = Self { cluster, api, router, tokens: BTreeMap::new() };
        for user in ["admin", "operator", "auditor", "manager", "member", "reader", "stranger", "nobody"] {
            let token = city.login(user, PASSWORD).await.ok()["token"].as_str().expect("a token").to_owned();
            city.tokens.insert(user, token);
        }
        city
    }

    pub async fn login(&self, user: &str, password: &str) -> Reply {
        let body = serde_json::json!({ "user": user, "password": password });
        self.ask(Method::POST, "/v1/tokens").json(body).send().await
    }

    pub fn token(&self, user: &str) -> &str {
        &self.tokens[user]
    }

    pub fn ask(&self, method: Method, target: &str) -> Ask<'_> {
        Ask::new(self, method, target)
    }

    pub fn by(&self, user: &str, method: Method, target: &str) -> Ask<'_> {
        self.ask(method, target).header("authorization", &format!("Bearer {}", self.tokens[user]))
    }

    pub async fn get(&self, user: &str, target: &str) -> Reply {
        self.by(user, Method::GET, target).send().await
    }

    pub async fn post(&self, user: &str, target: &str, body: Value) -> Reply {
        self.by(user, Method::POST, target).json(body).send().await
    }

    pub async fn put(&self, user: &str, target: &str, body: Value) -> Reply {
        self.by(user, Method::PUT, target).json(body).send().await
    }

    pub async fn delete(&self, user: &str, target: &str) -> Reply {
        self.by(user, Method::DELETE, target).send().await
    }

    /// An image in the default project, by the member; its id.
    pub async fn image(&self, name: &str) -> String {
        let id = Uuid::new_v4().to_string();
        let target = format!("/v1/images/{id}?name={name}&project=default");
        let upload = self.by("member", Method::PUT, &target).header("content-length", "9");
        upload.body("application/octet-stream", "some disk").send().await.ok();
        id
    }

    /// A VM in the default project, by the member; its id.
    pub async fn vm(&self, name: &str) -> String {
        if self.cluster.snapshot().images.is_empty() {
            self.image("debian").await;
        }
        let body = serde_json::json!({ "name": name, "flavor": "small", "image": "debian" });
        let vm = self.post("member", "/v1/vms", body).await.ok();
        vm["id"].as_str().expect("a VM has an id").to_owned()
    }

    pub fn place(&self, vm: &str) {
        let (vm, node) = (vm.parse().expect("an id"), self.cluster.node);
        let basis = self.cluster.snapshot().vms[&vm].generation;
        let command = Command::BindVm(BindVm { vm, node, basis });
        let answer = self.cluster.apply_as(Actor::Leader(node), command);
        answer.result.expect("there is room on the node");
    }
}

impl City {
    /// One more server, with a token of its own.
    pub fn add_node(&self, text: &str) -> NodeId {
        let key = PublicKey(SigningKey::from_bytes(&[text.len() as u8 + 100; 32]).verifying_key().to_bytes());
        let (token, secret_digest) = (JoinTokenId(Uuid::new_v4()), Digest([text.len() as u8; 32]));
        let expires_at = self.cluster.now().plus_ms(1000);
        self.cluster.must(Command::CreateJoinToken(CreateJoinToken { id: token, secret_digest, expires_at }));
        let node = node_id_of(&key);
        let admit = AdmitNode { token, secret_digest, node, public_key: key, profile: profile(text) };
        self.cluster.must(Command::AdmitNode(Box::new(admit)));
        node
    }
}

fn found(cluster: &TestCluster) {
    let hash = password::hash(CHEAP, PASSWORD).expect("the cost is in range");
    let user = |id: u128, text: &str, city: &[CityRole], grants: &[(ProjectId, ProjectRole)]| CreateUser {
        id: UserId::from_u128(id),
        name: name(text),
        password_hash: hash.clone(),
        city_roles: city.iter().copied().collect(),
        grants: grants.iter().copied().collect(),
    };
    let node = AdmitNode {
        token: JoinTokenId::default(),
        secret_digest: Digest::default(),
        node: cluster.node,
        public_key: PublicKey(cluster.key.verifying_key().to_bytes()),
        profile: profile("n1"),
    };
    let small = Resources { vcpus: 1, memory_mib: 512, disk_mib: 1024 };
    cluster.must(Command::InitCity(Box::new(InitCity {
        city: CityId::from_u128(1),
        name: name("porto"),
        country: "PT".parse().expect("a country"),
        ca_certificate: "PEM".into(),
        ca_key_sealed: vec![1],
        node,
        admin: user(1, "admin", &[CityRole::Admin], &[]),
        department: DEPARTMENT,
        project: DEFAULT,
        flavors: vec![CreateFlavor { id: FlavorId::from_u128(1), name: name("small"), resources: small }],
    })));
    let other =
        CreateProject { id: OTHER, department: DEPARTMENT, name: name("other"), quota: Quota::default() };
    cluster.must(Command::CreateProject(other));
    for user in [
        user(2, "operator", &[CityRole::Operator], &[]),
        user(3, "auditor", &[CityRole::Auditor], &[]),
        user(4, "manager", &[], &[(DEFAULT, ProjectRole::Manager)]),
        user(5, "member", &[], &[(DEFAULT, ProjectRole::Member)]),
        user(6, "reader", &[], &[(DEFAULT, ProjectRole::Reader)]),
        user(7, "stranger", &[], &[(OTHER, ProjectRole::Manager)]),
        user(8, "nobody", &[], &[]),
        user(9, "ghost", &[], &[]),
    ] {
        cluster.must(Command::CreateUser(user));
    }
    cluster.advance_ms(1000);
}
