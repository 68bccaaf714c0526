//! Virtual machines.

use axum::extract::Path;
use data_encoding::BASE64;
use scp_model::{
    Command, VmId,
    command::{CreateVm, DeleteVm, RebootVm, SetVmPower},
    sandbox::{Power, RestartPolicy},
    vm::{SSH_KEYS_MAX, USER_DATA_BYTES_MAX, Vm, VmSpec},
};
use scp_state::State;
use sha2::{Digest, Sha256};

use crate::{
    server::{
        authorize::{Action, Scope},
        body::{Body, Params},
        call::{Answer, Call},
        invalid::{Invalid, valid},
        page::{ByProject, Filter},
        view,
    },
    v1::{self, Problem},
};

/// The VMs that the asker may see.
#[utoipa::path(get, path = "/v1/vms", tag = "vms", params(v1::ListQuery),
    responses(
        (status = 200, body = v1::List<v1::Vm>),
        (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn list(call: Call, Params(query): Params<v1::ListQuery>) -> Answer {
    let filter: Filter<VmId, v1::VmPhase> = Filter::new(&call, &query, ByProject::Yes)?;
    let keep = |vm: &Vm| {
        filter.keeps(&vm.spec.name, Some(vm.spec.project))
            && filter.phase.is_none_or(|wanted| wanted == view::vm_phase(vm.status.phase))
            && call.allowed(Action::VmRead, Scope::Project(vm.spec.project))
    };
    call.ok(&filter.page_of((&call.state, &call.state.vms), keep, |vm| view::vm(&call.state, vm)))
}

fn shown(call: &Call, vm: VmId) -> Answer {
    call.ok(&view::vm(&call.state, call.made(call.state.vms.get(&vm))?))
}

/// One VM.
#[utoipa::path(get, path = "/v1/vms/{vm}", tag = "vms", params(("vm", description = "id or name"), v1::OneQuery),
    responses(
        (status = 200, body = v1::Vm),
        (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn show(call: Call, Path(vm): Path<String>, Params(query): Params<v1::OneQuery>) -> Answer {
    let vm: &Vm = call.find(Action::VmRead, &vm, query.project.as_deref())?;
    call.ok(&view::vm(&call.state, vm))
}

/// A new VM. It is placed and started by itself; watch its phase.
#[utoipa::path(post, path = "/v1/vms", tag = "vms", request_body = v1::VmCreate,
    responses(
        (status = 201, body = v1::Vm),
        (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn create(mut call: Call, Body(body): Body<v1::VmCreate>) -> Answer {
    let command = understood(&call, body)?;
    let id = command.id;
    call.commit(Command::CreateVm(Box::new(command))).await?;
    call.created(&view::vm(&call.state, call.made(call.state.vms.get(&id))?))
}

/// The request as a command, with everything filled in that is not deterministic.
fn understood(call: &Call, body: v1::VmCreate) -> Result<CreateVm, Problem> {
    let mut invalid = Invalid::default();
    let project = call.project_for(Action::VmManage, body.project.as_deref());
    let project = invalid.take("project", project.map_err(|problem| problem.detail)).map(|it| it.id);
    if let Some(project) = project {
        call.may(Action::VmManage, Scope::Project(project))?;
    }
    let id = invalid.id(body.id.as_deref(), VmId(call.made_id()));
    let name = invalid.name("name", &body.name);
    let flavor = call.state.find_flavor(&body.flavor).ok_or_else(|| missing("flavor", &body.flavor));
    let flavor = invalid.take("flavor", flavor);
    let zone = body.zone.as_deref().and_then(|zone| invalid.name("zone", zone));
    let known = |zone: &scp_model::Name| call.state.nodes.values().any(|node| node.profile.zone == *zone);
    invalid.check(zone.as_ref().is_none_or(known), "zone", "no node is in this zone");
    let anti_affinity = body.anti_affinity.as_deref().and_then(|group| invalid.name("anti_affinity", group));
    let user_data =
        invalid.take("user_data_base64", user_data(body.user_data_base64.as_deref())).unwrap_or_default();
    let inside = project.map(|project| {
        let image = call.state.find_image(project, &body.image).ok_or_else(|| missing("image", &body.image));
        let image = invalid.take("image", image).map(|image| image.id);
        (project, image, ssh_keys(&call.state, project, (&body.keypairs, &mut invalid)))
    });
    invalid.finish()?;
    let ((project, image, ssh_keys), flavor, id) = (valid(inside), valid(flavor), valid(id));
    let spec = VmSpec {
        name: valid(name),
        project,
        flavor: flavor.name.clone(),
        resources: flavor.resources,
        image: valid(image),
        ssh_keys,
        user_data,
        mac: mac(&call.state, id),
        zone,
        anti_affinity,
        restart: match body.restart {
            v1::RestartPolicy::Always => RestartPolicy::Always,
            v1::RestartPolicy::OnFailure => RestartPolicy::OnFailure,
            v1::RestartPolicy::Never => RestartPolicy::Never,
        },
        power: match body.power {
            v1::Power::Running => Power::Running,
            v1::Power::Stopped => Power::Stopped,
        },
        reboots: 0,
    };
    Ok(CreateVm { id, spec })
}

fn missing(kind: &str, text: &str) -> String {
    Problem::not_found(kind, text).detail
}

fn user_data(base64: Option<&str>) -> Result<Vec<u8>, String> {
    let Some(base64) = base64 else { return Ok(Vec::new()) };
    let too_large = || format!("has at most {USER_DATA_BYTES_MAX} bytes before base64");
    if base64.len() > USER_DATA_BYTES_MAX.div_ceil(3) * 4 {
        return Err(too_large());
    }
    let bytes = BASE64.decode(base64.as_bytes()).map_err(|error| format!("is not base64: {error}"))?;
    if bytes.len() <= USER_DATA_BYTES_MAX { Ok(bytes) } else { Err(too_large()) }
}

fn ssh_keys(
    state: &State,
    project: scp_model::ProjectId,
    (keypairs, invalid): (&[String], &mut Invalid),
) -> Vec<String> {
    invalid.check(keypairs.len() <= SSH_KEYS_MAX, "keypairs", format!("at most {SSH_KEYS_MAX}"));
    let mut lines: Vec<String> = Vec::new();
    for (at, text) in keypairs.iter().take(SSH_KEYS_MAX).enumerate() {
        let keypair = state.find_keypair(project, text).ok_or_else(|| missing("keypair", text));
        if let Some(keypair) = invalid.take(&format!("keypairs[{at}]"), keypair)
            && !lines.iter().any(|line| **line == *keypair.public_key)
        {
            lines.push(keypair.public_key.to_string());
        }
    }
    lines
}

/// A locally administered hardware address that no other VM has. It follows from the VM's id, which is
/// random: a repeated request makes the same one and is the same request.
fn mac(state: &State, vm: VmId) -> [u8; 6] {
    for attempt in 0u32.. {
        let mut hash = Sha256::new();
        hash.update(b"mac");
        hash.update(vm.0.as_bytes());
        hash.update(attempt.to_be_bytes());
        let hash: [u8; 32] = hash.finalize().into();
        let mut mac: [u8; 6] = *hash.first_chunk().expect("SHA-256 has 32 bytes");
        // Locally administered, unicast.
        mac[0] = (mac[0] & 0xfc) | 0x02;
        if state.macs.get(&mac).is_none_or(|owner| *owner == vm) {
            return mac;
        }
    }
    unreachable!("there are more addresses than VMs")
}

/// Start it.
#[utoipa::path(post, path = "/v1/vms/{vm}/start", tag = "vms", params(("vm", description = "id or name"), v1::OneQuery),
    responses(
        (status = 200, body = v1::Vm),
        (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn start(call: Call, Path(vm): Path<String>, Params(query): Params<v1::OneQuery>) -> Answer {
    change(call, (&vm, query), |vm| Command::SetVmPower(SetVmPower { vm, power: Power::Running })).await
}

/// Stop it: asked by ACPI first, then by force.
#[utoipa::path(post, path = "/v1/vms/{vm}/stop", tag = "vms", params(("vm", description = "id or name"), v1::OneQuery),
    responses(
        (status = 200, body = v1::Vm),
        (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn stop(call: Call, Path(vm): Path<String>, Params(query): Params<v1::OneQuery>) -> Answer {
    change(call, (&vm, query), |vm| Command::SetVmPower(SetVmPower { vm, power: Power::Stopped })).await
}

/// Reboot it in place.
#[utoipa::path(post, path = "/v1/vms/{vm}/reboot", tag = "vms", params(("vm", description = "id or name"), v1::OneQuery),
    responses(
        (status = 200, body = v1::Vm),
        (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn reboot(
    call: Call,
    Path(vm): Path<String>,
    Params(query): Params<v1::OneQuery>,
) -> Answer {
    change(call, (&vm, query), |vm| Command::RebootVm(RebootVm { vm })).await
}

async fn change(mut call: Call, (text, query): (&str, v1::OneQuery), command: fn(VmId) -> Command) -> Answer {
    let vm: &Vm = call.find(Action::VmRead, text, query.project.as_deref())?;
    let id = vm.id;
    call.may(Action::VmManage, Scope::Project(vm.spec.project))?;
    call.commit(command(id)).await?;
    shown(&call, id)
}

/// Begin its deletion. It is done when the VM is not found any more.
#[utoipa::path(delete, path = "/v1/vms/{vm}", tag = "vms", params(("vm", description = "id or name"), v1::OneQuery),
    responses(
        (status = 204),
        (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn delete(
    mut call: Call,
    Path(vm): Path<String>,
    Params(query): Params<v1::OneQuery>,
) -> Answer {
    if let Some(answer) = call.repeated() {
        return answer.and_then(|()| call.no_content());
    }
    let vm: &Vm = call.find(Action::VmRead, &vm, query.project.as_deref())?;
    let id = vm.id;
    call.may(Action::VmManage, Scope::Project(vm.spec.project))?;
    call.commit(Command::DeleteVm(DeleteVm { vm: id })).await?;
    call.no_content()
}

/// Why it is where it is, or nowhere: one line a node.
#[utoipa::path(get, path = "/v1/vms/{vm}/explain", tag = "vms", params(("vm", description = "id or name"), v1::OneQuery),
    responses(
        (status = 200, body = v1::Explanation),
        (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn explain(
    call: Call,
    Path(vm): Path<String>,
    Params(query): Params<v1::OneQuery>,
) -> Answer {
    let vm: &Vm = call.find(Action::VmExplain, &vm, query.project.as_deref())?;
    let names = if call.allowed(Action::VmRead, Scope::Project(vm.spec.project)) {
        view::Names::Told
    } else {
        view::Names::Withheld
    };
    let explanation = call.cluster().explain(vm.id).await?;
    call.ok(&view::explanation(&explanation, names))
}

/// Its usage, from its hypervisor.
#[utoipa::path(get, path = "/v1/vms/{vm}/stats", tag = "vms", params(("vm", description = "id or name"), v1::OneQuery),
    responses(
        (status = 200, body = v1::VmStats),
        (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn stats(call: Call, Path(vm): Path<String>, Params(query): Params<v1::OneQuery>) -> Answer {
    let vm: &Vm = call.find(Action::VmRead, &vm, query.project.as_deref())?;
    let stats = call.cluster().vm_stats(vm.id).await?;
    call.ok(&view::stats(stats))
}
