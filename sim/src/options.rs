//! What a seed stands for: the city, its troubles and its work.

use scp_model::Resources;

use crate::{entropy::SplitMix, host::Sizes, net::Link};

/// Everything that differs from run to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    pub nodes: usize,
    pub zones: usize,
    pub link: Link,
    /// How long there are faults, in virtual time; then all is healed.
    pub safety_ms: u64,
    /// By when, after the healing, all that was asked for has to be so.
    pub liveness_ms: u64,
    /// Mean time between faults.
    pub fault_every_ms: u64,
    /// Mean time between requests of one client.
    pub think_ms: u64,
    pub clients: usize,
    /// A client waits so long for one node before it asks another.
    pub patience_ms: u64,
    pub sizes: Sizes,
    /// What each server has for guests: little, so that it is soon full, or enough to take another's.
    pub capacity: Resources,
    /// Packets that a host which stands still takes in; the rest is lost.
    pub buffer_packets: usize,
    /// After everything was answered, the whole city loses power once more, and all that was not synced.
    pub ends_dark: bool,
    pub faults: Faults,
}

/// Weights of the kinds of faults; 0: none of that kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Faults {
    /// The process is killed; unsynced data may be lost or torn; VMs run on.
    pub crash: u64,
    /// The whole server loses power: its VMs, too.
    pub power: u64,
    pub pause: u64,
    pub partition: u64,
    /// One link, one way.
    pub cut: u64,
    pub slow_link: u64,
    pub lossy_link: u64,
    pub clock: u64,
    pub disk_full: u64,
    pub disk_stall: u64,
    pub driver: u64,
    /// A guest ends by itself, in order or not.
    pub guest: u64,
    pub power_all: u64,
    /// One host is cut off from all others, and its guests end meanwhile.
    pub isolate: u64,
    /// A part of the city goes at once, for long; most of it stays. Then the leader may go, too.
    pub vanish: u64,
}

impl Options {
    /// Draws a city from a seed. Not every run has every kind of fault: what only ever happens together
    /// hides what happens alone.
    pub fn draw(rng: &mut SplitMix) -> Self {
        let nodes = *rng.pick(&[3, 3, 3, 4, 5, 6, 6, 7]);
        let weight = |rng: &mut SplitMix, most| if rng.chance(500) { rng.between(1, most) } else { 0 };
        Self {
            nodes,
            zones: rng.between(1, 3) as usize,
            link: Link {
                delay_us: rng.between(100, 3_000),
                jitter_us: rng.between(0, 3_000),
                loss_permille: *rng.pick(&[0, 1, 10, 30]),
            },
            safety_ms: rng.between(20_000, 60_000),
            liveness_ms: 180_000,
            fault_every_ms: rng.between(1_000, 6_000),
            think_ms: rng.between(50, 400),
            clients: rng.between(2, 6) as usize,
            patience_ms: *rng.pick(&[1_500, 4_000, 12_000]),
            sizes: Sizes {
                segment_bytes: *rng.pick(&[16 << 10, 64 << 10]),
                snapshot_log_bytes: *rng.pick(&[8 << 10, 32 << 10, 1 << 20]),
                keep_log_bytes: *rng.pick(&[0, 2 << 10, 16 << 10]),
                chunk_bytes: *rng.pick(&[2 << 10, 32 << 10]),
            },
            capacity: {
                let times = *rng.pick(&[1, 3]);
                Resources { vcpus: 4 * times, memory_mib: 1024 * times, disk_mib: 4096 }
            },
            buffer_packets: rng.between(8, 64) as usize,
            ends_dark: rng.chance(500),
            faults: Faults {
                crash: weight(rng, 6),
                power: weight(rng, 4),
                pause: weight(rng, 4),
                partition: weight(rng, 4),
                cut: weight(rng, 4),
                slow_link: weight(rng, 3),
                lossy_link: weight(rng, 3),
                clock: weight(rng, 3),
                disk_full: weight(rng, 2),
                disk_stall: weight(rng, 3),
                driver: weight(rng, 4),
                guest: rng.between(0, 4),
                power_all: weight(rng, 1),
                isolate: rng.between(0, 4),
                vanish: weight(rng, 6),
            },
        }
    }
}
