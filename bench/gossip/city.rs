//! The state that the leading member decides by, and its rounds: those of a node that leads.

use std::{collections::BTreeMap, net::SocketAddr};

use anyhow::{Context, Result};
use scp_mesh::{Clock, Observer, SystemClock};
use scp_model::{
    Actor, CityId, Command, DepartmentId, Digest, JoinTokenId, Name, NodeId, ProjectId, Proposal, PublicKey,
    RequestId, Resources, Timestamp, UserId,
    command::{AdmitNode, CreateJoinToken, CreateUser, InitCity},
    node::{Compute, NodeProfile},
    tenancy::CityRole,
};
use scp_node::leader::{ROUND, heard, suspicions};
use scp_scheduler::View;
use scp_state::{State, node_id_of};

pub const CITY: CityId = CityId::from_u128(1);

/// Who is in the city.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seated {
    pub public_key: PublicKey,
    pub address: SocketAddr,
    pub zone: Name,
}

impl Seated {
    pub fn node(&self) -> NodeId {
        node_id_of(&self.public_key)
    }
}

pub struct City {
    state: State,
    leader: NodeId,
    since: Timestamp,
    proposals: u128,
}

/// What the leader decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Down(NodeId),
    Up(NodeId),
}

fn admission(number: usize, seated: &Seated) -> Result<AdmitNode> {
    let profile = NodeProfile {
        name: Name::new(format!("m{number}"))?,
        zone: seated.zone.clone(),
        country: "PT".parse()?,
        mesh_address: seated.address,
        api_address: seated.address,
        software: scp_node::server::SOFTWARE.into(),
        protocol: 1,
        capacity: Resources { vcpus: 64, memory_mib: 1 << 17, disk_mib: 1 << 22 },
        reserved: Resources::default(),
        compute: Compute::Kvm,
    };
    Ok(AdmitNode {
        token: JoinTokenId::from_u128(number as u128),
        secret_digest: Digest::default(),
        node: seated.node(),
        public_key: seated.public_key,
        profile,
    })
}

impl City {
    /// A city of these, the first of whom leads.
    pub fn new(seated: &[Seated]) -> Result<Self> {
        let first = admission(0, seated.first().context("a city has a node")?)?;
        let (leader, since) = (first.node, SystemClock.now());
        let mut city = Self { state: State::default(), leader, since, proposals: 0 };
        let admin = CreateUser {
            id: UserId::from_u128(1),
            name: Name::new("admin")?,
            password_hash: "$argon2id$bench".into(),
            city_roles: [CityRole::Admin].into(),
            grants: BTreeMap::new(),
        };
        let init = InitCity {
            city: CITY,
            name: Name::new("bench")?,
            country: "PT".parse()?,
            ca_certificate: "certificate".into(),
            ca_key_sealed: vec![1],
            node: first,
            admin,
            department: DepartmentId::from_u128(1),
            project: ProjectId::from_u128(1),
            flavors: Vec::new(),
        };
        city.apply(Actor::Local(leader), Command::InitCity(Box::new(init)))?;
        for (number, seated) in seated.iter().enumerate().skip(1) {
            let admission = admission(number, seated)?;
            let expires_at = city.since.plus_ms(600_000);
            let token = CreateJoinToken { id: admission.token, secret_digest: Digest::default(), expires_at };
            city.apply(Actor::Leader(leader), Command::CreateJoinToken(token))?;
            city.apply(Actor::Node(admission.node), Command::AdmitNode(Box::new(admission)))?;
        }
        Ok(city)
    }

    fn apply(&mut self, actor: Actor, command: Command) -> Result<()> {
        self.proposals += 1;
        let request = RequestId::from_u128(self.proposals);
        let proposal = Proposal { request, actor, time: SystemClock.now(), command };
        let result = self.state.apply(self.state.index + 1, &proposal).answer.result;
        result.map_err(|rejection| anyhow::anyhow!("{:?}: {rejection}", proposal.command))
    }

    /// Leads until the process ends; tells every verdict when it is applied.
    pub async fn lead(mut self, observer: Observer, tell: impl Fn(Verdict)) -> Result<()> {
        self.since = SystemClock.now();
        loop {
            tokio::time::sleep(ROUND).await;
            let silences = observer.silences();
            let suspicions = suspicions(&observer, &self.state, &silences).await;
            let heard = heard(&observer, &self.state);
            let (now, me, leader_since) = (SystemClock.now(), self.leader, self.since);
            let view = View { now, me, leader_since, suspicions, heard };
            for command in scp_scheduler::plan(&self.state, &view) {
                let verdict = match &command {
                    Command::MarkNodeDown(down) => Verdict::Down(down.node),
                    Command::MarkNodeUp(up) => Verdict::Up(up.node),
                    // Nothing runs in this city.
                    _ => continue,
                };
                self.apply(Actor::Leader(me), command)?;
                tell(verdict);
            }
        }
    }
}
