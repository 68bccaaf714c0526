//! The port to the replicated state machine.
//!
//! # Guarantees given to the machine
//! - `apply` is called once an index, in order, on every node with the same bytes; after a restart it
//!   is called again from the last snapshot on.
//! - One call at a time: the machine needs no lock of its own.
//!
//! # Demands on the machine
//! - Pure: the same snapshot and the same commands give the same answers and the same next snapshot.
//! - `apply` does not fail. What cannot be done is an answer that says so.
//! - `snapshot` is cheap (a pointer copy); the work is in [`MachineSnapshot::write`], which runs off
//!   the apply path and may take its time.

pub mod suite;

use std::io;

/// What the log is applied to.
pub trait Machine: Send + 'static {
    /// Applies the command at `index` and answers it. Indices rise but are not consecutive: the log
    /// also holds entries of Raft's own.
    fn apply(&mut self, index: u64, command: &[u8]) -> Vec<u8>;

    /// Called after a batch of commands, before any of them is answered, and after a restore: the place to
    /// publish the new state to readers, once for the batch. Once for the whole log when a start reads it.
    fn settle(&mut self) {}

    /// The state as it is now; later commands do not change it.
    fn snapshot(&self) -> Box<dyn MachineSnapshot>;

    /// Replaces the state by one that [`MachineSnapshot::write`] wrote. On an error the state is as
    /// it was.
    fn restore(&mut self, snapshot: &mut dyn io::Read) -> io::Result<()>;
}

/// A frozen state that can be written out on another thread.
pub trait MachineSnapshot: Send + 'static {
    /// Writes the whole state. Deterministic: the same state gives the same bytes.
    fn write(&self, out: &mut dyn io::Write) -> io::Result<()>;
}
