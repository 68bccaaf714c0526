//! The vocabulary of the scripts: one line to one command.

use std::collections::{BTreeMap, BTreeSet};

use scp_model::{
    Actor, CityId, Command, Country, DepartmentId, Digest, Epoch, FlavorId, ImageId, JoinTokenId, KeypairId,
    Name, ProjectId, Report, Resources, UserId, VmId,
    command::*,
    fact::ReportBatch,
    image::{ImageContent, ImageFormat, Visibility},
    node::{Compute, Evidence, NodeProfile, Orphan},
    sandbox::{Power, RestartPolicy},
    tenancy::{CityRole, ProjectRole, Quota},
    units::Overcommit,
    vm::{VmPhase, VmSpec},
};
use sha2::{Digest as _, Sha256};

use super::{Line, World};

pub fn name(text: &str) -> Name {
    Name::new(text).expect("a script's names are names")
}

/// What is created is named as in the script, or as it says.
fn own_name(line: &Line<'_>) -> Name {
    name(line.setting("name").unwrap_or(line.subject(0)))
}

/// `node:a`, `leader:a`, `local:a`, `user:root`.
pub fn actor(world: &mut World, text: &str) -> Actor {
    match text.split_once(':').expect("as=KIND:NAME") {
        ("node", name) => Actor::Node(world.node(name)),
        ("leader", name) => Actor::Leader(world.node(name)),
        ("local", name) => Actor::Local(world.node(name)),
        ("user", name) => Actor::User(UserId::from_u128(world.number("user", name))),
        (kind, _) => panic!("as={kind}: node, leader, local or user"),
    }
}

/// The command, and who asks unless the line says otherwise.
pub fn command(world: &mut World, line: &Line<'_>) -> (Command, Actor) {
    let root = actor(world, "user:root");
    let leader = actor(world, "leader:a");
    if line.verb == "init" {
        let first = Actor::Local(world.node(line.setting("node").unwrap_or("a")));
        return (city(world, line).expect("the verb is known"), first);
    }
    let command = None
        .or_else(|| city(world, line).map(|command| (command, root)))
        .or_else(|| node(world, line).map(|command| (command, root)))
        .or_else(|| tenancy(world, line).map(|command| (command, root)))
        .or_else(|| vm(world, line).map(|command| (command, root)))
        .or_else(|| scheduler(world, line).map(|command| (command, leader)));
    command.unwrap_or_else(|| {
        assert_eq!(line.verb, "report", "not a word of the scripts");
        let node = world.node(line.subject(0));
        let reports = report(world, line);
        (Command::Report(ReportBatch { node, reports }), Actor::Node(node))
    })
}

fn city(world: &mut World, line: &Line<'_>) -> Option<Command> {
    Some(match line.verb {
        "init" => {
            let first = line.setting("node").unwrap_or("a");
            let flavors = line.setting("flavors").into_iter().flat_map(|names| names.split(','));
            let size = |flavor: &str| if flavor == "too-large" { "999/1/1" } else { "1/512/2048" };
            let flavors = flavors.map(|flavor| create_flavor(world, flavor, size(flavor))).collect();
            let roles = line.setting("roles").unwrap_or("admin");
            Command::InitCity(Box::new(InitCity {
                city: CityId::from_u128(world.number("city", "porto")),
                name: name("porto"),
                country: "PT".parse::<Country>().expect("PT is a country"),
                ca_certificate: line.setting("ca").unwrap_or("PEM").to_owned(),
                ca_key_sealed: b"sealed".to_vec(),
                node: admit(world, line, first),
                admin: create_user(world, "root", (roles, "")),
                department: DepartmentId::from_u128(world.number("department", "default")),
                project: ProjectId::from_u128(world.number("project", "default")),
                flavors,
            }))
        }
        "overcommit" => {
            let percent = |key| u32::try_from(line.number(key).unwrap_or(100)).expect("a percentage");
            let (vcpus_percent, memory_percent, disk_percent) =
                (percent("vcpus"), percent("memory"), percent("disk"));
            let overcommit = Overcommit { vcpus_percent, memory_percent, disk_percent };
            Command::SetOvercommit(SetOvercommit { overcommit })
        }
        "create-flavor" => {
            let size = line.setting("size").unwrap_or("1/512/2048");
            let create = create_flavor(world, line.subject(0), size);
            Command::CreateFlavor(CreateFlavor { name: own_name(line), ..create })
        }
        "delete-flavor" => {
            let id = FlavorId::from_u128(world.number("flavor", line.subject(0)));
            Command::DeleteFlavor(DeleteFlavor { id })
        }
        _ => return None,
    })
}

fn create_flavor(world: &mut World, flavor: &str, size: &str) -> CreateFlavor {
    let id = FlavorId::from_u128(world.number("flavor", flavor));
    CreateFlavor { id, name: name(flavor), resources: resources(size) }
}

/// `vcpus/memory_mib/disk_mib`.
fn resources(text: &str) -> Resources {
    let parts: Vec<u64> = text.split('/').map(|part| part.parse().expect("v/m/d are numbers")).collect();
    let [vcpus, memory_mib, disk_mib] = parts[..] else { panic!("{text}: vcpus/memory/disk") };
    Resources { vcpus, memory_mib, disk_mib }
}

fn node(world: &mut World, line: &Line<'_>) -> Option<Command> {
    Some(match line.verb {
        "token" => Command::CreateJoinToken(CreateJoinToken {
            id: JoinTokenId::from_u128(world.number("token", line.subject(0))),
            secret_digest: secret(line),
            expires_at: world.now().plus_ms(line.number("for-ms").unwrap_or(3_600_000)),
        }),
        "revoke-token" => {
            let id = JoinTokenId::from_u128(world.number("token", line.subject(0)));
            Command::RevokeJoinToken(RevokeJoinToken { id })
        }
        "admit" => Command::AdmitNode(Box::new(admit(world, line, line.subject(0)))),
        "update-node" => {
            let node = world.node(line.subject(0));
            let profile = profile(world, line, line.subject(0));
            Command::UpdateNode(Box::new(UpdateNode { node, profile }))
        }
        "cordon" | "uncordon" => Command::SetNodeSchedulable(SetNodeSchedulable {
            node: world.node(line.subject(0)),
            schedulable: line.verb == "uncordon",
        }),
        "drain" => Command::DrainNode(DrainNode { node: world.node(line.subject(0)) }),
        "remove-node" => Command::RemoveNode(RemoveNode {
            node: world.node(line.subject(0)),
            force: line.subjects.get(1) == Some(&"force"),
        }),
        _ => return None,
    })
}

fn secret(line: &Line<'_>) -> Digest {
    Digest(Sha256::digest(line.setting("secret").unwrap_or("secret")).into())
}

fn admit(world: &mut World, line: &Line<'_>, node: &str) -> AdmitNode {
    AdmitNode {
        token: JoinTokenId::from_u128(world.number("token", line.setting("token").unwrap_or("none"))),
        secret_digest: secret(line),
        node: world.node(node),
        public_key: world.key(line.setting("key").unwrap_or(node)),
        profile: profile(world, line, node),
    }
}

fn profile(world: &mut World, line: &Line<'_>, node: &str) -> NodeProfile {
    let new = NodeProfile {
        name: name(node),
        zone: name("default"),
        country: "PT".parse().expect("PT is a country"),
        mesh_address: "192.0.2.1:7400".parse().expect("an address"),
        api_address: "192.0.2.1:7443".parse().expect("an address"),
        software: "0.1.0".into(),
        protocol: 1,
        capacity: resources("8/16384/102400"),
        reserved: resources("0/1024/2400"),
        compute: Compute::Tcg,
    };
    let mut profile = world.profile(node).unwrap_or(new);
    let number = |key| line.number(key).map(|number| u32::try_from(number).expect("a protocol is small"));
    profile.protocol = number("protocol").unwrap_or(profile.protocol);
    for (key, value) in &line.settings {
        match *key {
            "name" => profile.name = name(value),
            "zone" => profile.zone = name(value),
            "software" => profile.software = text(value),
            "capacity" => profile.capacity = resources(value),
            "reserved" => profile.reserved = resources(value),
            "no-compute" => profile.compute = Compute::None { reason: text(value) },
            "protocol" | "token" | "secret" | "key" | "as" | "node" | "flavors" | "roles" | "ca" => {}
            other => panic!("{other} is no setting of a node"),
        }
    }
    profile
}

fn tenancy(world: &mut World, line: &Line<'_>) -> Option<Command> {
    let project_of = |world: &mut World| {
        ProjectId::from_u128(world.number("project", line.setting("project").unwrap_or("default")))
    };
    Some(match line.verb {
        "create-department" => Command::CreateDepartment(CreateDepartment {
            id: DepartmentId::from_u128(world.number("department", line.subject(0))),
            name: own_name(line),
        }),
        "delete-department" => Command::DeleteDepartment(DeleteDepartment {
            id: DepartmentId::from_u128(world.number("department", line.subject(0))),
        }),
        "create-project" => Command::CreateProject(CreateProject {
            id: ProjectId::from_u128(world.number("project", line.subject(0))),
            department: DepartmentId::from_u128(
                world.number("department", line.setting("department").unwrap_or("default")),
            ),
            name: own_name(line),
            quota: quota(line.setting("quota").unwrap_or_default()),
        }),
        "quota" => Command::SetQuota(SetQuota {
            project: ProjectId::from_u128(world.number("project", line.subject(0))),
            quota: quota(line.subject(1)).into(),
        }),
        "delete-project" => Command::DeleteProject(DeleteProject {
            id: ProjectId::from_u128(world.number("project", line.subject(0))),
        }),
        "create-keypair" => Command::CreateKeypair(CreateKeypair {
            id: KeypairId::from_u128(world.number("keypair", line.subject(0))),
            project: project_of(world),
            name: own_name(line),
            public_key: text(line.setting("key").unwrap_or("ssh-ed25519_AAAA")),
            fingerprint: "SHA256:abc".into(),
        }),
        "delete-keypair" => Command::DeleteKeypair(DeleteKeypair {
            id: KeypairId::from_u128(world.number("keypair", line.subject(0))),
        }),
        _ => return user(world, line),
    })
}

/// `_` stands for a space and `x*N` for N times x: words of a script have no spaces and stay short.
fn text(word: &str) -> String {
    match word.split_once('*') {
        Some((part, times)) => part.repeat(times.parse().expect("x*N")),
        None => word.replace('_', " ").replace("\\n", "\n"),
    }
}

/// `vms:1,vcpus:2`; the rest as by default.
fn quota(text: &str) -> Quota {
    let mut quota = Quota::default();
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let (key, value) = part.split_once(':').expect("key:value");
        let value = value.parse().expect("a quota is a number");
        match key {
            "vms" => quota.vms = value,
            "vcpus" => quota.vcpus = value,
            "memory" => quota.memory_mib = value,
            "disk" => quota.disk_mib = value,
            "images" => quota.images = value,
            "keypairs" => quota.keypairs = value,
            other => panic!("{other} has no quota"),
        }
    }
    quota
}

fn user(world: &mut World, line: &Line<'_>) -> Option<Command> {
    Some(match line.verb {
        "create-user" => {
            let (roles, grants) = (line.setting("roles").unwrap_or(""), line.setting("grants").unwrap_or(""));
            let mut create = create_user(world, line.subject(0), (roles, grants));
            create.name = own_name(line);
            create.password_hash = text(line.setting("hash").unwrap_or("$argon2id$x"));
            Command::CreateUser(create)
        }
        "update-user" => Command::UpdateUser(UpdateUser {
            id: UserId::from_u128(world.number("user", line.subject(0))),
            password_hash: line.setting("hash").map(text),
            city_roles: line.setting("roles").map(city_roles),
            grants: grants(world, line.setting("grants").unwrap_or("")),
            enabled: line.setting("enabled").map(|enabled| enabled == "yes"),
            revoke_tokens: line.subjects.get(1) == Some(&"revoke"),
        }),
        "delete-user" => {
            let id = UserId::from_u128(world.number("user", line.subject(0)));
            Command::DeleteUser(DeleteUser { id })
        }
        _ => return None,
    })
}

fn create_user(world: &mut World, user: &str, (roles, granted): (&str, &str)) -> CreateUser {
    let given = grants(world, granted).into_iter();
    CreateUser {
        id: UserId::from_u128(world.number("user", user)),
        name: name(user),
        password_hash: "$argon2id$x".into(),
        city_roles: city_roles(roles),
        grants: given.filter_map(|(project, role)| Some((project, role?))).collect(),
    }
}

fn city_roles(text: &str) -> BTreeSet<CityRole> {
    let role = |name| match name {
        "admin" => CityRole::Admin,
        "operator" => CityRole::Operator,
        "auditor" => CityRole::Auditor,
        other => panic!("{other} is no role"),
    };
    text.split(',').filter(|part| !part.is_empty() && *part != "none").map(role).collect()
}

/// `p:member,q:-`.
fn grants(world: &mut World, text: &str) -> BTreeMap<ProjectId, Option<ProjectRole>> {
    let mut grants = BTreeMap::new();
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let (project, role) = part.split_once(':').expect("project:role");
        let role = match role {
            "reader" => Some(ProjectRole::Reader),
            "member" => Some(ProjectRole::Member),
            "manager" => Some(ProjectRole::Manager),
            "-" => None,
            other => panic!("{other} is no role"),
        };
        grants.insert(ProjectId::from_u128(world.number("project", project)), role);
    }
    grants
}

fn vm(world: &mut World, line: &Line<'_>) -> Option<Command> {
    Some(match line.verb {
        "create-image" => Command::CreateImage(Box::new(create_image(world, line))),
        "delete-image" => {
            let id = ImageId::from_u128(world.number("image", line.subject(0)));
            Command::DeleteImage(DeleteImage { id })
        }
        "create-vm" => {
            let id = VmId::from_u128(world.number("vm", line.subject(0)));
            Command::CreateVm(Box::new(CreateVm { id, spec: spec(world, line) }))
        }
        "start" | "stop" => {
            let power = if line.verb == "start" { Power::Running } else { Power::Stopped };
            let vm = VmId::from_u128(world.number("vm", line.subject(0)));
            Command::SetVmPower(SetVmPower { vm, power })
        }
        "reboot" => Command::RebootVm(RebootVm { vm: VmId::from_u128(world.number("vm", line.subject(0))) }),
        "delete-vm" => {
            Command::DeleteVm(DeleteVm { vm: VmId::from_u128(world.number("vm", line.subject(0))) })
        }
        _ => return None,
    })
}

fn create_image(world: &mut World, line: &Line<'_>) -> CreateImage {
    let image = line.subject(0);
    let digest = |what: &str| Digest(Sha256::digest(format!("{what} {image}")).into());
    CreateImage {
        id: ImageId::from_u128(world.number("image", image)),
        project: ProjectId::from_u128(world.number("project", line.setting("project").unwrap_or("default"))),
        name: own_name(line),
        visibility: match line.subjects.get(1) {
            Some(&"public") => Visibility::Public,
            Some(_) | None => Visibility::Private,
        },
        content: ImageContent {
            format: ImageFormat::Qcow2,
            size_bytes: line.number("size").unwrap_or(5 << 20),
            virtual_size_bytes: line.number("virtual").unwrap_or(1 << 30),
            digest: digest("file"),
            manifest: digest("manifest"),
        },
        held_by: world.node(line.setting("on").unwrap_or("a")),
    }
}

fn spec(world: &mut World, line: &Line<'_>) -> VmSpec {
    let vm = line.subject(0);
    let hash = Sha256::digest(line.setting("mac").unwrap_or(vm));
    let keys = usize::try_from(line.number("keys").unwrap_or(0)).expect("a count");
    VmSpec {
        name: own_name(line),
        project: ProjectId::from_u128(world.number("project", line.setting("project").unwrap_or("default"))),
        flavor: name("small"),
        resources: resources(line.setting("size").unwrap_or("1/512/2048")),
        image: ImageId::from_u128(world.number("image", line.setting("image").unwrap_or("debian"))),
        ssh_keys: vec![text(line.setting("key").unwrap_or("ssh-ed25519_AAAA")); keys],
        user_data: vec![b'#'; usize::try_from(line.number("user-data").unwrap_or(0)).expect("a count")],
        mac: if line.setting("mac") == Some("foreign") {
            [0; 6]
        } else {
            [0x52, 0x54, hash[0], hash[1], hash[2], hash[3]]
        },
        zone: line.setting("zone").map(name),
        anti_affinity: line.setting("group").map(name),
        restart: match line.setting("restart") {
            None | Some("on-failure") => RestartPolicy::OnFailure,
            Some("always") => RestartPolicy::Always,
            Some("never") => RestartPolicy::Never,
            Some(other) => panic!("{other} is no restart policy"),
        },
        power: Power::Running,
        reboots: line.number("reboots").unwrap_or(0),
    }
}

fn scheduler(world: &mut World, line: &Line<'_>) -> Option<Command> {
    Some(match line.verb {
        "bind" => {
            let vm = VmId::from_u128(world.number("vm", line.subject(0)));
            let basis = line.number("basis");
            let basis = basis.unwrap_or_else(|| world.state.vms.get(&vm).map_or(0, |vm| vm.generation));
            Command::BindVm(BindVm { vm, node: world.node(line.subject(1)), basis })
        }
        "evacuate" => {
            let vm = VmId::from_u128(world.number("vm", line.subject(0)));
            Command::EvacuateVm(EvacuateVm { vm, epoch: epoch(world, line, vm) })
        }
        "assign" | "unassign" => Command::AssignImage(AssignImage {
            image: ImageId::from_u128(world.number("image", line.subject(0))),
            node: world.node(line.subject(1)),
            wanted: line.verb == "assign",
        }),
        "down" => {
            let node = world.node(line.subject(0));
            let evidence = evidence(world, line);
            Command::MarkNodeDown(MarkNodeDown { node, evidence })
        }
        "up" => Command::MarkNodeUp(MarkNodeUp { node: world.node(line.subject(0)) }),
        _ => return None,
    })
}

/// `observers=a:3000,c:-`.
fn evidence(world: &mut World, line: &Line<'_>) -> Evidence {
    let observers = line.setting("observers").unwrap_or("").split(',').filter(|part| !part.is_empty());
    let observers = observers.map(|part| {
        let (observer, silence) = part.split_once(':').expect("observer:ms");
        (world.node(observer), silence.parse().ok())
    });
    let observers = observers.collect();
    Evidence { leader_silence_ms: line.number("silence").unwrap_or(2_500), observers }
}

/// What the line says, or the VM's own.
fn epoch(world: &World, line: &Line<'_>, vm: VmId) -> Epoch {
    if let Some(epoch) = line.number("epoch") {
        return Epoch(epoch);
    }
    let placed = world.state.vms.get(&vm).and_then(|vm| vm.placement).map(|placement| placement.epoch);
    let evicted = || world.state.evictions_of(vm).map(|eviction| eviction.epoch).max();
    placed.or_else(evicted).unwrap_or_default()
}

/// `report NODE WHAT SUBJECT …`.
fn report(world: &mut World, line: &Line<'_>) -> Vec<Report> {
    let subject = line.subjects.get(2).copied().unwrap_or_default();
    let image = ImageId::from_u128(world.number("image", subject));
    let vm = VmId::from_u128(world.number("vm", subject));
    let epoch = epoch(world, line, vm);
    let message = line.setting("message").map(text);
    let report = match line.subject(1) {
        "gone" => Report::VmGone { vm, epoch },
        "shutdown" => Report::VmShutdown { vm, epoch },
        "held" => Report::ImageHeld { image },
        "image-gone" => Report::ImageGone { image },
        "failed" => Report::ImageFailed { image, message: message.unwrap_or_default() },
        "orphans" => {
            let names = subject.split(',').filter(|name| !name.is_empty());
            let orphan = |name| Orphan { name: text(name), detail: "running".into() };
            Report::Orphans { orphans: names.map(orphan).collect() }
        }
        phase => Report::Vm {
            vm,
            epoch,
            observed_generation: line
                .number("generation")
                .unwrap_or_else(|| world.state.vms.get(&vm).map_or(0, |vm| vm.generation)),
            phase: vm_phase(phase),
            message,
            failures: u32::try_from(line.number("failures").unwrap_or(0)).expect("a count"),
        },
    };
    let many = usize::try_from(line.number("times").unwrap_or(1)).expect("a count");
    vec![report; many]
}

fn vm_phase(text: &str) -> VmPhase {
    match text {
        "pending" => VmPhase::Pending,
        "bound" => VmPhase::Bound,
        "starting" => VmPhase::Starting,
        "running" => VmPhase::Running,
        "stopping" => VmPhase::Stopping,
        "stopped" => VmPhase::Stopped,
        "crashed" => VmPhase::Crashed,
        "deleting" => VmPhase::Deleting,
        other => panic!("{other} is no phase"),
    }
}
