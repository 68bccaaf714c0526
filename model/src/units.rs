//! Quantities that are never plain numbers: time, epochs, sizes.

use serde::{Deserialize, Serialize};

/// Milliseconds since 1970-01-01T00:00:00Z. Inside the state it never runs backwards: `apply` uses the
/// later of the proposal's time and the last one applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Timestamp(pub u64);

impl Timestamp {
    pub fn plus_ms(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms))
    }

    /// Milliseconds from `earlier` to here; 0 when `earlier` is later.
    pub fn since_ms(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// The Raft index that granted a placement. Whoever holds something for its owner refuses a lower one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Epoch(pub u64);

/// An amount of what a node offers and a sandbox takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Resources {
    pub vcpus: u64,
    pub memory_mib: u64,
    pub disk_mib: u64,
}

impl Resources {
    pub fn plus(self, other: Self) -> Self {
        Self {
            vcpus: self.vcpus.saturating_add(other.vcpus),
            memory_mib: self.memory_mib.saturating_add(other.memory_mib),
            disk_mib: self.disk_mib.saturating_add(other.disk_mib),
        }
    }

    /// What is left after taking `other`; a part that does not suffice becomes 0.
    pub fn minus(self, other: Self) -> Self {
        Self {
            vcpus: self.vcpus.saturating_sub(other.vcpus),
            memory_mib: self.memory_mib.saturating_sub(other.memory_mib),
            disk_mib: self.disk_mib.saturating_sub(other.disk_mib),
        }
    }

    /// The smaller of each part.
    pub fn at_most(self, other: Self) -> Self {
        Self {
            vcpus: self.vcpus.min(other.vcpus),
            memory_mib: self.memory_mib.min(other.memory_mib),
            disk_mib: self.disk_mib.min(other.disk_mib),
        }
    }

    /// Whether every part of `self` suffices for `other`.
    pub fn holds(self, other: Self) -> bool {
        self.vcpus >= other.vcpus && self.memory_mib >= other.memory_mib && self.disk_mib >= other.disk_mib
    }
}

/// How much may be promised beyond what is there, in percent of the physical amount (100 = no more
/// than there is). Range 100 to 3200. Memory defaults to 100: a guest that is short of memory is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overcommit {
    pub vcpus_percent: u32,
    pub memory_percent: u32,
    pub disk_percent: u32,
}

impl Default for Overcommit {
    fn default() -> Self {
        Self { vcpus_percent: 400, memory_percent: 100, disk_percent: 100 }
    }
}

impl Overcommit {
    /// The smallest and the largest ratio that may be set, in percent.
    pub const PERCENT_RANGE: std::ops::RangeInclusive<u32> = 100..=3200;

    /// What may be promised of `physical`.
    pub fn of(self, physical: Resources) -> Resources {
        let scale = |amount: u64, percent: u32| amount.saturating_mul(u64::from(percent)) / 100;
        Resources {
            vcpus: scale(physical.vcpus, self.vcpus_percent),
            memory_mib: scale(physical.memory_mib, self.memory_percent),
            disk_mib: scale(physical.disk_mib, self.disk_percent),
        }
    }
}
