//! `scpctl image`: disks that VMs start from.

use std::path::{Path, PathBuf};

use indicatif::{ProgressBar, ProgressStyle};
use scp_api::{
    client::{Client, Upload},
    v1,
};

use crate::{
    app::App,
    error::{CliError, Exit, Result},
    output::{bytes, fields, table},
    wait,
};

/// Disks that VMs start from
///
/// Examples:
///   scpctl image add debian-12.qcow2 --public --wait
///   scpctl image list
#[derive(Debug, clap::Subcommand)]
#[command(verbatim_doc_comment)]
pub enum Command {
    /// Images of the project, and public ones
    #[command(visible_alias = "ls")]
    List {
        /// Those of every project that you may see
        #[arg(long, short = 'A')]
        all_projects: bool,
    },
    /// Everything about an image, and where it is
    #[command(visible_aliases = ["get", "info"])]
    Show(Name),
    /// Upload a qcow2 or raw image; the format is found from its bytes
    #[command(visible_aliases = ["create", "import"], alias = "upload")]
    Add {
        /// The image's file
        file: PathBuf,
        /// Its name; the file's without its ending when absent
        #[arg(long)]
        name: Option<String>,
        /// Every project of the city may use it
        #[arg(long)]
        public: bool,
    },
    /// Delete an image that no VM uses
    #[command(visible_aliases = ["rm", "remove"])]
    Delete(Name),
}

#[derive(Debug, clap::Args)]
pub struct Name {
    /// Name or id of the image
    #[arg(value_name = "IMAGE")]
    name: String,
}

pub async fn run(command: &Command, app: &App) -> Result<()> {
    match command {
        Command::List { all_projects } => {
            let client = app.client().await?;
            let project = if *all_projects { None } else { app.project() };
            let mut images =
                app.all(v1::ListQuery::default(), |query| client.list_images(query), |it| &it.name).await?;
            images.retain(|image| usable_in(image, project.as_deref()));
            app.out.data(&images, |images| rows(images))
        }
        Command::Show(Name { name }) => {
            let client = app.client().await?;
            let image =
                match client.get_image(name, app.within(name).as_deref()).await.map_err(CliError::from) {
                    // It may be another project's, and public.
                    Err(error) if error.exit == Exit::NotFound => client.get_image(name, None).await?,
                    other => other?,
                };
            app.out.data(&image, show)
        }
        Command::Add { file, name, public } => add(app, file, name.as_deref(), *public).await,
        Command::Delete(Name { name }) => {
            app.client().await?.delete_image(name, app.within(name).as_deref()).await?;
            app.out.talk(format!("Image {name} is deleted."));
            Ok(())
        }
    }
}

/// Whether VMs of that project may start from it.
fn usable_in(image: &v1::Image, project: Option<&str>) -> bool {
    let own = |project: &str| {
        let name = project.rsplit('/').next().unwrap_or(project);
        image.project.id == project || image.project.name == name
    };
    image.visibility == v1::Visibility::Public || project.is_none_or(own)
}

async fn add(app: &App, file: &Path, name: Option<&str>, public: bool) -> Result<()> {
    let meta = std::fs::metadata(file).map_err(|error| CliError::file(file, &error))?;
    if !meta.is_file() {
        return Err(CliError::usage(format!("{} is not a file", file.display())));
    }
    let about = v1::ImageUpload {
        name: name.map_or_else(|| stem(file), |name| Ok(name.to_owned()))?,
        project: app.project(),
        visibility: if public { v1::Visibility::Public } else { v1::Visibility::Private },
    };
    let order = Upload { id: Client::new_image_id(), about, file: file.to_owned() };
    let client = app.client().await?;
    let bar = if app.out.animated() { bar(meta.len()) } else { ProgressBar::hidden() };
    app.out.talk(format!("Uploading {} ({}) as {}.", file.display(), bytes(meta.len()), order.about.name));
    let seen = bar.clone();
    let result = client
        .upload_image(&order, move |sent, total| {
            seen.set_length(total);
            seen.set_position(sent);
            if sent == total {
                seen.set_message("being checked");
            }
        })
        .await;
    bar.finish_and_clear();
    let mut image = result?;
    app.out.talk(format!("Image {} is usable.", image.name));
    if app.global.wait {
        image = wait::replicated(app, client, &image.id).await?;
        app.out.talk(format!("It is on {} of {} nodes.", image.replicas_held, image.replicas_wanted));
    }
    app.out.data(&image, show)
}

/// `debian-12.qcow2` -> `debian-12`.
fn stem(file: &Path) -> Result<String> {
    let name = file.file_stem().and_then(|name| name.to_str()).unwrap_or_default();
    scp_model::Name::new(name).map(String::from).map_err(|error| {
        CliError::usage(format!("no name can be made of {}: {error}", file.display()))
            .remedy("give one: --name NAME")
    })
}

fn bar(length: u64) -> ProgressBar {
    let template = "{bar:30} {percent:>3} %  {bytes} of {total_bytes}  {bytes_per_sec}  {eta} left  {msg}";
    let style = ProgressStyle::with_template(template).expect("the template is constant and right");
    ProgressBar::new(length).with_style(style)
}

fn phase(phase: v1::ImagePhase) -> &'static str {
    match phase {
        v1::ImagePhase::Replicating => "replicating",
        v1::ImagePhase::Ready => "ready",
        v1::ImagePhase::Unavailable => "unavailable",
    }
}

fn format(format: v1::ImageFormat) -> &'static str {
    match format {
        v1::ImageFormat::Raw => "raw",
        v1::ImageFormat::Qcow2 => "qcow2",
    }
}

fn visibility(visibility: v1::Visibility) -> &'static str {
    match visibility {
        v1::Visibility::Private => "private",
        v1::Visibility::Public => "public",
    }
}

fn replica(it: &v1::Replica) -> String {
    let state = match it.state {
        v1::ReplicaState::Assigned => "being fetched",
        v1::ReplicaState::Held => "held",
        v1::ReplicaState::Failed => "failed",
    };
    match &it.message {
        Some(message) => format!("{}: {state}: {message}", it.node.name),
        None => format!("{}: {state}", it.node.name),
    }
}

fn rows(images: &[v1::Image]) -> String {
    table(
        ["NAME", "PHASE", "FORMAT", "SIZE", "DISK", "VISIBLE", "COPIES", "PROJECT", "ID"],
        images.iter().map(|it| {
            [
                it.name.clone(),
                phase(it.phase).into(),
                format(it.format).into(),
                bytes(it.size_bytes),
                bytes(it.virtual_size_bytes),
                visibility(it.visibility).into(),
                format!("{}/{}", it.replicas_held, it.replicas_wanted),
                it.project.name.clone(),
                it.id.clone(),
            ]
        }),
    )
}

fn show(it: &v1::Image) -> String {
    fields([
        ("name", it.name.clone()),
        ("id", it.id.clone()),
        ("project", it.project.name.clone()),
        ("phase", phase(it.phase).into()),
        ("format", format(it.format).into()),
        ("size", bytes(it.size_bytes)),
        ("disk", bytes(it.virtual_size_bytes)),
        ("visible", visibility(it.visibility).into()),
        ("digest", format!("sha256:{}", it.digest)),
        ("copies", it.replicas.iter().map(replica).collect::<Vec<_>>().join("\n")),
        ("created", it.created_at.to_string()),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_named_after_its_file() {
        assert_eq!(stem(Path::new("/x/debian-12.qcow2")).unwrap(), "debian-12");
        assert!(stem(Path::new("/x/olá mundo.img")).unwrap_err().remedy.unwrap().contains("--name"));
    }
}
