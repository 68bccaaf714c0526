//! Real time, in the one place that may use it: what runs here are real processes.
#![allow(clippy::disallowed_methods)] // The ban keeps real time out of simulated code; none is here.

use std::time::{Duration, Instant};

/// The monotonic clock.
pub fn now() -> Instant {
    Instant::now()
}

/// Lets other processes go on.
pub fn pause(duration: Duration) {
    std::thread::sleep(duration);
}

/// How often a condition outside this process is looked at: far below what a person notices, far above
/// what looking costs.
const POLL_EVERY: Duration = Duration::from_millis(20);

/// Waits until `ready` gives a value, for at most `limit`; none when it never did.
pub fn wait_until<T>(limit: Duration, mut ready: impl FnMut() -> Option<T>) -> Option<T> {
    let begin = now();
    loop {
        if let Some(value) = ready() {
            return Some(value);
        }
        if begin.elapsed() > limit {
            return None;
        }
        pause(POLL_EVERY);
    }
}
