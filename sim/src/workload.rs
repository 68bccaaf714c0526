//! What the city is asked to do meanwhile, and what its answers promise.
//!
//! Clients send requests to any node, wait, and repeat an unanswered one with the same request id on
//! another node, as the real client does. Their operations on registers (a project's quota of VMs: written
//! by `SetQuota`, read linearizably) form a history for [`crate::linear`].

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use scp_api::cluster::{Cluster, ClusterError, Consistency};
use scp_model::{
    Actor, Answer, Command, DepartmentId, Digest, ImageId, Name, NodeId, ProjectId, Proposal, RequestId,
    Resources, VmId,
    command::{
        AdmitNode, CreateDepartment, CreateImage, CreateProject, CreateVm, DeleteImage, DeleteVm, DrainNode,
        RebootVm, SetNodeSchedulable, SetQuota, SetVmPower,
    },
    image::{ImageContent, ImageFormat, Visibility},
    sandbox::{Power, RestartPolicy},
    tenancy::{Quota, QuotaChange},
    vm::VmSpec,
};
use uuid::Uuid;

use crate::{
    clock::HostTime,
    entropy::SplitMix,
    linear::{Kind, Operation},
    world::World,
};

/// Projects whose quota is a register.
pub const REGISTERS: u64 = 3;

/// One request of one client, on its way.
#[derive(Debug, Clone)]
pub struct Task {
    pub client: usize,
    pub request: RequestId,
    pub what: What,
}

#[derive(Debug, Clone)]
pub enum What {
    Write(Command),
    ReadRegister(ProjectId),
}

/// What came back.
#[derive(Debug, Clone)]
pub enum Outcome {
    Answered(Answer),
    Read(Option<u64>),
    /// Unknown: repeated by the client.
    Failed(String),
}

/// A request that came back.
#[derive(Debug, Clone)]
pub struct Done {
    pub task: Task,
    pub outcome: Outcome,
    /// When, in the city's time.
    pub at_us: u64,
}

/// Outcomes that the simulation has not looked at yet.
#[derive(Debug, Clone, Default)]
pub struct Outcomes(Arc<Mutex<Vec<Done>>>);

impl Outcomes {
    fn lock(&self) -> MutexGuard<'_, Vec<Done>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn take(&self) -> Vec<Done> {
        std::mem::take(&mut *self.lock())
    }
}

/// What a request needs of the server that is asked.
pub struct Asked {
    pub door: Arc<dyn Cluster>,
    pub time: Arc<HostTime>,
    pub world: Arc<World>,
}

/// Carries one request out at a node; runs in that node's process, and dies with it.
pub async fn carry_out(Asked { door, time, world }: Asked, task: Task, outcomes: Outcomes) {
    let outcome = match &task.what {
        What::Write(command) => {
            let actor = Actor::Local(door.node());
            let mut command = command.clone();
            if let Command::CreateImage(create) = &mut command {
                // Its bytes come with the request, to whoever is asked, and are there before it is proposed.
                world.hold(create.id);
                create.held_by = door.node();
            }
            let proposal = Proposal { request: task.request, actor, time: door.now(), command };
            door.propose(proposal).await.map_or_else(|error| failed(&error), Outcome::Answered)
        }
        What::ReadRegister(project) => match door.read(Consistency::Linearizable).await {
            Ok(snapshot) => {
                Outcome::Read(snapshot.state.projects.get(project).map(|project| project.quota.vms))
            }
            Err(error) => failed(&error),
        },
    };
    outcomes.lock().push(Done { task, outcome, at_us: time.city_us() });
}

fn failed(error: &ClusterError) -> Outcome {
    Outcome::Failed(error.to_string())
}

/// What all clients know together.
#[derive(Debug, Default)]
pub struct Ledger {
    /// Acknowledged creations that nobody has asked to undo.
    pub departments: BTreeSet<DepartmentId>,
    pub vms: BTreeMap<VmId, Power>,
    /// Whose deletion was asked for; may or may not be there.
    pub leaving: BTreeSet<VmId>,
    /// As VMs.
    pub images: BTreeSet<ImageId>,
    /// Admissions that nobody may get: with a used, an expired and a guessed token. From when on, in the
    /// city's time.
    pub forgeries: Vec<(u64, AdmitNode)>,
    /// Something was granted that may never be.
    pub forged: Option<String>,
    now_us: u64,
    pub history: BTreeMap<ProjectId, Vec<Operation>>,
    pub answered: u64,
    pub rejected: u64,
    pub failed: u64,
    next: u64,
}

/// The project that every VM and image of the workload belongs to.
pub const HOME: ProjectId = ProjectId::from_u128(1);

/// A project that may have few VMs.
pub const TIGHT: ProjectId = ProjectId::from_u128(2);
const TIGHT_VMS: u64 = 3;
/// Beyond this many VMs, one is deleted before another is made.
const VMS_MAX: usize = 24;
/// The same of images.
const IMAGES_MAX: usize = 4;
/// The image that is always there.
const IMAGE: ImageId = ImageId::from_u128(1);

pub fn register(number: u64) -> ProjectId {
    ProjectId::from_u128(100 + u128::from(number))
}

impl Ledger {
    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// What has to be there before anything else can be asked for.
    pub fn foundation(&mut self) -> Vec<Command> {
        let department = DepartmentId::from_u128(1);
        let quota = Quota { vms: 0, ..Quota::default() };
        let ample = Quota { vms: 1000, vcpus: 4000, memory_mib: 1 << 30, ..Quota::default() };
        let project = |id, label: String, quota| {
            Command::CreateProject(CreateProject { id, department, name: name(&label), quota })
        };
        let mut commands = vec![
            Command::CreateDepartment(CreateDepartment { id: department, name: name("works") }),
            project(HOME, "home".into(), ample),
            project(TIGHT, "tight".into(), Quota { vms: TIGHT_VMS, ..ample }),
        ];
        commands.extend((0..REGISTERS).map(|n| project(register(n), format!("register-{n}"), quota)));
        commands.push(create_image(IMAGE, "image"));
        for n in 0..REGISTERS {
            // The register's first value is written by its creation, before any client.
            self.history
                .insert(register(n), vec![Operation { begun: 0, ended: Some(0), kind: Kind::Write(0) }]);
        }
        commands
    }

    /// Draws the next request of a client.
    pub fn draw(&mut self, rng: &mut SplitMix, (now_us, nodes): (u64, &[NodeId])) -> What {
        self.now_us = now_us;
        match rng.below(100) {
            0..30 => What::ReadRegister(register(rng.below(REGISTERS))),
            30..55 => {
                let project = register(rng.below(REGISTERS));
                let quota = QuotaChange { vms: Some(self.number()), ..QuotaChange::default() };
                What::Write(Command::SetQuota(SetQuota { project, quota }))
            }
            55..70 => {
                let number = self.number();
                let id = DepartmentId::from_u128(1000 + u128::from(number));
                What::Write(Command::CreateDepartment(CreateDepartment {
                    id,
                    name: name(&format!("d{number}")),
                }))
            }
            70..80 => What::Write(self.create_vm(rng)),
            80..82 => What::Write(self.change_images(rng)),
            82..95 => self.change_vm(rng),
            95..97 => self.forge(rng),
            _ => What::Write(node_command(rng, nodes)),
        }
    }

    /// A stranger with a token that is not good for it.
    fn forge(&mut self, rng: &mut SplitMix) -> What {
        let due = self.forgeries.iter().filter(|(from_us, _)| *from_us <= self.now_us);
        let due: Vec<_> = due.map(|(_, admit)| admit).collect();
        match due.is_empty() {
            true => What::Write(self.create_vm(rng)),
            false => What::Write(Command::AdmitNode(Box::new((*rng.pick(&due)).clone()))),
        }
    }

    fn create_vm(&mut self, rng: &mut SplitMix) -> Command {
        if self.vms.len() >= VMS_MAX {
            let known: Vec<VmId> = self.vms.keys().copied().collect();
            return self.delete_vm(*rng.pick(&known));
        }
        let number = self.number();
        let spec = VmSpec {
            name: name(&format!("vm-{number}")),
            project: if rng.chance(250) { TIGHT } else { HOME },
            flavor: name("tiny"),
            resources: Resources { vcpus: 1, memory_mib: 64 * rng.between(1, 4), disk_mib: 16 },
            image: match rng.chance(300) {
                true => *rng.pick(&self.images.iter().copied().chain([IMAGE]).collect::<Vec<_>>()),
                false => IMAGE,
            },
            ssh_keys: Vec::new(),
            // Some fill more than one sector of a disk.
            user_data: match rng.chance(300) {
                true => vec![rng.between(1, 255) as u8; rng.between(200, 2_500) as usize],
                false => Vec::new(),
            },
            mac: [2, 0, 0, (number >> 16) as u8, (number >> 8) as u8, number as u8],
            zone: None,
            anti_affinity: rng.chance(300).then(|| name("apart")),
            restart: *rng.pick(&[RestartPolicy::Always, RestartPolicy::OnFailure, RestartPolicy::Never]),
            power: Power::Running,
            reboots: 0,
        };
        Command::CreateVm(Box::new(CreateVm { id: VmId::from_u128(u128::from(number)), spec }))
    }

    fn change_images(&mut self, rng: &mut SplitMix) -> Command {
        if self.images.len() >= IMAGES_MAX || (!self.images.is_empty() && rng.chance(300)) {
            let known: Vec<ImageId> = self.images.iter().copied().collect();
            let id = *rng.pick(&known);
            // A VM may use it: then it stays, and is nobody's to miss.
            self.images.remove(&id);
            return Command::DeleteImage(DeleteImage { id });
        }
        let number = self.number();
        create_image(ImageId::from_u128(u128::from(number)), &format!("image-{number}"))
    }

    fn delete_vm(&mut self, vm: VmId) -> Command {
        self.leaving.insert(vm);
        self.vms.remove(&vm);
        Command::DeleteVm(DeleteVm { vm })
    }

    fn change_vm(&mut self, rng: &mut SplitMix) -> What {
        let known: Vec<VmId> = self.vms.keys().copied().collect();
        if known.is_empty() {
            return What::Write(self.create_vm(rng));
        }
        let vm = *rng.pick(&known);
        What::Write(match rng.below(4) {
            0 => self.delete_vm(vm),
            1 => Command::RebootVm(RebootVm { vm }),
            2 => Command::SetVmPower(SetVmPower { vm, power: Power::Stopped }),
            _ => Command::SetVmPower(SetVmPower { vm, power: Power::Running }),
        })
    }

    /// Takes an answer in.
    pub fn answered(&mut self, (begun, now): (u64, u64), task: &Task, outcome: &Outcome) {
        match (outcome, &task.what) {
            (Outcome::Failed(_), _) => self.failed += 1,
            (Outcome::Read(value), What::ReadRegister(project)) => {
                self.answered += 1;
                let kind = Kind::Read(*value);
                self.record(*project, Operation { begun, ended: Some(now), kind });
            }
            (Outcome::Answered(answer), What::Write(command)) => match &answer.result {
                Ok(()) => {
                    self.answered += 1;
                    self.acknowledged(begun, now, command);
                }
                Err(_) => self.rejected += 1,
            },
            (Outcome::Read(_), What::Write(_)) | (Outcome::Answered(_), What::ReadRegister(_)) => {
                unreachable!("a read is answered by a read, a write by an answer")
            }
        }
    }

    /// A write that never got an answer may still have taken effect.
    pub fn abandoned(&mut self, begun: u64, task: &Task) {
        if let What::Write(Command::SetQuota(set)) = &task.what {
            let kind = Kind::Write(set.quota.vms.unwrap_or_default());
            self.record(set.project, Operation { begun, ended: None, kind });
        }
    }

    fn acknowledged(&mut self, begun: u64, now: u64, command: &Command) {
        match command {
            Command::SetQuota(set) => {
                let kind = Kind::Write(set.quota.vms.unwrap_or_default());
                self.record(set.project, Operation { begun, ended: Some(now), kind });
            }
            Command::CreateDepartment(create) => {
                self.departments.insert(create.id);
            }
            Command::AdmitNode(admit) => {
                self.forged = Some(format!("a stranger was admitted with token {}", admit.token));
            }
            Command::CreateImage(create) if create.id != IMAGE => {
                self.images.insert(create.id);
            }
            Command::CreateVm(create) => {
                self.vms.insert(create.id, Power::Running);
            }
            _ => {}
        }
    }

    fn record(&mut self, project: ProjectId, operation: Operation) {
        self.history.entry(project).or_default().push(operation);
    }
}

/// Whoever is asked will hold it.
fn create_image(id: ImageId, label: &str) -> Command {
    Command::CreateImage(Box::new(CreateImage {
        id,
        project: HOME,
        name: name(label),
        visibility: Visibility::Public,
        content: ImageContent {
            format: ImageFormat::Raw,
            size_bytes: 1 << 20,
            virtual_size_bytes: 1 << 20,
            digest: Digest([1; 32]),
            manifest: Digest([2; 32]),
        },
        held_by: NodeId::default(),
    }))
}

fn node_command(rng: &mut SplitMix, nodes: &[NodeId]) -> Command {
    let node = *rng.pick(nodes);
    match rng.below(4) {
        0 => Command::DrainNode(DrainNode { node }),
        1 => Command::SetNodeSchedulable(SetNodeSchedulable { node, schedulable: false }),
        _ => Command::SetNodeSchedulable(SetNodeSchedulable { node, schedulable: true }),
    }
}

pub fn name(text: &str) -> Name {
    Name::new(text).expect("the simulation's names are names")
}

/// A request id from the seed.
pub fn request_id(rng: &mut SplitMix) -> RequestId {
    RequestId(Uuid::from_u64_pair(rng.draw(), rng.draw()))
}
