//! `scpd`: one server of a city.

use std::{fs::File, path::Path, sync::Arc};

use anyhow::{Context, Result, bail};
use clap::Parser;
use mimalloc::MiMalloc;
use rustix::fs::{FlockOperation, flock};
use scp_node::{
    config::{Config, Flags},
    daemon::Daemon,
    local, serve,
};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> Result<()> {
    let config = Config::load(Flags::parse())?;
    log(&config);
    std::fs::create_dir_all(&config.data_dir)
        .with_context(|| format!("cannot create {}", config.data_dir.display()))?;
    let _lock = lock(&config.data_dir)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the async runtime")?;
    runtime.block_on(run(config))
}

async fn run(config: Config) -> Result<()> {
    let socket = config.socket.clone();
    let daemon = Arc::new(Daemon::start(config).await?);
    let stop = CancellationToken::new();
    let router = local::router(daemon.clone());
    let served = tokio::spawn({
        let stop = stop.clone();
        async move { serve::local(&socket, router, stop).await }
    });
    tracing::info!("scpd is up");
    let mut terminated = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    tokio::select! {
        _ = terminated.recv() => {}
        result = tokio::signal::ctrl_c() => result.context("cannot listen for SIGINT")?,
    }
    tracing::info!("scpd is going down; VMs go on running");
    stop.cancel();
    daemon.shutdown().await;
    served.await.context("the local socket's task panicked")?
}

fn log(config: &Config) {
    let filter = EnvFilter::try_from_env("SCPD_LOG").unwrap_or_else(|_| EnvFilter::new("info,openraft=warn"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if config.log_json { builder.json().init() } else { builder.init() }
}

/// Keeps a second `scpd` off this directory, for as long as the file is open.
fn lock(data_dir: &Path) -> Result<File> {
    let path = data_dir.join("lock");
    let file = File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => {
            bail!("another scpd uses {}; stop it first, or give this one --data-dir", data_dir.display())
        }
        Err(error) => Err(error).with_context(|| format!("cannot lock {}", path.display())),
    }
}
