//! Things to show and to judge, for tests.

use scp_api::v1;
use scp_model::Timestamp;

pub fn reference(name: &str) -> v1::Reference {
    v1::Reference { id: format!("id-of-{name}"), name: name.into() }
}

pub fn time() -> v1::Time {
    v1::Time(Timestamp(1_764_000_000_000))
}

pub fn vm(name: &str, phase: v1::VmPhase) -> v1::Vm {
    v1::Vm {
        id: "0198c3a2-0000-7000-8000-000000000001".into(),
        name: name.into(),
        project: reference("library"),
        phase,
        since: time(),
        message: None,
        failures: 0,
        power: v1::Power::Running,
        node: Some(reference("n1")),
        epoch: Some(42),
        placed_at: Some(time()),
        flavor: "small".into(),
        resources: v1::Resources { vcpus: 1, memory_mib: 2048, disk_mib: 10_240 },
        image: reference("debian-12"),
        ssh_keys: vec!["ssh-ed25519 AAAA me".into()],
        user_data_bytes: 1536,
        mac: "02:00:00:00:00:01".into(),
        zone: None,
        anti_affinity: None,
        restart: v1::RestartPolicy::OnFailure,
        reboots: 0,
        generation: 1,
        observed_generation: 1,
        created_at: time(),
    }
}

pub fn overcommit() -> v1::Overcommit {
    v1::Overcommit { vcpus_percent: 400, memory_percent: 100, disk_percent: 100 }
}

pub fn node(name: &str) -> v1::Node {
    let resources = v1::Resources { vcpus: 8, memory_mib: 16 << 10, disk_mib: 100 << 10 };
    v1::Node {
        id: "00000000000000a1".into(),
        name: name.into(),
        zone: "rack-1".into(),
        country: "PT".into(),
        phase: v1::NodePhase::Up,
        role: v1::NodeRole::Voter,
        schedulable: true,
        draining: false,
        down: None,
        mesh_address: "10.0.0.1:7443".into(),
        api_address: "10.0.0.1:8443".into(),
        software: "0.1.0".into(),
        protocol: 1,
        compute: v1::ComputeKind::Tcg,
        compute_reason: None,
        capacity: resources,
        reserved: v1::Resources { vcpus: 0, memory_mib: 1024, disk_mib: 0 },
        overcommit: overcommit(),
        offered: resources,
        allocated: v1::Resources::default(),
        free: resources,
        vms: 2,
        orphans: Vec::new(),
        public_key: "ed25519:00".into(),
        joined_at: time(),
    }
}
