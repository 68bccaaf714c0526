//! The wall clock. The only place in the node that reads it.

use std::time::{SystemTime, UNIX_EPOCH};

use scp_model::Timestamp;

/// Milliseconds since 1970, by the operating system.
#[derive(Debug, Clone, Copy, Default)]
pub struct WallClock;

impl WallClock {
    pub fn now(self) -> Timestamp {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }
}
