//! A hypervisor that comes later: the city is told without a restart. How it is looked for is tested in
//! `drivers/src/hypervisor/late.rs`.

#[path = "../../drivers/tests/daemons/mod.rs"]
#[allow(dead_code, reason = "each test binary uses its part")]
mod daemons;
mod site;
#[path = "../../drivers/tests/support/mod.rs"]
#[allow(dead_code, reason = "each test binary uses its part")]
mod support;

use std::{fs, os::unix::fs::PermissionsExt, sync::Arc};

use daemons::Daemons;
use scp_api::server::password;
use scp_mesh::{Clock, IdentityDirectory, SystemClock};
use scp_model::node::Compute;
use scp_node::{
    config::{Accelerator, Names},
    daemon::{Daemon, NewCity},
    server::Server,
};
use site::{CHEAP, PASSWORD, Site, eventually, name};
use support::{in_server, run};
use tokio::sync::watch;

fn city() -> NewCity {
    NewCity {
        name: name("agueda"),
        country: "PT".parse().expect("a country"),
        password_hash: password::hash(CHEAP, PASSWORD).expect("it is long enough"),
    }
}

/// What the city knows of its only node.
fn known(daemon: &Daemon) -> Compute {
    let state = daemon.member().expect("a member").proposer.published.state();
    state.nodes.values().next().expect("the first node").profile.compute.clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hypervisor_that_appears_is_told_to_the_city_without_a_restart() {
    let (site, dir) = (Site::new(), tempfile::tempdir().expect("a temporary directory"));
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let config = site.config(1, &dir);
    let directory = IdentityDirectory::open(config.data_dir.join("identity")).expect("it is new");
    let mut server = Server::open(&config, clock.clone()).await.expect("the server is opened");
    let none = |reason: &str| Compute::None { reason: reason.into() };
    let (compute, follow) = watch::channel(none("QEMU is not installed"));
    server.compute = follow;
    let daemon = Daemon::start_on(server, config, clock, directory).await.expect("the daemon starts");
    daemon.init(city(), Names::default()).await.expect("the city is founded");
    assert_eq!(known(&daemon), none("QEMU is not installed"));
    for now in [none("libvirtd does not answer"), Compute::Tcg] {
        compute.send_replace(now.clone());
        eventually("the city knows what the node can do", async || known(&daemon) == now).await;
    }
    daemon.shutdown().await;
}

#[test]
fn a_libvirtd_that_is_started_after_scpd_is_found() {
    in_server("a_libvirtd_that_is_started_after_scpd_is_found", || {
        run("ip", &["link", "set", "lo", "up"]);
        // Nothing of the outside's.
        run("mount", &["-t", "tmpfs", "tmpfs", "/run"]);
        tokio::runtime::Runtime::new().expect("a runtime starts").block_on(async {
            let (site, dir) = (Site::new(), tempfile::tempdir().expect("a temporary directory"));
            let mut config = site.config(1, &dir);
            fs::create_dir_all(&config.data_dir).expect("the directory is made");
            // QEMU runs as a user of its own.
            for on_the_way in [dir.path(), &config.data_dir] {
                let mode = fs::Permissions::from_mode(0o711);
                fs::set_permissions(on_the_way, mode).expect("it is ours");
            }
            config.libvirt_uri = "qemu:///system".into();
            config.accelerator = Accelerator::Tcg;
            let daemon = Arc::new(Daemon::start(config).await.expect("scpd starts without libvirtd"));
            daemon.init(city(), Names::default()).await.expect("the city is founded");
            let before = known(&daemon);
            assert!(matches!(&before, Compute::None { reason } if reason.contains("libvirt")), "{before:?}");
            let disks = dir.path().join("server");
            let daemons = tokio::task::spawn_blocking(move || Daemons::start(&disks)).await;
            let _daemons = daemons.expect("libvirtd starts");
            eventually("the city knows that the node runs VMs", async || known(&daemon) == Compute::Tcg)
                .await;
            daemon.shutdown().await;
        });
    });
}
