//! A server of its own for each test: private mounts, network and processes, with its own virtlogd and
//! libvirtd. The test binary runs itself again inside; when it ends, however it ends, the kernel ends
//! everything in it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

/// Tells the inner run of the test binary which test it is, and that it is inside.
const INSIDE: &str = "SCP_TEST_SERVER";
/// Longer than the slowest server takes to start its daemons.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs `body` in a server of its own. Outside, it only waits for the inner run and fails with it.
pub fn in_server(test: &str, body: impl FnOnce()) {
    match std::env::var(INSIDE) {
        Ok(inside) => {
            assert_eq!(inside, test);
            body();
        }
        Err(_) => run_inside(test),
    }
}

fn run_inside(test: &str) {
    let binary = std::env::current_exe().expect("a test knows its binary");
    let output = Command::new("unshare")
        .args([
            "--mount",
            "--net",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
            "--propagation=private",
        ])
        // A shell as the first process: it buries the children of others, on which libvirt waits.
        .args(["sh", "-c", "\"$0\" \"$@\"; exit $?"])
        .arg(binary)
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(INSIDE, test)
        .stdin(Stdio::null())
        .output()
        .expect("unshare runs");
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "the test failed in its server:\n{said}");
    assert!(said.contains("1 passed"), "the test did run in its server:\n{said}");
}

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
        end(&mut self.libvirtd);
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

/// Waits for a condition of the outside world.
#[allow(clippy::disallowed_methods)] // No runtime here: this waits for a process to come up.
pub fn until(what: &str, condition: impl Fn() -> bool) {
    let began = std::time::Instant::now();
    while !condition() {
        assert!(began.elapsed() < PATIENCE, "in {PATIENCE:?} it never came to be that {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Runs a command that must succeed; returns what it printed.
pub fn run(program: &str, arguments: &[&str]) -> String {
    let output =
        Command::new(program).args(arguments).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Assembles the suite's guest into a disk of 1 MiB.
pub fn guest_disk(dir: &Path, obedient: bool) -> PathBuf {
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/guest.s");
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
