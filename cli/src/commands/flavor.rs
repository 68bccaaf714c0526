//! `scpctl flavor`: sizes of VMs.

use scp_api::v1;

use crate::{
    app::App,
    error::Result,
    output::{fields, mib, table},
    quantity,
};

/// Sizes of VMs
///
/// Example:
///   scpctl flavor create large --vcpus 4 --memory 8GiB --disk 40GiB
#[derive(Debug, clap::Subcommand)]
#[command(verbatim_doc_comment)]
pub enum Command {
    /// All flavors
    #[command(visible_alias = "ls")]
    List,
    /// Everything about a flavor
    #[command(visible_aliases = ["get", "info"])]
    Show {
        /// Name or id of the flavor
        #[arg(value_name = "FLAVOR")]
        name: String,
    },
    /// Create a flavor
    #[command(visible_alias = "add")]
    Create {
        /// Its name
        name: String,
        /// Virtual processors
        #[arg(long, visible_alias = "cpus")]
        vcpus: u64,
        /// Memory, for example 512MiB or 2G
        #[arg(long, visible_alias = "ram", value_name = "SIZE", value_parser = quantity::mib)]
        memory: u64,
        /// Root disk, for example 10G
        #[arg(long, value_name = "SIZE", value_parser = quantity::mib)]
        disk: u64,
    },
    /// Delete a flavor; VMs made with it stay as they are
    #[command(visible_aliases = ["rm", "remove"])]
    Delete {
        /// Name or id of the flavor
        #[arg(value_name = "FLAVOR")]
        name: String,
    },
}

pub async fn run(command: &Command, app: &App) -> Result<()> {
    let client = app.client().await?;
    match command {
        Command::List => {
            let flavors =
                app.all(v1::ListQuery::default(), |query| client.list_flavors(query), |it| &it.name).await?;
            app.out.data(&flavors, |flavors| rows(flavors))
        }
        Command::Show { name } => {
            let flavor = client.get_flavor(name).await?;
            app.out.data(&flavor, show)
        }
        Command::Create { name, vcpus, memory, disk } => {
            let flavor = client
                .create_flavor(&v1::FlavorCreate {
                    id: Some(uuid::Uuid::now_v7().to_string()),
                    name: name.clone(),
                    resources: v1::Resources { vcpus: *vcpus, memory_mib: *memory, disk_mib: *disk },
                })
                .await?;
            app.out.data(&flavor, show)
        }
        Command::Delete { name } => {
            client.delete_flavor(name).await?;
            app.out.talk(format!("Flavor {name} is deleted."));
            Ok(())
        }
    }
}

fn rows(flavors: &[v1::Flavor]) -> String {
    table(
        ["NAME", "VCPUS", "MEMORY", "DISK", "ID"],
        flavors.iter().map(|it| {
            [
                it.name.clone(),
                it.resources.vcpus.to_string(),
                mib(it.resources.memory_mib),
                mib(it.resources.disk_mib),
                it.id.clone(),
            ]
        }),
    )
}

fn show(it: &v1::Flavor) -> String {
    fields([
        ("name", it.name.clone()),
        ("id", it.id.clone()),
        ("vcpus", it.resources.vcpus.to_string()),
        ("memory", mib(it.resources.memory_mib)),
        ("disk", mib(it.resources.disk_mib)),
        ("created", it.created_at.to_string()),
    ])
}
