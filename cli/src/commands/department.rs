//! `scpctl department`: parts of the city's administration.

use scp_api::v1;

use crate::{
    app::App,
    error::Result,
    output::{fields, table},
};

/// Parts of the city's administration
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// All departments
    #[command(visible_alias = "ls")]
    List,
    /// Everything about a department
    #[command(visible_aliases = ["get", "info"])]
    Show {
        /// Name or id of the department
        #[arg(value_name = "DEPARTMENT")]
        name: String,
    },
    /// Create a department
    #[command(visible_alias = "add")]
    Create {
        /// Its name
        name: String,
    },
    /// Delete a department without projects
    #[command(visible_aliases = ["rm", "remove"])]
    Delete {
        /// Name or id of the department
        #[arg(value_name = "DEPARTMENT")]
        name: String,
    },
}

pub async fn run(command: &Command, app: &App) -> Result<()> {
    let client = app.client().await?;
    match command {
        Command::List => {
            let departments = app
                .all(v1::ListQuery::default(), |query| client.list_departments(query), |it| &it.name)
                .await?;
            app.out.data(&departments, |departments| {
                table(
                    ["NAME", "CREATED", "ID"],
                    departments.iter().map(|it| [it.name.clone(), it.created_at.to_string(), it.id.clone()]),
                )
            })
        }
        Command::Show { name } => app.out.data(&client.get_department(name).await?, show),
        Command::Create { name } => {
            let order =
                v1::DepartmentCreate { id: Some(uuid::Uuid::now_v7().to_string()), name: name.clone() };
            app.out.data(&client.create_department(&order).await?, show)
        }
        Command::Delete { name } => {
            client.delete_department(name).await?;
            app.out.talk(format!("Department {name} is deleted."));
            Ok(())
        }
    }
}

fn show(it: &v1::Department) -> String {
    fields([("name", it.name.clone()), ("id", it.id.clone()), ("created", it.created_at.to_string())])
}
