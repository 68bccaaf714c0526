//! One server: on, off, and what runs inside.

use std::{
    fs,
    io::{BufRead, BufReader},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::{Context, Result, bail};
use rustix::process::Signal;

use crate::{command::run as run_command, daemons, processes, run, run::Run};

/// Directories of a server that are its own: on its disks, seen inside at their usual place.
const OWN_DIRS: [&str; 4] = ["/var/lib/scp", "/var/lib/libvirt", "/var/log/libvirt", "/var/cache/libvirt"];

/// Makes the mount namespace what it is, says so, and holds it. `$1`: the disks, `$2`: the name.
///
/// /sys is mounted anew because a sysfs shows the network namespace of whoever mounted it; the cgroup
/// mounts below it are carried over. /dev/kvm gets the owner that udev gives it on a real server: with
/// root's alone libvirt, which asks QEMU's features as QEMU's user, finds its answers outdated every time
/// and takes half a minute to define a machine.
const ANCHOR: &str = r#"
set -eu
disks=$1 name=$2
hostname "$name"
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/lock /run/scp /run/sys
mount -t sysfs sysfs /run/sys
mount --rbind /sys/fs/cgroup /run/sys/fs/cgroup
mount --rbind /run/sys /sys
for dir in /var/lib/scp /var/lib/libvirt /var/log/libvirt /var/cache/libvirt /etc/libvirt; do
    if [ -d "$disks$dir" ]; then mount --bind "$disks$dir" "$dir"; fi
done
if [ -c /dev/kvm ] && getent group kvm >/dev/null; then
    mknod -m 660 /run/kvm c $((0x$(stat -c %t /dev/kvm))) $((0x$(stat -c %T /dev/kvm)))
    chown root:kvm /run/kvm
    mount --bind /run/kvm /dev/kvm
fi
exec 0</dev/null
echo on
exec >/dev/null 2>&1
exec sleep infinity
"#;

/// A server of a run.
#[derive(Debug)]
pub struct Server {
    pub name: String,
    /// Its address on the servers' network.
    pub address: String,
    namespace: String,
    /// Inode of the network namespace.
    inode: u64,
    disks: PathBuf,
    libvirt: bool,
    /// What was started here and is to be waited for when it dies.
    children: Vec<Child>,
}

impl Server {
    pub(crate) fn new(run: &Run, name: &str, address: &str, libvirt: bool) -> Result<Self> {
        let namespace = run.namespace(name);
        let inode = processes::namespace_of(&Path::new("/run/netns").join(&namespace))
            .with_context(|| format!("namespace {namespace} does not exist"))?;
        let disks = run.dir.join(name);
        Ok(Self {
            name: name.into(),
            address: address.into(),
            namespace,
            inode,
            disks,
            libvirt,
            children: vec![],
        })
    }

    /// The network namespace, to be entered.
    pub fn network(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.namespace)
    }

    /// Inode of the network namespace, as [`crate::VmProcess::namespace`] shows it.
    pub fn namespace_inode(&self) -> u64 {
        self.inode
    }

    /// Where a file of the server's `/var/lib/scp` is outside.
    pub fn disks(&self) -> &Path {
        &self.disks
    }

    /// Switches it on: namespaces, then the daemons.
    pub fn start(&mut self) -> Result<()> {
        if self.anchor().is_some() {
            bail!("server {} is on already", self.name);
        }
        self.make_disks()?;
        self.start_anchor()?;
        if self.libvirt {
            daemons::start(self)?;
        }
        Ok(())
    }

    fn make_disks(&self) -> Result<()> {
        for dir in OWN_DIRS {
            let own = self.disks.join(dir.trim_start_matches('/'));
            fs::create_dir_all(&own).with_context(|| format!("{} cannot be made", own.display()))?;
            // The place to mount it on; a real node's directory stays what it is.
            fs::create_dir_all(dir).with_context(|| format!("{dir} cannot be made"))?;
        }
        if self.libvirt {
            daemons::configure(&self.disks)?;
        }
        Ok(())
    }

    fn start_anchor(&mut self) -> Result<()> {
        let log =
            fs::File::create(self.disks.join("anchor.log")).context("the anchor's log cannot be made")?;
        let mut child = Command::new("nsenter")
            .arg(format!("--net=/run/netns/{}", self.namespace))
            .args(["unshare", "--mount", "--uts", "--propagation", "private", "sh", "-c", ANCHOR, "anchor"])
            .arg(&self.disks)
            .arg(&self.name)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .process_group(0)
            .spawn()
            .context("the server's namespaces cannot be made")?;
        let mut line = String::new();
        let stdout = child.stdout.take().expect("stdout was asked to be a pipe");
        BufReader::new(stdout).read_line(&mut line).context("the anchor does not answer")?;
        let pid = child.id();
        self.children.push(child);
        if line != "on\n" {
            let said = fs::read_to_string(self.disks.join("anchor.log")).unwrap_or_default();
            bail!("server {} cannot be switched on: {}", self.name, said.trim());
        }
        let began = processes::began(pid).context("the anchor is gone")?;
        run::write(&self.disks.join("anchor"), &format!("{pid} {began}"))
    }

    /// Pid of what holds the namespaces; none when the server is off.
    fn anchor(&self) -> Option<u32> {
        run::read_process(&self.disks.join("anchor"))
    }

    pub fn is_on(&self) -> bool {
        self.anchor().is_some()
    }

    /// A path of the server as seen from outside; only while it is on.
    pub fn path(&self, inside: &str) -> Result<PathBuf> {
        let anchor = self.anchor().with_context(|| format!("server {} is off", self.name))?;
        Ok(PathBuf::from(format!("/proc/{anchor}/root{inside}")))
    }

    /// A command that will run on the server, beginning in its root.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Result<Command> {
        let anchor = self.anchor().with_context(|| format!("server {} is off", self.name))?;
        let mut command = Command::new("nsenter");
        command.args(["--target", &anchor.to_string(), "--net", "--mount", "--uts", "--wd=/", "--"]);
        command.arg(program);
        Ok(command)
    }

    /// Starts a daemon on the server; what it says goes to `NAME.log` on its disks. It lives in its own
    /// process group, so a Ctrl-C for us does not reach it, and until it ends or is killed.
    pub fn spawn(&mut self, name: &str, command: &mut Command) -> Result<u32> {
        let path = self.disks.join(format!("{name}.log"));
        let log = fs::File::options().create(true).append(true).open(&path);
        let log = log.with_context(|| format!("{} cannot be written", path.display()))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("the log cannot be shared")?)
            .stderr(log)
            .process_group(0)
            .spawn()
            .with_context(|| format!("{name} cannot be started on {}", self.name))?;
        let pid = child.id();
        self.children.push(child);
        Ok(pid)
    }

    /// Everything that runs on it.
    pub fn pids(&self) -> Result<Vec<u32>> {
        processes::pids_in(self.inode)
    }

    /// A power cut: SIGKILL for every process on it. Says how many there were.
    pub fn kill_everything(&mut self) -> Result<usize> {
        let killed = processes::kill_all_in(self.inode)?;
        for mut child in self.children.drain(..) {
            // One that was on its way into the namespace was not found there.
            child.kill().context("a process of the server cannot be killed")?;
            child.wait().context("a killed process cannot be waited for")?;
        }
        Ok(killed)
    }

    /// The whole server stands still, or goes on: every process on it, virtual machines too.
    pub fn set_frozen(&self, frozen: bool) -> Result<()> {
        processes::signal_all_in(self.inode, if frozen { Signal::STOP } else { Signal::CONT })
    }

    /// Pulls the network cable, or plugs it in again.
    pub fn set_cable(&self, plugged: bool) -> Result<()> {
        let way = if plugged { "up" } else { "down" };
        let network = self.namespace.rsplit_once('-').expect("namespaces are named scp-RUN-NAME").0;
        run_command(Command::new("ip").args([
            "-n",
            &format!("{network}-net"),
            "link",
            "set",
            &self.name,
            way,
        ]))
    }
}
