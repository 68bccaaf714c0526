//! What is done to both sides, and in which order.

use std::{
    collections::BTreeSet,
    path::Path,
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    time::Duration,
};

use anyhow::{Result, bail};
use rustix::process::Signal;
use serde_json::json;
use tokio::time::Instant;

use crate::{
    Plan, network,
    report::{self, Goal, percentile, rounded, spread},
    sides::{Heard, Line, Side, Which},
};

/// All know all within this, or the run fails.
const COMPLETE_MAX: Duration = Duration::from_secs(300);
/// Joining has its own traffic, on both sides: handshakes of ours, and probes of what the path takes.
const SETTLE: Duration = Duration::from_secs(60);
const WINDOW: Duration = Duration::from_secs(10);
/// Between two trials.
const PAUSE: Duration = Duration::from_secs(2);
const SPREAD_MAX: Duration = Duration::from_secs(30);
/// serf's suspicion takes 8 s at 100 members, and as long again when nobody confirms it.
const DETECTION_MAX: Duration = Duration::from_secs(60);
/// The longest stall that is no death.
const STALL: Duration = Duration::from_secs(2);
const STALLED_PERCENT: usize = 5;
const LOSS_PERCENT: u8 = 10;
const LOSS: Duration = Duration::from_secs(30);
/// Suspicions of both sides have ended by then.
const AFTER: Duration = Duration::from_secs(20);
/// Neither stalled nor killed: the first leads.
const SPARED: usize = 5;

/// A member was called dead that was not.
struct FalseDeath {
    side: Which,
    member: usize,
    phase: &'static str,
}

struct Run<'a> {
    dir: &'a Path,
    sides: [Side; 2],
    lines: Receiver<Line>,
    phase: &'static str,
    false_deaths: Vec<FalseDeath>,
    /// Who each member knows of, until all know all.
    known: [Vec<BTreeSet<usize>>; 2],
    /// How many each of our members thinks alive.
    lives: Vec<usize>,
}

pub fn run(plan: &Plan, dir: &Path) -> Result<()> {
    let (sender, lines) = channel();
    let start = |which| Side::start(which, plan.members, (dir, &sender));
    let sides = [start(Which::Ours)?, start(Which::Serf)?];
    let nobody = || vec![BTreeSet::new(); plan.members];
    let known = [nobody(), nobody()];
    let lives = vec![0; plan.members];
    let mut run = Run { dir, sides, lines, phase: "join", false_deaths: Vec::new(), known, lives };
    run.complete()?;
    run.false_deaths.clear();
    run.phase = "rest";
    run.listen(SETTLE, |_| false)?;
    run.updates(plan.pairs)?;
    run.rest(plan.pairs)?;
    run.stalls()?;
    run.loss()?;
    run.kills(plan.pairs)?;
    run.report_false_deaths("rest", plan.members);
    Ok(())
}

impl Run<'_> {
    fn side(&mut self, which: Which) -> &mut Side {
        &mut self.sides[which as usize]
    }

    /// Takes lines in for so long, or until one of them is enough; whether it was.
    fn listen(&mut self, patience: Duration, mut enough: impl FnMut(&Line) -> bool) -> Result<bool> {
        let end = Instant::now() + patience;
        loop {
            match self.lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    self.note(&line);
                    if enough(&line) {
                        return Ok(true);
                    }
                }
                Err(RecvTimeoutError::Timeout) => break,
                Err(RecvTimeoutError::Disconnected) => bail!("every process has ended"),
            }
        }
        for side in &mut self.sides {
            side.check(self.dir)?;
        }
        Ok(false)
    }

    /// Deaths of the living; and what the log would tell of them.
    fn note(&mut self, line: &Line) {
        let Line { side, heard, by, .. } = *line;
        match heard {
            Heard::Failed(member) => {
                let known = |death: &FalseDeath| death.side == side && death.member == member;
                if self.side(side).alive.contains(&member) && !self.false_deaths.iter().any(known) {
                    eprintln!("gossip: {} calls {member} dead, which lives ({})", side.name(), self.phase);
                    self.false_deaths.push(FalseDeath { side, member, phase: self.phase });
                }
                if side == Which::Ours {
                    self.side(side).tell_all(&format!("down {member}"));
                }
            }
            Heard::Back(member) => self.side(side).tell_all(&format!("up {member}")),
            Heard::Joined(member) => drop(self.known[side as usize][by].insert(member)),
            Heard::Knows(count) => self.known[side as usize][by] = (0..count).collect(),
            Heard::Lives(count) => self.lives[by] = count,
            Heard::Updated(_) => {}
        }
    }

    /// Until every member knows every other.
    fn complete(&mut self) -> Result<()> {
        let begin = Instant::now();
        let missing = |run: &Self| {
            let count = run.sides[0].processes.len();
            run.known.iter().flatten().filter(|known| known.len() < count).count()
        };
        while missing(self) > 0 {
            if begin.elapsed() > COMPLETE_MAX {
                let known = self.known.each_ref().map(|side| side.iter().map(BTreeSet::len));
                let [ours, serf] = known.map(Iterator::collect::<Vec<_>>);
                bail!("after {COMPLETE_MAX:?} not all know all: ours {ours:?}, serf {serf:?}");
            }
            self.listen(Duration::from_millis(500), |_| false)?;
        }
        eprintln!("gossip: all know all after {:.1} s", begin.elapsed().as_secs_f64());
        Ok(())
    }

    fn rest(&mut self, windows: usize) -> Result<()> {
        let (mut bytes, mut cpu) = (Vec::new(), Vec::new());
        for _ in 0..windows {
            let begin = Instant::now();
            let before = Which::BOTH.map(|side| (network::sent(side), self.side(side).cpu()));
            self.listen(WINDOW, |_| false)?;
            let after = Which::BOTH.map(|side| (network::sent(side), self.side(side).cpu()));
            let per = begin.elapsed().as_secs_f64() * self.sides[0].alive.len() as f64;
            let [mut sent, mut used] = [[0.0; 2]; 2];
            for (at, (before, after)) in before.into_iter().zip(after).enumerate() {
                sent[at] = (after.0? - before.0?) as f64 / per;
                used[at] = (after.1 - before.1).as_secs_f64() * 1e3 / per;
            }
            bytes.push((sent[0], sent[1]));
            cpu.push((used[0], used[1]));
        }
        let median = |pairs: &[(f64, f64)]| {
            let of =
                |pick: fn(&(f64, f64)) -> f64| percentile(&pairs.iter().map(pick).collect::<Vec<_>>(), 50);
            (rounded(of(|pair| pair.0)), rounded(of(|pair| pair.1)))
        };
        let (ours, serf) = median(&bytes);
        let goal = Goal { text: "<= 1500 B/s", met: ours <= 1_500.0 };
        report::pairs(
            "bytes_of_a_member",
            &bytes,
            (json!({ "ours": { "bytes_per_s": ours }, "serf": { "bytes_per_s": serf } }), Some(goal)),
        );
        let (ours, serf) = median(&cpu);
        let sides = json!({ "ours": { "cpu_ms_per_s": ours }, "serf": { "cpu_ms_per_s": serf } });
        report::pairs("cpu_of_a_member", &cpu, (sides, None));
        let lives: usize = self.lives.iter().sum();
        let share = lives as f64 * 100.0 / (self.lives.len() as f64).powi(2);
        println!("{}", json!({ "name": "alive_in_gossips_opinion", "value": rounded(share), "unit": "%" }));
        let [ours, serf] = Which::BOTH.map(|side| self.side(side).memory_kib());
        let sides = json!({ "ours": { "rss_kib": ours }, "serf": { "rss_kib": serf } });
        report::pairs("memory_of_a_member", &[(ours as f64, serf as f64)], (sides, None));
        Ok(())
    }

    fn updates(&mut self, pairs: usize) -> Result<()> {
        let [mut ours, mut serf] = [const { Vec::new() }; 2];
        let mut last = Vec::new();
        for trial in 0..pairs {
            let origin = (trial * 7 + 1) % self.sides[0].processes.len();
            let of_ours = self.update(Which::Ours, (origin, trial))?;
            let of_serf = self.update(Which::Serf, (origin, trial))?;
            last.push((percentile(&of_ours, 100), percentile(&of_serf, 100)));
            ours.extend(of_ours);
            serf.extend(of_serf);
        }
        let goal = Goal { text: "p99 <= 1 s", met: percentile(&ours, 99) <= 1_000.0 };
        let sides = json!({ "ours": spread(&ours), "serf": spread(&serf) });
        report::pairs("update_known_to_all", &last, (sides, Some(goal)));
        Ok(())
    }

    /// After how many milliseconds each other member knew.
    fn update(&mut self, which: Which, (origin, value): (usize, usize)) -> Result<Vec<f64>> {
        self.listen(PAUSE, |_| false)?;
        let mut missing = self.side(which).alive.clone();
        self.side(which).update(origin, value)?;
        let mut told = Vec::new();
        self.listen(SPREAD_MAX, |line| {
            if line.side == which && line.heard == Heard::Updated(origin) && missing.remove(&line.by) {
                told.push((line.by, line.when));
            }
            missing.is_empty()
        })?;
        let Some((_, begin)) = told.iter().find(|(by, _)| *by == origin).copied() else {
            bail!("{} {origin} does not note its own update", which.name());
        };
        let ms = |when: Instant| when.saturating_duration_since(begin).as_secs_f64() * 1e3;
        let mut taken: Vec<_> =
            told.iter().filter(|(by, _)| *by != origin).map(|(_, when)| ms(*when)).collect();
        // Who never knew counts as the patience, so that it cannot be overlooked.
        taken.extend(missing.iter().map(|_| SPREAD_MAX.as_secs_f64() * 1e3));
        Ok(taken)
    }

    /// Some members stand still for as long as nobody may call them dead.
    fn stalls(&mut self) -> Result<()> {
        self.phase = "stall";
        let count = self.sides[0].processes.len();
        let stalled: Vec<_> = (0..(count * STALLED_PERCENT / 100).max(2)).map(|at| SPARED + at * 3).collect();
        let signal = |run: &Self, signal| {
            let both = run.sides.iter().flat_map(|side| stalled.iter().map(|at| &side.processes[*at]));
            both.into_iter().try_for_each(|process| process.signal(signal))
        };
        signal(self, Signal::STOP)?;
        self.listen(STALL, |_| false)?;
        signal(self, Signal::CONT)?;
        self.listen(AFTER, |_| false)?;
        self.report_false_deaths("stall", stalled.len());
        Ok(())
    }

    fn loss(&mut self) -> Result<()> {
        self.phase = "loss";
        network::lose(LOSS_PERCENT)?;
        self.listen(LOSS, |_| false)?;
        network::lose_nothing()?;
        self.listen(AFTER, |_| false)?;
        self.report_false_deaths("loss", self.sides[0].processes.len());
        Ok(())
    }

    fn kills(&mut self, pairs: usize) -> Result<()> {
        self.phase = "kills";
        let count = self.sides[0].processes.len();
        let (mut ours, mut serf_first, mut serf_all) = (Vec::new(), Vec::new(), Vec::new());
        for trial in 0..pairs.min(count - SPARED - 1) {
            let victim = count - 1 - trial;
            ours.extend(self.kill(Which::Ours, victim)?.first().copied());
            let serf = self.kill(Which::Serf, victim)?;
            serf_first.extend(serf.first().copied());
            serf_all.extend(serf.last().copied());
        }
        let noticed = ours.iter().zip(&serf_all).map(|(ours, serf)| (*ours, *serf));
        let met = percentile(&ours, 99) <= 3_000.0;
        let sides = json!({
            "ours": spread(&ours), "serf": spread(&serf_all), "serf_first": spread(&serf_first),
        });
        let goal = Goal { text: "p99 <= 3 s", met };
        report::pairs("death_known", &noticed.collect::<Vec<_>>(), (sides, Some(goal)));
        self.report_false_deaths("kills", count);
        Ok(())
    }

    /// After how many milliseconds it was called dead, by those who do so: our leader, each agent of serf.
    fn kill(&mut self, which: Which, victim: usize) -> Result<Vec<f64>> {
        self.listen(PAUSE, |_| false)?;
        let side = self.side(which);
        side.alive.remove(&victim);
        let mut missing = match which {
            Which::Ours => BTreeSet::from([0]),
            Which::Serf => side.alive.clone(),
        };
        let killed = Instant::now();
        side.processes[victim].kill();
        let mut taken = Vec::new();
        self.listen(DETECTION_MAX, |line| {
            if line.side == which && line.heard == Heard::Failed(victim) && missing.remove(&line.by) {
                taken.push(line.when.saturating_duration_since(killed).as_secs_f64() * 1e3);
            }
            missing.is_empty()
        })?;
        taken.extend(missing.iter().map(|_| DETECTION_MAX.as_secs_f64() * 1e3));
        Ok(taken)
    }

    fn report_false_deaths(&self, phase: &'static str, of: usize) {
        let of_side = |side| {
            self.false_deaths.iter().filter(|death| death.side == side && death.phase == phase).count()
        };
        report::counts(&format!("false_deaths_{phase}"), (of_side(Which::Ours), of_side(Which::Serf)), of);
    }
}
