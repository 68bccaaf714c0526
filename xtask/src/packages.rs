//! The Debian packages that a step needs: the one table, and their installation.
//!
//! # Guarantees
//! - What is installed already costs one `dpkg-query`; nothing is done twice.
//! - Each package is named with its reason before apt runs.
//! - A package is put back to Debian's own version only when apt cannot install what is missing beside a
//!   newer one (a machine with `qemu-utils` from backports refuses `qemu-system-x86` of the release),
//!   and that is said before it happens.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result, bail};
use scp_servers::output;

use crate::talk;

/// A step that needs packages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Compiling the workspace.
    Build,
    /// Building the guest image.
    Guest,
    /// Running servers with virtual machines.
    Servers,
    /// Compiling the fuzz targets.
    Fuzz,
    /// Checking what is not Rust.
    Verify,
    /// Measuring beside etcd.
    BesideEtcd,
    /// Measuring beside serf.
    BesideSerf,
    /// Opening pages in tests.
    Browser,
}

/// Every package that any step needs: which, for what, and why.
const TABLE: &[(Step, &str, &str)] = &[
    (Step::BesideEtcd, "etcd-server", "the peer that the city is measured beside"),
    (Step::BesideEtcd, "strace", "counts both sides' syncs"),
    (Step::BesideSerf, "iproute2", "the benchmark's own network"),
    (Step::BesideSerf, "nftables", "counts both sides' bytes, and loses packets"),
    (Step::BesideSerf, "serf", "the peer that gossip is measured beside"),
    (Step::BesideSerf, "util-linux", "unshare, for a network and a process tree of its own"),
    (Step::Browser, "chromium", "opens the pages of runs, in tests"),
    (Step::Build, "gcc", "links Rust programs and compiles the C inside crates"),
    (Step::Build, "libc6-dev", "headers for gcc"),
    (Step::Build, "libvirt-dev", "headers of libvirt, for the compute driver"),
    (Step::Build, "pkg-config", "finds libvirt"),
    (Step::Fuzz, "g++", "compiles libFuzzer"),
    (Step::Guest, "busybox-static", "the guest's shell and tools"),
    (Step::Guest, "cpio", "packs the guest's initramfs"),
    (Step::Guest, "dosfstools", "makes the guest's FAT file system"),
    (Step::Guest, "dropbear-bin", "the guest's SSH server"),
    (Step::Guest, "kmod", "finds the kernel modules that the guest needs"),
    (Step::Guest, "mtools", "fills the guest's disk without mounting it"),
    (Step::Guest, "qemu-utils", "makes the guest's qcow2"),
    (Step::Guest, "syslinux", "boots the guest's kernel"),
    (Step::Guest, "syslinux-common", "boot record for the guest's disk"),
    (Step::Guest, "zstd", "compresses the guest's initramfs"),
    (Step::Servers, "iproute2", "network namespaces and bridges of the servers"),
    (Step::Servers, "iptables", "NFQUEUE, by which chaos delays packets"),
    (Step::Servers, "libfaketime", "moves the clocks of servers in chaos"),
    (Step::Servers, "libvirt-clients", "virsh, to look at a server by hand"),
    (Step::Servers, "libvirt-daemon", "libvirtd and virtlogd of each server"),
    (Step::Servers, "libvirt-daemon-driver-qemu", "libvirt's way to QEMU"),
    (Step::Servers, "libvirt-daemon-system", "user and directories that libvirt runs QEMU with"),
    (Step::Servers, "nftables", "packet filters of the servers"),
    (Step::Servers, "procps", "looks at processes"),
    (Step::Servers, "qemu-system-x86", "runs virtual machines"),
    (Step::Servers, "qemu-utils", "qemu-img, for disks of virtual machines"),
    (Step::Servers, "util-linux", "nsenter and unshare"),
    (Step::Verify, "systemd", "systemd-analyze, which checks scpd's unit file"),
];

/// Package lists older than this are fetched anew before anything is installed: Debian removes a
/// version from its mirrors some time after the next one is there.
const LISTS_AGE_MAX: Duration = Duration::from_secs(24 * 3600);

/// Families that Debian's releases version together: apt cannot mix them.
const FAMILIES: [&str; 2] = ["qemu-*", "libvirt*"];

/// Installs what the steps need and this machine lacks.
pub fn install(steps: &[Step]) -> Result<()> {
    let needed = TABLE.iter().filter(|(step, _, _)| steps.contains(step));
    let mut missing: Vec<_> = needed.filter(|(_, name, _)| !is_installed(name)).collect();
    missing.dedup_by_key(|(_, name, _)| *name);
    if missing.is_empty() {
        return Ok(());
    }
    for (_, name, why) in &missing {
        talk!("needs {name}: {why}");
    }
    let names: Vec<_> = missing.iter().map(|(_, name, _)| (*name).to_string()).collect();
    require_apt(&names)?;
    update_lists()?;
    let mut words = names;
    if let Err(refusal) = simulate(&words, &["--no-remove"]) {
        let back = newer_than_the_release()?;
        if back.is_empty() {
            return Err(refusal.context("apt cannot install what is missing"));
        }
        talk!("apt refuses beside packages that are newer than this Debian release; these go back to it:");
        talk!("    {}", back.join(" "));
        words.extend(back);
        for removed in removed(&simulate(&words, &[]).context("apt cannot install what is missing")?) {
            talk!("apt removes {removed}, which does not go with that");
        }
    }
    install_now(&words).context("apt could not install what is missing")?;
    let needed = TABLE.iter().filter(|(step, _, _)| steps.contains(step)).map(|(_, name, _)| name);
    match needed.into_iter().find(|name| !is_installed(name)) {
        Some(name) => bail!("apt ended well, but {name} is not installed"),
        None => Ok(()),
    }
}

fn is_installed(name: &str) -> bool {
    let asked = output(Command::new("dpkg-query").args(["-W", "-f", "${db:Status-Status}\n", name]));
    asked.is_ok_and(|statuses| statuses.lines().any(|status| status == "installed"))
}

/// Says what a person can do on a machine where we cannot install.
fn require_apt(names: &[String]) -> Result<()> {
    if output(Command::new("apt-get").arg("--version")).is_err() {
        bail!("this machine has no apt-get. Install by hand what corresponds to: {}", names.join(" "));
    }
    if output(Command::new("id").arg("-u"))?.trim() != "0" {
        bail!("only root can install packages. As root: apt-get install {}", names.join(" "));
    }
    Ok(())
}

/// Fetches the package lists when there are none or they are old; once a run, because it makes them new.
pub fn update_lists() -> Result<()> {
    let fresh = fs::read_dir("/var/lib/apt/lists").into_iter().flatten().flatten().any(|entry| {
        let is_list = entry.file_name().to_string_lossy().contains("_Packages");
        let changed = fs::metadata("/var/lib/apt/lists").and_then(|meta| meta.modified());
        let age = changed.ok().and_then(|time| SystemTime::now().duration_since(time).ok());
        is_list && age.is_some_and(|age| age < LISTS_AGE_MAX)
    });
    if fresh {
        return Ok(());
    }
    talk!("fetching Debian's package lists");
    scp_servers::run(Command::new("apt-get").args(["--quiet", "update"]))
}

fn apt_install(words: &[String], options: &[&str]) -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive");
    command.args(["install", "--yes", "--no-install-recommends", "--allow-downgrades"]);
    command.args(options).args(words);
    command
}

/// What apt would do; an error when it refuses.
fn simulate(words: &[String], options: &[&str]) -> Result<String> {
    output(apt_install(words, options).arg("--simulate"))
}

/// Names of packages that a simulation removes for good.
fn removed(simulation: &str) -> Vec<&str> {
    let named = |line: &str| simulation.lines().any(|other| other.starts_with(&format!("Inst {line} ")));
    let names = simulation.lines().filter_map(|line| line.strip_prefix("Remv ")?.split(' ').next());
    names.filter(|name| !named(name)).collect()
}

/// Installs; what apt says goes to our stderr.
fn install_now(words: &[String]) -> Result<()> {
    // Daemons that a package would start run per server, started by us: never on the machine itself.
    let mut command = apt_install(words, &[]);
    let status = command.env("RUNLEVEL", "1").stdin(Stdio::null()).stdout(std::io::stderr()).status();
    match status.context("apt-get could not be started")? {
        status if status.success() => Ok(()),
        status => bail!("apt-get failed ({status})"),
    }
}

/// `NAME=VERSION` of installed packages of the families whose version no configured archive has, with
/// the newest version that one has.
fn newer_than_the_release() -> Result<Vec<String>> {
    let list = Command::new("dpkg-query")
        .args(["-W", "-f", "${db:Status-Status} ${Package} ${Version}\n"])
        .args(FAMILIES)
        .output()
        .context("dpkg-query could not be started")?;
    let mut back = Vec::new();
    for line in String::from_utf8_lossy(&list.stdout).lines() {
        let ["installed", name, version] = line.split(' ').collect::<Vec<_>>()[..] else { continue };
        let offered = output(Command::new("apt-cache").args(["madison", name]))?;
        if let Some(newest) = version_to_go_back_to(&offered, version) {
            back.push(format!("{name}={newest}"));
        }
    }
    Ok(back)
}

/// From `apt-cache madison`: the newest version on offer, unless the installed one is on offer too.
fn version_to_go_back_to(offered: &str, installed: &str) -> Option<String> {
    let versions: Vec<_> = offered
        .lines()
        .filter(|line| line.ends_with("Packages"))
        .filter_map(|line| Some(line.split('|').nth(1)?.trim()))
        .collect();
    if versions.contains(&installed) {
        return None;
    }
    versions.first().map(|version| (*version).to_string())
}

/// Downloads a package and unpacks it into a directory, without installing it.
pub fn unpack(name: &str, into: &Path) -> Result<()> {
    fs::create_dir_all(into).with_context(|| format!("{} cannot be made", into.display()))?;
    update_lists()?;
    // As root apt warns when its own user may not write here; the download is checked all the same.
    let options = ["-o", "APT::Sandbox::User=root", "--quiet", "download", name];
    scp_servers::run(Command::new("apt-get").current_dir(into).args(options))?;
    let archive = fs::read_dir(into)?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .with_context(|| format!("apt-get downloaded no archive of {name}"))?;
    scp_servers::run(Command::new("dpkg-deb").arg("-x").arg(&archive).arg(into))?;
    fs::remove_file(&archive).context("the unpacked archive cannot be removed")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_package_of_a_step_is_listed_once_and_in_order() {
        let keys: Vec<_> = TABLE.iter().map(|(step, name, _)| (format!("{step:?}"), *name)).collect();
        let mut sorted = keys.clone();
        sorted.sort();
        sorted.dedup();
        assert_eq!(keys, sorted);
    }

    #[test]
    fn what_a_simulation_removes_is_told() {
        let simulation =
            "Remv qemu-utils [1:10]\nRemv libfoo [2]\nInst libfoo [2] (1 Debian)\nConf libfoo (1)\n";
        assert_eq!(removed(simulation), ["qemu-utils"]);
    }

    #[test]
    fn a_version_that_no_archive_has_goes_back_to_the_newest_on_offer() {
        let offered = "qemu-utils | 1:7.2+dfsg-7+deb12u18+b3 | http://mirror bookworm/main amd64 Packages\n\
                       qemu-utils | 1:7.2+dfsg-7+deb12u15 | http://mirror bookworm-security/main amd64 Packages\n";
        let back = version_to_go_back_to(offered, "1:10.0.2+ds-2~bpo12+1");
        assert_eq!(back.as_deref(), Some("1:7.2+dfsg-7+deb12u18+b3"));
        assert_eq!(version_to_go_back_to(offered, "1:7.2+dfsg-7+deb12u15"), None);
        assert_eq!(version_to_go_back_to("", "1:10"), None);
    }
}
