//! Servers of a site, their daemons in this process, and how to ask them.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use axum::{body::Body, http::Request};
use scp_api::{
    cluster::Cluster,
    server::{PasswordCost, password},
};
use scp_mesh::{Clock, JoinToken, SystemClock, token::JoinSecret};
use scp_model::{
    Actor, Answer, Command, DepartmentId, Digest, JoinTokenId, Name, NodeId, Proposal, RequestId,
    command::{CreateDepartment, CreateJoinToken},
};
use scp_node::{
    config::{Accelerator, Config, Names},
    daemon::{Daemon, NewCity},
    local,
};
use serde::de::DeserializeOwned;
use tempfile::TempDir;
use tower::ServiceExt;
use uuid::Uuid;

/// Of the user `admin`.
pub const PASSWORD: &str = "correct horse battery staple";
/// Tests hash often, and guard nothing.
pub const CHEAP: PasswordCost = PasswordCost { memory_kib: 8, passes: 1, lanes: 1 };

/// Generous: the machines that run this are small and busy.
pub const PATIENCE: Duration = Duration::from_secs(60);

static CITIES: AtomicU8 = AtomicU8::new(1);

pub struct Server {
    pub daemon: Arc<Daemon>,
    pub config: Config,
    _dir: TempDir,
}

/// Servers that have a network in common and nothing else.
pub struct Site {
    subnet: [u8; 2],
}

impl Site {
    pub fn new() -> Self {
        let process = std::process::id();
        Self { subnet: [(process % 200 + 20) as u8, CITIES.fetch_add(1, Ordering::Relaxed)] }
    }

    pub fn config(&self, number: u8, dir: &TempDir) -> Config {
        let [a, b] = self.subnet;
        let address = IpAddr::V4(Ipv4Addr::new(127, a, b, number));
        Config {
            data_dir: dir.path().join("data"),
            mesh_address: (address, 7600).into(),
            api_address: (address, 8443).into(),
            socket: dir.path().join("scpd.sock"),
            names: Names { name: Some(name(&format!("n{number}"))), zone: None, country: None },
            accelerator: Accelerator::None,
            libvirt_uri: "test:///default".into(),
            reserved_memory_mib: 64,
            log_json: false,
        }
    }

    pub async fn server(&self, number: u8) -> Server {
        self.server_by(number, Arc::new(SystemClock)).await
    }

    /// One that goes by another clock.
    pub async fn server_by(&self, number: u8, clock: Arc<dyn Clock>) -> Server {
        self.server_in(tempfile::tempdir().expect("a temporary directory"), number, clock).await
    }

    /// One whose directory is there already.
    pub async fn server_in(&self, dir: TempDir, number: u8, clock: Arc<dyn Clock>) -> Server {
        let config = self.config(number, &dir);
        let daemon = Arc::new(Daemon::start_with(config.clone(), clock).await.expect("the daemon starts"));
        Server { daemon, config, _dir: dir }
    }

    /// The first of a city.
    pub async fn found(&self, first: Server) -> Server {
        let city = NewCity {
            name: name("agueda"),
            country: "PT".parse().expect("a country"),
            password_hash: password::hash(CHEAP, PASSWORD).expect("it is long enough"),
        };
        first.daemon.init(city, Names::default()).await.expect("the city is founded");
        first
    }

    /// A city of so many nodes.
    pub async fn city(&self, nodes: u8) -> Vec<Server> {
        let mut servers = vec![self.found(self.server(1).await).await];
        for number in 2..=nodes {
            let server = self.server(number).await;
            join(&server, &servers[0]).await;
            servers.push(server);
        }
        voting(&servers[0], if nodes >= 3 { 3 } else { 1 }).await;
        servers
    }
}

pub async fn join(server: &Server, first: &Server) {
    let token = token(first).await;
    server.daemon.join(first.config.mesh_address, token, Names::default()).await.expect("the server joins");
}

pub async fn voting(first: &Server, voters: usize) {
    eventually("the voters are chosen", async || door(first).agreement().voters.len() == voters).await;
}

/// On the same disk, as soon as the process before has let go of it.
pub async fn start_again(server: &Server) -> Daemon {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        match Daemon::start(server.config.clone()).await {
            Ok(daemon) => return daemon,
            Err(error) => assert!(tokio::time::Instant::now() < deadline, "does not start again: {error:#}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

pub fn name(text: &str) -> Name {
    Name::new(text).expect("a name")
}

pub fn door(server: &Server) -> Arc<dyn Cluster> {
    server.daemon.member().expect("a member").door.clone()
}

pub fn id(server: &Server) -> NodeId {
    server.daemon.node().expect("a key")
}

pub async fn token(server: &Server) -> JoinToken {
    token_for(server, 3_600_000).await
}

/// One that is good for so long.
pub async fn token_for(server: &Server, validity_ms: u64) -> JoinToken {
    let door = door(server);
    let token = JoinToken {
        id: JoinTokenId(Uuid::new_v4()),
        secret: JoinSecret(rand::random()),
        authority: Digest(door.join_hint().ca_fingerprint),
    };
    let command = Command::CreateJoinToken(CreateJoinToken {
        id: token.id,
        secret_digest: token.secret_digest(),
        expires_at: door.now().plus_ms(validity_ms),
    });
    propose(&*door, RequestId(Uuid::new_v4()), command).await.result.expect("the token is made");
    token
}

pub async fn propose(door: &dyn Cluster, request: RequestId, command: Command) -> Answer {
    let proposal = Proposal { request, actor: Actor::Local(door.node()), time: door.now(), command };
    door.propose(proposal).await.expect("the city answers")
}

pub fn department(number: u128) -> Command {
    let id = DepartmentId::from_u128(number);
    Command::CreateDepartment(CreateDepartment { id, name: name(&format!("department-{number}")) })
}

pub async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !holds().await {
        assert!(tokio::time::Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// What the local socket answers when it refuses: status and problem.
pub async fn locally(server: &Server, path: &str, body: &str) -> (u16, scp_api::v1::Problem) {
    ask_locally(server, path, body).await
}

/// What the local socket answers: status and JSON.
pub async fn ask_locally<T: DeserializeOwned>(server: &Server, path: &str, body: &str) -> (u16, T) {
    let request = Request::post(path).header("content-type", "application/json");
    let request = request.body(Body::from(body.to_owned())).expect("a request");
    let response = local::router(server.daemon.clone()).oneshot(request).await.expect("it answers");
    let status = response.status().as_u16();
    let bytes = axum::body::to_bytes(response.into_body(), 1 << 20).await.expect("a short body");
    (status, serde_json::from_slice(&bytes).expect("the JSON that was expected"))
}
