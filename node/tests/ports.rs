//! The node's implementations of Raft's ports, put through the contract suites that the fakes pass.

use std::collections::BTreeMap;

use scp_model::{
    Actor, CityId, Command, DepartmentId, Digest, JoinTokenId, Name, NodeId, ProjectId, Proposal, PublicKey,
    RequestId, Resources, Timestamp, UserId,
    command::{AdmitNode, CreateDepartment, CreateUser, DeleteDepartment, InitCity},
    node::{Compute, NodeProfile},
    tenancy::CityRole,
};
use scp_node::machine::{Machine, Published, to_entry};

fn name(text: &str) -> Name {
    Name::new(text).expect("a name")
}

fn entry(number: u128, command: Command) -> Vec<u8> {
    let actor = Actor::Local(NodeId(1));
    let request = RequestId::from_u128(number);
    to_entry(&Proposal { request, actor, time: Timestamp(number as u64), command }).expect("it encodes")
}

fn init() -> Command {
    let key = PublicKey([3; 32]);
    let node = AdmitNode {
        token: JoinTokenId::default(),
        secret_digest: Digest::default(),
        node: scp_state::node_id_of(&key),
        public_key: key,
        profile: NodeProfile {
            name: name("n1"),
            zone: name("z1"),
            country: "PT".parse().expect("a country"),
            mesh_address: ([10, 0, 0, 1], 7600).into(),
            api_address: ([10, 0, 0, 1], 8443).into(),
            software: "0.1.0".into(),
            protocol: scp_model::PROTOCOL,
            capacity: Resources { vcpus: 4, memory_mib: 4096, disk_mib: 4096 },
            reserved: Resources::default(),
            compute: Compute::Tcg,
        },
    };
    Command::InitCity(Box::new(InitCity {
        city: CityId::from_u128(1),
        name: name("agueda"),
        country: "PT".parse().expect("a country"),
        ca_certificate: "a certificate".into(),
        ca_key_sealed: vec![1, 2, 3],
        node,
        admin: CreateUser {
            id: UserId::from_u128(1),
            name: name("admin"),
            password_hash: "a hash".into(),
            city_roles: [CityRole::Admin].into(),
            grants: BTreeMap::new(),
        },
        department: DepartmentId::from_u128(1),
        project: ProjectId::from_u128(1),
        flavors: Vec::new(),
    }))
}

#[test]
fn the_state_as_machine_passes_rafts_suite() {
    let department = |number: u128| {
        let id = DepartmentId::from_u128(number);
        Command::CreateDepartment(CreateDepartment { id, name: name(&format!("d{number}")) })
    };
    let commands = [
        entry(1, init()),
        entry(2, department(2)),
        // Rejected: the name is taken.
        entry(
            3,
            Command::CreateDepartment(CreateDepartment { id: DepartmentId::from_u128(9), name: name("d2") }),
        ),
        entry(4, Command::DeleteDepartment(DeleteDepartment { id: DepartmentId::from_u128(2) })),
        // Repeated: answered, not applied again.
        entry(2, department(2)),
        entry(5, department(5)),
    ];
    scp_raft::machine::suite::check(|| Box::new(Machine::new(Published::default())), &commands);
}
