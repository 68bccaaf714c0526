//! Plays a scenario: build, load, steps, calm, verdict.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, bail};
use rand::{SeedableRng, rngs::StdRng, seq::IndexedRandom};
use scp_api::{
    client::collect,
    v1::{Consistency, EventQuery, LIMIT_MAX, ListQuery},
};
use scp_chronicle::{Record, page::page};
use scp_servers::{pause, wait_until};

use crate::{
    city::{City, SOON},
    fault,
    history::{Clock, History, Micros, What, seconds},
    judge::{Holding, judge},
    report::{Blow, Report, longest_gap},
    scenario::{Fault, Scenario, Step, Target},
    seen::{self, Sources},
    vms::{self, VmWatch},
    watch::Watch,
    workload::Workload,
};

/// How to play.
#[derive(Debug, Clone)]
pub struct Options {
    pub short: bool,
    pub seed: u64,
    /// Directory that holds `scpd`.
    pub binaries: PathBuf,
    /// What VMs boot from.
    pub guest: Option<PathBuf>,
    /// Where history and logs are kept when something is wrong.
    pub out: PathBuf,
}

/// What a run found out, and what was seen of it.
#[derive(Debug)]
pub struct Played {
    pub report: Report,
    pub record: Record,
}

/// Plays the scenario of a file. An error is not a verdict: it could not be played to the end.
pub fn play(path: &Path, options: &Options) -> Result<Played> {
    let scenario = Scenario::read(path, options.short)?;
    eprintln!("\n{}: {}\n  seed {}", scenario.name, scenario.about, options.seed);
    let clock = Clock::start();
    let wall_ms = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock is before 1970")?;
    let mut run = Run {
        city: City::build(&scenario, &options.binaries)?,
        clock,
        wall_ms: u64::try_from(wall_ms.as_millis()).context("the clock is far in the future")?,
        random: StdRng::seed_from_u64(options.seed),
        vms: None,
        watch: Watch::start(clock)?,
        blows: Vec::new(),
        downs: BTreeMap::new(),
        violations: Vec::new(),
    };
    run.talk(&format!("a city of {} nodes is founded", scenario.city.nodes));
    let played = run.supply(&scenario, options).and_then(|()| run.play(&scenario));
    let (history, holdings) = match played {
        Ok(seen) => seen,
        Err(error) => {
            for server in &run.city.servers.servers {
                eprintln!("--- the end of scpd.log on {}\n{}", server.name, run.city.log_end(&server.name));
            }
            let kept = keep(&run.city, &scenario.name, options, None)?;
            run.city.servers.end()?;
            return Err(error.context(format!("logs are kept in {}", kept.display())));
        }
    };
    run.violations.extend(judge(&history, &holdings));
    let mut report = run.report(&scenario, options, &history);
    let short = if options.short { "--short " } else { "" };
    let again = format!("cargo run -p scp-chaos -- {short}--seed {} {}", options.seed, path.display());
    let record = run.record((&scenario, &report, &history), again);
    if !report.is_good() {
        let dir = keep(&run.city, &scenario.name, options, Some(&history))?;
        fs::write(dir.join("run.html"), page(&record)).context("the page cannot be written")?;
        report.kept = Some(dir);
    }
    run.city.servers.end()?;
    Ok(Played { report, record })
}

/// Saves what explains a failure: the history, and each server's log.
fn keep(city: &City, scenario: &str, options: &Options, history: Option<&History>) -> Result<PathBuf> {
    let dir = options.out.join(format!("{scenario}-{}", options.seed));
    fs::create_dir_all(&dir).with_context(|| format!("{} cannot be made", dir.display()))?;
    if let Some(history) = history {
        let text = serde_json::to_vec(history).context("a history is plain data")?;
        fs::write(dir.join("history.json"), text).context("the history cannot be written")?;
    }
    for server in &city.servers.servers {
        let log = server.disks().join("scpd.log");
        fs::copy(&log, dir.join(format!("{}.log", server.name))).context("a log cannot be copied")?;
    }
    Ok(dir)
}

struct Run {
    city: City,
    clock: Clock,
    /// Milliseconds since 1970 when the run's clock began: the servers share this machine's clock.
    wall_ms: u64,
    random: StdRng,
    /// Only where there are VMs.
    vms: Option<VmWatch>,
    watch: Watch,
    blows: Vec<Blow>,
    /// When the city said that a node is down: by event, the time on our clock and the node's id.
    downs: BTreeMap<u64, (Micros, String)>,
    violations: Vec<String>,
}

impl Run {
    fn talk(&self, what: &str) {
        eprintln!("{:9.2}  {what}", seconds(self.clock.now()));
    }

    fn supply(&mut self, scenario: &Scenario, options: &Options) -> Result<()> {
        if scenario.city.vms > 0 {
            let guest = options.guest.as_ref();
            let guest =
                guest.context("VMs boot from an image: --guest FILE; `cargo xtask guest` builds one")?;
            vms::supply(&self.city, guest, scenario.city.vms)?;
            self.vms = Some(VmWatch::start(&self.city, self.clock));
        }
        Ok(())
    }

    fn play(&mut self, scenario: &Scenario) -> Result<(History, Vec<Holding>)> {
        self.calm().context("the city does not become healthy")?;
        self.talk("the city is healthy; clients begin");
        self.watch.follow(&self.city);
        let load = Workload::start(&scenario.load, &self.city, self.clock)?;
        for name in self.city.members.keys() {
            load.add_node(name, self.city.api_address(name)?)?;
        }
        wait_until(SOON, || (load.last_acknowledged() > 0).then_some(())).context("no change is answered")?;
        for step in &scenario.steps {
            self.step(step, &load)?;
        }
        self.settle("all is taken back");
        let now = self.clock.now();
        if wait_until(SOON, || (load.last_acknowledged() > now).then_some(())).is_none() {
            self.violations.push("no change is acknowledged after all is healed".into());
        }
        if self.vms.is_some() {
            self.violations.extend(vms::verdict(&self.city));
        }
        let (history, registers) = load.end()?;
        self.talk("clients have ended; what each node holds is compared");
        Ok((history, self.holdings(&registers)?))
    }

    /// Waits until nothing is wrong with the city.
    fn calm(&mut self) -> Result<Micros> {
        let mut trouble = None;
        let calm = wait_until(SOON, || {
            trouble = self.city.trouble();
            if trouble.is_some() {
                pause(LOOK_EVERY);
            }
            trouble.is_none().then(|| self.clock.now())
        });
        calm.with_context(|| trouble.unwrap_or_default())
    }

    /// The same, where trouble is a verdict.
    fn settle(&mut self, after: &str) -> Option<Micros> {
        match self.calm() {
            Ok(at) => Some(at),
            Err(error) => {
                let limit = SOON.as_secs();
                self.violations.push(format!("not healthy {limit} s after {after}: {error:#}"));
                None
            }
        }
    }

    fn step(&mut self, step: &Step, load: &Workload) -> Result<()> {
        for _ in 0..step.repeat {
            let rounds: Vec<Vec<String>> = match step.target {
                Target::Each => self.city.members.keys().map(|name| vec![name.clone()]).collect(),
                _ => vec![Vec::new()],
            };
            for round in rounds {
                pause(Duration::from_millis(step.after_ms));
                // Chosen now: the leader of before the pause may lead no longer.
                let targets = if round.is_empty() { self.choose(&step.target)? } else { round };
                self.blow(step, targets, load)?;
                if self.violations.len() >= VIOLATIONS_MAX {
                    bail!("the city does not recover: {}", self.violations.join("; "));
                }
            }
        }
        Ok(())
    }

    fn blow(&mut self, step: &Step, targets: Vec<String>, load: &Workload) -> Result<()> {
        let word = step.fault.word();
        let peers = match &step.peers {
            Some(peers) => self.choose(peers)?,
            None => self.others(&targets),
        };
        let ids: Vec<_> = targets.iter().filter_map(|name| self.city.members.get(name).cloned()).collect();
        self.talk(&format!("{word} {}", targets.join(" ")));
        if step.fault == Fault::Leave {
            targets.iter().for_each(|name| load.remove_node(name));
        }
        let at = self.clock.now();
        let note = fault::inject(&mut self.city, step, &targets, &peers)
            .with_context(|| format!("{word} cannot be done"))?;
        pause(Duration::from_millis(step.for_ms));
        let last_note = fault::take_back(&mut self.city, step, &targets)
            .with_context(|| format!("{word} cannot be taken back"))?;
        let back = self.clock.now();
        self.watch.follow(&self.city);
        if step.fault == Fault::Join {
            for name in &targets {
                load.add_node(name, self.city.api_address(name)?)?;
            }
        }
        let healthy = match step.settle {
            true => {
                let healthy = self.settle(word);
                self.talk(&format!("healthy again after {word}"));
                healthy
            }
            false => None,
        };
        self.note_downs();
        let declared = self.declared(at, &ids);
        let note = note.or(last_note);
        let restarted = self.vms.as_ref().and_then(|vms| vms.restarted(at));
        let ran_twice = self.vms.as_ref().map(|vms| vms.ran_twice(at, self.clock.now()));
        let blow = Blow {
            fault: word,
            seen: seen::kind(step),
            targets,
            at,
            back,
            healthy,
            declared,
            restarted,
            ran_twice,
            note,
            ..Blow::default()
        };
        self.blows.push(blow);
        Ok(())
    }

    fn others(&self, targets: &[String]) -> Vec<String> {
        self.city.members.keys().filter(|name| !targets.contains(name)).cloned().collect()
    }

    fn choose(&mut self, target: &Target) -> Result<Vec<String>> {
        let members: Vec<_> = self.city.members.keys().cloned().collect();
        let led = |city: &City| {
            let leader = wait_until(SOON, || city.leader());
            leader.context("nobody leads the city")
        };
        Ok(match target {
            Target::Leader => vec![led(&self.city)?],
            Target::Follower => {
                let leader = led(&self.city)?;
                let followers: Vec<_> = members.into_iter().filter(|name| *name != leader).collect();
                vec![followers.choose(&mut self.random).context("the city has one node only")?.clone()]
            }
            Target::Random => {
                vec![members.choose(&mut self.random).context("the city has no nodes")?.clone()]
            }
            Target::All | Target::Each => members,
            Target::VmNode => {
                let node = wait_until(SOON, || vms::node(&self.city));
                vec![node.context("nobody says where the VM is")?]
            }
            Target::Majority => {
                let leader = led(&self.city)?;
                let count = members.len() / 2 + 1;
                let others = members.into_iter().filter(|name| *name != leader);
                std::iter::once(leader.clone()).chain(others).take(count).collect()
            }
            Target::Named(name) => vec![name.clone()],
        })
    }

    /// Reads the events of nodes, as far as they are kept; a city under load forgets them in a minute.
    fn note_downs(&mut self) {
        if self.city.clocks.is_some() {
            // Events tell the leader's time, which is not ours.
            return;
        }
        let query = EventQuery {
            subject_kind: Some("node".into()),
            limit: Some(LIMIT_MAX),
            newest: true,
            ..EventQuery::default()
        };
        let names: Vec<_> = self.city.members.keys().cloned().collect();
        let ask =
            |name: &String| self.city.ask(name, |client| async move { client.list_events(&query).await });
        // Whoever answers: they all tell the same.
        let Some(events) = names.first().and_then(|name| ask(name).ok()) else { return };
        for event in events.items.into_iter().filter(|event| event.kind == "node_down") {
            let at = event.time.0.0.saturating_sub(self.wall_ms) * 1000;
            self.downs.insert(event.sequence, (at, event.subject.id));
        }
    }

    /// From `at` to the first word that one of these nodes is down.
    fn declared(&self, at: Micros, ids: &[String]) -> Option<Micros> {
        let downs = self.downs.values().filter(|(down, id)| *down >= at && ids.contains(id));
        downs.map(|(down, _)| down - at).min()
    }

    /// What each node holds by itself, at one and the same index: nothing else changes the city any more,
    /// but what it does by itself may take some looks.
    fn holdings(&mut self, registers: &[String]) -> Result<Vec<Holding>> {
        let names: Vec<_> = self.city.members.keys().cloned().collect();
        let mut last = Vec::new();
        let same = wait_until(SOON, || {
            let found: Result<Vec<_>> = names.iter().map(|name| self.holding(name, registers)).collect();
            last = found.unwrap_or_default();
            let is_same = last.windows(2).all(|pair| pair[0].applied == pair[1].applied);
            if !is_same || last.is_empty() {
                pause(LOOK_EVERY);
                return None;
            }
            Some(())
        });
        if same.is_none() {
            // The verdict tells the difference; that a node does not answer is told here.
            return names.iter().map(|name| self.holding(name, registers)).collect();
        }
        Ok(last)
    }

    fn holding(&self, name: &str, registers: &[String]) -> Result<Holding> {
        let departments = self.city.ask(name, |client| async move {
            let client = client.with_consistency(Consistency::Stale).with_deadline(SOON);
            let query = ListQuery { limit: Some(LIMIT_MAX), ..ListQuery::default() };
            collect(query, |query| client.list_departments(query)).await
        })?;
        let values = self.city.ask(name, |client| async move {
            let client = client.with_consistency(Consistency::Stale).with_deadline(SOON);
            let mut values = BTreeMap::new();
            for register in registers {
                values.insert(register.clone(), client.get_quota(register).await?.quota.vms);
            }
            Ok(values)
        })?;
        Ok(Holding {
            node: name.into(),
            at: self.clock.now(),
            applied: self.city.status(name)?.applied_index,
            departments: departments.into_iter().map(|it| (it.id, it.name)).collect(),
            registers: values,
        })
    }

    /// What was seen, for people.
    fn record(&self, told: (&Scenario, &Report, &History), again: String) -> Record {
        let (scenario, report, history) = told;
        let nodes = self.city.servers.servers.iter().map(|server| server.name.clone());
        let ids = self.city.members.iter().map(|(name, id)| (id.clone(), name.clone()));
        let vms = self.vms.as_ref();
        let names = vms.map_or_else(Vec::new, |_| vms::names(&self.city));
        let servers = self.city.servers.names();
        seen::record(&Sources {
            scenario,
            report,
            history,
            nodes: nodes.collect(),
            names: ids.chain(names).collect(),
            sightings: self.watch.sightings(),
            vms: vms.map_or_else(Vec::new, |vms| vms.sightings(&servers)),
            downs: self.downs.values().cloned().collect(),
            again,
        })
    }

    fn report(&mut self, scenario: &Scenario, options: &Options, history: &History) -> Report {
        let acknowledged = history.acknowledged();
        let end = acknowledged.last().copied().unwrap_or(0);
        let mut blows = std::mem::take(&mut self.blows);
        let begins: Vec<_> = blows.iter().skip(1).map(|blow| blow.at).chain([end]).collect();
        for (blow, next) in blows.iter_mut().zip(begins) {
            // One that did not wait for health lasts until the next.
            blow.unavailable = longest_gap(&acknowledged, blow.at, blow.healthy.unwrap_or(next));
        }
        Report {
            scenario: scenario.name.clone(),
            seed: options.seed,
            took: self.clock.now(),
            writes: history.count(|what| matches!(what, What::Write { .. })),
            reads: history.count(|what| matches!(what, What::Read { .. })),
            creations: history.count(|what| matches!(what, What::Create { .. })),
            unknown: history.requests.iter().filter(|request| request.ended.is_none()).count(),
            blows,
            violations: std::mem::take(&mut self.violations),
            kept: None,
        }
    }
}

/// Between two looks at a city that is not healthy: looking costs it something.
const LOOK_EVERY: Duration = Duration::from_millis(80);

/// After so many times without recovery there is nothing more to learn.
const VIOLATIONS_MAX: usize = 2;
