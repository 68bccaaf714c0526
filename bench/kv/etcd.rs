//! Three members of etcd on loopback, with TLS between them and to clients, and its API.

use std::{fs, path::Path, process::Command, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use futures::{StreamExt, stream};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use tonic::{
    Request, Streaming,
    client::Grpc,
    codegen::http::uri::PathAndQuery,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};
use tonic_prost::ProstCodec;

use crate::process::{Process, free_ports};

pub const MEMBERS: usize = 3;

#[derive(Clone, PartialEq, prost::Message)]
struct PutRequest {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Header {
    #[prost(int64, tag = "3")]
    revision: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PutResponse {
    #[prost(message, optional, tag = "1")]
    header: Option<Header>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct RangeRequest {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct KeyValue {
    #[prost(bytes = "vec", tag = "5")]
    value: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct RangeResponse {
    #[prost(message, repeated, tag = "2")]
    kvs: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct StatusRequest {}

#[derive(Clone, PartialEq, prost::Message)]
struct StatusResponse {
    #[prost(uint64, tag = "4")]
    leader: u64,
    #[prost(message, optional, tag = "1")]
    header: Option<MemberHeader>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct MemberHeader {
    #[prost(uint64, tag = "2")]
    member_id: u64,
}

/// Of its oneof, the one kind that is sent.
#[derive(Clone, PartialEq, prost::Message)]
struct WatchRequest {
    #[prost(message, optional, tag = "1")]
    create_request: Option<WatchCreateRequest>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WatchCreateRequest {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    range_end: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct WatchResponse {
    #[prost(bool, tag = "3")]
    pub created: bool,
    #[prost(bool, tag = "4")]
    pub canceled: bool,
    /// Not looked into.
    #[prost(bytes = "vec", repeated, tag = "11")]
    pub events: Vec<Vec<u8>>,
}

/// One connection; clones share it, as gRPC's streams do.
#[derive(Clone)]
pub struct Client(Grpc<Channel>);

impl Client {
    async fn call<Q, A>(&self, path: &'static str, request: Q) -> Result<A>
    where
        Q: prost::Message + 'static,
        A: prost::Message + Default + 'static,
    {
        let mut grpc = self.0.clone();
        grpc.ready().await?;
        let codec: ProstCodec<Q, A> = ProstCodec::default();
        let answer = grpc.unary(Request::new(request), PathAndQuery::from_static(path), codec).await;
        Ok(answer.context("etcd refuses")?.into_inner())
    }

    pub async fn put(&self, key: Vec<u8>, value: Vec<u8>) -> Result<()> {
        let answer: PutResponse = self.call("/etcdserverpb.KV/Put", PutRequest { key, value }).await?;
        ensure!(answer.header.is_some_and(|header| header.revision > 0), "a put without a revision");
        Ok(())
    }

    /// Linearizable, as etcd's reads are unless told otherwise.
    pub async fn get(&self, key: Vec<u8>) -> Result<Vec<u8>> {
        let answer: RangeResponse = self.call("/etcdserverpb.KV/Range", RangeRequest { key }).await?;
        Ok(answer.kvs.into_iter().next().context("the key is not there")?.value)
    }

    /// So many watches of the keys with a prefix, on one stream.
    pub async fn watch(&self, prefix: &[u8], count: usize) -> Result<Streaming<WatchResponse>> {
        let mut range_end = prefix.to_vec();
        *range_end.last_mut().context("a prefix is not empty")? += 1;
        let create = WatchCreateRequest { key: prefix.to_vec(), range_end };
        let create = WatchRequest { create_request: Some(create) };
        let requests = stream::iter(std::iter::repeat_n(create, count)).chain(stream::pending());
        let mut grpc = self.0.clone();
        grpc.ready().await?;
        let path = PathAndQuery::from_static("/etcdserverpb.Watch/Watch");
        let codec: ProstCodec<WatchRequest, WatchResponse> = ProstCodec::default();
        let answer = grpc.streaming(Request::new(requests), path, codec).await;
        Ok(answer.context("etcd refuses to be watched")?.into_inner())
    }
}

pub struct Etcd {
    pub members: Vec<Process>,
    commands: Vec<Vec<String>>,
    dir: std::path::PathBuf,
    pub clients: Vec<Client>,
}

impl Etcd {
    pub async fn start(dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir)?;
        let (authority, identity) = certificates(dir)?;
        let ports = free_ports(2 * MEMBERS)?;
        let peers: Vec<_> =
            (0..MEMBERS).map(|at| format!("m{at}=https://127.0.0.1:{}", ports[MEMBERS + at])).collect();
        let commands: Vec<_> = (0..MEMBERS).map(|at| arguments(dir, at, &ports, &peers.join(","))).collect();
        let mut etcd = Self { members: Vec::new(), commands, dir: dir.into(), clients: Vec::new() };
        for at in 0..MEMBERS {
            let process = etcd.spawn(at)?;
            etcd.members.push(process);
        }
        for port in &ports[..MEMBERS] {
            let tls = ClientTlsConfig::new()
                .ca_certificate(Certificate::from_pem(&authority))
                .identity(identity.clone())
                .domain_name("localhost");
            let endpoint = Endpoint::from_shared(format!("https://127.0.0.1:{port}"))?
                .tls_config(tls)?
                .tcp_nodelay(true)
                .initial_stream_window_size(1 << 20)
                .initial_connection_window_size(16 << 20);
            etcd.clients.push(Client(Grpc::new(endpoint.connect_lazy())));
        }
        etcd.wait().await?;
        Ok(etcd)
    }

    fn spawn(&self, at: usize) -> Result<Process> {
        let mut command = Command::new("etcd");
        command.args(&self.commands[at]);
        Process::spawn(&mut command, &self.dir.join(format!("m{at}.log")))
    }

    /// Until each member writes.
    pub async fn wait(&self) -> Result<()> {
        for (at, client) in self.clients.iter().enumerate() {
            let mut tries = 0;
            while let Err(error) = client.put(b"ready".to_vec(), b"yes".to_vec()).await {
                tries += 1;
                if tries > 300 {
                    bail!("etcd does not come up: {error:#}\n{}", self.members[at].log_end());
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        Ok(())
    }

    pub fn pids(&self) -> Vec<u32> {
        self.members.iter().map(Process::pid).collect()
    }

    /// Kills the member that leads; which.
    pub async fn kill_leader(&mut self) -> Result<usize> {
        for at in 0..MEMBERS {
            let status: StatusResponse =
                self.clients[at].call("/etcdserverpb.Maintenance/Status", StatusRequest {}).await?;
            if status.header.is_some_and(|header| header.member_id == status.leader) {
                self.members[at].kill();
                return Ok(at);
            }
        }
        bail!("no member of etcd leads")
    }

    pub fn restart(&mut self, at: usize) -> Result<()> {
        self.members[at] = self.spawn(at)?;
        Ok(())
    }
}

fn arguments(dir: &Path, at: usize, ports: &[u16], cluster: &str) -> Vec<String> {
    let client = format!("https://127.0.0.1:{}", ports[at]);
    let peer = format!("https://127.0.0.1:{}", ports[MEMBERS + at]);
    let path = |name: &str| dir.join(name).display().to_string();
    let pairs = [
        ("--name", format!("m{at}")),
        ("--data-dir", path(&format!("m{at}"))),
        ("--listen-client-urls", client.clone()),
        ("--advertise-client-urls", client),
        ("--listen-peer-urls", peer.clone()),
        ("--initial-advertise-peer-urls", peer),
        ("--initial-cluster", cluster.into()),
        ("--initial-cluster-state", "new".into()),
        ("--quota-backend-bytes", "8589934592".into()),
        ("--cert-file", path("node.pem")),
        ("--key-file", path("node.key")),
        ("--trusted-ca-file", path("authority.pem")),
        ("--peer-cert-file", path("node.pem")),
        ("--peer-key-file", path("node.key")),
        ("--peer-trusted-ca-file", path("authority.pem")),
        ("--logger", "zap".into()),
        ("--log-level", "error".into()),
    ];
    let mut words: Vec<String> =
        pairs.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]).collect();
    words.extend(["--client-cert-auth".into(), "--peer-client-cert-auth".into()]);
    words
}

/// An authority, and one certificate for members and clients alike.
fn certificates(dir: &Path) -> Result<(String, Identity)> {
    let mut params = CertificateParams::new(Vec::<String>::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(vec!["localhost".into(), "127.0.0.1".into()])?;
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let leaf = params.signed_by(&key, &authority)?;
    fs::write(dir.join("authority.pem"), authority.pem())?;
    fs::write(dir.join("node.pem"), leaf.pem())?;
    fs::write(dir.join("node.key"), key.serialize_pem())?;
    Ok((authority.pem(), Identity::from_pem(leaf.pem(), key.serialize_pem())))
}
