//! A run: the directory that remembers what was made, so that it can be unmade by whoever comes next.
//!
//! ```text
//! RUNS/ID/owner       pid and start time of the program that built it
//! RUNS/ID/kept        present: it is to outlive its owner
//! RUNS/ID/n1/         a server's disks; n1/anchor: pid and start time of what holds its namespaces
//! /run/netns/scp-ID-* its namespaces
//! ```

use std::{
    fs,
    io::Write,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
};

use anyhow::{Context, Result};

use crate::{command, processes};

/// Where runs are kept: not under a home directory, because QEMU runs as a user that may not look there.
pub fn runs_dir() -> PathBuf {
    PathBuf::from("/var/tmp/scp-servers")
}

/// How many runs one owner may have at once: tests build a handful.
const RUNS_MAX: u32 = 1000;

/// One set of servers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    pub id: String,
    pub dir: PathBuf,
}

/// What [`Reaper`] runs. It ignores the signals of a closing terminal; it is told `keep`, or reads the
/// end of file when the owner is gone, however it went.
const REAPER: &str = r#"
trap '' HUP INT QUIT TERM
read -r word
[ "$word" = keep ] && exit 0
while :; do
    left=
    for ns in $(ip netns list | cut -d' ' -f1 | grep "^scp-$1-"); do
        for pid in $(ip netns pids "$ns"); do left=1; kill -9 "$pid" 2>/dev/null; done
    done
    [ -z "$left" ] && break
    sleep 0.1
done
for ns in $(ip netns list | cut -d' ' -f1 | grep "^scp-$1-"); do ip netns delete "$ns"; done
rm -rf "$2"
"#;

/// The process that cleans up after an owner that could not.
#[derive(Debug)]
pub(crate) struct Reaper {
    child: Child,
    pipe: ChildStdin,
}

impl Reaper {
    fn start(run: &Run) -> Result<Self> {
        let mut child = Command::new("sh")
            .args(["-c", REAPER, "reaper", &run.id])
            .arg(&run.dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .context("the shell that cleans up could not be started")?;
        let pipe = child.stdin.take().expect("stdin was asked to be a pipe");
        Ok(Self { child, pipe })
    }

    /// The owner has cleaned up itself, or wants all kept.
    pub(crate) fn dismiss(mut self) -> Result<()> {
        self.pipe.write_all(b"keep\n").context("the shell that cleans up is gone")?;
        self.child.wait().context("the shell that cleans up does not end")?;
        Ok(())
    }
}

impl Run {
    /// Records a new run owned by this process.
    pub(crate) fn begin() -> Result<(Self, Reaper)> {
        let owner = std::process::id();
        let began = processes::began(owner).context("/proc/self cannot be read")?;
        // The owner is on record before the run has its name: another owner's sweep never meets a run
        // that belongs to nobody.
        let nameless = runs_dir().join(format!(".new-{owner}"));
        fs::create_dir_all(&nameless).context("the runs' directory cannot be made")?;
        write(&nameless.join("owner"), &format!("{owner} {began}"))?;
        // Short, because it is part of names; unique, because a rename onto a run fails.
        let taken =
            |number: &u32| fs::rename(&nameless, runs_dir().join(format!("{owner:x}{number}"))).is_err();
        let number =
            (0..RUNS_MAX).find(|number| !taken(number)).context("the run's directory cannot be made")?;
        let id = format!("{owner:x}{number}");
        let run = Self { dir: runs_dir().join(&id), id };
        let reaper = Reaper::start(&run)?;
        Ok((run, reaper))
    }

    pub(crate) fn namespace(&self, name: &str) -> String {
        format!("scp-{}-{name}", self.id)
    }

    /// Marks it as one that outlives its owner.
    pub(crate) fn mark_kept(&self) -> Result<()> {
        write(&self.dir.join("kept"), "")
    }

    pub fn is_kept(&self) -> bool {
        self.dir.join("kept").exists()
    }

    /// Whether the program that built it still runs.
    fn is_owned(&self) -> bool {
        read_process(&self.dir.join("owner")).is_some()
    }

    /// Every run on this machine, oldest name first.
    pub fn all() -> Result<Vec<Self>> {
        let Ok(entries) = fs::read_dir(runs_dir()) else { return Ok(Vec::new()) };
        let mut runs: Vec<_> = entries
            .flatten()
            .filter(|entry| !entry.file_name().to_string_lossy().starts_with('.'))
            .map(|entry| Self { id: entry.file_name().to_string_lossy().into_owned(), dir: entry.path() })
            .collect();
        runs.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(runs)
    }

    /// Ends every run whose owner is gone and that was not to be kept.
    pub(crate) fn sweep() -> Result<()> {
        for run in Self::all()? {
            if !run.is_owned() && !run.is_kept() {
                run.end()?;
            }
        }
        Ok(())
    }

    /// Kills everything in its namespaces, removes them and its disks.
    pub fn end(&self) -> Result<()> {
        let list = command::output(Command::new("ip").args(["netns", "list"]))?;
        let prefix = self.namespace("");
        let ours =
            list.lines().filter_map(|line| line.split(' ').next()).filter(|ns| ns.starts_with(&prefix));
        for name in ours {
            if let Some(inode) = processes::namespace_of(&Path::new("/run/netns").join(name)) {
                processes::kill_all_in(inode)?;
            }
            let deleted = command::run(Command::new("ip").args(["netns", "delete", name]));
            // Its reaper, or another sweep, may have been faster.
            if Path::new("/run/netns").join(name).exists() {
                deleted?;
            }
        }
        match fs::remove_dir_all(&self.dir) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("{} cannot be removed", self.dir.display()))
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }
}

pub(crate) fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("{} cannot be written", path.display()))
}

/// The process that a file names by pid and start time, if it still runs.
pub(crate) fn read_process(path: &Path) -> Option<u32> {
    let text = fs::read_to_string(path).ok()?;
    let (pid, began) = text.split_once(' ')?;
    let (pid, began) = (pid.parse().ok()?, began.parse().ok()?);
    (processes::began(pid) == Some(began)).then_some(pid)
}
