//! Faults: drawn from the seed, begun, and ended.

use scp_chronicle::{Fault as Seen, What};
use scp_raft::{Role, sim::Loss};

use crate::{city::City, entropy::SplitMix, net::Link};

/// A disk that loses power does at most so many more operations.
const OPERATIONS_LEFT_MAX: u64 = 8;
/// It is waited so long for them; then the power goes between two.
const OPERATIONS_WAIT_US: u64 = 2_000_000;
/// Whom a fault meets is the leader so many times of a thousand; else it is anyone.
const LEADER_PERMILLE: u64 = 300;

/// Draws faults and takes them away again.
pub struct Faulter {
    rng: SplitMix,
    next_us: u64,
    /// What is to be undone, and when.
    ends: Vec<(u64, End)>,
}

/// How a fault ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The disk has gone already, in the middle of something; now the rest goes.
    Dark(usize, u64),
    Start(usize),
    HealNet,
    FreeDisk(usize),
    Drivers(usize),
    /// One of its guests ends by itself.
    Guest(usize),
    /// Whoever leads now is killed.
    Behead,
    Rejoin(usize),
}

/// The kinds of faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Crash,
    Power,
    Pause,
    Partition,
    Cut,
    SlowLink,
    LossyLink,
    Clock,
    DiskFull,
    DiskStall,
    Driver,
    Guest,
    PowerAll,
    Isolate,
    Vanish,
}

/// How a process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stop {
    /// What was written survives, guests run on.
    Killed,
    /// What was not synced may be lost or torn, guests end. In the middle of a write, if one comes within
    /// so many microseconds.
    PowerCut(u64),
}

/// Whom a fault meets, as a person sees it, and when it ends by itself.
type Met = (usize, Seen, Option<u64>);

/// Says it; `met` is for the eyes only.
fn strike(city: &City, who: &str, text: impl Into<String>, met: impl IntoIterator<Item = Met>) {
    let (now_us, text) = (city.now_us(), text.into());
    let trace = &mut city.net.lock().trace;
    for (node, fault, until) in met {
        trace.record(now_us, || What::FaultBegan { fault, node, until, text: text.clone() });
    }
    trace.told(now_us / 1000, who, text);
}

/// These are over.
fn over(city: &City, nodes: std::ops::Range<usize>, faults: &[Seen]) {
    let trace = &mut city.net.lock().trace;
    for node in nodes {
        faults
            .iter()
            .for_each(|fault| trace.record(city.now_us(), || What::FaultEnded { fault: *fault, node }));
    }
}

impl Faulter {
    pub fn new(rng: SplitMix) -> Self {
        Self { rng, next_us: 0, ends: Vec::new() }
    }

    /// Ends what is due, begins what comes next.
    pub fn step(&mut self, city: &mut City) {
        let now_us = city.now_us();
        let is_due = |(at, end): &(u64, End)| {
            let is_dead = |host: &usize| city.hosts[*host].disk.is_dead();
            *at <= now_us || matches!(end, End::Dark(host, _) if is_dead(host))
        };
        let (due, later) = std::mem::take(&mut self.ends).into_iter().partition(is_due);
        self.ends = later;
        let due: Vec<(u64, End)> = due;
        due.into_iter().for_each(|(_, end)| self.end(city, end));
        if now_us < self.next_us {
            return;
        }
        if self.next_us > 0
            && let Some(kind) = self.draw(city)
        {
            self.begin(city, kind);
        }
        self.next_us = now_us + self.rng.between(1, 2 * city.options.fault_every_ms) * 1000;
    }

    /// Takes every fault away.
    pub fn heal(&mut self, city: &mut City) {
        while let Some((_, end)) = self.ends.pop() {
            self.end(city, end);
        }
        over(city, 0..city.hosts.len(), &Seen::ALL);
        city.net.lock().heal();
        for at in 0..city.hosts.len() {
            let host = &mut city.hosts[at];
            host.paused_until_us = 0;
            host.time.set_drift(0);
            host.time.offset_ms.store(0, std::sync::atomic::Ordering::Relaxed);
            host.disk.set_capacity(None);
            host.disk.set_stalled(false);
            host.world.set_failing(0);
            if !city.hosts[at].is_running() {
                city.start(at);
            }
        }
    }

    /// The whole city loses power, with all that was not synced, and gets it back.
    pub fn darken(&mut self, city: &mut City) {
        city.say("city", "everything loses power once more");
        for at in 0..city.hosts.len() {
            city.kill(at);
            city.hosts[at].world.power_off();
            city.hosts[at].disk = city.hosts[at].disk.crash(Loss::All);
        }
        (0..city.hosts.len()).for_each(|at| city.start(at));
    }

    /// Whom a fault meets.
    fn target(&mut self, city: &City) -> usize {
        let any = self.rng.below(city.hosts.len() as u64) as usize;
        leader(city).filter(|_| self.rng.chance(LEADER_PERMILLE)).unwrap_or(any)
    }

    fn draw(&mut self, city: &City) -> Option<Kind> {
        let faults = city.options.faults;
        let weights = [
            (Kind::Crash, faults.crash),
            (Kind::Power, faults.power),
            (Kind::Pause, faults.pause),
            (Kind::Partition, faults.partition),
            (Kind::Cut, faults.cut),
            (Kind::SlowLink, faults.slow_link),
            (Kind::LossyLink, faults.lossy_link),
            (Kind::Clock, faults.clock),
            (Kind::DiskFull, faults.disk_full),
            (Kind::DiskStall, faults.disk_stall),
            (Kind::Driver, faults.driver),
            (Kind::Guest, faults.guest),
            (Kind::PowerAll, faults.power_all),
            (Kind::Isolate, faults.isolate),
            (Kind::Vanish, faults.vanish),
        ];
        let total: u64 = weights.iter().map(|(_, weight)| weight).sum();
        if total == 0 {
            return None;
        }
        let mut at = self.rng.below(total);
        weights.into_iter().find_map(|(kind, weight)| {
            if at < weight {
                return Some(kind);
            }
            at -= weight;
            None
        })
    }

    fn begin(&mut self, city: &mut City, kind: Kind) {
        let at = self.target(city);
        let name = city.hosts[at].name.to_string();
        let for_us = self.rng.between(100, 20_000) * 1000;
        let until_us = city.now_us() + for_us;
        let for_ms = for_us / 1000;
        match kind {
            Kind::Crash => self.stop(city, at, until_us, Stop::Killed),
            Kind::Power => self.stop(city, at, until_us, Stop::PowerCut(OPERATIONS_WAIT_US)),
            Kind::PowerAll => {
                for at in 0..city.hosts.len() {
                    let until_us = city.now_us() + self.rng.between(100, 10_000) * 1000;
                    self.stop(city, at, until_us, Stop::PowerCut(1));
                }
            }
            Kind::Isolate => self.isolate(city, at),
            Kind::Vanish => self.vanish(city),
            Kind::Pause => {
                let met = [(at, Seen::Pause, Some(until_us))];
                strike(city, &name, format!("stands still for {for_ms} ms"), met);
                city.hosts[at].paused_until_us = until_us;
            }
            Kind::Partition => self.partition(city, until_us),
            Kind::Cut => {
                let to = self.rng.below(city.hosts.len() as u64) as usize;
                let text = format!("nothing from it reaches {} for {for_ms} ms", city.hosts[to].name);
                strike(city, &name, text, [(at, Seen::OneWay, None)]);
                let (from, to) = (city.hosts[at].id, city.hosts[to].id);
                city.net.lock().cut(from, to);
                self.ends.push((until_us, End::HealNet));
            }
            Kind::SlowLink | Kind::LossyLink => self.bad_link(city, kind, at, until_us),
            Kind::Clock => {
                let offset_ms = self.rng.between(0, 20_000) as i64 - 10_000;
                let drift_ppm = self.rng.between(0, 2_000) as i64 - 1_000;
                let text = format!("its clock jumps by {offset_ms} ms and drifts {drift_ppm} ppm");
                strike(city, &name, text, [(at, Seen::Clock, None)]);
                city.hosts[at].time.offset_ms.store(offset_ms, std::sync::atomic::Ordering::Relaxed);
                city.hosts[at].time.set_drift(drift_ppm);
            }
            Kind::DiskFull => {
                strike(
                    city,
                    &name,
                    format!("its disk is full for {for_ms} ms"),
                    [(at, Seen::DiskFull, None)],
                );
                let used = city.hosts[at].disk.used();
                city.hosts[at].disk.set_capacity(Some(used));
                self.ends.push((until_us, End::FreeDisk(at)));
            }
            Kind::DiskStall => {
                let met = [(at, Seen::DiskStall, None)];
                strike(city, &name, format!("its disk does nothing for {for_ms} ms"), met);
                city.hosts[at].disk.set_stalled(true);
                self.ends.push((until_us, End::FreeDisk(at)));
            }
            Kind::Guest => self.end(city, End::Guest(at)),
            Kind::Driver => {
                let met = [(at, Seen::Hypervisor, None)];
                strike(city, &name, format!("its hypervisor fails often for {for_ms} ms"), met);
                city.hosts[at].world.set_failing(self.rng.between(100, 900));
                self.ends.push((until_us, End::Drivers(at)));
            }
        }
    }

    #[allow(clippy::too_many_arguments, reason = "who, when and how: a fault has no fewer parts")]
    fn stop(&mut self, city: &mut City, at: usize, until_us: u64, how: Stop) {
        if !city.hosts[at].is_running() {
            return;
        }
        let name = city.hosts[at].name.to_string();
        if let Stop::PowerCut(within_us) = how {
            // The disk goes first, in the middle of what it is just about to do.
            let disk = &city.hosts[at].disk;
            disk.crash_at(disk.operations() + self.rng.below(OPERATIONS_LEFT_MAX));
            self.ends.push((city.now_us() + within_us, End::Dark(at, until_us)));
            return;
        }
        strike(city, &name, "its process is killed", [(at, Seen::Crash, None)]);
        city.kill(at);
        city.hosts[at].disk = city.hosts[at].disk.crash(Loss::Nothing);
        self.ends.push((until_us, End::Start(at)));
    }

    fn go_dark(&mut self, city: &mut City, at: usize, until_us: u64) {
        let name = city.hosts[at].name.to_string();
        strike(city, &name, "loses power", [(at, Seen::Power, None)]);
        city.kill(at);
        city.hosts[at].world.power_off();
        let torn = Loss::Torn(self.rng.draw());
        let loss = *self.rng.pick(&[Loss::All, torn, torn]);
        city.hosts[at].disk = city.hosts[at].disk.crash(loss);
        self.ends.push((until_us, End::Start(at)));
    }

    fn partition(&mut self, city: &City, until_us: u64) {
        let side: Vec<bool> = city.hosts.iter().map(|_| self.rng.chance(500)).collect();
        let both_ways = self.rng.chance(700);
        let names = |of: bool| {
            let on = city.hosts.iter().zip(&side).filter(|(_, side)| **side == of);
            on.map(|(host, _)| host.name.to_string()).collect::<Vec<_>>().join(",")
        };
        let arrow = if both_ways { "|" } else { "-|" };
        // The smaller side is the one that is cut off; one way, the one that is not heard.
        let fewer = side.iter().filter(|on| **on).count() * 2 <= side.len();
        let (cut_off, fault) = if both_ways { (fewer, Seen::Partition) } else { (true, Seen::OneWay) };
        let met = side.iter().enumerate().filter(|(_, on)| **on == cut_off).map(|(at, _)| (at, fault, None));
        let met = met.filter(|_| side.windows(2).any(|pair| pair[0] != pair[1]));
        strike(city, "net", format!("partition {} {arrow} {}", names(true), names(false)), met);
        let mut net = city.net.lock();
        for (a, on_a) in city.hosts.iter().zip(&side) {
            for (b, on_b) in city.hosts.iter().zip(&side) {
                if on_a != on_b && (both_ways || *on_a) {
                    net.cut(a.id, b.id);
                }
            }
        }
        self.ends.push((until_us, End::HealNet));
    }

    /// Nothing reaches it or comes from it for long enough to be declared down; what it has to tell, it
    /// tries to tell all the while.
    fn isolate(&mut self, city: &City, at: usize) {
        let for_us = self.rng.between(3_000, 12_000) * 1000;
        let host = &city.hosts[at];
        let text = format!("is cut off from all for {} ms", for_us / 1000);
        strike(city, host.name.as_str(), text, [(at, Seen::Partition, None)]);
        city.net.lock().set_apart(host.id);
        for _ in 0..self.rng.between(1, 3) {
            let at_us = city.now_us() + self.rng.below(2_500_000);
            self.ends.push((at_us, End::Guest(at)));
        }
        self.ends.push((city.now_us() + for_us, End::Rejoin(at)));
    }

    /// Less than half of the city, all at once.
    fn vanish(&mut self, city: &mut City) {
        let most = (city.hosts.len() as u64 - 1) / 2;
        let mut left: Vec<usize> = (0..city.hosts.len()).collect();
        let how = *self.rng.pick(&[Stop::Killed, Stop::PowerCut(1)]);
        let until_us = city.now_us() + self.rng.between(4_000, 25_000) * 1000;
        if most > 1 && self.rng.chance(600) {
            let at_us = city.now_us() + self.rng.between(5_000, 10_000) * 1000;
            self.ends.push((at_us, End::Behead));
        }
        for _ in 0..self.rng.between(1, most) {
            let at = left.swap_remove(self.rng.below(left.len() as u64) as usize);
            self.stop(city, at, until_us, how);
        }
    }

    #[allow(clippy::too_many_arguments, reason = "who, when and how: a fault has no fewer parts")]
    fn bad_link(&mut self, city: &City, kind: Kind, at: usize, until_us: u64) {
        let to = self.rng.below(city.hosts.len() as u64) as usize;
        let good = city.options.link;
        let (from, to) = (&city.hosts[at], &city.hosts[to]);
        let (link, fault, how) = if kind == Kind::SlowLink {
            let link = Link { delay_us: self.rng.between(20_000, 400_000), ..good };
            (link, Seen::Slow, format!("takes {} ms", link.delay_us / 1000))
        } else {
            let link = Link { loss_permille: self.rng.between(50, 500), ..good };
            (link, Seen::Lossy, format!("loses {} ‰", link.loss_permille))
        };
        let text = format!("its link to {} {how}", to.name);
        strike(city, from.name.as_str(), text, [(at, fault, None)]);
        city.net.lock().set_link(from.id, to.id, link);
        self.ends.push((until_us, End::HealNet));
    }

    fn end(&mut self, city: &mut City, end: End) {
        match end {
            End::Dark(at, until_us) => self.go_dark(city, at, until_us),
            End::Start(at) if city.hosts[at].is_running() => {}
            End::Rejoin(at) => {
                over(city, at..at + 1, &[Seen::Partition]);
                city.say(&city.hosts[at].name.to_string(), "is reached again");
                city.net.lock().rejoin(city.hosts[at].id);
            }
            End::Behead => {
                let until_us = city.now_us() + self.rng.between(1_000, 4_000) * 1000;
                if let Some(at) = leader(city) {
                    self.stop(city, at, until_us, Stop::Killed);
                }
            }
            End::Guest(at) => {
                if let Some(vm) = city.hosts[at].world.end_one(&mut self.rng) {
                    city.say(&city.hosts[at].name.to_string(), format!("VM {vm} ends by itself"));
                }
            }
            End::Start(at) => {
                over(city, at..at + 1, &[Seen::Crash, Seen::Power]);
                city.say(&city.hosts[at].name.to_string(), "starts");
                city.start(at);
            }
            End::HealNet => {
                let faults = [Seen::Partition, Seen::OneWay, Seen::Slow, Seen::Lossy];
                over(city, 0..city.hosts.len(), &faults);
                city.say("net", "healed");
                city.net.lock().heal();
            }
            End::FreeDisk(at) => {
                over(city, at..at + 1, &[Seen::DiskFull, Seen::DiskStall]);
                city.say(&city.hosts[at].name.to_string(), "its disk is well again");
                city.hosts[at].disk.set_capacity(None);
                city.hosts[at].disk.set_stalled(false);
            }
            End::Drivers(at) => {
                over(city, at..at + 1, &[Seen::Hypervisor]);
                city.say(&city.hosts[at].name.to_string(), "its hypervisor is well again");
                city.hosts[at].world.set_failing(0);
            }
        }
    }
}

/// Who holds itself to lead, the first of them.
fn leader(city: &City) -> Option<usize> {
    city.hosts.iter().position(|host| {
        let process = host.process();
        process.is_some_and(|process| process.core.proposer.raft.status().borrow().role == Role::Leader)
    })
}
