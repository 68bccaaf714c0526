//! The guest image of the demo and the tests: a real disk that a BIOS boots, made from Debian packages.
//!
//! ```text
//! guest.qcow2
//! ├─ boot record (syslinux' mbr.bin), one partition from 1 MiB on
//! └─ FAT, labelled SCPGUEST
//!    ├─ ldlinux.sys       boot loader
//!    ├─ vmlinuz           Debian's cloud kernel, unpacked from its package, not installed here
//!    └─ initrd            busybox, dropbear, the kernel modules needed, init.sh as a tiny cloud-init
//! ```
//!
//! It lives in memory once booted. It reads a NoCloud seed (a FAT volume labelled `cidata`): host name,
//! SSH keys, user data that begins with `#!`. It takes an address by DHCP, serves SSH, answers the ACPI
//! power button, and asks for a login (root, no password) on the serial console, where it prints
//! `scp-guest: ready: HOSTNAME` when all that is done.
//!
//! # Guarantees
//! - Built once per recipe: the file's name carries a hash of everything in this folder that shapes it.
//!   A finished image appears under its name in one step.
//!
//! # Caveats
//! - Debian's newest kernel at the time of building goes in; a later kernel alone builds no new image.

mod check;
mod disk;
mod initramfs;

use std::{
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use crate::{
    packages::{self, Step},
    talk,
};

pub use check::check;

/// Where built images are kept, outside the repository.
pub fn cache_dir() -> Result<PathBuf> {
    let base = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let base = base.or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")));
    Ok(base
        .context("neither XDG_CACHE_HOME nor HOME is set: there is no place to keep what is built")?
        .join("scp"))
}

/// Everything that shapes the image. The hash only has to change when this does.
fn recipe() -> String {
    let mut hasher = DefaultHasher::new();
    for part in [include_str!("init.sh"), include_str!("initramfs.rs"), include_str!("disk.rs")] {
        part.hash(&mut hasher);
    }
    format!("{:012x}", hasher.finish() & 0xffff_ffff_ffff)
}

/// The image, built first if this machine has none of this recipe.
pub fn image() -> Result<PathBuf> {
    let dir = cache_dir()?;
    let path = dir.join(format!("guest-{}.qcow2", recipe()));
    if path.exists() {
        return Ok(path);
    }
    packages::install(&[Step::Guest])?;
    talk!("building the guest image from Debian packages (once)");
    let work = dir.join(format!("building-{}", std::process::id()));
    let built =
        build(&work).and_then(|qcow2| fs::rename(qcow2, &path).context("the image cannot be put in place"));
    let removed = fs::remove_dir_all(&work);
    built?;
    removed.context("the directory that the image was built in cannot be removed")?;
    Ok(path)
}

fn build(work: &Path) -> Result<PathBuf> {
    let root = work.join("root");
    fs::create_dir_all(&root).with_context(|| format!("{} cannot be made", root.display()))?;
    let kernel = initramfs::kernel(&work.join("kernel"))?;
    let initrd = work.join("initrd");
    initramfs::build(&root, &kernel, &initrd)?;
    disk::build(work, &kernel.image, &initrd)
}
