//! A whole city under one seed: safety phase with faults, then healing and liveness.
//!
//! ```text
//!   every window:  faults begin and end ─▶ clients take answers and ask anew
//!                  ─▶ each host lives through it, from packet to packet; what changed is checked
//! ```

mod settled;

use std::collections::BTreeMap;

use scp_model::{
    Command, Country, DepartmentId, Digest, JoinTokenId, NodeId, ProjectId, Resources, Timestamp, UserId,
    command::{AdmitNode, CreateFlavor, CreateJoinToken, CreateUser, InitCity},
    node::{Compute, NodeProfile},
    tenancy::CityRole,
};
use tempfile::TempDir;

use crate::{
    checks::{self, Checks, Violation},
    client::Clients,
    entropy::SplitMix,
    fault::Faulter,
    host::Host,
    laws::Laws,
    linear,
    net::SharedNet,
    options::{Faults, Options},
    quic::{self, Papers, Tier},
    recorder::{Recorder, SharedRecord},
    workload::{self, Done, Ledger, Outcomes, Task, What, name, request_id},
    world::World,
};

/// All hosts meet in time this often: then faults begin and clients ask. Between two such moments each
/// host lives by itself, the one that is furthest behind first, until a packet reaches it or it sends
/// one. So a packet is late by at most this much, and only at a host that had nothing to do.
pub const WINDOW_US: u64 = 20_000;

/// Which run.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    pub seed: u64,
    pub tier: Tier,
    /// So many nodes, whatever the seed says.
    pub nodes: Option<usize>,
    /// So much work, and no faults.
    pub quiet_ms: Option<u64>,
    /// Print what happens while it happens.
    pub aloud: bool,
    /// Write down here what a person wants to see of it.
    pub record: Option<SharedRecord>,
}

/// How a run ended.
#[derive(Debug, Clone)]
pub struct Verdict {
    pub violation: Option<Violation>,
    pub digest: u64,
    /// Sent between hosts.
    pub packets: u64,
    pub virtual_ms: u64,
    pub answered: u64,
    pub rejected: u64,
    pub failed: u64,
    pub vms: usize,
    pub report: String,
}

/// The city and everything that happens to it.
pub struct City {
    pub options: Options,
    pub hosts: Vec<Host>,
    pub net: SharedNet,
    pub rng: SplitMix,
    pub ledger: Ledger,
    pub outcomes: Outcomes,
    papers: Option<Papers>,
    checks: Checks,
    laws: Laws,
    now_us: u64,
    /// Starts and ends of guests, as far as they were checked.
    runs_seen: u64,
    _scratch: TempDir,
}

impl City {
    pub fn new(settings: &Settings) -> Self {
        let mut rng = SplitMix::new(settings.seed);
        let mut options = Options::draw(&mut rng);
        options.nodes = settings.nodes.unwrap_or(options.nodes);
        if let Some(quiet_ms) = settings.quiet_ms {
            options.safety_ms = quiet_ms;
            options.faults = Faults::default();
            options.link.loss_permille = 0;
        }
        let net = SharedNet::new(rng.fork(), options.link);
        net.lock().trace.aloud = settings.aloud;
        let scratch = tempfile::tempdir().expect("the scratch directory can be made");
        let mut hosts: Vec<Host> = (0..options.nodes)
            .map(|number| {
                let world = World::new(rng.fork());
                Host::new(number, &options, scratch.path(), world)
            })
            .collect();
        net.lock().trace.recorder = settings.record.clone().map(|it| Recorder::new(it, &hosts, &options));
        let papers = match settings.tier {
            Tier::Memory => None,
            Tier::Quic => Some(Papers::hand_out(settings.seed, &mut hosts, &net)),
        };
        let laws = Laws::new(&options);
        Self {
            options,
            hosts,
            net,
            rng,
            ledger: Ledger::default(),
            outcomes: Outcomes::default(),
            papers,
            checks: Checks::default(),
            laws,
            now_us: 0,
            runs_seen: 0,
            _scratch: scratch,
        }
    }

    /// The whole run.
    pub fn run(mut self) -> Verdict {
        let violation = self.phases().err();
        let net = self.net.lock();
        Verdict {
            violation,
            digest: net.trace.digest(),
            packets: net.trace.events(),
            virtual_ms: self.now_us / 1000,
            answered: self.ledger.answered,
            rejected: self.ledger.rejected,
            failed: self.ledger.failed,
            vms: self.ledger.vms.len(),
            report: net.trace.report(),
        }
    }

    fn phases(&mut self) -> Result<(), Violation> {
        self.found()?;
        self.begin_phase(format!("founded: {:?}", self.options), "the city is founded; faults begin");
        let mut faulter = Faulter::new(self.rng.fork());
        let mut clients = Clients::new(self.rng.fork(), &self.options);
        let end_us = self.now_us + self.options.safety_ms * 1000;
        while self.now_us < end_us {
            faulter.step(self);
            clients.step(self);
            self.tick()?;
        }
        self.begin_phase("safety phase over: everything is healed", "all is healed; the city settles");
        faulter.heal(self);
        clients.stop();
        self.until("every client has its answers", |city| {
            clients.step(city);
            clients.idle()
        })?;
        clients.abandon(self);
        if self.options.ends_dark {
            faulter.darken(self);
        }
        self.until("the city converges", City::is_settled)?;
        self.finish()
    }

    /// One window of everything.
    pub fn tick(&mut self) -> Result<(), Violation> {
        self.now_us += WINDOW_US;
        for host in &self.hosts {
            if host.is_running() && self.now_us <= host.paused_until_us {
                host.time.freeze(self.now_us);
                self.net.lock().overflow(host.id, self.now_us, self.options.buffer_packets);
            }
        }
        while let Some(at) = self.furthest_behind() {
            self.step(at)?;
        }
        if let Some(forged) = self.ledger.forged.take() {
            return Err(Violation(forged));
        }
        for host in &self.hosts {
            if !host.is_running() {
                host.time.pass(self.now_us);
                drop(self.net.lock().arrived(host.id, self.now_us));
            }
        }
        Ok(())
    }

    fn furthest_behind(&self) -> Option<usize> {
        let behind = self.hosts.iter().enumerate().filter(|(_, host)| host.is_running());
        let behind = behind.map(|(at, host)| (host.time.city_us(), at)).min()?;
        (behind.0 < self.now_us).then_some(behind.1)
    }

    /// One host lives until its next packet, until it sends one, or to the end of the window.
    fn step(&mut self, at: usize) -> Result<(), Violation> {
        let host = &mut self.hosts[at];
        let (arrived, next) = {
            let mut net = self.net.lock();
            (net.arrived(host.id, host.time.city_us()), net.next_due(host.id))
        };
        arrived.into_iter().for_each(|packet| host.deliver(packet));
        host.live(&self.net, next.map_or(self.now_us, |due_us| due_us.min(self.now_us)));
        self.check(at)
    }

    fn check(&mut self, at: usize) -> Result<(), Violation> {
        let host = &mut self.hosts[at];
        if let Some(why) = host.failure() {
            return Err(Violation(format!("{} did not start: {why}", host.name)));
        }
        let news = host.news().map(|news| (host.id, news));
        let runs: u64 = self.hosts.iter().map(|host| host.world.engine.changes()).sum();
        if runs != self.runs_seen {
            self.runs_seen = runs;
            let running = |host: &Host| {
                let id = host.id;
                host.world.running().into_iter().map(move |(vm, epoch)| (id, vm, epoch)).collect::<Vec<_>>()
            };
            let running: Vec<_> = self.hosts.iter().flat_map(running).collect();
            self.record_running(at, &running);
            self.laws.starts(&running, &self.hosts)?;
            self.checks.instances(&running)?;
        }
        match news {
            None => Ok(()),
            Some((id, news)) => {
                self.record_news(at, &news);
                self.checks.process(id, &news)?;
                self.laws.front(&news.state, &self.hosts)
            }
        }
    }

    pub fn now_us(&self) -> u64 {
        self.now_us
    }

    pub fn say(&self, who: &str, what: impl Into<String>) {
        self.net.lock().trace.line(self.now_us / 1000, who, what);
    }

    pub fn start(&mut self, at: usize) {
        let net = self.net.clone();
        self.hosts[at].start(&net);
    }

    pub fn kill(&mut self, at: usize) {
        self.hosts[at].kill();
        self.record_kill(at);
        let id = self.hosts[at].id;
        self.checks.restarted(id);
    }

    /// Ticks until something holds, at most the liveness time.
    fn until(&mut self, what: &str, mut holds: impl FnMut(&mut Self) -> bool) -> Result<(), Violation> {
        let end_us = self.now_us + self.options.liveness_ms * 1000;
        while !holds(self) {
            if self.now_us > end_us {
                return Err(Violation(format!(
                    "not within {} ms after healing: {what}; {}",
                    self.options.liveness_ms,
                    self.standing()
                )));
            }
            self.tick()?;
        }
        Ok(())
    }

    /// Asks one host until it answers, without clients; for the foundation.
    fn ask(&mut self, at: usize, command: Command) -> Result<(), Violation> {
        let request = request_id(&mut self.rng);
        let task = Task { client: 0, request, what: What::Write(command) };
        let host = &self.hosts[at];
        let asked = host.asked().ok_or_else(|| Violation("the founder is not running".into()))?;
        host.spawn(workload::carry_out(asked, task, self.outcomes.clone()));
        let mut answered = None;
        self.until("the foundation is laid", |city| {
            answered = city.outcomes.take().pop().or(answered.take());
            answered.is_some()
        })?;
        match answered {
            Some(Done { outcome: workload::Outcome::Answered(answer), .. }) if answer.result.is_ok() => {
                Ok(())
            }
            other => Err(Violation(format!("the foundation was refused: {other:?}"))),
        }
    }

    fn found(&mut self) -> Result<(), Violation> {
        for at in 0..self.hosts.len() {
            self.start(at);
        }
        self.until("all processes are up", |city| city.hosts.iter().all(|host| host.process().is_some()))?;
        let founder = self.hosts[0].process().expect("it is up").core.clone();
        self.hosts[0].spawn(async move {
            founder.proposer.raft.initialize().await.expect("the first node founds the group");
        });
        let init = self.init_city();
        self.ask(0, init)?;
        for at in 1..self.hosts.len() {
            let (token, admit) = self.admission(at);
            self.ask(0, token)?;
            self.ask(0, admit)?;
        }
        for command in self.ledger.foundation() {
            self.ask(0, command)?;
        }
        self.forgeries()?;
        let voters = if self.hosts.len() >= 7 { 5 } else { 3 };
        self.until("the voters are chosen", |city| {
            let process = city.hosts[0].process().expect("nothing is killed yet");
            let status = process.core.proposer.raft.status().borrow().clone();
            status.voters.len() == voters && !status.joint
        })?;
        if let Some(papers) = &self.papers {
            let age = papers.age(&self.hosts);
            self.say("city", age);
        }
        Ok(())
    }

    /// What strangers will try to get in with: a token that is used, one that expires, one whose secret
    /// they do not know.
    fn forgeries(&mut self) -> Result<(), Violation> {
        let (short, good) = (JoinTokenId::from_u128(100), JoinTokenId::from_u128(101));
        let secret = Digest([100; 32]);
        let now_ms = crate::clock::EPOCH_MS + self.now_us / 1000;
        for (id, expires_ms) in [(short, 1_000), (good, 24 * 3_600_000)] {
            let expires_at = Timestamp(now_ms + expires_ms);
            self.ask(0, Command::CreateJoinToken(CreateJoinToken { id, secret_digest: secret, expires_at }))?;
        }
        let used = (JoinTokenId::from_u128(1), Digest([1; 32]));
        // Clocks differ by ten seconds at most.
        for (from_s, (token, secret)) in [(0, used), (12, (short, secret)), (0, (good, Digest([0; 32])))] {
            let key = scp_mesh::NodeKey::generate().expect("a key can be made");
            let mut admit = self.admit(0, token, secret);
            (admit.node, admit.public_key) = (key.id(), key.public_key());
            admit.profile.name = name(&format!("stranger-{from_s}"));
            self.ledger.forgeries.push((self.now_us + from_s * 1_000_000, admit));
        }
        Ok(())
    }

    fn init_city(&mut self) -> Command {
        let node = self.admit(0, JoinTokenId::default(), Digest::default());
        Command::InitCity(Box::new(InitCity {
            city: quic::CITY,
            name: name(quic::CITY_NAME),
            country: country(),
            ca_certificate: self.papers.as_ref().map_or("simulated".into(), Papers::certificate),
            ca_key_sealed: self.papers.as_ref().map_or(vec![1], Papers::sealed_key),
            node,
            admin: CreateUser {
                id: UserId::from_u128(1),
                name: name("admin"),
                password_hash: "simulated".into(),
                city_roles: [CityRole::Admin].into(),
                grants: BTreeMap::new(),
            },
            department: DepartmentId::from_u128(500),
            project: ProjectId::from_u128(500),
            flavors: vec![CreateFlavor {
                id: scp_model::FlavorId::from_u128(1),
                name: name("tiny"),
                resources: Resources { vcpus: 1, memory_mib: 256, disk_mib: 16 },
            }],
        }))
    }

    fn admission(&mut self, at: usize) -> (Command, Command) {
        let id = JoinTokenId::from_u128(at as u128);
        let secret = Digest([at as u8; 32]);
        let expires_at = Timestamp(crate::clock::EPOCH_MS + 24 * 3_600_000);
        let token = Command::CreateJoinToken(CreateJoinToken { id, secret_digest: secret, expires_at });
        (token, Command::AdmitNode(Box::new(self.admit(at, id, secret))))
    }

    fn admit(&self, at: usize, token: JoinTokenId, secret_digest: Digest) -> AdmitNode {
        let host = &self.hosts[at];
        AdmitNode {
            token,
            secret_digest,
            node: host.id,
            public_key: host.key.public_key(),
            profile: NodeProfile {
                name: host.name.clone(),
                zone: host.zone.clone(),
                country: country(),
                mesh_address: host.address,
                api_address: (host.address.ip(), 8443).into(),
                software: "0.1.0".into(),
                protocol: scp_model::PROTOCOL,
                capacity: self.options.capacity,
                reserved: Resources::default(),
                compute: Compute::Tcg,
            },
        }
    }

    fn states(&self) -> Option<Vec<(NodeId, scp_state::State)>> {
        self.hosts
            .iter()
            .map(|host| Some((host.id, (*host.process()?.core.proposer.published.state()).clone())))
            .collect()
    }

    fn finish(&mut self) -> Result<(), Violation> {
        let states = self.states().ok_or_else(|| Violation("a process is not up".into()))?;
        checks::converged(&states)?;
        let (_, state) = &states[0];
        let lost = self.ledger.departments.iter().find(|id| !state.departments.contains_key(*id));
        if let Some(id) = lost {
            return Err(Violation(format!("acknowledged department {id} is lost")));
        }
        let lost = self.ledger.vms.keys().find(|id| !state.vms.contains_key(*id));
        if let Some(id) = lost {
            return Err(Violation(format!("acknowledged VM {id} is lost")));
        }
        let lost = self.ledger.images.iter().find(|id| !state.images.contains_key(*id));
        if let Some(id) = lost {
            return Err(Violation(format!("acknowledged image {id} is lost")));
        }
        for (project, history) in &self.ledger.history {
            match linear::check(history) {
                linear::Verdict::Linearizable | linear::Verdict::Unknown => {}
                linear::Verdict::Violation => {
                    return Err(Violation(format!("register {project} is not linearizable: {history:?}")));
                }
            }
        }
        Ok(())
    }
}

fn country() -> Country {
    "PT".parse().expect("two upper-case letters")
}
