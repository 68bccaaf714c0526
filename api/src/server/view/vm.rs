//! VMs.

use scp_model::{
    explain::{Explanation, Obstacle},
    sandbox::{Power, RestartPolicy},
    vm::{Vm, VmPhase},
};
use scp_state::State;

use super::{node_reference, project_reference, resources};
use crate::{cluster::VmStats, v1};

pub(crate) fn vm_phase(phase: VmPhase) -> v1::VmPhase {
    match phase {
        VmPhase::Pending => v1::VmPhase::Pending,
        VmPhase::Bound => v1::VmPhase::Bound,
        VmPhase::Starting => v1::VmPhase::Starting,
        VmPhase::Running => v1::VmPhase::Running,
        VmPhase::Stopping => v1::VmPhase::Stopping,
        VmPhase::Stopped => v1::VmPhase::Stopped,
        VmPhase::Crashed => v1::VmPhase::Crashed,
        VmPhase::Deleting => v1::VmPhase::Deleting,
    }
}

pub(crate) fn vm(state: &State, vm: &Vm) -> v1::Vm {
    let spec = &vm.spec;
    let image =
        state.images.get(&spec.image).map_or_else(|| spec.image.to_string(), |it| it.name.to_string());
    v1::Vm {
        id: vm.id.to_string(),
        name: spec.name.to_string(),
        project: project_reference(state, spec.project),
        phase: vm_phase(vm.status.phase),
        since: vm.status.since.into(),
        message: vm.status.message.clone(),
        failures: vm.status.failures,
        power: match spec.power {
            Power::Running => v1::Power::Running,
            Power::Stopped => v1::Power::Stopped,
        },
        node: vm.placement.map(|placement| node_reference(state, placement.node)),
        epoch: vm.placement.map(|placement| placement.epoch.0),
        placed_at: vm.placement.map(|placement| placement.since.into()),
        flavor: spec.flavor.to_string(),
        resources: resources(spec.resources),
        image: v1::Reference { id: spec.image.to_string(), name: image },
        ssh_keys: spec.ssh_keys.clone(),
        user_data_bytes: spec.user_data.len() as u64,
        mac: spec.mac.map(|byte| format!("{byte:02x}")).join(":"),
        zone: spec.zone.as_ref().map(ToString::to_string),
        anti_affinity: spec.anti_affinity.as_ref().map(ToString::to_string),
        restart: match spec.restart {
            RestartPolicy::Always => v1::RestartPolicy::Always,
            RestartPolicy::OnFailure => v1::RestartPolicy::OnFailure,
            RestartPolicy::Never => v1::RestartPolicy::Never,
        },
        reboots: spec.reboots,
        generation: vm.generation,
        observed_generation: vm.status.observed_generation,
        created_at: vm.created_at.into(),
    }
}

fn obstacle_code(obstacle: &Obstacle) -> &'static str {
    match obstacle {
        Obstacle::Down => "down",
        Obstacle::Cordoned => "cordoned",
        Obstacle::Draining => "draining",
        Obstacle::NoCompute { .. } => "no_compute",
        Obstacle::Zone { .. } => "zone",
        Obstacle::AntiAffinity { .. } => "anti_affinity",
        Obstacle::Vcpus { .. } => "vcpus",
        Obstacle::Memory { .. } => "memory",
        Obstacle::Disk { .. } => "disk",
    }
}

/// Whether tenants' names may stand in the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Names {
    Told,
    Withheld,
}

pub(crate) fn explanation(from: &Explanation, names: Names) -> v1::Explanation {
    let why = |obstacle: &Obstacle| match (obstacle, names) {
        (Obstacle::AntiAffinity { .. }, Names::Withheld) => {
            "holds another VM of the same anti-affinity group".to_owned()
        }
        (told, _) => told.to_string(),
    };
    let nodes = from.nodes.iter().map(|verdict| v1::NodeVerdict {
        node: v1::Reference { id: verdict.node.to_string(), name: verdict.name.to_string() },
        feasible: verdict.obstacle.is_none(),
        obstacle: verdict.obstacle.as_ref().map(|obstacle| obstacle_code(obstacle).to_owned()),
        why: verdict.obstacle.as_ref().map(why),
    });
    // The sentences are free text, in which names may stand.
    let (summary, remedy) = match names {
        Names::Told => (from.summary.clone(), from.remedy.clone()),
        Names::Withheld => (format!("VM {}: see the nodes", from.vm), None),
    };
    v1::Explanation { vm: from.vm.to_string(), summary, nodes: nodes.collect(), remedy }
}

pub(crate) fn stats(from: VmStats) -> v1::VmStats {
    let VmStats {
        cpu_time_ms,
        memory_rss_kib,
        disk_read_bytes,
        disk_write_bytes,
        net_rx_bytes,
        net_tx_bytes,
    } = from;
    v1::VmStats { cpu_time_ms, memory_rss_kib, disk_read_bytes, disk_write_bytes, net_rx_bytes, net_tx_bytes }
}
