//! A server's own libvirt: configuration and daemons, as systemd would start them on a real one.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context, Result, bail};

use crate::{clock, run, server::Server};

/// virtlogd first: libvirtd hands it the guests' consoles.
const DAEMONS: [(&str, &str); 2] =
    [("virtlogd", "/run/libvirt/virtlogd-sock"), ("libvirtd", "/run/libvirt/libvirt-sock")];

/// Generous: a loaded machine takes seconds to start a daemon that needs a fraction of one.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// Gives the server an `/etc/libvirt` of its own. It begins empty: the daemons' built-in defaults hold,
/// no network is started by itself, and no domain of the machine is seen.
pub(crate) fn configure(disks: &Path) -> Result<()> {
    let etc = disks.join("etc/libvirt");
    fs::create_dir_all(etc.join("qemu")).context("/etc/libvirt cannot be made")?;
    // There is no polkit on the server: root's socket is for root by its file mode.
    run::write(&etc.join("libvirtd.conf"), "auth_unix_rw = \"none\"\nunix_sock_rw_perms = \"0700\"\n")
}

/// Starts the daemons and waits until each listens.
pub(crate) fn start(server: &mut Server) -> Result<()> {
    for (daemon, socket) in DAEMONS {
        let mut command = server.command(daemon)?;
        server.spawn(daemon, &mut command)?;
        let socket = server.path(socket)?;
        if clock::wait_until(READY_WITHIN, || socket.exists().then_some(())).is_none() {
            let log = fs::read_to_string(server.disks().join(format!("{daemon}.log"))).unwrap_or_default();
            bail!("{daemon} does not come up on {}: {}", server.name, log.trim());
        }
    }
    Ok(())
}
