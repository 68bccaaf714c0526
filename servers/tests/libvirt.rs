//! Each server's own libvirt, with a real (empty) machine under emulation on it.

use scp_servers::{Options, Server, Servers, VmProcess, output, vm_processes};

/// The same machine on every server: only a server that sees none but its own can start it.
const UUID: &str = "6f1d3c1e-9a58-4b8e-8d43-2b6d1c0f7a11";

fn domain() -> String {
    format!(
        "<domain type='qemu'><name>scp-servers-test</name><uuid>{UUID}</uuid><memory unit='MiB'>32</memory>\
         <os><type arch='x86_64' machine='pc'>hvm</type></os></domain>"
    )
}

fn virsh(server: &Server, words: &[&str]) -> String {
    output(server.command("virsh").expect("is on").args(["--connect", "qemu:///system"]).args(words))
        .unwrap_or_else(|error| panic!("{error:#}"))
}

fn of(processes: &[VmProcess], server: &Server) -> usize {
    processes.iter().filter(|it| it.namespace == server.namespace_inode() && it.uuid == UUID).count()
}

#[test]
fn each_server_has_a_libvirt_of_its_own_and_loses_only_its_own_machines() {
    let servers = Servers::build(&Options { count: 2, libvirt: true });
    let mut servers = servers.expect("servers can be built: root and Debian's libvirt packages are there");
    for server in &mut servers.servers {
        server.start().unwrap_or_else(|error| panic!("{error:#}"));
        let xml = server.path("/run/domain.xml").expect("is on");
        std::fs::write(xml, domain()).expect("can be written");
        assert_eq!(virsh(server, &["list", "--all", "--uuid"]).trim(), "", "a new server knows no machine");
        virsh(server, &["define", "/run/domain.xml"]);
        virsh(server, &["start", UUID]);
    }
    let seen = vm_processes().expect("/proc is readable");
    assert_eq!(servers.servers.iter().map(|server| of(&seen, server)).collect::<Vec<_>>(), [1, 1]);

    servers.get("n1").expect("was built").kill_everything().expect("all die");
    let seen = vm_processes().expect("/proc is readable");
    assert_eq!(servers.servers.iter().map(|server| of(&seen, server)).collect::<Vec<_>>(), [0, 1]);

    let n1 = servers.get("n1").expect("was built");
    n1.start().unwrap_or_else(|error| panic!("{error:#}"));
    assert_eq!(virsh(n1, &["list", "--all", "--uuid"]).trim(), UUID, "its definition was on its disk");
    assert_eq!(virsh(n1, &["list", "--uuid"]).trim(), "", "and nothing starts by itself");
    servers.end().expect("ends");
}
