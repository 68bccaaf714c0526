//! Time as a host has it: its own, and how it lies in the city's.
//!
//! The city's time is the simulation's. A host's own time stands still while the host is paused, and runs
//! fast or slow by some parts per million. Its runtime's clock moves in whole milliseconds.

use std::sync::{
    Mutex, MutexGuard, PoisonError,
    atomic::{AtomicI64, AtomicU64, Ordering},
};

use scp_mesh::Clock;
use scp_model::Timestamp;
use tokio::time::Instant;

/// Virtual time begins here: 2026-01-01T00:00:00Z.
pub const EPOCH_MS: u64 = 1_767_225_600_000;

/// A host's time.
#[derive(Debug, Default)]
pub struct HostTime {
    /// How far the host's wall clock is off.
    pub offset_ms: AtomicI64,
    /// How long ago the simulation's time began, for every clock of the city: quiet days, left out.
    pub age_ms: AtomicU64,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Inner {
    /// The same moment in the city's and the host's own time.
    city_us: u64,
    own_us: u64,
    /// The host's own time runs so many parts per million fast; negative: slow.
    drift_ppm: i64,
    /// When the process's runtime began, and the host's own time then.
    began: Option<(Instant, u64)>,
    /// The runtime turns right now, so its clock is to be read.
    turns: bool,
}

impl Inner {
    fn rate(&self) -> u64 {
        1_000_000_u64.saturating_add_signed(self.drift_ppm)
    }

    fn own_now(&self) -> u64 {
        match self.began {
            Some((began, own_us)) if self.turns => {
                self.own_us.max(own_us + u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX))
            }
            Some(_) | None => self.own_us,
        }
    }

    fn city_now(&self) -> u64 {
        self.city_us + (self.own_now() - self.own_us) * 1_000_000 / self.rate()
    }
}

impl HostTime {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Now, in the city's time.
    pub fn city_us(&self) -> u64 {
        self.inner().city_now()
    }

    /// The host's own time so far.
    pub fn own_us(&self) -> u64 {
        self.inner().own_now()
    }

    pub fn set_drift(&self, drift_ppm: i64) {
        self.inner().drift_ppm = drift_ppm;
    }

    /// A process begins, on a runtime whose clock says `now`.
    pub fn begin(&self, now: Instant) {
        let mut inner = self.inner();
        inner.began = Some((now, inner.own_us));
    }

    /// The runtime turns from here on; at which of its instants the city's time is `to_us`.
    pub fn turn(&self, to_us: u64) -> Instant {
        let mut inner = self.inner();
        let (began, own_began_us) = inner.began.expect("only what has begun turns");
        let own_us = inner.own_us + to_us.saturating_sub(inner.city_us) * inner.rate() / 1_000_000;
        inner.turns = true;
        began + std::time::Duration::from_millis((own_us - own_began_us) / 1000)
    }

    /// The runtime stands again: at `to_us`, or earlier if it was interrupted.
    pub fn stand(&self, to_us: u64, interrupted: bool) {
        let mut inner = self.inner();
        let (own_now_us, city_now_us) = (inner.own_now(), inner.city_now());
        inner.turns = false;
        if interrupted && city_now_us < to_us {
            (inner.own_us, inner.city_us) = (own_now_us, city_now_us);
        } else {
            inner.own_us += to_us.saturating_sub(inner.city_us) * inner.rate() / 1_000_000;
            inner.city_us = inner.city_us.max(to_us);
        }
    }

    /// The city's time goes on to `to_us`: the server is off, and its clock runs.
    pub fn pass(&self, to_us: u64) {
        let mut inner = self.inner();
        inner.own_us += to_us.saturating_sub(inner.city_us);
        inner.city_us = inner.city_us.max(to_us);
    }

    /// The same, and the host stands still.
    pub fn freeze(&self, to_us: u64) {
        let mut inner = self.inner();
        inner.city_us = inner.city_us.max(to_us);
    }
}

impl Clock for HostTime {
    fn now(&self) -> Timestamp {
        let own_ms = EPOCH_MS + self.age_ms.load(Ordering::Relaxed) + self.inner().own_now() / 1000;
        Timestamp(own_ms.saturating_add_signed(self.offset_ms.load(Ordering::Relaxed)))
    }
}
