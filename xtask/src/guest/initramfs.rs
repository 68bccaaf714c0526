//! The guest's kernel, and the file system in memory that it starts with.

use std::{
    fs,
    io::Write,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};
use scp_servers::{output, run};

use crate::packages;

/// An unpacked kernel package.
#[derive(Debug)]
pub struct Kernel {
    pub image: PathBuf,
    /// `…/lib/modules/VERSION`.
    modules: PathBuf,
    version: String,
}

/// Modules that the guest loads, in this order; what they depend on comes along. A name that the
/// kernel has built in is skipped.
const MODULES: [&str; 16] = [
    "virtio_pci",
    "virtio_blk",
    "virtio_net",
    "virtio_scsi",
    "virtio_rng",
    "virtio_console",
    "sd_mod",
    "vfat",
    "nls_cp437",
    "nls_ascii",
    "nls_utf8",
    "button",
    "evdev",
    "pvpanic",
    "pvpanic-mmio",
    "pvpanic-pci",
];

const INIT: &str = include_str!("init.sh");

/// What busybox' init keeps running after init.sh: the console's login, and what shuts down in order.
const INITTAB: &str = "\
ttyS0::respawn:/sbin/getty -L 115200 ttyS0 vt100
::ctrlaltdel:/sbin/reboot
::shutdown:/bin/umount -a -r
";

/// Unpacks the newest cloud kernel that Debian offers.
pub fn kernel(into: &Path) -> Result<Kernel> {
    packages::update_lists()?;
    let depends =
        output(Command::new("apt-cache").args(["depends", "--important", "linux-image-cloud-amd64"]))?;
    let name = depends.lines().find_map(|line| line.trim().strip_prefix("Depends: "));
    let name = name.context("Debian's package lists know no linux-image-cloud-amd64")?;
    packages::unpack(name, into)?;
    let version = name.trim_start_matches("linux-image-").to_string();
    let image = into.join(format!("boot/vmlinuz-{version}"));
    if !image.exists() {
        bail!("package {name} has no {}", image.display());
    }
    Ok(Kernel { image, modules: into.join("lib/modules").join(&version), version })
}

/// Fills `root` and packs it into `initrd`.
pub fn build(root: &Path, kernel: &Kernel, initrd: &Path) -> Result<()> {
    for dir in
        ["bin", "sbin", "usr/bin", "usr/sbin", "etc/acpi/PWRF", "root", "proc", "sys", "dev", "var/log"]
    {
        fs::create_dir_all(root.join(dir)).with_context(|| format!("{dir} cannot be made"))?;
    }
    install_busybox(root)?;
    install_program(root, "dropbear")?;
    install_modules(root, kernel)?;
    file(&root.join("init"), INIT, 0o755)?;
    file(&root.join("etc/inittab"), INITTAB, 0o644)?;
    file(&root.join("etc/passwd"), "root::0:0:root:/root:/bin/sh\n", 0o644)?;
    file(&root.join("etc/group"), "root:x:0:\n", 0o644)?;
    file(&root.join("etc/shells"), "/bin/sh\n", 0o644)?;
    file(&root.join("etc/issue"), "\n", 0o644)?;
    file(&root.join("etc/acpi/PWRF/00000080"), "#!/bin/sh\nexec poweroff\n", 0o755)?;
    pack(root, initrd)
}

fn file(path: &Path, text: &str, mode: u32) -> Result<()> {
    fs::write(path, text).with_context(|| format!("{} cannot be written", path.display()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).context("its mode cannot be set")
}

/// busybox and a link for each of its applets, where it thinks they belong.
fn install_busybox(root: &Path) -> Result<()> {
    let own = ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(|path| Path::new(path).exists());
    let own = own.context("busybox is not where its package puts it")?;
    fs::copy(own, root.join("bin/busybox")).context("busybox cannot be copied")?;
    for applet in output(Command::new(own).arg("--list-full"))?.lines() {
        let link = root.join(applet);
        if link.exists() || applet == "bin/busybox" {
            continue;
        }
        let dir = link.parent().expect("it lies below root");
        fs::create_dir_all(dir).with_context(|| format!("{} cannot be made", dir.display()))?;
        symlink("/bin/busybox", &link).with_context(|| format!("{applet} cannot be linked"))?;
    }
    Ok(())
}

/// A program of this machine with the libraries it is linked to.
fn install_program(root: &Path, name: &str) -> Result<()> {
    let own =
        ["/usr/sbin", "/usr/bin"].map(|dir| Path::new(dir).join(name)).into_iter().find(|path| path.exists());
    let own = own.with_context(|| format!("{name} is not where its package puts it"))?;
    let linked = output(Command::new("ldd").arg(&own))?;
    let libraries = linked.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from);
    for path in libraries.chain([own.clone()]) {
        let to = root.join(path.strip_prefix("/").expect("both begin at the root"));
        fs::create_dir_all(to.parent().expect("it lies below root")).context("a directory cannot be made")?;
        fs::copy(&path, &to).with_context(|| format!("{} cannot be copied", path.display()))?;
    }
    Ok(())
}

/// The modules, what they depend on, and the index that modprobe reads.
fn install_modules(root: &Path, kernel: &Kernel) -> Result<()> {
    let base = kernel.modules.ancestors().nth(3).expect("it ends in lib/modules/VERSION");
    run(Command::new("depmod").arg("-b").arg(base).arg(&kernel.version))?;
    let index =
        fs::read_to_string(kernel.modules.join("modules.dep")).context("depmod wrote no modules.dep")?;
    let built_in = fs::read_to_string(kernel.modules.join("modules.builtin")).unwrap_or_default();
    let to = root.join("lib/modules").join(&kernel.version);
    let mut loaded = String::new();
    for name in MODULES {
        let file = format!("/{name}.ko");
        if built_in.lines().any(|line| line.ends_with(&file)) {
            continue;
        }
        // A name that neither is built in nor exists belongs to another kernel's configuration.
        let Some(line) =
            index.lines().find(|line| line.split(':').next().is_some_and(|path| path.ends_with(&file)))
        else {
            continue;
        };
        for path in line.split([':', ' ']).filter(|path| !path.is_empty()) {
            let target = to.join(path);
            fs::create_dir_all(target.parent().expect("it lies below lib"))
                .context("a directory cannot be made")?;
            fs::copy(kernel.modules.join(path), &target)
                .with_context(|| format!("{path} cannot be copied"))?;
        }
        loaded.push_str(name);
        loaded.push('\n');
    }
    for name in ["modules.order", "modules.builtin"] {
        fs::copy(kernel.modules.join(name), to.join(name))
            .with_context(|| format!("{name} cannot be copied"))?;
    }
    run(Command::new("depmod").arg("-b").arg(root).arg(&kernel.version))?;
    file(&root.join("etc/modules"), &loaded, 0o644)
}

/// `find | cpio | zstd`, in one order and without times, so that one recipe gives one image.
fn pack(root: &Path, initrd: &Path) -> Result<()> {
    let script = "find . -mindepth 1 -exec touch -h -d @0 {} + && find . -mindepth 1 | LC_ALL=C sort \
                  | cpio --quiet --create --format=newc --owner=0:0 --reproducible";
    let packed = Command::new("sh").args(["-c", script]).current_dir(root).output();
    let packed = packed.context("the initramfs cannot be packed")?;
    if !packed.status.success() || packed.stdout.is_empty() {
        bail!("the initramfs cannot be packed: {}", String::from_utf8_lossy(&packed.stderr).trim());
    }
    let out = fs::File::create(initrd).context("the initramfs cannot be written")?;
    let mut zstd =
        Command::new("zstd").args(["-q", "-19", "-c"]).stdin(Stdio::piped()).stdout(out).spawn()?;
    zstd.stdin.take().expect("stdin was asked to be a pipe").write_all(&packed.stdout)?;
    match zstd.wait()?.success() {
        true => Ok(()),
        false => bail!("zstd could not compress the initramfs"),
    }
}
