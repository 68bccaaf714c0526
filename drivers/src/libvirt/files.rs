//! An instance's files.
//!
//! ```text
//! <dir>/vms/<vm>/<epoch>/base.img        hard link to the image's base file: the instance keeps what it
//!                                        stands on, whatever becomes of the image on this node
//!                        overlay.qcow2   what the guest writes; its backing file is `base.img` beside it
//!                        seed.img        cloud-init's seed
//!                        console.log*    what the guest said; rotated by virtlogd
//! ```
//! The epoch is in the path: files of a placement that ended are never taken for those of the present
//! one, and are told apart even when libvirt has forgotten its domain.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    process::Stdio,
};

use scp_model::{Epoch, VmId, image::ImageFormat, op::EnsureVm};
use tokio::process::Command;

use crate::{DriverError, HypervisorConfig, domain_xml::DiskCache, images::SEARCH_PATH};

/// QEMU's user passes through, and lists nothing.
const DIR_MODE: u32 = 0o711;

/// Paths of the files of a server's instances.
#[derive(Debug, Clone)]
pub(super) struct Files {
    vms: PathBuf,
    run: PathBuf,
    bases: PathBuf,
}

impl Files {
    pub(super) fn new(config: &HypervisorConfig) -> Self {
        Self { vms: config.dir.join("vms"), run: config.run_dir.clone(), bases: config.bases.clone() }
    }

    /// Makes the directories and finds out how the disk below them can be used.
    pub(super) fn prepare_server(&self) -> Result<DiskCache, DriverError> {
        let doing = "preparing the directories of VMs";
        let failed =
            |error: io::Error| DriverError::terminal(doing, format!("{}: {error}", self.vms.display()));
        for dir in [&self.vms, &self.run] {
            make_dir(dir).map_err(failed)?;
        }
        let reachable = self.vms.canonicalize().map_err(failed)?;
        for above in reachable.ancestors() {
            let mode = fs::metadata(above).map_err(failed)?.permissions().mode();
            if mode & 0o001 == 0 {
                let at = above.display();
                let why = format!("QEMU runs as its own user and cannot pass through {at}: `chmod o+x {at}`");
                return Err(DriverError::terminal(doing, why));
            }
        }
        cache_of(&self.vms).map_err(failed)
    }

    fn vm_dir(&self, vm: VmId) -> PathBuf {
        self.vms.join(vm.to_string())
    }

    pub(super) fn dir(&self, vm: VmId, epoch: Epoch) -> PathBuf {
        self.vm_dir(vm).join(epoch.0.to_string())
    }

    pub(super) fn base(&self, vm: VmId, epoch: Epoch) -> PathBuf {
        self.dir(vm, epoch).join("base.img")
    }

    pub(super) fn overlay(&self, vm: VmId, epoch: Epoch) -> PathBuf {
        self.dir(vm, epoch).join("overlay.qcow2")
    }

    pub(super) fn seed(&self, vm: VmId, epoch: Epoch) -> PathBuf {
        self.dir(vm, epoch).join("seed.img")
    }

    pub(super) fn console_log(&self, vm: VmId, epoch: Epoch) -> PathBuf {
        self.dir(vm, epoch).join("console.log")
    }

    pub(super) fn console_socket(&self, vm: VmId) -> PathBuf {
        self.run.join(format!("{vm}.sock"))
    }

    /// Has every file of the instance in its place. Carried out twice, it changes nothing.
    pub(super) async fn prepare(&self, order: &EnsureVm) -> Result<(), DriverError> {
        let doing = format!("preparing the disk of VM {}", order.vm);
        let (files, wanted) = (self.clone(), order.clone());
        let seed = crate::seed::build(order).map_err(|error| DriverError::terminal(&doing, error))?;
        let prepared = tokio::task::spawn_blocking(move || files.place_base_and_seed(&wanted, &seed)).await;
        prepared.expect("preparing a disk does not panic").map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => DriverError::retryable(&doing, "its image is not on this node yet"),
            _ => disk_error(&doing, &error),
        })?;
        let overlay = self.overlay(order.vm, order.epoch);
        if overlay.exists() { Ok(()) } else { self.make_overlay(&doing, order, &overlay).await }
    }

    fn place_base_and_seed(&self, order: &EnsureVm, seed: &[u8]) -> io::Result<()> {
        let dir = self.dir(order.vm, order.epoch);
        make_dir(&self.vm_dir(order.vm))?;
        make_dir(&dir)?;
        link_base(&self.bases.join(format!("{}.img", order.disk.digest)), &self.base(order.vm, order.epoch))?;
        replace(&self.seed(order.vm, order.epoch), seed)
    }

    async fn make_overlay(&self, doing: &str, order: &EnsureVm, overlay: &Path) -> Result<(), DriverError> {
        let half = overlay.with_extension("new");
        let format = match order.disk.format {
            ImageFormat::Raw => "raw",
            ImageFormat::Qcow2 => "qcow2",
        };
        let output = Command::new("qemu-img")
            .args(["create", "-q", "-f", "qcow2", "-F", format, "-b", "base.img"])
            .arg(&half)
            .arg(order.disk.size_bytes.to_string())
            .env_clear()
            .env("PATH", SEARCH_PATH)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await
            .map_err(|error| DriverError::retryable(doing, format!("qemu-img cannot be run: {error}")))?;
        if !output.status.success() {
            let _ = fs::remove_file(&half);
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(DriverError::retryable(doing, format!("qemu-img: {said}")));
        }
        let overlay = overlay.to_owned();
        let placed = tokio::task::spawn_blocking(move || {
            File::open(&half)?.sync_all()?;
            fs::rename(&half, &overlay)?;
            sync_dir(overlay.parent().expect("an overlay is in a directory"))
        });
        placed.await.expect("renaming does not panic").map_err(|error| disk_error(doing, &error))
    }

    /// The epochs that a VM has files of here.
    pub(super) fn epochs(&self, vm: VmId) -> io::Result<Vec<Epoch>> {
        let names = names(&self.vm_dir(vm))?;
        Ok(names.iter().filter_map(|name| name.parse().ok().map(Epoch)).collect())
    }

    /// Removes every file of the VM at or below the epoch.
    pub(super) fn remove(&self, vm: VmId, epoch: Epoch) -> io::Result<()> {
        for old in self.epochs(vm)?.into_iter().filter(|old| *old <= epoch) {
            fs::remove_dir_all(self.dir(vm, old))?;
        }
        match fs::remove_dir(self.vm_dir(vm)) {
            Ok(()) => {
                let _ = fs::remove_file(self.console_socket(vm));
                sync_dir(&self.vms)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            // Files of a newer placement are there, and stay.
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => sync_dir(&self.vm_dir(vm)),
            Err(error) => Err(error),
        }
    }

    /// Every VM that has files here.
    pub(super) fn vms(&self) -> io::Result<Vec<VmId>> {
        Ok(names(&self.vms)?.iter().filter_map(|name| name.parse().ok()).collect())
    }
}

fn names(dir: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}

fn make_dir(dir: &Path) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    fs::set_permissions(dir, fs::Permissions::from_mode(DIR_MODE))
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Links the base file beside the overlay; again when the image was mended since, so that a next start
/// stands on the sound one.
fn link_base(base: &Path, link: &Path) -> io::Result<()> {
    let present = match (fs::metadata(base), fs::metadata(link)) {
        (Ok(base), Ok(link)) => base.ino() == link.ino(),
        // The image was removed from this node; the instance has its own link.
        (Err(error), Ok(_)) if error.kind() == io::ErrorKind::NotFound => true,
        (Err(error), _) => return Err(error),
        (Ok(_), Err(_)) => false,
    };
    if present {
        return Ok(());
    }
    let half = link.with_extension("new");
    match fs::remove_file(&half) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => fs::hard_link(base, &half)?,
    }
    fs::rename(&half, link)?;
    sync_dir(link.parent().expect("a base link is in a directory"))
}

/// Puts a small file in its place as a whole.
fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let half = path.with_extension("new");
    fs::write(&half, content)?;
    File::open(&half)?.sync_all()?;
    fs::rename(&half, path)?;
    sync_dir(path.parent().expect("a file is in a directory"))
}

fn cache_of(dir: &Path) -> io::Result<DiskCache> {
    let path = dir.join(".direct");
    fs::write(&path, b"")?;
    let opened = rustix::fs::open(
        &path,
        rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECT | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    );
    fs::remove_file(&path)?;
    Ok(if opened.is_ok() { DiskCache::Direct } else { DiskCache::Writeback })
}

pub(super) fn disk_error(doing: &str, error: &io::Error) -> DriverError {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => DriverError::DiskFull {
            doing: doing.to_owned(),
            why: "the disk of this node is full: free space on it, or drain the node".to_owned(),
        },
        io::ErrorKind::CrossesDevices => DriverError::terminal(
            doing,
            "images and VMs are on different file systems: keep both below one data directory",
        ),
        _ => DriverError::retryable(doing, error),
    }
}
