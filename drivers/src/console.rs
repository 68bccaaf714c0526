//! Serial consoles: interactive, and the log that survives the guest.

use scp_model::VmId;

/// Bytes from and to a guest's serial console. Ends when the guest does.
pub type ConsoleStream = tokio::io::DuplexStream;

/// Why there is no console.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConsoleError {
    #[error("VM {vm} is not on this node")]
    NotHere { vm: VmId },
    #[error("VM {vm} is not running; its log is there: scpctl vm log")]
    NotRunning { vm: VmId },
    #[error("the console of VM {vm} has {viewers} viewers already, the most there may be")]
    TooManyViewers { vm: VmId, viewers: usize },
    #[error("the console of VM {vm} cannot be opened: {why}")]
    Failed { vm: VmId, why: String },
}
