//! One real `scpd`.

use std::{
    fs::{self, File},
    io,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal};
use scp_api::{
    client::Client,
    local::LocalInit,
    v1::{Consistency, EventQuery},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
};

/// A look every so often: what is measured is seconds.
const PAUSE: Duration = Duration::from_millis(5);
const PATIENCE: Duration = Duration::from_secs(300);

/// Killed when it is dropped.
pub struct Scpd {
    program: PathBuf,
    dir: PathBuf,
    arguments: Vec<String>,
    child: Option<Child>,
}

/// MiB of a process in RAM.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Memory {
    pub rss: f64,
    pub anonymous: f64,
    pub file: f64,
}

impl Scpd {
    /// Starts it and makes a city of it alone.
    pub async fn found(program: &Path, dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir)?;
        let ports = [TcpListener::bind("127.0.0.1:0")?, TcpListener::bind("127.0.0.1:0")?];
        let [mesh, api] = ports.each_ref().map(TcpListener::local_addr);
        let pairs = [
            ("--data-dir", dir.join("data").display().to_string()),
            ("--listen", "127.0.0.1".into()),
            ("--mesh-port", mesh?.port().to_string()),
            ("--api-port", api?.port().to_string()),
            ("--socket", dir.join("socket").display().to_string()),
            ("--name", "n0".into()),
            ("--zone", "z0".into()),
            ("--accelerator", "none".into()),
        ];
        drop(ports);
        let arguments = pairs.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]).collect();
        let mut node = Self { program: program.into(), dir: dir.into(), arguments, child: None };
        node.start()?;
        node.until(async |node| node.client().ok()?.local_status().await.ok()).await?;
        let order = LocalInit {
            city: "bench".into(),
            country: "PT".into(),
            node_name: None,
            zone: None,
            admin_password: None,
        };
        node.client()?.local_init(&order).await.context("the city cannot be founded")?;
        Ok(node)
    }

    pub fn data_dir(&self) -> PathBuf {
        self.dir.join("data")
    }

    pub fn client(&self) -> Result<Client> {
        Ok(Client::unix(self.dir.join("socket"))?)
    }

    pub fn start(&mut self) -> Result<()> {
        let log = File::options().create(true).append(true).open(self.dir.join("log"))?;
        // Of the life before this one: who finds it would think that this one listens.
        match fs::remove_file(self.dir.join("socket")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
            Ok(()) | Err(_) => {}
        }
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).env("SCPD_LOG", "warn,openraft=error").env("NO_COLOR", "1");
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.child = Some(command.spawn().context("scpd cannot be started")?);
        Ok(())
    }

    fn pid(&self) -> Result<u32> {
        Ok(self.child.as_ref().context("scpd runs")?.id())
    }

    /// In order, and gone when this returns.
    pub fn stop(&mut self) -> Result<()> {
        let pid = Pid::from_raw(i32::try_from(self.pid()?)?).context("a pid is positive")?;
        rustix::process::kill_process(pid, Signal::TERM)?;
        if let Some(mut child) = self.child.take() {
            child.wait()?;
        }
        Ok(())
    }

    /// As `kill -9`, and gone when this returns.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    async fn until<T>(&mut self, look: impl AsyncFn(&Self) -> Option<T>) -> Result<T> {
        let end = tokio::time::Instant::now() + PATIENCE;
        while tokio::time::Instant::now() < end {
            if let Some(seen) = look(self).await {
                return Ok(seen);
            }
            let ended = match &mut self.child {
                Some(child) => child.try_wait()?,
                None => bail!("scpd was not started"),
            };
            if let Some(status) = ended {
                bail!("scpd ended ({status}):\n{}", self.log_end());
            }
            tokio::time::sleep(PAUSE).await;
        }
        bail!("scpd does not come up within {PATIENCE:?}:\n{}", self.log_end())
    }

    fn log_end(&self) -> String {
        let text = fs::read_to_string(self.dir.join("log")).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }

    /// Until `/healthz` is answered.
    pub async fn healthy(&mut self) -> Result<()> {
        self.until(async |node| healthz(&node.dir.join("socket")).await.ok().filter(|ok| *ok).map(drop)).await
    }

    /// Until a linearizable read is answered.
    pub async fn ready(&mut self) -> Result<()> {
        let read = async |node: &Self| {
            let client = node.client().ok()?.with_consistency(Consistency::Linearizable);
            client.status().await.ok().map(drop)
        };
        self.until(read).await
    }

    /// What the city says of its nodes and VMs, and how often it took a node for down.
    pub async fn told(&self) -> Result<serde_json::Value> {
        let client = self.client()?;
        let status = client.status().await?;
        let (limit, subject_kind) = (Some(1_000), Some("node".into()));
        let newest = EventQuery { subject_kind, limit, newest: true, ..EventQuery::default() };
        let downs = client.list_events(&newest).await?.items;
        let downs = downs.iter().filter(|event| event.kind == "node_down").count();
        Ok(serde_json::json!({ "nodes_up": status.nodes_up, "vms": status.vms, "node_downs": downs }))
    }

    /// CPU time of this life.
    pub fn cpu(&self) -> Duration {
        let stat = self.pid().ok().and_then(|pid| fs::read_to_string(format!("/proc/{pid}/stat")).ok());
        stat.as_deref().and_then(cpu).unwrap_or_default()
    }

    pub fn memory(&self) -> Result<Memory> {
        memory(&fs::read_to_string(format!("/proc/{}/status", self.pid()?))?).context("the kernel tells it")
    }

    pub fn bytes_on_disk(&self) -> Result<u64> {
        let files = fs::read_dir(self.data_dir().join("raft"))?;
        files.map(|file| Ok(file?.metadata()?.len())).sum()
    }
}

impl Drop for Scpd {
    fn drop(&mut self) {
        self.kill();
    }
}

async fn healthz(socket: &Path) -> Result<bool> {
    let mut stream = UnixStream::connect(socket).await?;
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: scpd\r\nConnection: close\r\n\r\n").await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer.starts_with("HTTP/1.1 200 "))
}

/// User and system time from `/proc/PID/stat`: fields 14 and 15. The name of the process, in parentheses,
/// may hold anything.
fn cpu(stat: &str) -> Option<Duration> {
    // Linux counts in hundredths of a second here, whatever its own clock does.
    const TICK_MS: u64 = 10;
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut ticks = fields.split(' ').skip(11).map(str::parse::<u64>);
    Some(Duration::from_millis((ticks.next()?.ok()? + ticks.next()?.ok()?) * TICK_MS))
}

fn memory(status: &str) -> Option<Memory> {
    let mib = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.split_whitespace().next()?.parse::<f64>().ok().map(|kib| kib / 1024.0)
    };
    Some(Memory { rss: mib("VmRSS")?, anonymous: mib("RssAnon")?, file: mib("RssFile")? })
}

/// A bench target has no tests of its own: what is misread would pass for a measure.
pub fn check_parsers() {
    let stat = "42 (a) b) S 1 42 42 0 -1 4194560 1 0 0 0 150 25 0 0 20 0 4 0 100 1000 10";
    assert_eq!(cpu(stat), Some(Duration::from_millis(1_750)));
    let status = "VmHWM:\t 9 kB\nVmRSS:\t   3072 kB\nRssAnon:\t    2048 kB\nRssFile:\t    1024 kB\n";
    assert_eq!(memory(status), Some(Memory { rss: 3.0, anonymous: 2.0, file: 1.0 }));
}
