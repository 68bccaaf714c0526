//! A city for tests, built by commands alone: nothing is in its state that `apply` did not allow.
//! Things are spoken of by name.

#![allow(dead_code)] // Each test binary uses a part of it.

use std::collections::BTreeMap;

use scp_model::{
    Actor, CityId, Command, DepartmentId, Digest, ImageId, JoinTokenId, Name, NodeId, ProjectId, Proposal,
    PublicKey, Rejection, Report, RequestId, Resources, Timestamp, UserId, VmId,
    command::{
        AdmitNode, CreateImage, CreateJoinToken, CreateUser, CreateVm, InitCity, MarkNodeDown, SetQuota,
    },
    fact::ReportBatch,
    image::{ImageContent, ImageFormat, Visibility},
    node::{Compute, Evidence, NodeProfile},
    sandbox::{Power, RestartPolicy},
    tenancy::{CityRole, Quota},
    vm::{Vm, VmSpec},
};
use scp_state::{State, node_id_of};

pub const PROJECT: ProjectId = ProjectId::from_u128(1);

/// A node to be: `NodeShape { zone: "b", ..node("n2") }`.
#[derive(Debug, Clone)]
pub struct NodeShape<'a> {
    pub name: &'a str,
    pub zone: &'a str,
    pub capacity: Resources,
    pub compute: Compute,
}

pub fn node(name: &str) -> NodeShape<'_> {
    let capacity = Resources { vcpus: 4, memory_mib: 4096, disk_mib: 100_000 };
    NodeShape { name, zone: "default", capacity, compute: Compute::Tcg }
}

/// A VM to be: `VmShape { group: Some("db"), ..vm("db-1") }`.
#[derive(Debug, Clone)]
pub struct VmShape<'a> {
    pub name: &'a str,
    pub resources: Resources,
    pub image: &'a str,
    pub zone: Option<&'a str>,
    pub group: Option<&'a str>,
    pub power: Power,
    pub restart: RestartPolicy,
}

pub fn vm(name: &str) -> VmShape<'_> {
    let resources = Resources { vcpus: 1, memory_mib: 512, disk_mib: 1000 };
    let (power, restart) = (Power::Running, RestartPolicy::OnFailure);
    VmShape { name, resources, image: "cirros", zone: None, group: None, power, restart }
}

#[derive(Clone)]
pub struct Town {
    pub state: State,
    pub now: Timestamp,
    nodes: BTreeMap<String, NodeId>,
    vms: BTreeMap<String, VmId>,
    images: BTreeMap<String, ImageId>,
    counter: u128,
}

impl Town {
    /// A city of one node.
    pub fn new(first: &NodeShape<'_>) -> Self {
        let mut town = Self {
            state: State::default(),
            now: Timestamp(1_000_000),
            nodes: BTreeMap::new(),
            vms: BTreeMap::new(),
            images: BTreeMap::new(),
            counter: 1000,
        };
        let node = town.admission(first, JoinTokenId::from_u128(0));
        let admin = CreateUser {
            id: UserId::from_u128(1),
            name: name("admin"),
            password_hash: "$argon2id$test".into(),
            city_roles: [CityRole::Admin].into(),
            grants: BTreeMap::new(),
        };
        let init = InitCity {
            city: CityId::from_u128(1),
            name: name("town"),
            country: "PT".parse().expect("PT is a country"),
            ca_certificate: "certificate".into(),
            ca_key_sealed: vec![1],
            node,
            admin,
            department: DepartmentId::from_u128(1),
            project: PROJECT,
            flavors: Vec::new(),
        };
        let local = Actor::Local(town.node(first.name));
        town.must(local, Command::InitCity(Box::new(init)));
        let much = 1 << 40;
        let quota =
            Quota { vms: much, vcpus: much, memory_mib: much, disk_mib: much, images: much, keypairs: 0 };
        town.must(local, Command::SetQuota(SetQuota { project: PROJECT, quota: quota.into() }));
        town
    }

    pub fn join(&mut self, shape: &NodeShape<'_>) {
        let id = JoinTokenId::from_u128(self.count());
        let expires_at = self.now.plus_ms(60_000);
        let token = CreateJoinToken { id, secret_digest: Digest::default(), expires_at };
        self.lead(Command::CreateJoinToken(token)).expect("a token is made");
        let admission = self.admission(shape, id);
        let node = admission.node;
        self.must(Actor::Node(node), Command::AdmitNode(Box::new(admission)));
    }

    fn admission(&mut self, shape: &NodeShape<'_>, token: JoinTokenId) -> AdmitNode {
        let mut key = [0; 32];
        let bytes = shape.name.as_bytes();
        key[..bytes.len()].copy_from_slice(bytes);
        let public_key = PublicKey(key);
        let node = node_id_of(&public_key);
        self.nodes.insert(shape.name.into(), node);
        let profile = NodeProfile {
            name: name(shape.name),
            zone: name(shape.zone),
            country: "PT".parse().expect("PT is a country"),
            mesh_address: "127.0.0.1:1".parse().expect("an address"),
            api_address: "127.0.0.1:2".parse().expect("an address"),
            software: "0.1.0".into(),
            protocol: 1,
            capacity: shape.capacity,
            reserved: Resources::default(),
            compute: shape.compute.clone(),
        };
        AdmitNode { token, secret_digest: Digest::default(), node, public_key, profile }
    }

    /// An image that one node holds.
    pub fn image(&mut self, image: &str, held_by: &str) {
        let id = ImageId::from_u128(self.count());
        self.images.insert(image.into(), id);
        let content = ImageContent {
            format: ImageFormat::Qcow2,
            size_bytes: 20 << 20,
            virtual_size_bytes: 100 << 20,
            digest: Digest([7; 32]),
            manifest: Digest([8; 32]),
        };
        let held_by = self.node(held_by);
        let (name, visibility) = (name(image), Visibility::Public);
        let create = CreateImage { id, project: PROJECT, name, visibility, content, held_by };
        self.must(Actor::Node(held_by), Command::CreateImage(Box::new(create)));
    }

    pub fn create(&mut self, shape: &VmShape<'_>) {
        let number = self.count();
        let id = VmId::from_u128(number);
        self.vms.insert(shape.name.into(), id);
        let mac_tail = u32::try_from(number).expect("few VMs").to_be_bytes();
        let spec = VmSpec {
            name: name(shape.name),
            project: PROJECT,
            flavor: name("custom"),
            resources: shape.resources,
            image: self.image_id(shape.image),
            ssh_keys: Vec::new(),
            user_data: Vec::new(),
            mac: [2, 0, mac_tail[0], mac_tail[1], mac_tail[2], mac_tail[3]],
            zone: shape.zone.map(name),
            anti_affinity: shape.group.map(name),
            restart: shape.restart,
            power: shape.power,
            reboots: 0,
        };
        self.lead(Command::CreateVm(Box::new(CreateVm { id, spec }))).expect("the VM is created");
    }

    /// As the leader, or a person through it.
    pub fn lead(&mut self, command: Command) -> Result<(), Rejection> {
        let leader = *self.state.nodes.keys().next().expect("a city has a node");
        self.propose(Actor::Leader(leader), command)
    }

    /// As some leader that is not `gone`, with evidence that suffices.
    pub fn kill(&mut self, gone: &str) {
        let node = self.node(gone);
        let others: Vec<NodeId> =
            self.state.nodes_up().map(|other| other.id).filter(|id| *id != node).collect();
        let observers = others.iter().map(|other| (*other, Some(2_600))).collect();
        let evidence = Evidence { leader_silence_ms: 2_600, observers };
        let leader = Actor::Leader(others[0]);
        self.must(leader, Command::MarkNodeDown(MarkNodeDown { node, evidence }));
    }

    pub fn report(&mut self, node: &str, reports: Vec<Report>) {
        let node = self.node(node);
        self.must(Actor::Node(node), Command::Report(ReportBatch { node, reports }));
    }

    pub fn propose(&mut self, actor: Actor, command: Command) -> Result<(), Rejection> {
        let request = RequestId::from_u128(self.count());
        let proposal = Proposal { request, actor, time: self.now, command };
        self.state.apply(self.state.index + 1, &proposal).answer.result
    }

    fn must(&mut self, actor: Actor, command: Command) {
        let told = format!("{command:?}");
        self.propose(actor, command).unwrap_or_else(|rejection| panic!("{told}: {rejection}"));
    }

    pub fn pass_ms(&mut self, ms: u64) {
        self.now = self.now.plus_ms(ms);
    }

    pub fn node(&self, name: &str) -> NodeId {
        *self.nodes.get(name).unwrap_or_else(|| panic!("there is no node {name}"))
    }

    pub fn vm(&self, name: &str) -> &Vm {
        self.state.vms.get(&self.vm_id(name)).unwrap_or_else(|| panic!("there is no VM {name}"))
    }

    /// The last VM that was asked for by this name.
    pub fn find_vm(&self, name: &str) -> Option<VmId> {
        self.vms.get(name).copied()
    }

    pub fn vm_id(&self, name: &str) -> VmId {
        *self.vms.get(name).unwrap_or_else(|| panic!("there never was a VM {name}"))
    }

    pub fn image_id(&self, name: &str) -> ImageId {
        *self.images.get(name).unwrap_or_else(|| panic!("there is no image {name}"))
    }

    /// Names in place of ids.
    pub fn node_name(&self, id: NodeId) -> &str {
        let known = self.nodes.iter().find(|(_, node)| **node == id);
        known.map_or("?", |(name, _)| name)
    }

    pub fn vm_name(&self, id: VmId) -> &str {
        let known = self.vms.iter().find(|(_, vm)| **vm == id);
        known.map_or("?", |(name, _)| name)
    }

    pub fn image_name(&self, id: ImageId) -> &str {
        let known = self.images.iter().find(|(_, image)| **image == id);
        known.map_or("?", |(name, _)| name)
    }

    fn count(&mut self) -> u128 {
        self.counter += 1;
        self.counter
    }
}

pub fn name(text: &str) -> Name {
    Name::new(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}
