//! A slow disk: the kernel lets a process write only so often (cgroup v1, `blkio.throttle`).
//!
//! `scpd` alone is slowed, and only what waits for the disk: writes that it syncs. Reads come from the page
//! cache.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

const BLKIO: &str = "/sys/fs/cgroup/blkio";

/// Lets the process write to the disk of `dir` so many times a second. `group` names the limit.
pub fn slow_down(group: &str, pid: u32, dir: &Path, writes_per_second: u32) -> Result<()> {
    let root = Path::new(BLKIO);
    if !root.join("cgroup.procs").exists() {
        bail!("{BLKIO} is not there: slow_disk needs the blkio controller of cgroup v1");
    }
    let device = fs::metadata(dir).with_context(|| format!("{} is not there", dir.display()))?.dev();
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let own = group_dir(group);
    fs::create_dir_all(&own).with_context(|| format!("{} cannot be made", own.display()))?;
    let limit = format!("{major}:{minor} {writes_per_second}");
    let said = fs::write(own.join("blkio.throttle.write_iops_device"), &limit);
    said.with_context(|| format!("the kernel does not take the limit {limit:?}"))?;
    fs::write(own.join("cgroup.procs"), pid.to_string()).context("scpd cannot be moved into the group")
}

/// Takes the limit away from whatever is under it.
pub fn speed_up(group: &str) -> Result<()> {
    let own = group_dir(group);
    let members = fs::read_to_string(own.join("cgroup.procs")).context("the group is not there")?;
    for pid in members.lines() {
        // One that ended meanwhile needs no other group.
        let _ = fs::write(Path::new(BLKIO).join("cgroup.procs"), pid);
    }
    fs::remove_dir(&own).with_context(|| format!("{} cannot be removed", own.display()))
}

fn group_dir(group: &str) -> PathBuf {
    Path::new(BLKIO).join(group)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_process_that_is_slowed_waits_for_its_writes() {
        let dir = PathBuf::from("/var/tmp").join(format!("scp-chaos-disk-{}", std::process::id()));
        fs::create_dir_all(&dir).expect("writable");
        // Waits for its input, so that it is slowed before it writes.
        let script = "read go; dd if=/dev/zero of=\"$0\" bs=4k count=10 oflag=dsync 2>&1";
        let mut shell = Command::new("sh");
        shell.args(["-c", script]).arg(dir.join("file"));
        let mut child = shell.stdin(std::process::Stdio::piped()).spawn().expect("sh starts");
        let group = format!("scp-chaos-test-{}", std::process::id());
        slow_down(&group, child.id(), &dir, 20).expect("it is slowed");
        let written = group_dir(&group).join("blkio.throttle.io_serviced");
        drop(child.stdin.take());
        assert!(child.wait().expect("it ends").success());
        let counts = fs::read_to_string(written).expect("the kernel counts");
        speed_up(&group).expect("it is over");
        fs::remove_dir_all(&dir).expect("it is ours");
        let total = counts.lines().find_map(|line| line.strip_prefix("Total ")).expect("a total");
        assert!(total.trim().parse::<u64>().expect("a number") >= 10, "{counts}");
        assert!(!group_dir(&group).exists());
    }
}
