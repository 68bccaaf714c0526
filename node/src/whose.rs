//! Whose log is here: the id of the city, noted beside it.
//!
//! Agreement counts on what a node once promised: for whom it voted, and which entries it holds. A server
//! that comes back under the same identity is the same node to it, so it has to come back with its log.
//! With an empty one it would vote twice and vouch for what it no longer has; or read the log from its
//! beginning, find itself a voter of the memberships of that time, and in a city that it founded be a majority
//! by itself: a second leader ([decision 14](../../docs/decisions/0014-who-leaves-keeps-its-log.md)).
//!
//! ```text
//!   first entry ─▶ noted      start: noted, and the log gone ─▶ refused, with what to do
//!   leave ─▶ the note stays ─▶ identity forgotten
//!   join  ─▶ the same city?  yes ─▶ goes on with its log, which has to be there
//!                            no  ─▶ note and log removed
//! ```
//! A crash in the middle of a join or a founding leaves no note: nothing was promised yet.

use std::{path::Path, time::Duration};

use anyhow::{Context, Result};
use scp_codec as codec;
use scp_model::CityId;
use scp_raft::FileDisk;
use tokio::time::Instant;

use crate::found::write_file;

const FILE: &str = "city";
/// Format of the file.
const VERSION: u16 = 1;
/// An id and its frame.
const BYTES_MAX: usize = 256;
/// Requests that were under way when the server left hold its log open for so long at most: more than the
/// node's own grace at its end.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(10);
const RELEASE_PAUSE: Duration = Duration::from_millis(50);

/// Notes whose log is here, once there is something in it.
pub fn note(data_dir: &Path, city: CityId) -> Result<()> {
    if is_of(data_dir, city) {
        return Ok(());
    }
    let bytes = codec::encode(VERSION, &city).context("the id of the city does not encode")?;
    write_file(&data_dir.join(FILE), &bytes)
}

/// Whether the log that is here is of `city`. A note that cannot be read is of no city.
pub fn is_of(data_dir: &Path, city: CityId) -> bool {
    let Ok(bytes) = std::fs::read(data_dir.join(FILE)) else { return false };
    codec::decode::<CityId>(VERSION, &bytes, BYTES_MAX).is_ok_and(|noted| noted == city)
}

/// Whether there has been a log of some city here, and nothing has removed it in order since.
pub fn is_noted(data_dir: &Path) -> bool {
    data_dir.join(FILE).exists()
}

/// What an operator is told whose server has lost its log.
pub fn log_is_gone(data_dir: &Path, raft_dir: &Path, name: &str) -> String {
    let (data, raft) = (data_dir.display(), raft_dir.display());
    format!(
        "this server is a member of its city, and {raft}, what it promised there, is gone. Without it this server \
         could vote twice and vouch for changes that it no longer has, and the city could lose what it has \
         confirmed; so scpd does not start. Put {raft} back if it was moved. Otherwise let the server join as a \
         new one: on another node\n  \
         scpctl node remove {name} --force\n  \
         scpctl token create\n\
         here, with scpd stopped\n  \
         rm -r {data}\n\
         and, with scpd started again\n  \
         scpctl join ADDRESS TOKEN"
    )
}

/// Until the membership before has let go of the log.
pub async fn released(raft_dir: &Path) -> Result<()> {
    let deadline = Instant::now() + RELEASE_TIMEOUT;
    loop {
        match FileDisk::open(raft_dir) {
            Ok(_) => return Ok(()),
            Err(error) if Instant::now() > deadline => {
                return Err(error)
                    .context("the log of the city is still in use; restart scpd and join again");
            }
            Err(_) => tokio::time::sleep(RELEASE_PAUSE).await,
        }
    }
}

/// Removes the log of whatever city was here.
pub fn wipe(data_dir: &Path, raft_dir: &Path) -> Result<()> {
    let removed = |path: &Path, result: std::io::Result<()>| match result {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        Ok(()) | Err(_) => Ok(()),
    };
    let note = data_dir.join(FILE);
    // A note that outlived its log would vouch for the next one.
    removed(&note, std::fs::remove_file(&note))?;
    removed(raft_dir, std::fs::remove_dir_all(raft_dir))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_of_the_city_that_was_noted_until_it_is_wiped() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let raft = dir.path().join("raft");
        std::fs::create_dir(&raft).expect("writable");
        let (left, other) = (CityId::from_u128(1), CityId::from_u128(2));
        assert!(!is_of(dir.path(), left));
        assert!(!is_noted(dir.path()));
        note(dir.path(), left).expect("noted");
        assert!(is_noted(dir.path()));
        assert!(is_of(dir.path(), left) && !is_of(dir.path(), other));
        wipe(dir.path(), &raft).expect("wiped");
        assert!(!is_noted(dir.path()) && !raft.exists());
        wipe(dir.path(), &raft).expect("nothing to wipe is no error");
    }
}
