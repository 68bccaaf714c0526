//! Talk goes to stderr, with the seconds since the start; stdout is for data.

use std::{sync::OnceLock, time::Instant};

static BEGAN: OnceLock<Instant> = OnceLock::new();

/// Seconds since the first call.
pub fn seconds() -> f64 {
    BEGAN.get_or_init(scp_servers::now).elapsed().as_secs_f64()
}

/// One line of talk.
#[macro_export]
macro_rules! talk {
    ($($words:tt)*) => {
        eprintln!("[{:7.1} s] {}", $crate::talk::seconds(), format_args!($($words)*))
    };
}
