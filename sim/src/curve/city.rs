//! The state of a city of many nodes, and its leader's rounds.

use std::{collections::BTreeMap, sync::Arc};

use scp_mesh::{Observer, gossip::cell::Roster, observe::Watchlist};
use scp_model::{
    Actor, CityId, Command, DepartmentId, Digest, JoinTokenId, Name, NodeId, ProjectId, Proposal, PublicKey,
    RequestId, Resources, Timestamp, UserId,
    command::{AdmitNode, CreateJoinToken, CreateUser, InitCity},
    node::{Compute, NodeProfile},
    tenancy::CityRole,
};
use scp_node::leader::{ROUND, suspicions};
use scp_scheduler::View;
use scp_state::{State, node_id_of};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep},
};

const ZONES: u64 = 4;

pub(super) struct City {
    pub(super) state: State,
    /// In the order of their joining.
    pub(super) nodes: Vec<NodeId>,
    now: Timestamp,
    proposals: u128,
}

fn name(text: String) -> Name {
    Name::new(text).expect("letters, digits and dashes are a name")
}

fn admission(number: u64) -> AdmitNode {
    let mut key = [7; 32];
    key[..8].copy_from_slice(&number.to_be_bytes());
    let public_key = PublicKey(key);
    let profile = NodeProfile {
        name: name(format!("n{number}")),
        zone: name(format!("z{}", number % ZONES)),
        country: "PT".parse().expect("PT is a country"),
        mesh_address: "127.0.0.1:1".parse().expect("an address"),
        api_address: "127.0.0.1:2".parse().expect("an address"),
        software: "0.1.0".into(),
        protocol: 1,
        capacity: Resources { vcpus: 64, memory_mib: 1 << 17, disk_mib: 1 << 22 },
        reserved: Resources::default(),
        compute: Compute::Kvm,
    };
    let (token, secret_digest) = (JoinTokenId::from_u128(number.into()), Digest::default());
    AdmitNode { token, secret_digest, node: node_id_of(&public_key), public_key, profile }
}

impl City {
    pub(super) fn new(count: u64) -> Self {
        let first = admission(0);
        let nodes = vec![first.node];
        let mut city = Self { state: State::default(), nodes, now: Timestamp(1_000_000), proposals: 0 };
        let init = InitCity {
            city: CityId::from_u128(1),
            name: name("curve".into()),
            country: "PT".parse().expect("PT is a country"),
            ca_certificate: "certificate".into(),
            ca_key_sealed: vec![1],
            node: first,
            admin: CreateUser {
                id: UserId::from_u128(1),
                name: name("admin".into()),
                password_hash: "$argon2id$curve".into(),
                city_roles: [CityRole::Admin].into(),
                grants: BTreeMap::new(),
            },
            department: DepartmentId::from_u128(1),
            project: ProjectId::from_u128(1),
            flavors: Vec::new(),
        };
        city.must(Actor::Local(city.leader()), Command::InitCity(Box::new(init)));
        (1..count).for_each(|number| city.join(admission(number)));
        city
    }

    fn leader(&self) -> NodeId {
        self.nodes[0]
    }

    fn join(&mut self, admission: AdmitNode) {
        // A token lives for a minute, so that those not expired stay below their bound.
        self.now = self.now.plus_ms(1_000);
        let (id, expires_at) = (admission.token, self.now.plus_ms(60_000));
        let token = CreateJoinToken { id, secret_digest: Digest::default(), expires_at };
        self.must(Actor::Leader(self.leader()), Command::CreateJoinToken(token));
        self.nodes.push(admission.node);
        self.must(Actor::Node(admission.node), Command::AdmitNode(Box::new(admission)));
    }

    fn must(&mut self, actor: Actor, command: Command) {
        self.proposals += 1;
        let request = RequestId::from_u128(self.proposals);
        let proposal = Proposal { request, actor, time: self.now, command };
        if let Err(rejection) = self.state.apply(self.state.index + 1, &proposal).answer.result {
            panic!("{:?}: {rejection}", proposal.command);
        }
    }

    /// Leads until the runtime ends; says whom it declared down, and when.
    pub(super) async fn lead(
        mut self,
        observer: Observer,
        (roster, watchlist): (watch::Sender<Arc<Roster>>, watch::Sender<Arc<Watchlist>>),
        declared: mpsc::UnboundedSender<(NodeId, Instant)>,
    ) {
        let leader_since = self.now;
        let began = Instant::now();
        loop {
            sleep(ROUND).await;
            let elapsed_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
            self.now = leader_since.plus_ms(elapsed_ms);
            let suspicions = suspicions(&observer, &self.state, &observer.silences()).await;
            if suspicions.is_empty() {
                continue;
            }
            let (now, me, heard) = (self.now, self.leader(), Default::default());
            let view = View { now, me, leader_since, suspicions, heard };
            for command in scp_scheduler::plan(&self.state, &view) {
                if let Command::MarkNodeDown(down) = &command {
                    let node = down.node;
                    self.must(Actor::Leader(me), command);
                    roster.send_modify(|roster| {
                        Arc::make_mut(roster).members.insert(node, false);
                    });
                    watchlist.send_modify(|watchlist| Arc::make_mut(watchlist).mark(node, false));
                    let _ = declared.send((node, Instant::now()));
                }
            }
        }
    }
}
