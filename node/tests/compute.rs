//! A hypervisor that comes later: the city is told without a restart. How it is looked for is tested in
//! `drivers/src/hypervisor/late.rs`.

mod site;

use std::sync::Arc;

use scp_api::server::password;
use scp_mesh::{Clock, IdentityDirectory, SystemClock};
use scp_model::node::Compute;
use scp_node::{
    config::Names,
    daemon::{Daemon, NewCity},
    server::Server,
};
use site::{CHEAP, PASSWORD, Site, eventually, name};
use tokio::sync::watch;

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
    let city = NewCity {
        name: name("agueda"),
        country: "PT".parse().expect("a country"),
        password_hash: password::hash(CHEAP, PASSWORD).expect("it is long enough"),
    };
    daemon.init(city, Names::default()).await.expect("the city is founded");
    assert_eq!(known(&daemon), none("QEMU is not installed"));
    for now in [none("libvirtd does not answer"), Compute::Tcg] {
        compute.send_replace(now.clone());
        eventually("the city knows what the node can do", async || known(&daemon) == now).await;
    }
    daemon.shutdown().await;
}
