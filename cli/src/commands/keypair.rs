//! `scpctl keypair`: SSH keys put into VMs.

use std::path::{Path, PathBuf};

use rand::TryRngCore;
use scp_api::v1;

use crate::{
    app::App,
    contexts,
    error::{CliError, Result},
    output::{fields, table},
    sshkey,
};

/// SSH keys put into VMs
///
/// Examples:
///   scpctl keypair create me --public-key ~/.ssh/id_ed25519.pub
///   scpctl keypair create web --generate web.key     makes one and keeps the private half in web.key
#[derive(Debug, clap::Subcommand)]
#[command(verbatim_doc_comment)]
pub enum Command {
    /// Keypairs of the project
    #[command(visible_alias = "ls")]
    List {
        /// Those of every project that you may see
        #[arg(long, short = 'A')]
        all_projects: bool,
    },
    /// Everything about a keypair
    #[command(visible_aliases = ["get", "info"])]
    Show {
        /// Name or id of the keypair
        #[arg(value_name = "KEYPAIR")]
        name: String,
    },
    /// Give the city a public key, or make a pair
    #[command(visible_aliases = ["add", "import"])]
    Create {
        /// Its name
        name: String,
        /// The public key's file, for example ~/.ssh/id_ed25519.pub
        #[arg(long, value_name = "FILE", required_unless_present = "generate")]
        public_key: Option<PathBuf>,
        /// Make an ed25519 pair and write the private key to this new file; it is kept nowhere else
        #[arg(long, value_name = "FILE", conflicts_with = "public_key")]
        generate: Option<PathBuf>,
    },
    /// Delete a keypair; VMs that have it keep it
    #[command(visible_aliases = ["rm", "remove"])]
    Delete {
        /// Name or id of the keypair
        #[arg(value_name = "KEYPAIR")]
        name: String,
    },
}

pub async fn run(command: &Command, app: &App) -> Result<()> {
    match command {
        Command::List { all_projects } => {
            let client = app.client().await?;
            let keypairs = app
                .all(app.list_query(*all_projects), |query| client.list_keypairs(query), |it| &it.name)
                .await?;
            app.out.data(&keypairs, |keypairs| rows(keypairs))
        }
        Command::Show { name } => {
            let keypair = app.client().await?.get_keypair(name, app.within(name).as_deref()).await?;
            app.out.data(&keypair, show)
        }
        Command::Create { name, public_key, generate } => {
            create(app, name, public_key.as_deref(), generate.as_deref()).await
        }
        Command::Delete { name } => {
            app.client().await?.delete_keypair(name, app.within(name).as_deref()).await?;
            app.out.talk(format!("Keypair {name} is deleted."));
            Ok(())
        }
    }
}

async fn create(app: &App, name: &str, public: Option<&Path>, private: Option<&Path>) -> Result<()> {
    let public_key = match (public, private) {
        (Some(path), _) => sshkey::read_public(path)?,
        (None, Some(path)) => generate(path, name)?,
        (None, None) => return Err(CliError::usage("a public key is needed")),
    };
    let order = v1::KeypairCreate {
        id: Some(uuid::Uuid::now_v7().to_string()),
        name: name.to_owned(),
        project: app.project(),
        public_key,
    };
    let made = match app.client().await {
        Ok(client) => client.create_keypair(&order).await.map_err(CliError::from),
        Err(error) => Err(error),
    };
    let keypair = match (made, private) {
        (Ok(keypair), _) => keypair,
        (Err(error), Some(path)) => {
            // Nobody knows the public half: the private one is of no use to anybody.
            let _ = std::fs::remove_file(path);
            return Err(error);
        }
        (Err(error), None) => return Err(error),
    };
    if let Some(path) = private {
        app.out.talk(format!("The private key is in {}; it is kept nowhere else.", path.display()));
    }
    app.out.data(&keypair, show)
}

/// Makes a pair, writes the private half to a file that did not exist, and gives the public one.
fn generate(path: &Path, name: &str) -> Result<String> {
    if path.exists() {
        return Err(CliError::usage(format!("{} exists already and is not overwritten", path.display())));
    }
    let mut secret = [0u8; 32];
    rand::rngs::OsRng
        .try_fill_bytes(&mut secret)
        .map_err(|error| CliError::failed(format!("the system gives no randomness: {error}")))?;
    let pair = sshkey::pair(secret, name);
    contexts::replace(path, pair.private.as_bytes(), 0o600).map_err(|error| CliError::file(path, &error))?;
    Ok(pair.public)
}

fn rows(keypairs: &[v1::Keypair]) -> String {
    table(
        ["NAME", "FINGERPRINT", "PROJECT", "ID"],
        keypairs
            .iter()
            .map(|it| [it.name.clone(), it.fingerprint.clone(), it.project.name.clone(), it.id.clone()]),
    )
}

fn show(it: &v1::Keypair) -> String {
    fields([
        ("name", it.name.clone()),
        ("id", it.id.clone()),
        ("project", it.project.name.clone()),
        ("fingerprint", it.fingerprint.clone()),
        ("public key", it.public_key.clone()),
        ("created", it.created_at.to_string()),
    ])
}
