//! The clock that judges certificates, tokens and joining servers. Timers use tokio's clock instead.

use std::time::{SystemTime, UNIX_EPOCH};

use scp_model::Timestamp;

/// Where the wall time comes from: the operating system, or a simulation.
pub trait Clock: Send + Sync + 'static {
    fn now(&self) -> Timestamp;
}

/// The operating system's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        // Before 1970 there is no certificate to judge: 0 makes every one "not yet valid".
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }
}
