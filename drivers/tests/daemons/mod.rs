//! A test server's own virtlogd and libvirtd, and the guest of the suite.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use crate::support::{run, until};

/// The daemons of a server. Dropped, they are ended.
pub struct Daemons {
    virtlogd: Child,
    libvirtd: Child,
}

impl Daemons {
    /// Gives the server its own directories and starts its daemons.
    pub fn start(disks: &Path) -> Self {
        run("mount", &["-t", "tmpfs", "tmpfs", "/run"]);
        for dir in ["/var/lib/libvirt", "/var/log/libvirt", "/var/cache/libvirt", "/etc/libvirt"] {
            let own = disks.join(&dir[1..]);
            fs::create_dir_all(&own).expect("makes a directory");
            run("mount", &["--bind", own.to_str().expect("UTF-8"), dir]);
        }
        fs::create_dir_all("/etc/libvirt/qemu").expect("makes a directory");
        kvm_as_udev_has_it();
        let config = "auth_unix_rw = \"none\"\nunix_sock_rw_perms = \"0700\"\n";
        fs::write("/etc/libvirt/libvirtd.conf", config).expect("writes");
        run("ip", &["link", "set", "lo", "up"]);
        let virtlogd = daemon("virtlogd", "/run/libvirt/virtlogd-sock");
        Self { virtlogd, libvirtd: libvirtd() }
    }

    /// libvirtd is killed and started again; its guests run on.
    pub fn restart_libvirtd(&mut self) {
        self.restart_after(|| {});
    }

    /// The server loses power: libvirtd, the guest and what they kept in `/run` are gone.
    pub fn cut_power(&mut self, guest: i32) {
        self.restart_after(|| {
            run("kill", &["-9", &guest.to_string()]);
            until("the guest is gone", || !Path::new(&format!("/proc/{guest}")).exists());
            fs::remove_dir_all("/run/libvirt/qemu").expect("libvirtd kept its state there");
        });
    }

    fn restart_after(&mut self, meanwhile: impl FnOnce()) {
        end(&mut self.libvirtd);
        meanwhile();
        fs::remove_file(LIBVIRT_SOCKET).expect("libvirtd had its socket");
        self.libvirtd = libvirtd();
    }
}

impl Drop for Daemons {
    fn drop(&mut self) {
        end(&mut self.libvirtd);
        end(&mut self.virtlogd);
    }
}

/// Gives QEMU's user the access to `/dev/kvm` that udev would give it. Without udev libvirt finds KVM
/// when it probes QEMU and not when it looks again, and so probes again before every step, for seconds.
fn kvm_as_udev_has_it() {
    if Path::new("/dev/kvm").exists() {
        run("mknod", &["-m", "660", "/run/kvm", "c", "10", "232"]);
        run("chgrp", &["kvm", "/run/kvm"]);
        run("mount", &["--bind", "/run/kvm", "/dev/kvm"]);
    }
}

const LIBVIRT_SOCKET: &str = "/run/libvirt/libvirt-sock";

fn libvirtd() -> Child {
    daemon("libvirtd", LIBVIRT_SOCKET)
}

fn end(child: &mut Child) {
    child.kill().expect("the child is ours");
    child.wait().expect("the child is ours");
}

fn daemon(program: &str, socket: &str) -> Child {
    let log = fs::File::create(format!("/var/log/libvirt/{program}.out")).expect("makes a file");
    let child = Command::new(program)
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("a file can be shared"))
        .stderr(log)
        .spawn()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    until(&format!("{program} listens"), || std::os::unix::net::UnixStream::connect(socket).is_ok());
    child
}

/// Assembles the suite's guest into a disk of 1 MiB.
pub fn guest_disk(dir: &Path, obedient: bool) -> PathBuf {
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/daemons/guest.s");
    let path = |name: &str| dir.join(name).to_str().expect("UTF-8").to_owned();
    run("as", &["--32", source, "-o", &path("guest.o")]);
    let flat = ["-m", "elf_i386", "-Ttext", "0x7c00", "--oformat", "binary", "-o"];
    run("ld", &[&flat[..], &[&path("guest.bin"), &path("guest.o")]].concat());
    let mut sector = fs::read(path("guest.bin")).expect("was just linked");
    assert_eq!(sector.len(), 512);
    sector[509] = u8::from(obedient);
    sector.resize(1 << 20, 0);
    let disk = dir.join(format!("guest-{obedient}.img"));
    fs::write(&disk, sector).expect("writes");
    disk
}
