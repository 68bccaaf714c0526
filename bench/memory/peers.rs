//! The other nodes of the city: endpoints of the production mesh, in this process.

use std::{path::Path, sync::Arc};

use anyhow::{Context, Result};
use scp_bench::ears::Ears;
use scp_mesh::{
    Authority, Clock, Gossip, Identity, IdentityDirectory, Mesh, MeshConfig, NodeKey, Observer, Ports,
    SystemClock,
    authority::Subject,
    gossip::{GossipConfig, cell::Roster},
    observe::{Seat, Watchlist},
};
use scp_model::{Actor, CityId, Command, Digest, JoinTokenId, Name, NodeId, Resources, Timestamp};
use scp_model::{
    command::{AdmitNode, CreateJoinToken},
    node::{Compute, NodeProfile},
};
use scp_state::State;
use tokio::sync::watch;

use crate::fill::Writer;

const ZONES: usize = 8;
/// A day, in milliseconds.
const TOKEN_LIFETIME_MS: u64 = 24 * 3600 * 1000;

pub struct Peers {
    peers: Vec<Peer>,
    city: CityId,
    leader: NodeId,
    state: Arc<State>,
    keep: Vec<watch::Sender<Arc<Roster>>>,
    watching: Vec<watch::Sender<Arc<Watchlist>>>,
    gossips: Vec<Gossip>,
}

struct Peer {
    mesh: Mesh,
    ears: Arc<Ears>,
    node: NodeId,
}

impl Peers {
    /// Starts so many, each with a key and a certificate of the city, and admits them.
    pub async fn start(data_dir: &Path, writer: &Writer, count: usize) -> Result<Self> {
        let directory = IdentityDirectory::open(data_dir.join("identity"))?;
        let city_key = directory.load_city_key()?.context("the founder has the city key")?;
        let state = writer.state();
        let city = state.city.as_ref().context("the city was founded")?;
        let authority = Authority::unseal(city.id, &city.ca_certificate, &city.ca_key_sealed, &city_key)?;
        let mut peers = Vec::new();
        for number in 1..=count {
            let key = NodeKey::generate()?;
            let name = Name::new(format!("n{number}"))?;
            let subject = Subject {
                public_key: key.public_key(),
                name: name.clone(),
                addresses: vec![[127, 0, 0, 1].into()],
            };
            let certificate = authority.issue(&subject, SystemClock.now())?;
            let identity = Identity::new(key.clone(), &certificate, authority.certificate_pem())?;
            let ears = Arc::new(Ears::default());
            let (_, members) = watch::channel(None);
            let ports = Ports { service: ears.clone(), clock: Arc::new(SystemClock), members };
            let mesh =
                Mesh::start(MeshConfig { listen: ([127, 0, 0, 1], 0).into() }, identity, ports).await?;
            admit(writer, (number, name), (&key, &mesh)).await?;
            peers.push(Peer { mesh, ears, node: key.id() });
        }
        let (city, leader, state) = (city.id, writer.node, writer.state());
        Ok(Self { peers, city, leader, state, keep: Vec::new(), watching: Vec::new(), gossips: Vec::new() })
    }

    /// From now on they say that they live, and gossip.
    pub fn live(&mut self) {
        let roster = Arc::new(Roster {
            members: self.state.nodes.keys().map(|node| (*node, true)).collect(),
            voters: [self.leader].into(),
        });
        let seats = self.state.nodes.values();
        let seats =
            seats.map(|node| Seat { node: node.id, zone: node.profile.zone.clone(), is_up: true }).collect();
        let watchlist = Arc::new(Watchlist { seats, leader: Some(self.leader) });
        for peer in &self.peers {
            for (node, known) in &self.state.nodes {
                peer.mesh.set_address(*node, Some(known.profile.mesh_address));
            }
            let (rostering, roster) = watch::channel(roster.clone());
            let (watching, watchlist) = watch::channel(watchlist.clone());
            let transport: Arc<dyn scp_mesh::Transport> = Arc::new(peer.mesh.clone());
            peer.ears.open(Observer::start(transport.clone(), watchlist));
            let config = GossipConfig { city: self.city, incarnation: SystemClock.now().0 };
            let gossip = Gossip::start(config, transport, roster);
            // A fact that is too long would be ours to mend, and this one is not.
            let _ = gossip.set_fact("software", scp_node::server::SOFTWARE);
            self.keep.push(rostering);
            self.watching.push(watching);
            self.gossips.push(gossip);
        }
    }

    /// How many are connected to the leader.
    pub fn connected(&self) -> usize {
        self.peers.iter().filter(|peer| peer.mesh.connected().contains(&self.leader)).count()
    }

    pub fn nodes(&self) -> impl Iterator<Item = NodeId> {
        self.peers.iter().map(|peer| peer.node)
    }
}

async fn admit(writer: &Writer, (number, name): (usize, Name), (key, mesh): (&NodeKey, &Mesh)) -> Result<()> {
    let address = mesh.local_address();
    let profile = NodeProfile {
        name,
        zone: Name::new(format!("z{}", number % ZONES))?,
        country: "PT".parse()?,
        mesh_address: address,
        api_address: address,
        software: scp_node::server::SOFTWARE.into(),
        protocol: scp_model::PROTOCOL,
        capacity: Resources { vcpus: 128, memory_mib: 512 << 10, disk_mib: 8 << 20 },
        reserved: Resources::default(),
        compute: Compute::Kvm,
    };
    let (token, secret_digest) = (JoinTokenId::from_u128(number as u128), Digest::default());
    let (node, public_key) = (key.id(), key.public_key());
    let expires_at = Timestamp(SystemClock.now().0 + TOKEN_LIFETIME_MS);
    let create = CreateJoinToken { id: token, secret_digest, expires_at };
    let admit = AdmitNode { token, secret_digest, node, public_key, profile };
    let admission = vec![
        (Actor::Local(writer.node), Command::CreateJoinToken(create)),
        (Actor::Node(node), Command::AdmitNode(Box::new(admit))),
    ];
    writer.write(admission).await
}
