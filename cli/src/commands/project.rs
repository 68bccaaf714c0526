//! `scpctl project`: what owns resources, and their quotas.

use scp_api::v1;

use crate::{
    app::App,
    error::Result,
    output::{fields, mib, table},
    quantity,
};

/// What owns resources, and their quotas
///
/// Examples:
///   scpctl project create library --department culture --vcpus 16
///   scpctl project quota library --vms 40 --memory 128GiB
///
/// A project of another department with the same name is written DEPARTMENT/NAME.
#[derive(Debug, clap::Subcommand)]
#[command(verbatim_doc_comment)]
pub enum Command {
    /// Projects that you may see
    #[command(visible_alias = "ls")]
    List,
    /// Everything about a project
    #[command(visible_aliases = ["get", "info"])]
    Show {
        /// Name or id of the project
        #[arg(id = "project_name", value_name = "PROJECT")]
        name: String,
    },
    /// Create a project
    #[command(visible_alias = "add")]
    Create {
        /// Its name
        name: String,
        /// Its department (name or id); not needed where there is only one
        #[arg(long)]
        department: Option<String>,
        #[command(flatten)]
        quota: Limits,
    },
    /// Show a project's quota, or change what is given of it
    #[command(visible_alias = "set-quota")]
    Quota {
        /// Name or id of the project
        #[arg(id = "project_name", value_name = "PROJECT")]
        name: String,
        #[command(flatten)]
        quota: Limits,
    },
    /// Delete an empty project
    #[command(visible_aliases = ["rm", "remove"])]
    Delete {
        /// Name or id of the project
        #[arg(id = "project_name", value_name = "PROJECT")]
        name: String,
    },
}

#[derive(Debug, clap::Args)]
pub struct Limits {
    /// At most this many VMs
    #[arg(long)]
    vms: Option<u64>,
    /// At most this many virtual processors
    #[arg(long)]
    vcpus: Option<u64>,
    /// At most this much memory, for example 96GiB
    #[arg(long, value_name = "SIZE", value_parser = quantity::mib)]
    memory: Option<u64>,
    /// At most this much disk, for example 2TiB
    #[arg(long, value_name = "SIZE", value_parser = quantity::mib)]
    disk: Option<u64>,
    /// At most this many images
    #[arg(long)]
    images: Option<u64>,
    /// At most this many keypairs
    #[arg(long)]
    keypairs: Option<u64>,
}

impl Limits {
    fn set(&self) -> Option<v1::QuotaSet> {
        let set = v1::QuotaSet {
            vms: self.vms,
            vcpus: self.vcpus,
            memory_mib: self.memory,
            disk_mib: self.disk,
            images: self.images,
            keypairs: self.keypairs,
        };
        (set != v1::QuotaSet::default()).then_some(set)
    }
}

pub async fn run(command: &Command, app: &App) -> Result<()> {
    let client = app.client().await?;
    match command {
        Command::List => {
            let projects =
                app.all(v1::ListQuery::default(), |query| client.list_projects(query), |it| &it.name).await?;
            app.out.data(&projects, |projects| rows(projects))
        }
        Command::Show { name } => app.out.data(&client.get_project(name).await?, show),
        Command::Create { name, department, quota } => {
            let order = v1::ProjectCreate {
                id: Some(uuid::Uuid::now_v7().to_string()),
                name: name.clone(),
                department: department.clone(),
                quota: quota.set(),
            };
            app.out.data(&client.create_project(&order).await?, show)
        }
        Command::Quota { name, quota } => {
            if let Some(set) = quota.set() {
                client.set_quota(name, &set).await?;
            }
            app.out.data(&client.get_project(name).await?, show)
        }
        Command::Delete { name } => {
            client.delete_project(name).await?;
            app.out.talk(format!("Project {name} is deleted."));
            Ok(())
        }
    }
}

fn rows(projects: &[v1::Project]) -> String {
    let of = |used: u64, quota: u64| format!("{used}/{quota}");
    table(
        ["NAME", "DEPARTMENT", "VMS", "VCPUS", "MEMORY", "ID"],
        projects.iter().map(|it| {
            [
                it.name.clone(),
                it.department.name.clone(),
                of(it.usage.vms, it.quota.vms),
                of(it.usage.resources.vcpus, it.quota.vcpus),
                format!("{} / {}", mib(it.usage.resources.memory_mib), mib(it.quota.memory_mib)),
                it.id.clone(),
            ]
        }),
    )
}

fn show(it: &v1::Project) -> String {
    let of = |used: u64, quota: u64| format!("{used} of {quota}");
    let size = |used: u64, quota: u64| format!("{} of {}", mib(used), mib(quota));
    let used = &it.usage.resources;
    fields([
        ("name", it.name.clone()),
        ("id", it.id.clone()),
        ("department", it.department.name.clone()),
        ("VMs", of(it.usage.vms, it.quota.vms)),
        ("vCPUs", of(used.vcpus, it.quota.vcpus)),
        ("memory", size(used.memory_mib, it.quota.memory_mib)),
        ("disk", size(used.disk_mib, it.quota.disk_mib)),
        ("images", of(it.usage.images, it.quota.images)),
        ("keypairs", of(it.usage.keypairs, it.quota.keypairs)),
        ("created", it.created_at.to_string()),
    ])
}
