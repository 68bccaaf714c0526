//! The state as Raft's state machine, and its publication to everyone who reads.
//!
//! `apply` runs on Raft's own task, one entry after another. Where Raft lets them settle, a snapshot is
//! published, which costs a few pointer copies; readers take whole snapshots and never lock.

use std::{
    io,
    sync::{Arc, mpsc},
    thread,
};

use arc_swap::ArcSwap;
use scp_codec as codec;
use scp_model::{Answer, Proposal};
use scp_raft::MachineSnapshot;
use scp_state::{Part, Restore, State};
use tokio::sync::watch;

/// Frame version of proposals in the log.
pub const PROPOSAL_VERSION: u16 = 1;
/// Frame version of answers.
pub const ANSWER_VERSION: u16 = 1;
/// The largest proposal: a VM with full user data and keys is below 200 KiB, a report batch below 1 MiB.
pub const PROPOSAL_BYTES_MAX: usize = 4 << 20;

/// Frames of a snapshot that are read ahead; one of no more is read where it is taken in.
const FRAMES_AHEAD: usize = 4;

/// The latest state, for every reader in this process.
#[derive(Debug, Clone)]
pub struct Published {
    state: Arc<ArcSwap<State>>,
    applied: Arc<watch::Sender<u64>>,
}

impl Default for Published {
    fn default() -> Self {
        Self {
            state: Arc::new(ArcSwap::from_pointee(State::default())),
            applied: Arc::new(watch::Sender::new(0)),
        }
    }
}

impl Published {
    pub fn state(&self) -> Arc<State> {
        self.state.load_full()
    }

    /// Changes whenever something was applied; holds the applied index.
    pub fn applied(&self) -> watch::Receiver<u64> {
        self.applied.subscribe()
    }

    fn publish(&self, state: &State) {
        self.state.store(Arc::new(state.clone()));
        self.applied.send_replace(state.index);
    }
}

/// What Raft applies entries to.
#[derive(Debug)]
pub struct Machine {
    state: State,
    published: Published,
}

impl Machine {
    pub fn new(published: Published) -> Self {
        Self { state: State::default(), published }
    }
}

/// A proposal as an entry of the log.
pub fn to_entry(proposal: &Proposal) -> Result<Vec<u8>, codec::CodecError> {
    codec::encode(PROPOSAL_VERSION, proposal)
}

/// An answer as Raft carries it back.
pub fn from_answer(bytes: &[u8]) -> Result<Answer, codec::CodecError> {
    codec::decode(ANSWER_VERSION, bytes, PROPOSAL_BYTES_MAX)
}

impl scp_raft::Machine for Machine {
    fn apply(&mut self, index: u64, command: &[u8]) -> Vec<u8> {
        // An entry is committed only if every voter could read it when it was proposed. One that this
        // binary cannot read was written by a newer release: going on would make the states differ.
        let proposal: Proposal = codec::decode(PROPOSAL_VERSION, command, PROPOSAL_BYTES_MAX)
            .expect("a committed entry is a proposal of a version that this release reads");
        let applied = self.state.apply_logged(index, &proposal, &command[codec::HEADER_BYTES..]);
        codec::encode(ANSWER_VERSION, &applied.answer).expect("an answer is small and encodes")
    }

    fn settle(&mut self) {
        self.published.publish(&self.state);
    }

    fn snapshot(&self) -> Box<dyn MachineSnapshot> {
        Box::new(Frozen(self.state.clone()))
    }

    fn restore(&mut self, snapshot: &mut dyn io::Read) -> io::Result<()> {
        self.state = restored(snapshot)?;
        if scp_mutant::on("snapshot-without-retry-table") {
            self.state.requests = Default::default();
        }
        if scp_mutant::on("snapshot-without-evictions") {
            self.state.evictions = Default::default();
        }
        Ok(())
    }
}

fn invalid(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// The state in a snapshot. Of a large one, frames are read on another thread ahead of being taken in; the order in
/// which they are taken in, and so the state, is the same.
fn restored(snapshot: &mut dyn io::Read) -> io::Result<State> {
    let mut restore = Restore::default();
    for _ in 0..FRAMES_AHEAD {
        let Some(frame) = read_frame(snapshot)? else { return restore.finish().map_err(invalid) };
        restore.push(Part::read(frame).map_err(invalid)?).map_err(invalid)?;
    }
    thread::scope(|scope| {
        let (frames, to_read) = mpsc::sync_channel::<Vec<u8>>(FRAMES_AHEAD);
        let (read, parts) = mpsc::sync_channel(FRAMES_AHEAD);
        scope.spawn(move || to_read.into_iter().map(Part::read).try_for_each(|part| read.send(part)));
        let gone = |_| io::Error::other("the thread that reads the snapshot ended");
        let (mut ahead, mut ended) = (0, false);
        loop {
            while ahead < FRAMES_AHEAD && !ended {
                match read_frame(snapshot)? {
                    Some(frame) => frames.send(frame).map_err(|_| gone(mpsc::RecvError))?,
                    None => ended = true,
                }
                ahead += usize::from(!ended);
            }
            if ahead == 0 {
                return restore.finish().map_err(invalid);
            }
            let part = parts.recv().map_err(gone)?;
            ahead -= 1;
            restore.push(part.map_err(invalid)?).map_err(invalid)?;
        }
    })
}

/// One frame off a stream of them; none at its end.
fn read_frame(from: &mut dyn io::Read) -> io::Result<Option<Vec<u8>>> {
    let mut frame = vec![0; codec::HEADER_BYTES];
    if from.read(&mut frame[..1])? == 0 {
        return Ok(None);
    }
    from.read_exact(&mut frame[1..])?;
    let header = codec::Header::parse(&frame, codec::PAYLOAD_BYTES_MAX).map_err(invalid)?;
    frame.resize(codec::HEADER_BYTES + header.length, 0);
    from.read_exact(&mut frame[codec::HEADER_BYTES..])?;
    Ok(Some(frame))
}

/// A state that no longer changes.
struct Frozen(State);

impl MachineSnapshot for Frozen {
    fn write(&self, out: &mut dyn io::Write) -> io::Result<()> {
        self.0.frames().try_for_each(|frame| out.write_all(&frame))
    }
}

#[cfg(test)]
mod tests {
    use scp_model::{
        DepartmentId, KeypairId, Name, ProjectId, Timestamp,
        tenancy::{Department, Keypair, Project, Quota},
    };

    use super::*;

    /// Keypairs whose snapshot has so many frames and more.
    fn large(frames: usize) -> State {
        let (department, project, at) = (DepartmentId::from_u128(1), ProjectId::from_u128(2), Timestamp(1));
        let name = |text: String| Name::new(text).expect("letters, digits and dashes are a name");
        let quota = Quota { vms: 0, vcpus: 0, memory_mib: 0, disk_mib: 0, images: 0, keypairs: 1 << 20 };
        let mut state = State { index: 7, ..State::default() };
        let of_all = Department { id: department, name: name("all".into()), created_at: at };
        state.departments.insert(department, of_all);
        let main = Project { id: project, department, name: name("main".into()), quota, created_at: at };
        state.projects.insert(project, main);
        for number in 0..frames * 128 {
            let id = KeypairId::from_u128(number as u128);
            let (public_key, fingerprint) = ("k".repeat(8 << 10).into(), "f".into());
            let name = name(format!("key-{}", number * 7919 % 10_007));
            state.keypairs.insert(id, Keypair { id, project, name, public_key, fingerprint, created_at: at });
        }
        State::from_bytes(&state.to_bytes()).expect("what was written is read, and counted")
    }

    #[test]
    fn a_snapshot_of_many_frames_is_restored_as_one_of_few_and_damage_is_found_anywhere() {
        for frames in [1, FRAMES_AHEAD - 1, FRAMES_AHEAD, 3 * FRAMES_AHEAD] {
            let state = large(frames);
            let mut bytes = state.to_bytes();
            assert!(restored(&mut bytes.as_slice()).expect("the snapshot is whole") == state);
            for at in [0, bytes.len() / 3, bytes.len() / 2, bytes.len() - 1] {
                assert!(restored(&mut &bytes[..at]).is_err(), "cut at {at}");
                bytes[at] ^= 1;
                assert!(restored(&mut bytes.as_slice()).is_err(), "changed at {at}");
                bytes[at] ^= 1;
            }
        }
    }
}
