//! What `qemu-img` says of an image, asked in a child of limited means.
//!
//! Our own parser reads the header only; `qemu-img check` walks every table, as QEMU will. The child
//! gets a limited address space and processor time, no environment and nothing to write to.

use std::{path::Path, process::Stdio, time::Duration};

use tokio::process::Command;

use super::refusal::Refusal;
use crate::DriverError;

/// `qemu-img check` holds two bytes a cluster and its tables: 16 TiB in clusters of 64 KiB need half.
const ADDRESS_SPACE_BYTES_MAX: u64 = 2 << 30;
/// Walking the tables of the largest image takes minutes, of an ordinary one less than a second.
const CPU_SECONDS_MAX: u64 = 300;
/// As above, on a busy disk.
const WALL_CLOCK_MAX: Duration = Duration::from_secs(900);

/// What `qemu-img` read out of the file.
#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Info {
    virtual_size: u64,
    format: String,
    backing_filename: Option<String>,
    full_backing_filename: Option<String>,
}

/// Asks for a second opinion on a qcow2 file; `virtual_bytes` is ours. A server without `qemu-img` has
/// none to give: it runs no VMs either.
pub async fn second_opinion(path: &Path, virtual_bytes: u64) -> Result<Result<(), Refusal>, DriverError> {
    let Some(info) = qemu_img(&["info", "--output=json", "-f", "qcow2"], path).await? else {
        tracing::warn!("qemu-img is not installed: the image was checked by its header only");
        return Ok(Ok(()));
    };
    if let Err(refusal) = judge_info(&info, virtual_bytes) {
        return Ok(Err(refusal));
    }
    let Some(check) = qemu_img(&["check", "-f", "qcow2"], path).await? else { return Ok(Ok(())) };
    // 0: sound; 3: clusters that nothing points to, which cost space and nothing else.
    Ok(match check.status.code() {
        Some(0 | 3) => Ok(()),
        _ => Err(Refusal::new(
            "image_corrupt",
            format!(
                "qemu-img finds the image damaged: {}; mend it: `qemu-img check -r all FILE`",
                tail(&check)
            ),
        )),
    })
}

fn judge_info(output: &std::process::Output, virtual_bytes: u64) -> Result<(), Refusal> {
    if !output.status.success() {
        return Err(Refusal::header(format!("qemu-img cannot open it: {}", tail(output))));
    }
    let info: Info = serde_json::from_slice(&output.stdout).map_err(|error| {
        Refusal::header(format!("qemu-img describes it in a way not understood: {error}"))
    })?;
    if info.backing_filename.is_some() || info.full_backing_filename.is_some() {
        return Err(Refusal::new("image_backing_file", "qemu-img finds a backing file in the image"));
    }
    if info.format != "qcow2" || info.virtual_size != virtual_bytes {
        return Err(Refusal::header(format!(
            "qemu-img reads a {} disk of {} bytes where the header says {virtual_bytes}",
            info.format, info.virtual_size
        )));
    }
    Ok(())
}

/// The last of what the child said, fit for one line.
fn tail(output: &std::process::Output) -> String {
    let said =
        String::from_utf8_lossy(if output.stderr.is_empty() { &output.stdout } else { &output.stderr });
    let line =
        said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it was ended for taking too long");
    line.chars().filter(|c| !c.is_control()).take(200).collect()
}

/// Runs `qemu-img`; none when it is not installed.
async fn qemu_img(arguments: &[&str], path: &Path) -> Result<Option<std::process::Output>, DriverError> {
    let doing = "checking an image with qemu-img";
    if !installed("qemu-img") {
        return Ok(None);
    }
    let mut command = Command::new("prlimit");
    command
        .arg(format!("--as={ADDRESS_SPACE_BYTES_MAX}"))
        .arg(format!("--cpu={CPU_SECONDS_MAX}"))
        .args(["--core=0", "--fsize=0", "--nofile=64", "--", "qemu-img"])
        .args(arguments)
        .arg(path)
        .env_clear()
        .env("PATH", SEARCH_PATH)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    match tokio::time::timeout(WALL_CLOCK_MAX, command.output()).await {
        Ok(Ok(output)) => Ok(Some(output)),
        Ok(Err(error)) => Err(DriverError::retryable(doing, format!("prlimit cannot be run: {error}"))),
        Err(_) => Err(DriverError::retryable(doing, "no answer in 15 minutes; is the disk overloaded?")),
    }
}

/// Where Debian keeps its programs.
pub const SEARCH_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Whether a program is on the search path.
pub fn installed(program: &str) -> bool {
    SEARCH_PATH.split(':').any(|dir| Path::new(dir).join(program).exists())
}
