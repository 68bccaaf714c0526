//! A city for measuring, built by commands alone, as the log would bring them.

use std::collections::BTreeMap;

use scp_model::{
    Actor, CityId, Command, DepartmentId, Digest, ImageId, JoinTokenId, Name, NodeId, ProjectId, Proposal,
    PublicKey, RequestId, Resources, Timestamp, UserId, VmId,
    command::{
        AdmitNode, CreateImage, CreateJoinToken, CreateProject, CreateUser, CreateVm, InitCity, SetQuota,
    },
    image::{ImageContent, ImageFormat, Visibility},
    node::{Compute, NodeProfile},
    sandbox::{Power, RestartPolicy},
    tenancy::{CityRole, Quota},
    vm::VmSpec,
};
use scp_state::{State, node_id_of};

const DEPARTMENT: DepartmentId = DepartmentId::from_u128(1);
const ZONES: u64 = 8;
const PROJECTS: u64 = 200;
const IMAGES: u64 = 8;

/// Of a hundred VMs so many have this size: vCPUs, memory, disk.
const FLAVORS: [(u64, Resources); 5] = [
    (50, Resources { vcpus: 1, memory_mib: 512, disk_mib: 5_120 }),
    (25, Resources { vcpus: 1, memory_mib: 1_024, disk_mib: 10_240 }),
    (15, Resources { vcpus: 2, memory_mib: 2_048, disk_mib: 20_480 }),
    (8, Resources { vcpus: 2, memory_mib: 4_096, disk_mib: 20_480 }),
    (2, Resources { vcpus: 8, memory_mib: 16_384, disk_mib: 40_960 }),
];
/// Of a hundred VMs so many may be in one zone only, and so many in an anti-affinity group.
const ZONED: u64 = 10;
const GROUPED: u64 = 10;
/// VMs of one group.
const GROUP_SIZE: u64 = 5;

pub struct City {
    pub state: State,
    pub now: Timestamp,
    /// Who leads and holds every image at first.
    pub leader: NodeId,
    proposals: u64,
    vms: u64,
}

/// Scrambles a counter: ids in the order of their making would find every table's leaf in the cache,
/// and real ids are random. A bijection, so nothing is made twice.
fn scrambled(number: u64) -> u64 {
    let mixed = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

fn id(kind: u64, number: u64) -> u128 {
    u128::from(scrambled(number)) << 64 | u128::from(kind)
}

fn name(text: String) -> Name {
    Name::new(text).expect("letters, digits and dashes are a name")
}

fn profile(number: u64) -> NodeProfile {
    // A tenth of the servers are of an older, smaller model.
    let memory_mib = if number % 10 == 9 { 416 << 10 } else { 512 << 10 };
    NodeProfile {
        name: name(format!("n{number}")),
        zone: name(format!("z{}", number % ZONES)),
        country: "PT".parse().expect("PT is a country"),
        mesh_address: "127.0.0.1:1".parse().expect("an address"),
        api_address: "127.0.0.1:2".parse().expect("an address"),
        software: "0.1.0".into(),
        protocol: 1,
        // Promised fourfold, by default.
        capacity: Resources { vcpus: 128, memory_mib, disk_mib: 8 << 20 },
        reserved: Resources::default(),
        compute: Compute::Kvm,
    }
}

fn admission(number: u64) -> AdmitNode {
    let mut key = [7; 32];
    key[..8].copy_from_slice(&number.to_be_bytes());
    let public_key = PublicKey(key);
    let (token, secret_digest) = (JoinTokenId::from_u128(id(1, number)), Digest::default());
    AdmitNode { token, secret_digest, node: node_id_of(&public_key), public_key, profile: profile(number) }
}

impl City {
    pub fn new(nodes: u64) -> Self {
        let first = admission(0);
        let (state, now) = (State::default(), Timestamp(1_000_000));
        let mut city = Self { state, now, leader: first.node, proposals: 0, vms: 0 };
        city.init(first);
        (1..nodes).for_each(|number| city.join(number));
        (0..PROJECTS).for_each(|number| city.project(number));
        (0..IMAGES).for_each(|number| city.image(number));
        city
    }

    /// Applies a command; it is our mistake if it is rejected.
    pub fn must(&mut self, actor: Actor, command: Command) {
        self.proposals += 1;
        let request = RequestId::from_u128(id(2, self.proposals));
        let proposal = Proposal { request, actor, time: self.now, command };
        if let Err(rejection) = self.state.apply(self.state.index + 1, &proposal).answer.result {
            panic!("{:?}: {rejection}", proposal.command);
        }
    }

    /// As the leader.
    pub fn lead(&mut self, command: Command) {
        self.must(Actor::Leader(self.leader), command);
    }

    fn init(&mut self, node: AdmitNode) {
        let admin = CreateUser {
            id: UserId::from_u128(1),
            name: name("admin".into()),
            password_hash: "$argon2id$bench".into(),
            city_roles: [CityRole::Admin].into(),
            grants: BTreeMap::new(),
        };
        let init = InitCity {
            city: CityId::from_u128(1),
            name: name("bench".into()),
            country: "PT".parse().expect("PT is a country"),
            ca_certificate: "certificate".into(),
            ca_key_sealed: vec![1],
            node,
            admin,
            department: DEPARTMENT,
            project: ProjectId::from_u128(1),
            flavors: Vec::new(),
        };
        self.must(Actor::Local(self.leader), Command::InitCity(Box::new(init)));
    }

    fn join(&mut self, number: u64) {
        let admission = admission(number);
        // A token lives for a minute here, so that those not expired stay below their bound.
        self.now = self.now.plus_ms(1_000);
        let (id, expires_at) = (admission.token, self.now.plus_ms(60_000));
        let token = CreateJoinToken { id, secret_digest: Digest::default(), expires_at };
        self.lead(Command::CreateJoinToken(token));
        self.must(Actor::Node(admission.node), Command::AdmitNode(Box::new(admission)));
    }

    fn project(&mut self, number: u64) {
        let much = 1 << 40;
        let quota =
            Quota { vms: much, vcpus: much, memory_mib: much, disk_mib: much, images: much, keypairs: 0 };
        let (id, name) = (ProjectId::from_u128(id(3, number)), name(format!("p{number}")));
        self.lead(Command::CreateProject(CreateProject { id, department: DEPARTMENT, name, quota }));
        self.lead(Command::SetQuota(SetQuota { project: id, quota: quota.into() }));
    }

    fn image(&mut self, number: u64) {
        let content = ImageContent {
            format: ImageFormat::Qcow2,
            size_bytes: 600 << 20,
            virtual_size_bytes: 2 << 30,
            digest: Digest([7; 32]),
            manifest: Digest([8; 32]),
        };
        let create = CreateImage {
            id: ImageId::from_u128(id(4, number)),
            project: ProjectId::from_u128(id(3, 0)),
            name: name(format!("i{number}")),
            visibility: Visibility::Public,
            content,
            held_by: self.leader,
        };
        self.must(Actor::Node(self.leader), Command::CreateImage(Box::new(create)));
    }

    /// The next VM of the mix.
    pub fn create(&mut self) {
        let number = self.vms;
        self.vms += 1;
        let draw = scrambled(number.wrapping_mul(3));
        let mut share = draw % 100;
        let flavor = FLAVORS.iter().position(|(of_100, _)| {
            let here = share < *of_100;
            share = share.saturating_sub(*of_100);
            here
        });
        let flavor = flavor.expect("the shares are a hundred together");
        let zone = (draw >> 8) % ZONES;
        let kind = (draw >> 16) % 100;
        // Members of a group come one after the other, as they are asked for in practice, so a group is
        // of the run of VMs in which the first is drawn.
        let run = number / GROUP_SIZE;
        let in_group = scrambled(run ^ 0x5eed << 40) % 100 < GROUPED;
        let mac = (number.wrapping_mul(0x9e_3779_b97f) & 0xff_ffff_ffff).to_be_bytes();
        let spec = VmSpec {
            name: name(format!("vm-{number}")),
            project: ProjectId::from_u128(id(3, run % PROJECTS)),
            flavor: name(format!("f{flavor}")),
            resources: FLAVORS[flavor].1,
            image: ImageId::from_u128(id(4, (draw >> 24) % IMAGES)),
            ssh_keys: Vec::new(),
            user_data: Vec::new(),
            mac: [2, mac[3], mac[4], mac[5], mac[6], mac[7]],
            zone: (kind < ZONED).then(|| name(format!("z{zone}"))),
            anti_affinity: in_group.then(|| name(format!("g{run}"))),
            restart: RestartPolicy::OnFailure,
            power: Power::Running,
            reboots: 0,
        };
        let id = VmId::from_u128(id(5, number));
        self.lead(Command::CreateVm(Box::new(CreateVm { id, spec })));
    }
}
