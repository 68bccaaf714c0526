//! Finds out what a server can really do.
//!
//! The presence of `/dev/kvm` proves nothing: there are servers where it opens, makes a virtual machine,
//! and then never runs an ordinary kernel. So a tiny guest is run once ([`GUEST`], see `guest.s`), with
//! the very CPU that VMs get:
//! ```text
//! no QEMU ─────────────────────────────────────▶ no VMs, and why
//! guest ends well under kvm, in time ──────────▶ Kvm
//! else, guest ends well under tcg ─────────────▶ Tcg
//! else ────────────────────────────────────────▶ no VMs, and why
//! ```
//! The answer is remembered in `probe.json` for this kernel and this QEMU; after an update of either it
//! is asked again. To ask again by hand, remove the file. Configuration overrides the probe.
//!
//! What a boot sector in real mode cannot show, and this one does: on the server where ordinary kernels
//! hang, printing from real mode works under kvm (in 3.8 s; 0.16 s under tcg), `-cpu host` makes QEMU
//! abort at once (a model-specific register cannot be set), and with a plain CPU the long-mode guest
//! does not end in 20 s (0.7 s under tcg).

use std::{
    collections::BTreeSet,
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use scp_model::{Resources, node::Compute};
use serde::{Deserialize, Serialize};
use tokio::process::Command;

use crate::{
    HypervisorConfig,
    images::{SEARCH_PATH, installed},
};

/// The boot sector assembled from `guest.s`.
const GUEST: &[u8] = include_bytes!("guest.bin");
/// SeaBIOS does not boot from a disk that is smaller than a cylinder.
const GUEST_DISK_BYTES: usize = 1 << 20;
/// What QEMU ends with when the guest is content: `(0x10 << 1) | 1`.
const CONTENT: i32 = 0x21;
/// A working kvm takes about a tenth of a second; this leaves room for a server under full load.
const KVM_DEADLINE: Duration = Duration::from_secs(10);
/// tcg takes 0.7 s alone, and many times that on a busy server.
const TCG_DEADLINE: Duration = Duration::from_secs(120);

/// The one program that VMs here are run by.
const QEMU: &str = "qemu-system-x86_64";

/// How guests are run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Accelerator {
    Kvm,
    Tcg,
}

/// What was found out, and for which server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Remembered {
    kernel: String,
    qemu: String,
    kvm_device: bool,
    accelerator: Accelerator,
    /// Why not kvm, for people.
    why: Option<String>,
}

/// Which accelerator works here, by running a tiny guest once; or why no VM can run.
pub async fn compute(config: &HypervisorConfig) -> Result<Compute, String> {
    if !installed(QEMU) || !installed("qemu-img") {
        return Err(format!(
            "{QEMU} or qemu-img is not installed: `apt-get install qemu-system-x86 qemu-utils libvirt-daemon-system`"
        ));
    }
    let accelerator = match config.accelerator {
        Some(ordered) => ordered,
        None => probe(&config.dir).await?,
    };
    Ok(match accelerator {
        Accelerator::Kvm => Compute::Kvm,
        Accelerator::Tcg => Compute::Tcg,
    })
}

async fn probe(dir: &Path) -> Result<Accelerator, String> {
    let memory = dir.join("probe.json");
    let (kernel, qemu) = (kernel(), qemu_version().await?);
    let kvm_device = Path::new("/dev/kvm").exists();
    if let Some(known) = recall(&memory)
        .filter(|known| (&known.kernel, &known.qemu, known.kvm_device) == (&kernel, &qemu, kvm_device))
    {
        return Ok(known.accelerator);
    }
    let disk = guest_disk(dir).map_err(|error| format!("{}: {error}", dir.display()))?;
    let kvm = match kvm_device {
        true => run_guest(&disk, Accelerator::Kvm).await,
        false => Err("there is no /dev/kvm; is virtualisation switched on in the firmware?".into()),
    };
    let judged = match kvm {
        Ok(()) => Ok((Accelerator::Kvm, None)),
        Err(why) => run_guest(&disk, Accelerator::Tcg).await.map(|()| (Accelerator::Tcg, Some(why))),
    };
    let _ = fs::remove_file(&disk);
    let (accelerator, why) = judged.map_err(|why| format!("QEMU runs no guest: {why}"))?;
    if let Some(why) = &why {
        tracing::warn!(%why, "kvm does not work on this server: VMs are emulated, which is slow");
    }
    let found = Remembered { kernel, qemu, kvm_device, accelerator, why };
    if let Err(error) = remember(&memory, &found) {
        tracing::warn!(%error, "the probe's answer is not remembered and will be asked for again");
    }
    Ok(accelerator)
}

/// Runs the guest to its end, in time.
async fn run_guest(disk: &Path, accelerator: Accelerator) -> Result<(), String> {
    let (kind, cpu, deadline) = match accelerator {
        Accelerator::Kvm => ("kvm", "host", KVM_DEADLINE),
        Accelerator::Tcg => ("tcg", "max", TCG_DEADLINE),
    };
    let drive = format!("file={},format=raw,if=virtio,readonly=on", disk.display());
    let mut command = Command::new(QEMU);
    command
        .args(["-accel", kind, "-cpu", cpu, "-M", "q35", "-m", "64"])
        .args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-serial", "stdio"])
        .args(["-drive", &drive, "-device", "isa-debug-exit,iobase=0xf4,iosize=4"])
        .env_clear()
        .env("PATH", SEARCH_PATH)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let output = match tokio::time::timeout(deadline, command.output()).await {
        Ok(Ok(output)) => output,
        Ok(Err(error)) => return Err(format!("{QEMU}: {error}")),
        Err(_) => return Err(format!("under {kind} a tiny guest did not end in {} s", deadline.as_secs())),
    };
    judge(kind, output.status.code(), &output.stdout, &output.stderr)
}

fn judge(kind: &str, code: Option<i32>, said: &[u8], complaint: &[u8]) -> Result<(), String> {
    if code == Some(CONTENT) && said == b"O" {
        return Ok(());
    }
    let complaint = String::from_utf8_lossy(complaint);
    let first = complaint.lines().find(|line| !line.contains("warning:")).unwrap_or("no complaint");
    Err(format!("under {kind} a tiny guest failed (QEMU ended with {code:?}: {})", first.trim()))
}

fn guest_disk(dir: &Path) -> io::Result<PathBuf> {
    let mut disk = GUEST.to_vec();
    disk.resize(GUEST_DISK_BYTES, 0);
    fs::create_dir_all(dir)?;
    let path = dir.join("probe-guest.img");
    fs::write(&path, disk)?;
    Ok(path)
}

fn recall(path: &Path) -> Option<Remembered> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

fn remember(path: &Path, found: &Remembered) -> io::Result<()> {
    let half = path.with_extension("new");
    fs::write(&half, serde_json::to_vec_pretty(found)?)?;
    fs::rename(half, path)
}

fn kernel() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

async fn qemu_version() -> Result<String, String> {
    let output =
        Command::new(QEMU).arg("--version").env("PATH", SEARCH_PATH).kill_on_drop(true).output().await;
    let output = output.map_err(|error| format!("{QEMU}: {error}"))?;
    let said = String::from_utf8_lossy(&output.stdout);
    said.lines().next().map(str::to_owned).ok_or_else(|| format!("{QEMU} does not tell its version"))
}

/// What this server physically has. Of the file system that holds `dir`, what is free or taken by `dir`
/// itself counts: what others have on it is not ours to promise, what we have is.
pub fn resources(dir: &Path) -> io::Result<Resources> {
    let vcpus = std::thread::available_parallelism()?.get() as u64;
    let meminfo = fs::read_to_string("/proc/meminfo")?;
    let memory_kib = memory_total_kib(&meminfo)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "/proc/meminfo has no MemTotal"))?;
    let volume = rustix::fs::statvfs(dir)?;
    let free = volume.f_bavail.saturating_mul(volume.f_frsize);
    let ours = used_bytes(dir, &mut BTreeSet::new())?;
    Ok(Resources { vcpus, memory_mib: memory_kib >> 10, disk_mib: free.saturating_add(ours) >> 20 })
}

fn memory_total_kib(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

/// Bytes on disk below `dir`; a file with several links counts once.
fn used_bytes(dir: &Path, counted: &mut BTreeSet<(u64, u64)>) -> io::Result<u64> {
    let mut bytes = 0u64;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        // What vanishes while we count is not there.
        let Ok(metadata) = fs::symlink_metadata(entry.path()) else { continue };
        if metadata.is_dir() {
            bytes = bytes.saturating_add(used_bytes(&entry.path(), counted).unwrap_or(0));
        } else if counted.insert((metadata.dev(), metadata.ino())) {
            bytes = bytes.saturating_add(metadata.blocks().saturating_mul(512));
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use scp_model::Timestamp;

    use super::*;

    fn config(dir: &Path, accelerator: Option<Accelerator>) -> HypervisorConfig {
        HypervisorConfig {
            uri: "test:///default".into(),
            dir: dir.into(),
            run_dir: dir.into(),
            bases: dir.into(),
            accelerator,
            reboot_grace_ms: 0,
            clock: Arc::new(|| Timestamp(0)),
        }
    }

    #[test]
    fn the_guest_is_what_its_source_says() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = |name: &str| dir.path().join(name);
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/src/probe/guest.s");
        let run = |program: &str, arguments: &[&str], output: &Path, input: &Path| {
            let mut command = std::process::Command::new(program);
            let ran = command.args(arguments).arg("-o").arg(output).arg(input).status().expect("binutils");
            assert!(ran.success(), "{program}");
        };
        run("as", &["--64"], &path("guest.o"), Path::new(source));
        let flat = ["-m", "elf_x86_64", "-Ttext", "0x7c00", "--oformat", "binary"];
        run("ld", &flat, &path("guest.bin"), &path("guest.o"));
        assert_eq!(fs::read(path("guest.bin")).expect("was just linked"), GUEST);
    }

    #[tokio::test]
    async fn the_probe_runs_its_guest_and_remembers_the_answer() {
        let dir = tempfile::tempdir().expect("a directory");
        let first = compute(&config(dir.path(), None)).await.expect("QEMU is installed");
        assert!(first.runs_vms());
        let memory = dir.path().join("probe.json");
        let known = recall(&memory).expect("it is remembered");
        assert_eq!(known.why.is_none(), first == Compute::Kvm, "{known:?}");
        // Remembered otherwise, it answers otherwise: the guest is not run again.
        let other = match known.accelerator {
            Accelerator::Kvm => Accelerator::Tcg,
            Accelerator::Tcg => Accelerator::Kvm,
        };
        remember(&memory, &Remembered { accelerator: other, ..known.clone() }).expect("writes");
        assert_ne!(compute(&config(dir.path(), None)).await, Ok(first.clone()));
        // For another kernel nothing is known, and nothing is left lying about.
        let outdated = Remembered { kernel: "another".into(), accelerator: other, ..known };
        remember(&memory, &outdated).expect("writes");
        assert_eq!(compute(&config(dir.path(), None)).await, Ok(first));
        assert!(!dir.path().join("probe-guest.img").exists());
    }

    #[tokio::test]
    async fn configuration_overrides_the_probe() {
        let dir = tempfile::tempdir().expect("a directory");
        for (ordered, compute_is) in [(Accelerator::Kvm, Compute::Kvm), (Accelerator::Tcg, Compute::Tcg)] {
            assert_eq!(compute(&config(dir.path(), Some(ordered))).await, Ok(compute_is));
        }
    }

    #[test]
    fn only_a_content_guest_proves_an_accelerator() {
        assert_eq!(judge("kvm", Some(CONTENT), b"O", b""), Ok(()));
        for (code, said) in [(Some(0), &b"O"[..]), (Some(CONTENT), b""), (Some(35), b""), (None, b"O")] {
            let why = judge("kvm", code, said, b"x: warning: y\nx: error: z\n").expect_err("not content");
            assert!(why.contains("error: z"), "{why}");
        }
    }

    #[test]
    fn a_server_has_what_it_says() {
        let dir = tempfile::tempdir().expect("a directory");
        let before = resources(dir.path()).expect("this is a server");
        assert!(before.vcpus > 0 && before.memory_mib > 0 && before.disk_mib > 0);
        fs::write(dir.path().join("ours"), vec![1; 8 << 20]).expect("writes");
        fs::hard_link(dir.path().join("ours"), dir.path().join("link")).expect("links");
        let ours = used_bytes(dir.path(), &mut BTreeSet::new()).expect("reads");
        assert!((8 << 20..9 << 20).contains(&ours), "{ours}");
        assert_eq!(memory_total_kib("MemTotal:       24576 kB\nMemFree: 1 kB\n"), Some(24576));
        assert_eq!(memory_total_kib("MemTotal: lots\n"), None);
    }
}
