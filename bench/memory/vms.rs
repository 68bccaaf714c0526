//! VMs of a few sizes, placed by the scheduler as a leader has it do.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use scp_mesh::{Clock, SystemClock};
use scp_model::{
    Actor, Command, Digest, ImageId, Name, Report, Resources, VmId,
    command::{CreateImage, CreateVm, SetQuota},
    fact::ReportBatch,
    image::{ImageContent, ImageFormat, Visibility},
    sandbox::{Power, RestartPolicy},
    tenancy::Quota,
    vm::VmSpec,
};
use scp_scheduler::View;
use uuid::Uuid;

use crate::{
    fill::{GROUP_MAX, Writer},
    peers::Peers,
};

const SIZES: [(u64, u64, u64); 3] = [(1, 512, 5_120), (1, 1_024, 10_240), (2, 2_048, 20_480)];
const MUCH: u64 = 1 << 40;
/// A placement and what the scheduler asks for beside it.
const ROUNDS_MAX: usize = 1_000;

pub async fn fill(writer: &Writer, peers: &Peers, count: usize) -> Result<()> {
    let project = *writer.state().projects.keys().next().context("a new city has a project")?;
    let me = Actor::Local(writer.node);
    let quota =
        Quota { vms: MUCH, vcpus: MUCH, memory_mib: MUCH, disk_mib: MUCH, images: MUCH, keypairs: 1_000 };
    let holder = peers.nodes().next().context("somebody holds the image")?;
    let image = ImageId(Uuid::new_v4());
    let content = ImageContent {
        format: ImageFormat::Qcow2,
        size_bytes: 600 << 20,
        virtual_size_bytes: 2 << 30,
        digest: Digest([7; 32]),
        manifest: Digest([8; 32]),
    };
    let (name, visibility) = (Name::new("debian")?, Visibility::Public);
    let create = CreateImage { id: image, project, name, visibility, content, held_by: holder };
    let first = vec![
        (me, Command::SetQuota(SetQuota { project, quota: quota.into() })),
        (Actor::Node(holder), Command::CreateImage(Box::new(create))),
    ];
    writer.write(first).await?;
    for first in (0..count).step_by(GROUP_MAX) {
        let group = first..(first + GROUP_MAX).min(count);
        let vms = group.map(|number| {
            let (vcpus, memory_mib, disk_mib) = SIZES[number % SIZES.len()];
            let [.., a, b, c, d] = number.to_be_bytes();
            let spec = VmSpec {
                name: Name::new(format!("vm-{number}"))?,
                project,
                flavor: Name::new(format!("f{}", number % SIZES.len()))?,
                resources: Resources { vcpus, memory_mib, disk_mib },
                image,
                ssh_keys: Vec::new(),
                user_data: Vec::new(),
                mac: [2, 0, a, b, c, d],
                zone: None,
                anti_affinity: None,
                restart: RestartPolicy::OnFailure,
                power: Power::Running,
                reboots: 0,
            };
            anyhow::Ok((me, Command::CreateVm(Box::new(CreateVm { id: VmId(Uuid::new_v4()), spec }))))
        });
        writer.write(vms.collect::<Result<_>>()?).await?;
    }
    place(writer).await
}

/// Rounds of the scheduler until nothing waits. Nodes fetch at once what they are to fetch.
async fn place(writer: &Writer) -> Result<()> {
    let leader_since = SystemClock.now();
    for _ in 0..ROUNDS_MAX {
        let (now, me) = (SystemClock.now(), writer.node);
        let view = View { now, me, leader_since, suspicions: Vec::new(), heard: BTreeSet::new() };
        let commands = scp_scheduler::plan(&writer.state(), &view);
        if commands.is_empty() {
            break;
        }
        let mut group = Vec::new();
        for command in commands {
            let fetched = match &command {
                Command::AssignImage(assign) if assign.wanted => Some((assign.node, assign.image)),
                _ => None,
            };
            group.push((Actor::Leader(me), command));
            if let Some((node, image)) = fetched {
                let reports = vec![Report::ImageHeld { image }];
                group.push((Actor::Node(node), Command::Report(ReportBatch { node, reports })));
            }
        }
        let mut group = group.into_iter();
        loop {
            let part: Vec<_> = group.by_ref().take(GROUP_MAX).collect();
            if part.is_empty() {
                break;
            }
            writer.write(part).await?;
        }
    }
    ensure!(writer.state().pending.is_empty(), "{} VMs found no place", writer.state().pending.len());
    Ok(())
}
