//! Boots the guest image with plain QEMU and sees that it does what the demo and tests rely on: it reads
//! its seed, gives a shell on its console, and obeys the power button.

use std::{fs, io::Write, os::unix::net::UnixStream, path::Path, process::Command};

use anyhow::{Context, Result, bail};
use scp_servers::run;

use crate::{
    console::Console,
    guest,
    packages::{self, Step},
};

const META_DATA: &str =
    "instance-id: i-check\nlocal-hostname: checked\npublic-keys:\n  - \"ssh-ed25519 AAAAkey me\"\n";
const USER_DATA: &str = "#!/bin/sh\necho user data ran\n";

/// The whole check, in a directory that is removed afterwards.
pub fn check() -> Result<()> {
    packages::install(&[Step::Guest, Step::Servers])?;
    let image = guest::image()?;
    let dir = guest::cache_dir()?.join(format!("checking-{}", std::process::id()));
    fs::create_dir_all(&dir).with_context(|| format!("{} cannot be made", dir.display()))?;
    let checked = boot(&image, &dir);
    let removed = fs::remove_dir_all(&dir);
    checked?;
    removed.context("the directory of the check cannot be removed")
}

fn boot(image: &Path, dir: &Path) -> Result<()> {
    let seed = seed(dir)?;
    let monitor = dir.join("monitor");
    let mut qemu = Command::new("qemu-system-x86_64");
    qemu.args(["-accel", "tcg", "-m", "256", "-display", "none", "-serial", "stdio", "-monitor"])
        .arg(format!("unix:{},server=on,wait=off", monitor.display()))
        .arg("-drive")
        .arg(format!("file={},if=virtio,format=qcow2,snapshot=on", image.display()))
        .arg("-drive")
        .arg(format!("file={},if=virtio,format=raw,readonly=on", seed.display()));
    let mut console = Console::open(&mut qemu)?;
    console.log_in()?;
    let said = console.run("hostname; cat /root/.ssh/authorized_keys /run/user-data.log")?;
    for wanted in ["checked", "ssh-ed25519 AAAAkey me", "user data ran"] {
        if !said.contains(wanted) {
            bail!("the guest does not know {wanted:?} from its seed; it says: {said}");
        }
    }
    let mut monitor = UnixStream::connect(&monitor).context("QEMU's monitor does not answer")?;
    monitor.write_all(b"system_powerdown\n").context("QEMU's monitor does not listen")?;
    console.ends().context("the guest does not obey its power button")
}

/// A FAT volume labelled cidata.
fn seed(dir: &Path) -> Result<std::path::PathBuf> {
    let path = dir.join("seed.img");
    run(Command::new("mkfs.fat").args(["-C", "-n", "CIDATA"]).arg(&path).arg("1024"))?;
    for (name, text) in [("meta-data", META_DATA), ("user-data", USER_DATA)] {
        let file = dir.join(name);
        fs::write(&file, text).with_context(|| format!("{name} cannot be written"))?;
        run(Command::new("mcopy").arg("-i").arg(&path).arg(&file).arg("::"))?;
    }
    Ok(path)
}
