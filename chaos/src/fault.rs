//! Faults: how each is done to a server, and how it is taken back.
//!
//! Packets are dropped by nftables inside the server's network namespace, in one table a fault, so that
//! taking one back leaves another alone; they are held by [`crate::delay`]. Only links between servers are met: clients reach every node, and
//! learn from it what it can do without the others. The exception is `unplug`, which takes everything.

use std::{
    fs,
    io::Write,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use rustix::process::Signal;
use scp_api::v1::QuotaSet;
use scp_servers::wait_until;

use crate::{
    city::{City, DATA_DIR, SOON},
    delay::{Delay, Late},
    disk,
    scenario::{Fault, Step, Way},
};

/// Does it to each of the targets; says what is worth telling.
pub fn inject(city: &mut City, step: &Step, targets: &[String], peers: &[String]) -> Result<Option<String>> {
    if step.fault == Fault::Corrupt {
        let file = step.file.as_deref().context("a scenario that was checked names the file")?;
        let notes: Result<Vec<_>> = targets.iter().map(|name| corrupt(city, name, file)).collect();
        return notes.map(|notes| Some(notes.join("; ")));
    }
    if step.fault == Fault::Clock {
        let seconds = step.shift_s.context("a scenario that was checked says how far")?;
        city.shift_clocks(targets, seconds)?;
        return Ok(Some(format!("{seconds:+} s")));
    }
    for name in targets {
        match step.fault {
            Fault::Kill => city.signal(name, Signal::KILL)?,
            Fault::Terminate => city.signal(name, Signal::TERM)?,
            Fault::Pause => city.signal(name, Signal::STOP)?,
            Fault::PowerCut => drop(city.servers.get(name)?.kill_everything()?),
            Fault::Unplug => city.server(name)?.set_cable(false)?,
            Fault::Cut | Fault::Lose => filter(city, step, name, peers)?,
            Fault::Delay => hold(city, step, name, peers)?,
            Fault::SlowDisk => {
                let limit = step.writes_per_s.context("a scenario that was checked says how slow")?;
                let dir = city.server(name)?.path(DATA_DIR)?;
                disk::slow_down(&group(city, name), city.pid(name)?, &dir, limit)?;
            }
            Fault::Freeze => city.server(name)?.set_frozen(true)?,
            Fault::FillDisk => fill_disk(city, name)?,
            Fault::Join => city.join(name)?,
            Fault::Leave => city.leave(name)?,
            Fault::Corrupt | Fault::Clock => unreachable!("it was carried out above"),
        }
    }
    Ok(None)
}

/// Makes it undone: the servers are as they were, whatever the city makes of it. Says what is worth telling.
pub fn take_back(city: &mut City, step: &Step, targets: &[String]) -> Result<Option<String>> {
    let is_full = step.fault == Fault::FillDisk;
    let notes: Vec<_> = targets.iter().filter(|_| is_full).map(|name| takes_changes(city, name)).collect();
    for name in targets {
        match step.fault {
            Fault::Kill | Fault::Terminate => city.wait_for_end(name)?,
            Fault::Pause => city.signal(name, Signal::CONT)?,
            Fault::SlowDisk => disk::speed_up(&group(city, name))?,
            Fault::Freeze => city.server(name)?.set_frozen(false)?,
            Fault::Unplug => city.server(name)?.set_cable(true)?,
            Fault::Cut | Fault::Lose => {
                nft(city, name, &format!("delete table inet {}", table(step.fault)))?;
            }
            Fault::Delay => city.delays.remove(name).map_or(Ok(()), |delay| delay.end(city.server(name)?))?,
            Fault::FillDisk => {
                fs::remove_file(filler(city, name)?).context("the filler cannot be removed")?
            }
            Fault::Corrupt => replace(city, name)?,
            Fault::PowerCut | Fault::Clock | Fault::Join | Fault::Leave => {}
        }
    }
    if let (Fault::PowerCut, Some(seconds)) = (step.fault, step.shift_s) {
        city.shift_clocks(targets, seconds)?;
    }
    // All begin before the first is waited for: a majority comes up together or not at all.
    for name in targets {
        match step.fault {
            Fault::Kill | Fault::Terminate => city.spawn_scpd(name)?,
            Fault::PowerCut => city.switch_on(name)?,
            Fault::Pause
            | Fault::Unplug
            | Fault::Cut
            | Fault::Lose
            | Fault::Delay
            | Fault::FillDisk
            | Fault::Corrupt
            | Fault::SlowDisk
            | Fault::Freeze
            | Fault::Clock
            | Fault::Join
            | Fault::Leave => {}
        }
    }
    Ok((!notes.is_empty()).then(|| notes.join("; ")))
}

/// What a server's limit is called.
fn group(city: &City, name: &str) -> String {
    format!("scp-{}-{name}", city.servers.run.id)
}

fn table(fault: Fault) -> String {
    format!("chaos_{}", fault.word())
}

fn nft(city: &City, name: &str, commands: &str) -> Result<()> {
    scp_servers::run(city.server(name)?.command("nft")?.arg(commands))
}

/// What nft is told, on one server, of packets from and to these addresses.
fn rules(step: &Step, addresses: &[&str]) -> String {
    let table = table(step.fault);
    let chance = match step.percent {
        Some(percent) => format!("numgen random mod 100 < {percent} "),
        None => String::new(),
    };
    let mut commands = format!("add table inet {table}; delete table inet {table}; add table inet {table}");
    let addresses = addresses.join(", ");
    let ways = [(Way::Out, "input", "saddr"), (Way::In, "output", "daddr")];
    // A packet is dropped where it arrives or where it leaves, unless only the other way is meant.
    for (_, hook, field) in ways.into_iter().filter(|(other, _, _)| *other != step.way) {
        commands.push_str(&format!(
            "; add chain inet {table} {hook} {{ type filter hook {hook} priority 0; }}\
             ; add rule inet {table} {hook} ip {field} {{ {addresses} }} {chance}drop"
        ));
    }
    commands
}

fn filter(city: &City, step: &Step, name: &str, peers: &[String]) -> Result<()> {
    nft(city, name, &rules(step, &others(city, name, peers)?))
}

fn hold(city: &mut City, step: &Step, name: &str, peers: &[String]) -> Result<()> {
    let millis = step.delay_ms.context("a scenario that was checked says how late")?;
    let late = Late { by: Duration::from_millis(millis), jitter: Duration::from_millis(step.jitter_ms) };
    let delay = Delay::begin(city.server(name)?, late, step.way, &others(city, name, peers)?)?;
    city.delays.insert(name.into(), delay);
    Ok(())
}

/// Where the other ends of the server's links to `peers` are.
fn others<'a>(city: &'a City, name: &str, peers: &[String]) -> Result<Vec<&'a str>> {
    let servers = peers.iter().filter(|peer| *peer != name).map(|peer| city.server(peer));
    let addresses: Vec<_> =
        servers.map(|server| server.map(|server| server.address.as_str())).collect::<Result<_>>()?;
    if addresses.is_empty() {
        bail!("there is no link from {name} to {peers:?}");
    }
    Ok(addresses)
}

fn filler(city: &City, name: &str) -> Result<PathBuf> {
    city.server(name)?.path(&format!("{DATA_DIR}/chaos-filler"))
}

/// What a node says to a change that changes nothing: whether it takes any.
fn takes_changes(city: &City, name: &str) -> String {
    let answer = city.ask(name, |client| async move {
        client.with_deadline(Duration::from_millis(500)).set_quota("default", &QuotaSet::default()).await
    });
    match answer {
        Ok(_) => format!("{name} takes changes with a full disk: its log has room of its own"),
        Err(error) => format!("with a full disk, {error:#}"),
    }
}

/// To the last byte.
fn fill_disk(city: &City, name: &str) -> Result<()> {
    let path = filler(city, name)?;
    let mut file = fs::File::create(&path).context("the filler cannot be made")?;
    let mut length = 1 << 20;
    while length > 0 {
        match file.write_all(&vec![0; length]) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::StorageFull => length /= 2,
            Err(error) => return Err(error).context("the filler cannot be written"),
        }
    }
    Ok(())
}

/// A node refuses to start within this time, or has started.
const REFUSES_WITHIN: Duration = Duration::from_secs(20);

/// Stops `scpd`, flips a byte in the middle of what the file holds, starts it again, says what it made of it.
fn corrupt(city: &mut City, name: &str, file: &str) -> Result<String> {
    city.signal(name, Signal::KILL)?;
    city.wait_for_end(name)?;
    let dir = city.server(name)?.path(DATA_DIR)?;
    let path = first_file(&dir, file)?;
    let place = flip(&path)?;
    city.spawn_scpd(name)?;
    let ended = wait_until(REFUSES_WITHIN, || (!city.is_alive(name)).then_some(()));
    let shown = path.strip_prefix(&dir).unwrap_or(&path).display().to_string();
    Ok(match ended {
        Some(()) => {
            let why = city.last_error(name).unwrap_or_else(|| "no reason is told".into());
            format!("byte {place} of {shown} flipped; {name} refuses to start: {why}")
        }
        None => format!("byte {place} of {shown} flipped; {name} starts all the same"),
    })
}

/// The first regular file in the order of names whose path below `dir` begins so.
fn first_file(dir: &Path, beginning: &str) -> Result<PathBuf> {
    let (folder, prefix) = beginning.rsplit_once('/').unwrap_or(("", beginning));
    let folder = dir.join(folder);
    let entries = fs::read_dir(&folder).with_context(|| format!("{} cannot be listed", folder.display()))?;
    let named = |entry: &fs::DirEntry| entry.file_name().to_string_lossy().starts_with(prefix);
    let mut found: Vec<_> =
        entries.flatten().filter(named).map(|entry| entry.path()).filter(|path| path.is_file()).collect();
    found.sort();
    found.into_iter().next().with_context(|| format!("there is no file {beginning}… in {}", dir.display()))
}

/// Inverts a byte in the middle of what is not zero at the end; says which.
fn flip(path: &Path) -> Result<u64> {
    let bytes = fs::read(path).with_context(|| format!("{} cannot be read", path.display()))?;
    let used = bytes.iter().rposition(|byte| *byte != 0).context("there is nothing in it to be damaged")?;
    let place = used / 2;
    let file = fs::File::options().write(true).open(path).context("it cannot be opened")?;
    file.write_all_at(&[!bytes[place]], place as u64).context("it cannot be written")?;
    file.sync_all().context("it cannot be synced")?;
    Ok(place as u64)
}

/// What an operator does with a node that refuses its damaged data: takes it out of the city, empties the
/// data directory, and joins as a new node. One that runs is left alone.
fn replace(city: &mut City, name: &str) -> Result<()> {
    if city.is_alive(name) {
        return Ok(());
    }
    let id = city.members.remove(name).with_context(|| format!("{name} is not in the city"))?;
    let other = city.members.keys().next().context("there is no other node")?.clone();
    let mut last = None;
    let id = id.as_str();
    let removed = wait_until(SOON, || {
        let answer = city.ask(&other, |client| async move { client.remove_node(id, true).await });
        answer.map_err(|error| last = Some(error)).ok()
    });
    if removed.is_none() {
        return Err(last.unwrap_or_else(|| anyhow::anyhow!("no answer"))).context("it cannot be removed");
    }
    let dir = city.server(name)?.path(DATA_DIR)?;
    for entry in fs::read_dir(&dir).context("the data directory cannot be listed")?.flatten() {
        let path = entry.path();
        let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        removed.with_context(|| format!("{} cannot be removed", path.display()))?;
    }
    city.spawn_scpd(name)?;
    city.wait_for_scpd(name)?;
    city.join(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::Scenario;

    fn step(text: &str) -> Step {
        let text = format!("name='x'\nabout='y'\n[[step]]\ntarget='n1'\n{text}");
        Scenario::parse(&text).expect("it is right").steps.remove(0)
    }

    #[test]
    fn each_way_is_dropped_at_its_own_hook() {
        let both = rules(&step("fault='cut'"), &["10.0.0.2", "10.0.0.3"]);
        assert!(both.contains("input ip saddr { 10.0.0.2, 10.0.0.3 } drop"), "{both}");
        assert!(both.contains("output ip daddr { 10.0.0.2, 10.0.0.3 } drop"), "{both}");
        let deaf = rules(&step("fault='cut'\nway='in'"), &["10.0.0.2"]);
        assert!(deaf.contains("hook input") && !deaf.contains("hook output"), "{deaf}");
        let mute = rules(&step("fault='cut'\nway='out'"), &["10.0.0.2"]);
        assert!(!mute.contains("hook input") && mute.contains("hook output"), "{mute}");
        let lossy = rules(&step("fault='lose'\npercent=7"), &["10.0.0.2"]);
        assert!(lossy.contains("numgen random mod 100 < 7 drop"), "{lossy}");
    }

    #[test]
    fn one_byte_of_the_first_file_is_changed() {
        let dir = std::env::temp_dir().join(format!("scp-chaos-flip-{}", std::process::id()));
        fs::create_dir_all(dir.join("raft")).expect("writable");
        fs::write(dir.join("raft/segment-2"), [1]).expect("writable");
        fs::write(dir.join("raft/segment-1"), [1, 2, 3, 4, 5, 0, 0, 0]).expect("writable");
        let path = first_file(&dir, "raft/segment-").expect("it is there");
        assert_eq!(flip(&path).expect("writable"), 2);
        assert_eq!(fs::read(&path).expect("readable"), [1, 2, !3, 4, 5, 0, 0, 0]);
        assert!(first_file(&dir, "raft/snapshot-").is_err());
        fs::remove_dir_all(&dir).expect("it is ours");
    }
}
