//! Facts: what a driver found, and what a node reports of it to the state.

use serde::{Deserialize, Serialize};

use crate::{Epoch, ImageId, NodeId, Timestamp, VmId, node::Orphan, vm::VmPhase};

/// What a driver sees, in answer to an op or when asked to observe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fact {
    Vm(VmFact),
    /// Nothing of this VM is here.
    VmGone {
        vm: VmId,
    },
    /// The image is here whole and was checked.
    ImageHeld {
        image: ImageId,
    },
    ImageGone {
        image: ImageId,
    },
    /// Carries our mark but not our record, or no mark at all where only ours should be.
    Orphan(Orphan),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmFact {
    pub vm: VmId,
    /// Read back from the instance's own metadata, not from memory.
    pub epoch: Epoch,
    pub generation: u64,
    pub reboots: u64,
    pub run: RunState,
    /// When this start of the guest began; none when it is not running.
    pub started_at: Option<Timestamp>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum RunState {
    Running,
    /// Stopped by the hypervisor, for example on a disk error.
    Paused,
    /// Not running because we stopped it, or never started it.
    Stopped,
    /// Ended from inside, in order.
    Shutdown,
    /// Ended otherwise.
    Crashed,
}

/// What a node tells the state: changes only, in batches.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Report {
    /// `epoch` is that of the instance; one that the state no longer grants is ignored.
    Vm {
        vm: VmId,
        epoch: Epoch,
        observed_generation: u64,
        phase: VmPhase,
        message: Option<String>,
        failures: u32,
    },
    /// Fulfils an eviction or a deletion.
    VmGone {
        vm: VmId,
        epoch: Epoch,
    },
    /// The guest shut itself down and its restart policy respects that.
    VmShutdown {
        vm: VmId,
        epoch: Epoch,
    },
    ImageHeld {
        image: ImageId,
    },
    ImageGone {
        image: ImageId,
    },
    ImageFailed {
        image: ImageId,
        message: String,
    },
    /// The whole list; replaces the one before.
    Orphans {
        orphans: Vec<Orphan>,
    },
}

/// The most reports in one command: a batch stays well under a mesh frame.
pub const REPORTS_MAX: usize = 512;

/// A batch of reports from one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportBatch {
    pub node: NodeId,
    pub reports: Vec<Report>,
}
