//! `scpctl vm`: virtual machines.

use std::path::PathBuf;

use clap::ValueEnum;
use data_encoding::BASE64;
use scp_api::v1;

use crate::{
    app::App,
    commands::{console, explain},
    error::{CliError, Result},
    output::{bytes, count, duration_ms, fields, mib, table},
    wait,
};

/// Virtual machines
///
/// Examples:
///   scpctl vm create web --image debian-12 --flavor small --keypair me --wait
///   scpctl vm list
///   scpctl vm console web
///   scpctl vm delete web --wait
#[derive(Debug, clap::Subcommand)]
#[command(verbatim_doc_comment)]
pub enum Command {
    /// Create a VM and start it
    #[command(visible_alias = "launch", aliases = ["run", "add", "new"])]
    Create(Box<Create>),
    /// VMs of the project
    #[command(visible_alias = "ls")]
    List {
        /// VMs of every project that you may see
        #[arg(long, short = 'A')]
        all_projects: bool,
        /// Only those in this phase: pending, running, stopped, crashed, …
        #[arg(long)]
        phase: Option<String>,
    },
    /// Everything about a VM
    #[command(visible_aliases = ["get", "info"])]
    Show(Name),
    /// Start a stopped VM
    Start(Names),
    /// Shut a VM down in order; by force when it does not obey
    Stop(Names),
    /// Restart the guest in place
    #[command(visible_alias = "restart")]
    Reboot(Names),
    /// Delete a VM and its disk
    #[command(visible_aliases = ["rm", "remove"])]
    Delete(Names),
    /// The serial console, interactively; Ctrl-] leaves it
    ///
    /// Everything you type goes to the guest, Ctrl-C included. Ctrl-] leaves the console; the VM runs on.
    /// When stdin is no terminal, it is sent as it is and the console is left at its end.
    #[command(verbatim_doc_comment)]
    Console(Name),
    /// What the guest wrote to its serial console; survives its crash
    #[command(visible_alias = "logs")]
    Log {
        #[command(flatten)]
        name: Name,
        /// Go on with what comes
        #[arg(long, short)]
        follow: bool,
        /// At most this many bytes from its end
        #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u64).range(1..=v1::CONSOLE_LOG_BYTES_MAX))]
        bytes: Option<u64>,
    },
    /// What a VM uses
    #[command(visible_alias = "top")]
    Stats(Name),
    /// Why a VM is where it is, or waits
    #[command(visible_alias = "why")]
    Explain(Name),
}

#[derive(Debug, clap::Args)]
pub struct Name {
    /// Name or id of the VM
    #[arg(value_name = "VM")]
    pub name: String,
}

#[derive(Debug, clap::Args)]
pub struct Names {
    /// Names or ids of VMs
    #[arg(value_name = "VM", required = true)]
    pub names: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Restart {
    /// Start it again however it ended
    Always,
    /// Start it again after a crash; respect a shutdown from inside
    OnFailure,
    /// Leave it as it is
    Never,
}

#[derive(Debug, clap::Args)]
pub struct Create {
    /// Name of the VM; with --count, NAME-1, NAME-2, …
    #[arg(value_name = "NAME")]
    pub name: String,
    /// Image to start from (name or id)
    #[arg(long, short)]
    pub image: String,
    /// Size (name or id)
    #[arg(long, short)]
    pub flavor: String,
    /// SSH key to let in (name or id); may be repeated
    #[arg(long, short, visible_alias = "key")]
    pub keypair: Vec<String>,
    /// cloud-init user data; - reads it from stdin
    #[arg(long, value_name = "FILE")]
    pub user_data: Option<PathBuf>,
    /// Only in this zone
    #[arg(long)]
    pub zone: Option<String>,
    /// VMs of one group never share a node
    #[arg(long, value_name = "GROUP")]
    pub anti_affinity: Option<String>,
    /// What to do when the guest ends by itself
    #[arg(long, value_enum, default_value_t = Restart::OnFailure)]
    pub restart: Restart,
    /// Create it without starting it
    #[arg(long)]
    pub stopped: bool,
    /// How many
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub count: u16,
}

/// The largest user data that the API takes, before base64.
const USER_DATA_BYTES_MAX: usize = scp_model::vm::USER_DATA_BYTES_MAX;

pub async fn run(command: &Command, app: &App) -> Result<()> {
    match command {
        Command::Create(order) => create(order, app).await,
        Command::List { all_projects, phase } => list(app, *all_projects, phase.as_deref()).await,
        Command::Show(Name { name }) => {
            let vm = app.client().await?.get_vm(name, app.within(name).as_deref()).await?;
            app.out.data(&vm, show)
        }
        Command::Start(Names { names }) => change(app, names, Change::Start).await,
        Command::Stop(Names { names }) => change(app, names, Change::Stop).await,
        Command::Reboot(Names { names }) => change(app, names, Change::Reboot).await,
        Command::Delete(Names { names }) => change(app, names, Change::Delete).await,
        Command::Console(Name { name }) => console::run(name, app).await,
        Command::Log { name, follow, bytes } => console::log(&name.name, *follow, *bytes, app).await,
        Command::Stats(Name { name }) => {
            let stats = app.client().await?.vm_stats(name, app.within(name).as_deref()).await?;
            app.out.data(&stats, usage)
        }
        Command::Explain(Name { name }) => explain::explain(name, app).await,
    }
}

async fn create(order: &Create, app: &App) -> Result<()> {
    let client = app.client().await?;
    let base = request(order, app.project())?;
    let mut made = Vec::new();
    for number in 1..=order.count {
        let name = if order.count == 1 { order.name.clone() } else { format!("{}-{number}", order.name) };
        // Our id: when the answer is lost, the repeated request is the same VM.
        let id = Some(uuid::Uuid::now_v7().to_string());
        let vm = client.create_vm(&v1::VmCreate { id, name, ..base.clone() }).await?;
        app.out.talk(format!("VM {} is ordered ({}).", vm.name, vm.id));
        made.push(vm);
    }
    if app.global.wait {
        let target = if order.stopped { wait::Goal::Stopped } else { wait::Goal::Running };
        for vm in &mut made {
            *vm = wait::vm(app, client, &vm.id, target).await?.expect("a VM that reached its phase is there");
        }
    } else if let [vm] = made.as_slice() {
        app.out.talk(format!("It starts by itself; see it with: scpctl vm show {}", vm.name));
    }
    match made.as_slice() {
        [vm] => app.out.data(vm, show),
        many => app.out.data(&many, |vms| rows(vms)),
    }
}

fn request(order: &Create, project: Option<String>) -> Result<v1::VmCreate> {
    let user_data = order.user_data.as_deref().map(user_data).transpose()?;
    Ok(v1::VmCreate {
        id: None,
        name: String::new(),
        project,
        flavor: order.flavor.clone(),
        image: order.image.clone(),
        keypairs: order.keypair.clone(),
        user_data_base64: user_data.map(|bytes| BASE64.encode(&bytes)),
        zone: order.zone.clone(),
        anti_affinity: order.anti_affinity.clone(),
        restart: match order.restart {
            Restart::Always => v1::RestartPolicy::Always,
            Restart::OnFailure => v1::RestartPolicy::OnFailure,
            Restart::Never => v1::RestartPolicy::Never,
        },
        power: if order.stopped { v1::Power::Stopped } else { v1::Power::Running },
    })
}

fn user_data(path: &std::path::Path) -> Result<Vec<u8>> {
    use std::io::Read;
    let limit = USER_DATA_BYTES_MAX as u64 + 1;
    let mut data = Vec::new();
    let read = if path == std::path::Path::new("-") {
        std::io::stdin().lock().take(limit).read_to_end(&mut data)
    } else {
        std::fs::File::open(path).and_then(|file| file.take(limit).read_to_end(&mut data))
    };
    read.map_err(|error| CliError::file(path, &error))?;
    if data.len() > USER_DATA_BYTES_MAX {
        return Err(CliError::usage(format!("{} holds more than 64 KiB of user data", path.display()))
            .remedy("keep it small: have it fetch the rest from somewhere"));
    }
    Ok(data)
}

async fn list(app: &App, all_projects: bool, phase: Option<&str>) -> Result<()> {
    let client = app.client().await?;
    let query = v1::ListQuery { phase: phase.map(str::to_owned), ..app.list_query(all_projects) };
    let vms = app.all(query, |query| client.list_vms(query), |it| &it.name).await?;
    if vms.is_empty() {
        app.out.talk("No VMs. Create one: scpctl vm create NAME --image IMAGE --flavor FLAVOR");
    }
    app.out.data(&vms, |vms| rows(vms))
}

/// What to do with VMs that are there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    Start,
    Stop,
    Reboot,
    Delete,
}

async fn change(app: &App, names: &[String], change: Change) -> Result<()> {
    let client = app.client().await?;
    // The ids first: all of them exist, or nothing is done.
    let mut vms = Vec::new();
    for name in names {
        vms.push(client.get_vm(name, app.within(name).as_deref()).await?);
    }
    for vm in &vms {
        match change {
            Change::Start => client.start_vm(&vm.id, None).await.map(drop)?,
            Change::Stop => client.stop_vm(&vm.id, None).await.map(drop)?,
            Change::Reboot => client.reboot_vm(&vm.id, None).await.map(drop)?,
            Change::Delete => client.delete_vm(&vm.id, None).await?,
        }
        let what = match change {
            Change::Start => "is being started",
            Change::Stop => "is being stopped",
            Change::Reboot => "is being rebooted",
            Change::Delete => "is being deleted",
        };
        app.out.talk(format!("VM {} {what}.", vm.name));
    }
    if app.global.wait {
        let goal = match change {
            Change::Start => wait::Goal::Running,
            Change::Stop => wait::Goal::Stopped,
            Change::Reboot => wait::Goal::Rebooted,
            Change::Delete => wait::Goal::Gone,
        };
        for vm in &vms {
            wait::vm(app, client, &vm.id, goal).await?;
        }
    }
    Ok(())
}

pub fn phase(phase: v1::VmPhase) -> &'static str {
    match phase {
        v1::VmPhase::Pending => "pending",
        v1::VmPhase::Bound => "bound",
        v1::VmPhase::Starting => "starting",
        v1::VmPhase::Running => "running",
        v1::VmPhase::Stopping => "stopping",
        v1::VmPhase::Stopped => "stopped",
        v1::VmPhase::Crashed => "crashed",
        v1::VmPhase::Deleting => "deleting",
    }
}

pub fn rows(vms: &[v1::Vm]) -> String {
    table(
        ["NAME", "PHASE", "NODE", "FLAVOR", "IMAGE", "PROJECT", "ID"],
        vms.iter().map(|vm| {
            [
                vm.name.clone(),
                phase(vm.phase).into(),
                vm.node.as_ref().map(|node| node.name.clone()).unwrap_or_default(),
                vm.flavor.clone(),
                vm.image.name.clone(),
                vm.project.name.clone(),
                vm.id.clone(),
            ]
        }),
    )
}

pub fn show(vm: &v1::Vm) -> String {
    let node = vm.node.as_ref().map(|node| format!("{} ({})", node.name, node.id));
    let size = format!(
        "{} ({}, {} memory, {} disk)",
        vm.flavor,
        count(usize::try_from(vm.resources.vcpus).unwrap_or(usize::MAX), "vCPU"),
        mib(vm.resources.memory_mib),
        mib(vm.resources.disk_mib)
    );
    let restart = match vm.restart {
        v1::RestartPolicy::Always => "always",
        v1::RestartPolicy::OnFailure => "on-failure",
        v1::RestartPolicy::Never => "never",
    };
    let wanted = match vm.power {
        v1::Power::Running => "running",
        v1::Power::Stopped => "stopped",
    };
    fields([
        ("name", vm.name.clone()),
        ("id", vm.id.clone()),
        ("project", vm.project.name.clone()),
        ("phase", format!("{} since {}", phase(vm.phase), vm.since)),
        ("wanted", wanted.into()),
        ("message", vm.message.clone().unwrap_or_default()),
        ("failures", vm.failures.to_string()),
        ("node", node.unwrap_or_default()),
        ("epoch", vm.epoch.map(|epoch| epoch.to_string()).unwrap_or_default()),
        ("flavor", size),
        ("image", format!("{} ({})", vm.image.name, vm.image.id)),
        ("mac", vm.mac.clone()),
        ("zone", vm.zone.clone().unwrap_or_default()),
        ("anti-affinity", vm.anti_affinity.clone().unwrap_or_default()),
        ("restart", restart.into()),
        ("reboots", vm.reboots.to_string()),
        ("ssh keys", vm.ssh_keys.len().to_string()),
        ("user data", bytes(vm.user_data_bytes)),
        ("created", vm.created_at.to_string()),
    ])
}

fn usage(stats: &v1::VmStats) -> String {
    fields([
        ("cpu time", duration_ms(stats.cpu_time_ms)),
        ("memory", bytes(stats.memory_rss_kib.saturating_mul(1024))),
        ("disk read", bytes(stats.disk_read_bytes)),
        ("disk written", bytes(stats.disk_write_bytes)),
        ("received", bytes(stats.net_rx_bytes)),
        ("sent", bytes(stats.net_tx_bytes)),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn a_list_of_vms_as_people_see_it() {
        let mut waiting = testing::vm("worker", v1::VmPhase::Pending);
        waiting.node = None;
        assert_eq!(
            rows(&[testing::vm("web", v1::VmPhase::Running), waiting]),
            "NAME    PHASE    NODE  FLAVOR  IMAGE      PROJECT  ID\n\
             web     running  n1    small   debian-12  library  0198c3a2-0000-7000-8000-000000000001\n\
             worker  pending  -     small   debian-12  library  0198c3a2-0000-7000-8000-000000000001\n"
        );
    }

    #[test]
    fn one_vm_as_people_see_it() {
        let mut vm = testing::vm("web", v1::VmPhase::Running);
        vm.zone = Some("rack-1".into());
        assert_eq!(
            show(&vm),
            "name           web\n\
             id             0198c3a2-0000-7000-8000-000000000001\n\
             project        library\n\
             phase          running since 2025-11-24T16:00:00.000Z\n\
             wanted         running\n\
             message        -\n\
             failures       0\n\
             node           n1 (id-of-n1)\n\
             epoch          42\n\
             flavor         small (1 vCPU, 2 GiB memory, 10 GiB disk)\n\
             image          debian-12 (id-of-debian-12)\n\
             mac            02:00:00:00:00:01\n\
             zone           rack-1\n\
             anti-affinity  -\n\
             restart        on-failure\n\
             reboots        0\n\
             ssh keys       1\n\
             user data      1.5 KiB\n\
             created        2025-11-24T16:00:00.000Z\n"
        );
    }

    #[test]
    fn user_data_beyond_the_limit_is_refused_before_it_is_sent() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), vec![b'#'; USER_DATA_BYTES_MAX]).unwrap();
        assert_eq!(user_data(file.path()).unwrap().len(), USER_DATA_BYTES_MAX);
        std::fs::write(file.path(), vec![b'#'; USER_DATA_BYTES_MAX + 1]).unwrap();
        assert_eq!(user_data(file.path()).unwrap_err().exit, crate::error::Exit::Usage);
    }
}
