//! A city for tests: an authority, a clock that is set by hand, and nodes on loopback.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use scp_mesh::{
    Authority, CityKey, Clock, Identity, JoinRefusal, JoinReply, JoinRequest, JoinToken, Lane, Members, Mesh,
    MeshConfig, NodeKey, Ports, Refusal, Service, Stranger, StreamHandler, Transport, authority::Subject,
    join::Peer, suite::Echo,
};
use scp_model::{
    CityId, Country, Name, NodeId, PROTOCOL, Rejection, Resources, Timestamp, node::Compute,
    node::NodeProfile,
};
use tokio::sync::watch;

/// Longer than anything here takes, on the busiest machine.
pub const PATIENCE: Duration = Duration::from_secs(30);
pub const DAY_MS: u64 = 24 * 3600 * 1000;

#[derive(Debug)]
pub struct HandClock(AtomicU64);

impl HandClock {
    pub fn at(now: u64) -> Arc<Self> {
        Arc::new(Self(AtomicU64::new(now)))
    }

    pub fn now_ms(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }

    pub fn now_timestamp(&self) -> Timestamp {
        Timestamp(self.now_ms())
    }

    pub fn advance(&self, ms: u64) {
        self.0.fetch_add(ms, Ordering::SeqCst);
    }
}

impl Clock for HandClock {
    fn now(&self) -> Timestamp {
        self.now_timestamp()
    }
}

/// 2026-01-01.
pub const BEGINNING: u64 = 1_767_225_600_000;

pub struct City {
    pub authority: Arc<Authority>,
    pub city_key: CityKey,
    pub clock: Arc<HandClock>,
    pub members: watch::Sender<Option<Arc<Members>>>,
}

pub fn name(text: &str) -> Name {
    Name::new(text).expect("a good name")
}

pub fn loopback() -> SocketAddr {
    ([127, 0, 0, 1], 0).into()
}

pub fn profile(name_: &str, mesh_address: SocketAddr) -> NodeProfile {
    NodeProfile {
        name: name(name_),
        zone: name("z1"),
        country: "PT".parse::<Country>().expect("a country"),
        mesh_address,
        api_address: mesh_address,
        software: "0.1.0".into(),
        protocol: PROTOCOL,
        capacity: Resources { vcpus: 4, memory_mib: 4096, disk_mib: 10_000 },
        reserved: Resources::default(),
        compute: Compute::None { reason: "a test".into() },
    }
}

impl City {
    pub fn new() -> Self {
        let id = CityId::from_u128(rand::random());
        let authority = Authority::create(id, &name("Oeiras"), Timestamp(BEGINNING)).expect("an authority");
        Self {
            authority: Arc::new(authority),
            city_key: CityKey::generate().expect("randomness"),
            clock: HandClock::at(BEGINNING),
            members: watch::Sender::new(Some(Arc::default())),
        }
    }

    pub fn issue(&self, key: &NodeKey, now: u64) -> Identity {
        let subject = Subject { public_key: key.public_key(), name: name("n"), addresses: vec![] };
        let certificate = self.authority.issue(&subject, Timestamp(now)).expect("a certificate");
        Identity::new(key.clone(), &certificate, self.authority.certificate_pem()).expect("an identity")
    }

    /// A new member with a certificate from now on.
    pub fn member(&self) -> Identity {
        let identity = self.issue(&NodeKey::generate().expect("a key"), self.clock.now().0);
        self.admit(&identity);
        identity
    }

    pub fn admit(&self, identity: &Identity) {
        self.members.send_modify(|members| {
            let mut now: Members = members.as_deref().cloned().unwrap_or_default();
            now.insert(identity.id(), identity.key.public_key());
            *members = Some(Arc::new(now));
        });
    }

    pub fn remove(&self, node: NodeId) {
        self.members.send_modify(|members| {
            let mut now: Members = members.as_deref().cloned().unwrap_or_default();
            now.remove(&node);
            *members = Some(Arc::new(now));
        });
    }

    pub fn ports(&self, service: Arc<dyn Service>) -> Ports {
        Ports { service, clock: self.clock.clone(), members: self.members.subscribe() }
    }

    pub async fn start(&self, identity: &Identity, service: Arc<dyn Service>) -> Mesh {
        let config = MeshConfig { listen: loopback() };
        Mesh::start(config, identity.clone(), self.ports(service)).await.expect("it listens")
    }

    /// Members that echo and know each other's addresses.
    pub async fn echoes(&self, count: usize) -> Vec<Mesh> {
        let mut nodes = vec![];
        for _ in 0..count {
            nodes.push(self.start(&self.member(), Echo::new()).await);
        }
        introduce(&nodes);
        nodes
    }

    pub fn token(&self, id: u128) -> JoinToken {
        let id = scp_model::JoinTokenId::from_u128(id);
        JoinToken::generate(id, self.authority.fingerprint()).expect("randomness")
    }
}

pub fn introduce(nodes: &[Mesh]) {
    for a in nodes {
        for b in nodes.iter().filter(|b| b.node() != a.node()) {
            a.set_address(b.node(), Some(b.local_address()));
        }
    }
}

pub async fn ask(from: &Mesh, to: NodeId, lane: Lane) -> Result<Bytes, scp_mesh::MeshError> {
    from.request(to, lane, Bytes::from_static(b"hello"), PATIENCE).await
}

/// Waits for a condition, with patience.
pub async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, waiting).await.is_ok(), "{what} within {PATIENCE:?}");
}

/// What the state knows of a token.
#[derive(Debug, Clone)]
pub struct TokenRecord {
    pub token: JoinToken,
    pub expires_at: Timestamp,
    pub used_by: Option<NodeId>,
}

/// A service that admits strangers as the state would, and renews.
pub struct Registrar {
    pub city: Arc<City>,
    pub tokens: Mutex<BTreeMap<u128, TokenRecord>>,
    pub admitted: Mutex<BTreeMap<NodeId, NodeProfile>>,
}

impl Registrar {
    pub fn new(city: Arc<City>) -> Arc<Self> {
        Arc::new(Self { city, tokens: Mutex::default(), admitted: Mutex::default() })
    }

    pub fn add_token(&self, id: u128, valid_ms: u64) -> JoinToken {
        let token = self.city.token(id);
        let expires_at = self.city.clock.now().plus_ms(valid_ms);
        let record = TokenRecord { token: token.clone(), expires_at, used_by: None };
        self.tokens.lock().unwrap().insert(id, record);
        token
    }

    /// Everything that a join may change.
    pub fn snapshot(&self) -> (Vec<Option<NodeId>>, Vec<NodeId>, usize) {
        let used = self.tokens.lock().unwrap().values().map(|record| record.used_by).collect();
        let admitted = self.admitted.lock().unwrap().keys().copied().collect();
        (used, admitted, self.city.members.borrow().as_ref().map_or(0, |members| members.len()))
    }

    /// The rules of `AdmitNode`, as far as mesh has to map them.
    fn admit(&self, from: Stranger, request: &JoinRequest) -> Result<(), Rejection> {
        let mut tokens = self.tokens.lock().unwrap();
        let record = tokens.get_mut(&request.token.0.as_u128()).ok_or(Rejection::TokenUnknown)?;
        if record.token.secret.0 != request.secret {
            return Err(Rejection::TokenUnknown);
        }
        match record.used_by {
            Some(node) if node == from.node() => return Ok(()),
            Some(_) => return Err(Rejection::TokenUsed),
            None => {}
        }
        if self.city.clock.now() >= record.expires_at {
            return Err(Rejection::TokenExpired);
        }
        let mut admitted = self.admitted.lock().unwrap();
        if admitted.values().any(|profile| profile.name == request.profile.name) {
            let name = request.profile.name.to_string();
            return Err(Rejection::NameTaken { kind: "node".into(), name });
        }
        record.used_by = Some(from.node());
        admitted.insert(from.node(), request.profile.clone());
        Ok(())
    }
}

#[async_trait]
impl Service for Registrar {
    async fn answer(&self, from: NodeId, lane: Lane, request: Bytes) -> Result<Bytes, Refusal> {
        if lane != Lane::Renew {
            return Ok(request);
        }
        let members = self.city.members.borrow().clone().unwrap_or_default();
        let public_key = *members.get(&from).expect("only members get here");
        let subject = Subject { public_key, name: name("n"), addresses: vec![] };
        let certificate = self.city.authority.issue(&subject, self.city.clock.now()).expect("a certificate");
        Ok(scp_mesh::renew::reply(&certificate))
    }

    async fn stream(&self, from: NodeId, opening: Bytes) -> Result<StreamHandler, Refusal> {
        Echo::new().stream(from, opening).await
    }

    async fn join(&self, from: Stranger, request: JoinRequest) -> Result<JoinReply, JoinRefusal> {
        self.admit(from, &request)?;
        let subject = Subject::of(from.public_key, &request.profile);
        let certificate = self.city.authority.issue(&subject, self.city.clock.now()).expect("a certificate");
        self.city.members.send_modify(|members| {
            let mut now: Members = members.as_deref().cloned().unwrap_or_default();
            now.insert(from.node(), from.public_key);
            *members = Some(Arc::new(now));
        });
        let peers =
            vec![Peer { node: NodeId(1), address: loopback(), public_key: from.public_key, is_voter: true }];
        Ok(JoinReply {
            city: self.city.authority.city(),
            city_name: name("Oeiras"),
            authority: self.city.authority.certificate_pem().into(),
            certificate,
            peers,
            leader: None,
            admitted_at: 7,
        })
    }
}
