//! `scpctl user`: users, passwords and roles.

use std::path::PathBuf;

use clap::ValueEnum;
use scp_api::v1;

use crate::{
    app::App,
    error::{CliError, Result},
    output::{fields, table},
    terminal,
};

/// Users, passwords and roles
///
/// Examples:
///   scpctl user create ana --password-file ana.txt --grant library=member
///   scpctl user grant ana --role manager --in library
///   scpctl user grant rui --city operator
///   scpctl user password
#[derive(Debug, clap::Subcommand)]
#[command(verbatim_doc_comment)]
pub enum Command {
    /// All users
    #[command(visible_alias = "ls")]
    List,
    /// Everything about a user
    #[command(visible_aliases = ["get", "info"])]
    Show(Name),
    /// Create a user; the password is asked for at the terminal
    #[command(visible_alias = "add")]
    Create {
        #[command(flatten)]
        name: Name,
        #[command(flatten)]
        password: Secret,
        /// A role over the whole city; may be repeated
        #[arg(long, value_enum, value_name = "ROLE")]
        city: Vec<CityRole>,
        /// A role in a project, for example library=member; may be repeated
        #[arg(long, value_name = "PROJECT=ROLE", value_parser = grant)]
        grant: Vec<v1::Grant>,
    },
    /// Set a password: your own, or as an administrator anybody's
    #[command(visible_alias = "passwd")]
    Password {
        /// The user; you when absent
        #[arg(value_name = "USER")]
        name: Option<String>,
        #[command(flatten)]
        password: Secret,
        /// Your present password from this file instead of the terminal
        #[arg(long, value_name = "FILE")]
        current_password_file: Option<PathBuf>,
    },
    /// Give a role, in a project or over the city
    Grant {
        #[command(flatten)]
        name: Name,
        /// The role in a project
        #[arg(long, value_enum, requires = "within")]
        role: Option<ProjectRole>,
        /// The project (name or id)
        #[arg(long = "in", id = "within", value_name = "PROJECT", requires = "role")]
        within: Option<String>,
        /// A role over the whole city
        #[arg(long, value_enum, value_name = "ROLE", required_unless_present = "role")]
        city: Option<CityRole>,
    },
    /// Take a role away, in a project or over the city
    Revoke {
        #[command(flatten)]
        name: Name,
        /// The project (name or id)
        #[arg(long = "in", id = "within", value_name = "PROJECT")]
        within: Option<String>,
        /// The role over the whole city
        #[arg(long, value_enum, value_name = "ROLE", required_unless_present = "within")]
        city: Option<CityRole>,
    },
    /// Let a user in again
    Enable(Name),
    /// Keep a user out without deleting anything
    Disable(Name),
    /// Refuse every token given to a user until now
    #[command(visible_alias = "logout")]
    RevokeTokens(Name),
    /// Delete a user
    #[command(visible_aliases = ["rm", "remove"])]
    Delete(Name),
}

#[derive(Debug, clap::Args)]
pub struct Name {
    /// Name or id of the user
    #[arg(value_name = "USER")]
    name: String,
}

#[derive(Debug, clap::Args)]
pub struct Secret {
    /// The password from this file (- for stdin) instead of the terminal
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum CityRole {
    /// Everything
    Admin,
    /// Machines: nodes, join tokens, flavors, images for all
    Operator,
    /// Reads events and the audit log
    Auditor,
}

impl From<CityRole> for v1::CityRole {
    fn from(role: CityRole) -> Self {
        match role {
            CityRole::Admin => Self::Admin,
            CityRole::Operator => Self::Operator,
            CityRole::Auditor => Self::Auditor,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ProjectRole {
    /// Sees
    Reader,
    /// Creates, changes and deletes resources
    Member,
    /// Grants roles in the project
    Manager,
}

impl From<ProjectRole> for v1::ProjectRole {
    fn from(role: ProjectRole) -> Self {
        match role {
            ProjectRole::Reader => Self::Reader,
            ProjectRole::Member => Self::Member,
            ProjectRole::Manager => Self::Manager,
        }
    }
}

/// `PROJECT=ROLE`.
fn grant(text: &str) -> std::result::Result<v1::Grant, String> {
    let teach = || {
        format!("{text:?} is not PROJECT=ROLE: write for example library=member (reader, member, manager)")
    };
    let (project, role) =
        text.split_once('=').filter(|(project, _)| !project.is_empty()).ok_or_else(teach)?;
    let role = ProjectRole::from_str(role, true).map_err(|_| teach())?;
    Ok(v1::Grant { project: project.to_owned(), role: role.into() })
}

pub async fn run(command: &Command, app: &App) -> Result<()> {
    match command {
        Command::List => {
            let client = app.client().await?;
            let users =
                app.all(v1::ListQuery::default(), |query| client.list_users(query), |it| &it.name).await?;
            app.out.data(&users, |users| rows(users))
        }
        Command::Show(Name { name }) => app.out.data(&app.client().await?.get_user(name).await?, show),
        Command::Create { name, password, city, grant } => {
            let order = v1::UserCreate {
                id: Some(uuid::Uuid::now_v7().to_string()),
                name: name.name.clone(),
                password: new_password(&name.name, password)?,
                city_roles: city.iter().map(|role| (*role).into()).collect(),
                grants: grant.clone(),
            };
            app.out.data(&app.client().await?.create_user(&order).await?, show)
        }
        Command::Password { name, password, current_password_file } => {
            set_password(app, name.as_deref(), password, current_password_file.as_deref()).await
        }
        Command::Grant { name: Name { name }, role, within, city } => {
            if let (Some(role), Some(project)) = (role, within) {
                app.client().await?.set_grant(name, project, (*role).into()).await?;
            }
            if let Some(role) = city {
                city_role(app, name, (*role).into(), true).await?;
            }
            app.out.talk(format!("Granted to {name}."));
            Ok(())
        }
        Command::Revoke { name: Name { name }, within, city } => {
            if let Some(project) = within {
                app.client().await?.remove_grant(name, project).await?;
            }
            if let Some(role) = city {
                city_role(app, name, (*role).into(), false).await?;
            }
            app.out.talk(format!("Taken from {name}."));
            Ok(())
        }
        Command::Enable(name) => enable(app, &name.name, true).await,
        Command::Disable(name) => enable(app, &name.name, false).await,
        Command::RevokeTokens(Name { name }) => {
            let update = v1::UserUpdate { revoke_tokens: true, ..v1::UserUpdate::default() };
            app.client().await?.update_user(name, &update).await?;
            app.out.talk(format!("Every token of {name} given until now is refused."));
            Ok(())
        }
        Command::Delete(Name { name }) => {
            app.client().await?.delete_user(name).await?;
            app.out.talk(format!("User {name} is deleted."));
            Ok(())
        }
    }
}

async fn enable(app: &App, name: &str, enabled: bool) -> Result<()> {
    let update = v1::UserUpdate { enabled: Some(enabled), ..v1::UserUpdate::default() };
    app.client().await?.update_user(name, &update).await?;
    app.out.talk(format!("{name} is {}.", if enabled { "let in" } else { "kept out" }));
    Ok(())
}

/// Adds or takes a city role, keeping the others.
async fn city_role(app: &App, name: &str, role: v1::CityRole, granted: bool) -> Result<()> {
    let client = app.client().await?;
    let user = client.get_user(name).await?;
    let mut roles = user.city_roles;
    roles.retain(|has| *has != role);
    if granted {
        roles.push(role);
    }
    let update = v1::UserUpdate { city_roles: Some(roles), ..v1::UserUpdate::default() };
    client.update_user(&user.id, &update).await?;
    Ok(())
}

/// Typed twice, or from a file.
fn new_password(user: &str, given: &Secret) -> Result<String> {
    let file = given.password_file.as_deref();
    let password = terminal::password(&format!("New password of {user}"), file)?;
    if password.chars().count() < v1::PASSWORD_CHARS_MIN {
        return Err(CliError::usage(format!(
            "a password has at least {} characters; four or five unrelated words do well",
            v1::PASSWORD_CHARS_MIN
        )));
    }
    if file.is_none() && terminal::password("Once more", None)? != password {
        return Err(CliError::usage("the two passwords differ"));
    }
    Ok(password)
}

async fn set_password(
    app: &App,
    name: Option<&str>,
    new: &Secret,
    current_file: Option<&std::path::Path>,
) -> Result<()> {
    let client = app.client().await?;
    let me = client.whoami().await?;
    let target = name.unwrap_or(&me.name);
    let own = me.user.is_some() && (target == me.name || me.user.as_deref() == Some(target));
    if me.user.is_none() && name.is_none() {
        return Err(CliError::usage("name the user: root on the server has no password")
            .remedy("scpctl user password admin"));
    }
    let current_password = match (own, current_file) {
        (true, _) => Some(terminal::password("Present password", current_file)?),
        (false, _) => None,
    };
    let password = new_password(target, new)?;
    client.set_password(target, &v1::PasswordSet { password, current_password }).await?;
    app.out.talk(format!("The password of {target} is set; tokens given until now are refused."));
    if own {
        app.out.talk("Log in again: scpctl login");
    }
    Ok(())
}

fn city_role_name(role: v1::CityRole) -> &'static str {
    match role {
        v1::CityRole::Admin => "admin",
        v1::CityRole::Operator => "operator",
        v1::CityRole::Auditor => "auditor",
    }
}

fn project_role_name(role: v1::ProjectRole) -> &'static str {
    match role {
        v1::ProjectRole::Reader => "reader",
        v1::ProjectRole::Member => "member",
        v1::ProjectRole::Manager => "manager",
    }
}

fn city_roles(user: &v1::User) -> String {
    user.city_roles.iter().map(|role| city_role_name(*role)).collect::<Vec<_>>().join(", ")
}

fn rows(users: &[v1::User]) -> String {
    table(
        ["NAME", "CITY ROLES", "PROJECTS", "ENABLED", "ID"],
        users.iter().map(|it| {
            let enabled = if it.enabled { "yes" } else { "no" };
            [it.name.clone(), city_roles(it), it.grants.len().to_string(), enabled.into(), it.id.clone()]
        }),
    )
}

fn show(it: &v1::User) -> String {
    let grants =
        it.grants.iter().map(|grant| format!("{} in {}", project_role_name(grant.role), grant.project));
    fields([
        ("name", it.name.clone()),
        ("id", it.id.clone()),
        ("city roles", city_roles(it)),
        ("grants", grants.collect::<Vec<_>>().join("\n")),
        ("enabled", if it.enabled { "yes" } else { "no" }.into()),
        ("created", it.created_at.to_string()),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grant_is_project_and_role() {
        assert_eq!(
            grant("library=member"),
            Ok(v1::Grant { project: "library".into(), role: v1::ProjectRole::Member })
        );
        for bad in ["", "library", "=member", "library=owner"] {
            assert!(grant(bad).unwrap_err().contains("library=member"), "{bad}");
        }
    }
}
