//! Has `scpd` running on this server before `init` and `join` talk to it.
//!
//! ```text
//! socket answers ───────────────────────────────────────────────▶ done
//! systemd runs this machine ── systemctl start scpd ─┐
//! otherwise ── scpd beside scpctl (or in PATH),      ├─ wait for the socket ─▶ done
//!              detached, output to DATA_DIR/scpd.log ┘          │
//!                                    it ended, or 30 s went by ─▶ an error with its last words
//! ```

use std::{
    fs::OpenOptions,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use crate::{
    error::{CliError, Exit, Result},
    local::Local,
    output::Out,
};

/// Where `scpd` keeps its data, unless configured otherwise.
pub const DATA_DIR: &str = "/var/lib/scp";
/// A node with a long log to replay needs a while before it listens.
const START_TIMEOUT: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(50);
/// How much of a dead daemon's log is worth repeating.
const LAST_WORDS_LINES: usize = 5;

/// Where and how to start it.
#[derive(Debug, Clone)]
pub struct Daemon {
    pub socket: PathBuf,
    /// Given to `scpd --listen` when set.
    pub listen: Option<String>,
    /// Given to `scpd --data-dir` when set.
    pub data_dir: Option<PathBuf>,
    /// Given to `scpd --config` when set.
    pub config: Option<PathBuf>,
    /// Fail rather than start it.
    pub no_start: bool,
}

impl Daemon {
    /// A client of the running `scpd`, started if need be.
    pub async fn ensure(&self, out: Out) -> Result<Local> {
        let local = Local::new(&self.socket)?;
        let absent = match local.status().await {
            Ok(_) => return Ok(local),
            Err(error) if error.exit == Exit::Unavailable => error,
            Err(error) => return Err(error),
        };
        if self.no_start {
            return Err(absent);
        }
        if Path::new("/run/systemd/system").exists() {
            out.talk("scpd is not running: systemctl start scpd");
            start_unit()?;
            self.wait(&local, None).await?;
        } else {
            let program = find()?;
            let log = self.data_dir.as_deref().unwrap_or(Path::new(DATA_DIR)).join("scpd.log");
            out.talk(format!(
                "scpd is not running: starting {}, log in {}",
                program.display(),
                log.display()
            ));
            let child = self.spawn(&program, &log)?;
            self.wait(&local, Some((child, &log))).await?;
        }
        Ok(local)
    }

    fn spawn(&self, program: &Path, log: &Path) -> Result<Child> {
        if let Some(directory) = log.parent() {
            std::fs::create_dir_all(directory).map_err(|error| CliError::file(directory, &error))?;
        }
        let file = OpenOptions::new().create(true).append(true).open(log);
        let file = file.map_err(|error| CliError::file(log, &error))?;
        let twin = file.try_clone().map_err(|error| CliError::file(log, &error))?;
        let mut command = Command::new(program);
        if self.socket != Path::new(scp_api::local::SOCKET_PATH) {
            command.arg("--socket").arg(&self.socket);
        }
        if let Some(address) = &self.listen {
            command.arg("--listen").arg(address);
        }
        if let Some(directory) = &self.data_dir {
            command.arg("--data-dir").arg(directory);
        }
        if let Some(config) = &self.config {
            command.arg("--config").arg(config);
        }
        // Its own process group: a Ctrl-C at our terminal is not meant for it.
        command.stdin(Stdio::null()).stdout(file).stderr(twin).current_dir("/").process_group(0);
        command.spawn().map_err(|error| CliError::file(program, &error))
    }

    async fn wait(&self, local: &Local, mut child: Option<(Child, &Path)>) -> Result<()> {
        let deadline = tokio::time::Instant::now() + START_TIMEOUT;
        loop {
            match local.status().await {
                Ok(_) => return Ok(()),
                Err(error) if error.exit == Exit::Unavailable => {
                    if tokio::time::Instant::now() >= deadline {
                        let seconds = START_TIMEOUT.as_secs();
                        return Err(error.because(format!("it was started {seconds} s ago")));
                    }
                }
                Err(error) => return Err(error),
            }
            if let Some((child, log)) = &mut child
                && let Ok(Some(status)) = child.try_wait()
            {
                return Err(died(status, log));
            }
            tokio::time::sleep(POLL).await;
        }
    }
}

fn start_unit() -> Result<()> {
    let result = Command::new("systemctl").args(["start", "scpd"]).stdin(Stdio::null()).output();
    match result {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(CliError::failed("systemctl could not start scpd")
            .because(String::from_utf8_lossy(&output.stderr).trim())
            .remedy("see why: journalctl -u scpd -n 50")),
        Err(error) => Err(CliError::failed(format!("systemctl cannot be run: {error}"))),
    }
}

/// `scpd` beside this program, else in `PATH`.
fn find() -> Result<PathBuf> {
    let beside = std::env::current_exe().ok().and_then(|path| Some(path.parent()?.join("scpd")));
    let searched = std::env::var_os("PATH").unwrap_or_default();
    let candidates = beside.into_iter().chain(std::env::split_paths(&searched).map(|dir| dir.join("scpd")));
    candidates.into_iter().find(|path| path.is_file()).ok_or_else(|| {
        CliError::not_found("scpd is not running and is neither beside scpctl nor in PATH")
            .remedy("install it beside scpctl, or start it yourself and repeat this command")
    })
}

fn died(status: std::process::ExitStatus, log: &Path) -> CliError {
    let mut error = CliError::failed(format!("scpd ended at once ({status})"));
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<_> = text.lines().collect();
    for line in &lines[lines.len().saturating_sub(LAST_WORDS_LINES)..] {
        error = error.because(*line);
    }
    error.remedy(format!("its log has the whole story: {}", log.display()))
}
