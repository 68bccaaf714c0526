//! Three nodes of a city on loopback, and the two ways in: the native lane and HTTPS.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use scp_api::{
    client::Client,
    local::{LocalInit, LocalJoin},
    native::{NativeCity, NewKeypair, WatchClient},
    v1::{self, Consistency, JoinTokenCreate, ProjectCreate, QuotaSet, TokenRequest},
};
use scp_model::{KeypairId, Name, NodeId, ProjectId};
use uuid::Uuid;

use crate::process::{Process, free_ports};

pub const NODES: usize = 3;
/// What is waited for takes seconds on an idle machine.
const TRIES: usize = 600;
const PAUSE: Duration = Duration::from_millis(100);

struct Node {
    process: Process,
    id: String,
    arguments: Vec<String>,
    log: PathBuf,
    socket: PathBuf,
}

pub struct City {
    scpd: PathBuf,
    nodes: Vec<Node>,
    mesh_addresses: Vec<std::net::SocketAddr>,
    api_ports: Vec<u16>,
    authority: String,
    token: String,
    pub project: ProjectId,
    /// One connection to each node.
    pub native: NativeCity,
    pub https: Vec<Client>,
}

impl City {
    pub async fn start(scpd: &Path, dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir)?;
        let ports = free_ports(2 * NODES)?;
        let mut nodes = Vec::new();
        for at in 0..NODES {
            nodes.push(Node::start(scpd, dir, at, (ports[at], ports[NODES + at]))?);
        }
        for node in &nodes {
            node.wait().await?;
        }
        let password = Uuid::new_v4().to_string();
        let (authority, user) = found(&mut nodes, &password).await?;
        let https: Vec<_> = ports[NODES..]
            .iter()
            .map(|port| Client::https([format!("127.0.0.1:{port}")], &authority))
            .collect::<Result<_, _>>()?;
        let login = TokenRequest { user, password, lifetime_s: None };
        let token = https[0].login(&login).await.context("cannot log in")?.token;
        let https: Vec<_> = https.into_iter().map(|client| client.with_token(&token)).collect();
        let mesh_addresses = ports[..NODES].iter().map(|port| ([127, 0, 0, 1], *port).into()).collect();
        let mut city = Self {
            scpd: scpd.into(),
            nodes,
            mesh_addresses,
            api_ports: ports[NODES..].to_vec(),
            authority,
            token,
            project: project(&https[0]).await?,
            native: NativeCity::default(),
            https,
        };
        city.wait_for_voters().await?;
        for at in 0..NODES {
            city.connect(at).await?;
        }
        Ok(city)
    }

    async fn connect(&mut self, at: usize) -> Result<()> {
        let stream = scp_mesh::client::connect(self.mesh_addresses[at], &self.authority).await?;
        Ok(self.native.add(stream.node, stream, &self.token).await?)
    }

    /// The node's id.
    pub fn id(&self, at: usize) -> Result<NodeId> {
        self.nodes[at].id.parse().context("a node's id is a number")
    }

    async fn wait_for_voters(&self) -> Result<()> {
        for _ in 0..TRIES {
            if self.nodes[0].client()?.status().await.is_ok_and(|status| status.voters == NODES as u64) {
                return Ok(());
            }
            tokio::time::sleep(PAUSE).await;
        }
        bail!("the city does not get {NODES} voters\n{}", self.nodes[0].process.log_end())
    }

    pub fn token(&self) -> &str {
        &self.token
    }

    /// A connection of its own to one of the nodes, and where keypairs are watched there.
    pub fn http(&self, number: usize) -> Result<(reqwest::Client, String)> {
        let mut tls = (*scp_api::client::client_config(&self.authority)?).clone();
        tls.alpn_protocols = vec![b"h2".to_vec()];
        let client = reqwest::Client::builder().no_proxy().tls_backend_preconfigured(tls).build()?;
        let port = self.api_ports[number % NODES];
        Ok((client, format!("https://127.0.0.1:{port}/v1/events/watch?subject_kind=keypair")))
    }

    /// A connection of its own to one of the nodes, for watching.
    pub async fn watch(&self, number: usize) -> Result<WatchClient> {
        let address = self.mesh_addresses[number % NODES];
        let stream = scp_mesh::client::connect(address, &self.authority).await?;
        Ok(WatchClient::open(stream, &self.token).await?)
    }

    pub fn pids(&self) -> Vec<u32> {
        self.nodes.iter().map(|node| node.process.pid()).collect()
    }

    pub fn cpu(&self) -> Duration {
        self.nodes.iter().map(|node| node.process.cpu()).sum()
    }

    /// Kills the node that leads; which.
    pub async fn kill_leader(&mut self) -> Result<usize> {
        for _ in 0..TRIES {
            for node in &self.nodes {
                let stale = node.client()?.with_consistency(Consistency::Stale);
                let Ok(v1::Status { leader: Some(leader), .. }) = stale.status().await else { continue };
                if let Some(at) = self.nodes.iter().position(|node| node.id == leader) {
                    self.nodes[at].process.kill();
                    return Ok(at);
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
        bail!("no node of the city leads")
    }

    /// Starts it again, and waits until it is served from.
    pub async fn restart(&mut self, at: usize) -> Result<()> {
        let mut command = Command::new(&self.scpd);
        let node = &mut self.nodes[at];
        node.process = Process::spawn(command.args(&node.arguments), &node.log)?;
        node.wait().await?;
        for _ in 0..TRIES {
            if self.connect(at).await.is_ok() {
                return Ok(());
            }
            tokio::time::sleep(PAUSE).await;
        }
        bail!("a node that was started again is not there\n{}", self.nodes[at].process.log_end())
    }

    /// A keypair whose public half has 256 bytes.
    pub fn keypair(&self, name: String) -> Result<NewKeypair> {
        let name: Name = name.parse().context("a name of letters and digits")?;
        let id = KeypairId(Uuid::now_v7());
        Ok(NewKeypair { id, project: self.project, name, public_key: value(id.0) })
    }
}

/// What is written on both sides: a key of OpenSSH with a comment, 256 bytes in all, no two the same.
pub fn value(id: Uuid) -> String {
    const BYTES: usize = 256;
    let mut blob = b"\x00\x00\x00\x0bssh-ed25519\x00\x00\x00\x20".to_vec();
    blob.extend_from_slice(id.as_bytes());
    blob.extend_from_slice(id.as_bytes());
    let mut line = format!("ssh-ed25519 {} ", data_encoding::BASE64.encode(&blob));
    let comment = BYTES - line.len();
    line.extend(std::iter::repeat_n('c', comment));
    line
}

impl Node {
    fn start(scpd: &Path, dir: &Path, at: usize, (mesh, api): (u16, u16)) -> Result<Self> {
        let path = |name: String| dir.join(name);
        let socket = path(format!("n{at}.sock"));
        let arguments = [
            ("--data-dir", path(format!("n{at}")).display().to_string()),
            ("--listen", "127.0.0.1".into()),
            ("--mesh-port", mesh.to_string()),
            ("--api-port", api.to_string()),
            ("--socket", socket.display().to_string()),
            ("--name", format!("n{at}")),
            ("--zone", format!("z{at}")),
            ("--accelerator", "none".into()),
        ];
        let arguments: Vec<_> =
            arguments.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]).collect();
        let log = path(format!("n{at}.log"));
        let mut command = Command::new(scpd);
        command.args(&arguments).env("SCPD_LOG", "warn,openraft=error").env("NO_COLOR", "1");
        let process = Process::spawn(&mut command, &log)?;
        Ok(Self { process, id: String::new(), arguments, log, socket })
    }

    fn client(&self) -> Result<Client> {
        Ok(Client::unix(&self.socket)?)
    }

    async fn wait(&self) -> Result<()> {
        for _ in 0..TRIES {
            if self.client()?.local_status().await.is_ok() {
                return Ok(());
            }
            tokio::time::sleep(PAUSE).await;
        }
        bail!("scpd does not come up\n{}", self.process.log_end())
    }
}

/// Makes a city of the nodes; its authority and its administrator's name.
async fn found(nodes: &mut [Node], password: &str) -> Result<(String, String)> {
    let order = LocalInit {
        city: "bench".into(),
        country: "PT".into(),
        node_name: None,
        zone: None,
        admin_password: Some(password.into()),
    };
    let first = nodes[0].client()?;
    let made = first.local_init(&order).await.context("the city cannot be founded")?;
    nodes[0].id = made.node;
    for node in &mut nodes[1..] {
        let token = first.create_join_token(&JoinTokenCreate::default()).await?;
        let order =
            LocalJoin { address: token.join_address, token: token.token, node_name: None, zone: None };
        node.id = node.client()?.local_join(&order).await.context("a node cannot join")?.node;
    }
    Ok((made.ca_certificate, made.admin_user))
}

async fn project(client: &Client) -> Result<ProjectId> {
    let quota = QuotaSet { keypairs: Some(1_000_000), ..QuotaSet::default() };
    let order = ProjectCreate { id: None, name: "kv".into(), department: None, quota: Some(quota) };
    let project = client.create_project(&order).await?;
    Ok(project.id.parse()?)
}
