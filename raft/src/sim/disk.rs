//! A disk in memory that loses power, tears writes, rots, fills up, stalls and fails.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
};

use rand::{Rng, SeedableRng, rngs::StdRng};
use tokio::sync::watch;

use super::pages::Pages;
use crate::disk::{Disk, DiskError, DiskFile, Place};

/// The unit in which unsynced writes are lost.
const SECTOR_BYTES: u64 = 512;

/// What power loss does to unsynced writes and names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// All of them are lost.
    All,
    /// None is: the process died, the machine did not.
    Nothing,
    /// Each sector of each write, and a suffix of the name changes, by chance.
    Torn(u64),
}

/// Cheap to clone; all clones are the same disk.
#[derive(Clone)]
pub struct MemDisk {
    state: Arc<Mutex<State>>,
    stalled: Arc<watch::Sender<bool>>,
}

type Names = BTreeMap<String, Arc<Mutex<Data>>>;

#[derive(Default)]
struct State {
    names: Names,
    /// Names as they are on stable storage, then after each unsynced change.
    durable_names: Names,
    pending_names: Vec<Names>,
    capacity: Option<u64>,
    /// Writes, syncs and changes of names so far.
    operations: u64,
    /// The operation that does not return.
    crash_at: Option<u64>,
    dead: bool,
    failing_syncs: u32,
}

#[derive(Default)]
struct Data {
    live: Pages,
    durable: Pages,
    /// Unsynced writes: where, and what.
    pending: Vec<(u64, Written)>,
}

#[derive(Clone)]
enum Written {
    /// So many zeroes, of a file that was made.
    Zeroes(usize),
    Bytes(Vec<u8>),
}

impl Written {
    fn put(&self, pages: &mut Pages, offset: u64) {
        match self {
            Self::Zeroes(length) => pages.grow(offset as usize + length),
            Self::Bytes(bytes) => pages.put(offset as usize, bytes),
        }
    }

    /// What power loss leaves of it: each sector by chance; of zeroes, those up to a place.
    fn tear(&self, pages: &mut Pages, offset: u64, rng: &mut StdRng) {
        match self {
            Self::Zeroes(length) => {
                let sectors = length.div_ceil(SECTOR_BYTES as usize);
                let survived = rng.random_range(0..=sectors) * SECTOR_BYTES as usize;
                pages.grow(offset as usize + survived.min(*length));
            }
            Self::Bytes(bytes) => {
                let mut at = 0;
                while at < bytes.len() {
                    let from = offset + at as u64;
                    let sector_end = (from / SECTOR_BYTES + 1) * SECTOR_BYTES;
                    let length = ((sector_end - from) as usize).min(bytes.len() - at);
                    if rng.random() {
                        pages.put(from as usize, &bytes[at..at + length]);
                    }
                    at += length;
                }
            }
        }
    }
}

impl Default for MemDisk {
    fn default() -> Self {
        Self { state: Arc::default(), stalled: Arc::new(watch::channel(false).0) }
    }
}

impl MemDisk {
    pub fn new() -> Self {
        Self::default()
    }

    /// The disk as the machine finds it after power came back. The old one answers only errors.
    pub fn crash(&self, loss: Loss) -> Self {
        self.lock().dead = true;
        self.fork(loss)
    }

    /// What [`Self::crash`] would give, while this disk goes on.
    pub fn fork(&self, loss: Loss) -> Self {
        let state = self.lock();
        let mut rng = StdRng::seed_from_u64(match loss {
            Loss::All | Loss::Nothing => 0,
            Loss::Torn(seed) => seed,
        });
        let names = match loss {
            Loss::All => &state.durable_names,
            Loss::Nothing => &state.names,
            Loss::Torn(_) => {
                let survived = rng.random_range(0..=state.pending_names.len());
                survived.checked_sub(1).map_or(&state.durable_names, |at| &state.pending_names[at])
            }
        };
        let names: Names = names
            .iter()
            .map(|(name, data)| {
                let live = survivors(&data.lock().expect("no panics"), loss, &mut rng);
                // A process that merely died leaves unsynced bytes in memory: they are still unsynced.
                let data = data.lock().expect("no panics");
                let (durable, pending) = match loss {
                    Loss::Nothing => (data.durable.clone(), data.pending.clone()),
                    Loss::All | Loss::Torn(_) => (live.clone(), Vec::new()),
                };
                (name.clone(), Arc::new(Mutex::new(Data { live, durable, pending })))
            })
            .collect();
        let reborn = State {
            names: names.clone(),
            durable_names: names,
            capacity: state.capacity,
            ..State::default()
        };
        Self { state: Arc::new(Mutex::new(reborn)), stalled: Arc::new(watch::channel(false).0) }
    }

    /// Operations so far.
    pub fn operations(&self) -> u64 {
        self.lock().operations
    }

    /// The operation after `operation` others fails, and all behind it; what it was to write may or
    /// may not be there after [`Self::crash`].
    pub fn crash_at(&self, operation: u64) {
        self.lock().crash_at = Some(operation);
    }

    /// The operation that did not return has come, or the disk has crashed.
    pub fn is_dead(&self) -> bool {
        self.lock().dead
    }

    /// Bytes that all files may take; none: no limit.
    pub fn set_capacity(&self, capacity: Option<u64>) {
        self.lock().capacity = capacity;
    }

    /// Bytes that all files take.
    pub fn used(&self) -> u64 {
        used(&self.lock().names)
    }

    /// While stalled, nothing is written or synced.
    pub fn set_stalled(&self, stalled: bool) {
        self.stalled.send_replace(stalled);
    }

    /// The next syncs fail, and the writes that they were for never become durable, though they can
    /// be read until power is lost: as Linux does it.
    pub fn fail_syncs(&self, count: u32) {
        self.lock().failing_syncs = count;
    }

    /// Rot: flips one bit, on stable storage too.
    pub fn flip(&self, name: &str, byte: u64, bit: u8) {
        let data = self.lock().names.get(name).cloned().expect("the file is there");
        let mut data = data.lock().expect("no panics");
        let at = byte as usize;
        let flip = |pages: &mut Pages| {
            let mut byte = [0];
            if pages.get(at, &mut byte) {
                pages.put(at, &[byte[0] ^ (1 << bit)]);
            }
        };
        flip(&mut data.live);
        flip(&mut data.durable);
    }

    /// A file's bytes.
    pub fn bytes(&self, name: &str) -> Vec<u8> {
        let data = self.lock().names.get(name).cloned().expect("the file is there");
        let data = data.lock().expect("no panics");
        let mut bytes = vec![0; data.live.len()];
        data.live.get(0, &mut bytes);
        bytes
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no one panics while holding the disk")
    }
}

fn used(names: &Names) -> u64 {
    names.values().map(|data| data.lock().expect("no panics").live.len() as u64).sum()
}

fn survivors(data: &Data, loss: Loss, rng: &mut StdRng) -> Pages {
    match loss {
        Loss::Nothing => data.live.clone(),
        Loss::All => data.durable.clone(),
        Loss::Torn(_) => {
            let mut pages = data.durable.clone();
            data.pending.iter().for_each(|(offset, written)| written.tear(&mut pages, *offset, rng));
            pages
        }
    }
}

impl State {
    fn alive(&self) -> Result<(), DiskError> {
        if self.dead { Err(DiskError::Failed("the power is off".into())) } else { Ok(()) }
    }

    /// Counts an operation; an error: this is the one that does not return.
    fn count(&mut self) -> Result<(), DiskError> {
        self.operations += 1;
        if self.crash_at.is_some_and(|at| self.operations > at) {
            self.dead = true;
        }
        self.alive()
    }

    fn renamed(&mut self) -> Result<(), DiskError> {
        self.pending_names.push(self.names.clone());
        self.count()
    }

    fn has_space(&self, more: u64) -> Result<(), DiskError> {
        match self.capacity {
            Some(capacity) if used(&self.names) + more > capacity => Err(DiskError::Full),
            _ => Ok(()),
        }
    }
}

impl Disk for MemDisk {
    fn create(&self, name: &str, size: u64) -> Result<Arc<dyn DiskFile>, DiskError> {
        let mut state = self.lock();
        state.alive()?;
        if state.names.contains_key(name) {
            return Err(DiskError::Exists(name.into()));
        }
        state.has_space(size)?;
        let size = size as usize;
        let pending = vec![(0, Written::Zeroes(size))];
        let data = Data { live: Pages::zeroed(size), durable: Pages::default(), pending };
        let data = Arc::new(Mutex::new(data));
        state.names.insert(name.into(), data.clone());
        state.renamed()?;
        drop(state);
        Ok(Arc::new(MemFile { disk: self.clone(), data }))
    }

    fn open(&self, name: &str) -> Result<Arc<dyn DiskFile>, DiskError> {
        let state = self.lock();
        state.alive()?;
        let data = state.names.get(name).cloned().ok_or_else(|| DiskError::NotFound(name.into()))?;
        drop(state);
        Ok(Arc::new(MemFile { disk: self.clone(), data }))
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), DiskError> {
        let mut state = self.lock();
        state.alive()?;
        let data = state.names.remove(from).ok_or_else(|| DiskError::NotFound(from.into()))?;
        state.names.insert(to.into(), data);
        state.renamed()
    }

    fn remove(&self, name: &str) -> Result<(), DiskError> {
        let mut state = self.lock();
        state.alive()?;
        if state.names.remove(name).is_none() {
            return Ok(());
        }
        state.renamed()
    }

    fn list(&self) -> Result<Vec<String>, DiskError> {
        let state = self.lock();
        state.alive()?;
        Ok(state.names.keys().cloned().collect())
    }

    fn sync_dir(&self) -> Result<(), DiskError> {
        let mut state = self.lock();
        state.count()?;
        state.durable_names = state.names.clone();
        state.pending_names.clear();
        Ok(())
    }

    fn place(&self) -> Place {
        let stalled = self.stalled.clone();
        Place::Task(Arc::new(move || {
            let mut stalled = stalled.subscribe();
            Box::pin(async move {
                // An error: the disk is gone, and says so itself.
                let _ = stalled.wait_for(|stalled| !*stalled).await;
            })
        }))
    }
}

struct MemFile {
    disk: MemDisk,
    data: Arc<Mutex<Data>>,
}

impl MemFile {
    fn data(&self) -> MutexGuard<'_, Data> {
        self.data.lock().expect("no one panics while holding a file")
    }
}

impl DiskFile for MemFile {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), DiskError> {
        let mut state = self.disk.lock();
        state.alive()?;
        let end = offset + bytes.len() as u64;
        let more = end.saturating_sub(self.data().live.len() as u64);
        if more > 0 {
            state.has_space(more)?;
        }
        let mut data = self.data();
        data.live.put(offset as usize, bytes);
        data.pending.push((offset, Written::Bytes(bytes.to_vec())));
        drop(data);
        state.count()
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> Result<(), DiskError> {
        self.disk.lock().alive()?;
        let data = self.data();
        let found = data.live.get(offset as usize, into);
        found.then_some(()).ok_or_else(|| DiskError::Failed("read beyond the end".into()))
    }

    fn sync(&self) -> Result<(), DiskError> {
        let mut state = self.disk.lock();
        state.count()?;
        let mut data = self.data();
        let pending = std::mem::take(&mut data.pending);
        if state.failing_syncs > 0 {
            state.failing_syncs -= 1;
            return Err(DiskError::Failed("the device did not sync".into()));
        }
        for (offset, written) in pending {
            written.put(&mut data.durable, offset);
        }
        Ok(())
    }

    fn size(&self) -> Result<u64, DiskError> {
        self.disk.lock().alive()?;
        Ok(self.data().live.len() as u64)
    }
}
