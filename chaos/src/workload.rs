//! The clients: they write and read registers and create departments over HTTPS, at every node in turn,
//! and remember what they were told.
//!
//! ```text
//! lane: a new project, its quota's `vms` is the register ─▶ writers, readers ─▶ after a while the next
//! creator: a department with an id and a name made here ─▶ the next
//! ```
//!
//! - A register lives for [`REGISTER_LIFE`], so that its history stays small enough to judge.
//! - A request that got no answer is sent again, to the next node, with the same idempotency key, until it
//!   is answered or [`REQUEST_WITHIN`] is over. Every second creation is repeated with the same id and a
//!   new key instead: that alone must make it one.
//! - All of it runs on one thread inside the servers' network.

use std::{
    collections::BTreeSet,
    fs::File,
    os::fd::AsFd,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use anyhow::{Context, Result};
use futures::future::join_all;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use rustls::time_provider::{DefaultTimeProvider, TimeProvider};
use scp_api::{
    client::{Client, ClientError},
    v1::{DepartmentCreate, KeypairCreate, ProjectCreate, QuotaSet, TokenRequest},
};
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use crate::{
    city::{Access, City, tell},
    history::{Clock, History, Micros, Request, What},
    scenario::Load,
};

/// One node's time to answer before the next is asked: short, so that the gap in the acknowledgements is
/// the city's and not the client's; several times what an answer takes on a busy machine.
const TRY_WITHIN: Duration = Duration::from_millis(500);
/// Longer than any outage but those that last on purpose.
const REQUEST_WITHIN: Duration = Duration::from_secs(20);
/// A password is hashed for it, which is slow on purpose.
const LOGIN_WITHIN: Duration = Duration::from_secs(5);
/// A request that is refused for its token after so many tries is refused for good.
const LOGINS_MAX: u32 = 20;
/// Between two tries.
const RETRY_PAUSE: Duration = Duration::from_millis(20);
/// Some hundred requests at the usual load.
pub const REGISTER_LIFE: Duration = Duration::from_secs(10);

struct Shared {
    load: Load,
    clock: Clock,
    access: Access,
    /// What they judge certificates by.
    time: Arc<dyn TimeProvider>,
    stop: AtomicBool,
    /// The access token: none at first, and it ends when the node that signed it leaves.
    token: tokio::sync::Mutex<String>,
    /// Clients of the nodes that may be asked, by server; without a token.
    nodes: Mutex<Vec<(String, Client)>>,
    history: Mutex<History>,
    /// Makes values, names and first nodes differ.
    counter: AtomicU64,
    /// Projects that are registers, by id.
    registers: Mutex<BTreeSet<String>>,
}

/// Nothing panics while it holds one of these locks, so what is inside is whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// The running clients.
pub struct Workload {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Workload {
    /// Starts them in that network namespace, with no node to ask yet.
    pub fn start(load: &Load, city: &City, clock: Clock) -> Result<Self> {
        let shared = Arc::new(Shared {
            load: load.clone(),
            clock,
            access: city.access.clone(),
            time: match &city.clocks {
                Some(clocks) => clocks.of_clients(),
                None => Arc::new(DefaultTimeProvider),
            },
            stop: AtomicBool::new(false),
            token: tokio::sync::Mutex::default(),
            nodes: Mutex::default(),
            history: Mutex::default(),
            counter: AtomicU64::new(1),
            registers: Mutex::default(),
        });
        let network = File::open(city.network()).context("the servers' network cannot be opened")?;
        let inside = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("clients".into()).spawn(move || {
            // This thread alone moves; a process is where its first thread is.
            move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network))
                .context("the servers' network cannot be entered")?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.context("the async runtime cannot be made")?.block_on(inside.run());
            Ok(())
        });
        Ok(Self { shared, thread: Some(thread.context("the clients' thread cannot be started")?) })
    }

    /// From now on this node is asked too.
    pub fn add_node(&self, server: &str, address: String) -> Result<()> {
        let (authority, time) = (&self.shared.access.ca_certificate, self.shared.time.clone());
        let client = Client::https_at([address], authority, time)?;
        lock(&self.shared.nodes).push((server.into(), client.with_deadline(TRY_WITHIN)));
        Ok(())
    }

    pub fn remove_node(&self, server: &str) {
        lock(&self.shared.nodes).retain(|(name, _)| name != server);
    }

    /// When the last change was acknowledged.
    pub fn last_acknowledged(&self) -> Micros {
        lock(&self.shared.history).acknowledged().last().copied().unwrap_or(0)
    }

    /// Ends the clients when their requests are answered, and gives what they saw, with the registers.
    pub fn end(mut self) -> Result<(History, Vec<String>)> {
        self.shared.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().expect("only the end takes it");
        thread.join().expect("clients do not panic")?;
        let history = std::mem::take(&mut *lock(&self.shared.history));
        Ok((history, lock(&self.shared.registers).iter().cloned().collect()))
    }
}

impl Drop for Workload {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}

/// How a request went.
enum Outcome<T> {
    Answered(T),
    Refused(String),
    /// It may have happened.
    Unknown,
    /// It cannot have happened.
    NotSent,
}

impl Shared {
    async fn run(self: &Arc<Self>) {
        let lanes = (0..self.load.registers).map(|lane| tokio::spawn(Arc::clone(self).lane(lane)));
        let creators = (0..self.load.creators).map(|at| tokio::spawn(Arc::clone(self).creator(at)));
        let ballast = (0..self.load.ballast).map(|_| tokio::spawn(Arc::clone(self).ballast()));
        for ended in join_all(lanes.chain(creators).chain(ballast).collect::<Vec<_>>()).await {
            ended.expect("clients do not panic");
        }
    }

    fn is_over(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn next(&self) -> u64 {
        self.counter.fetch_add(1, Ordering::Relaxed)
    }

    fn record(&self, request: Request) {
        lock(&self.history).requests.push(request);
    }

    async fn pace(&self) {
        sleep(Duration::from_millis(self.load.pace_ms)).await;
    }

    /// Asks one node after the other until one answers. Says when the last try began, and how many
    /// there were.
    async fn ask<T, F>(&self, request: impl Fn(Client, u32) -> F) -> (Outcome<T>, Micros, u32)
    where
        F: Future<Output = Result<T, ClientError>>,
    {
        let first = self.next();
        let deadline = Instant::now() + REQUEST_WITHIN;
        let (mut tries, mut was_sent) = (0, false);
        loop {
            let begun = self.clock.now();
            let client = {
                let nodes = lock(&self.nodes);
                let at = first.wrapping_add(u64::from(tries)) % (nodes.len().max(1) as u64);
                nodes.get(at as usize).map(|(_, client)| client.clone())
            };
            if let Some(client) = client {
                let token = self.token.lock().await.clone();
                match request(client.clone().with_token(&token), tries).await {
                    Ok(answer) => return (Outcome::Answered(answer), begun, tries + 1),
                    Err(ClientError::Unreachable { .. }) => {}
                    Err(error) if is_stranger(&error) && tries < LOGINS_MAX => {
                        self.log_in(&client, &token).await;
                    }
                    Err(error) if is_refusal(&error) => {
                        return (Outcome::Refused(tell(&error)), begun, tries + 1);
                    }
                    Err(_) => was_sent = true,
                }
                tries += 1;
            }
            if Instant::now() >= deadline {
                let outcome = if was_sent { Outcome::Unknown } else { Outcome::NotSent };
                return (outcome, begun, tries);
            }
            sleep(RETRY_PAUSE).await;
        }
    }

    /// Gets another token, unless somebody has got one since this one was used.
    async fn log_in(&self, client: &Client, used: &str) {
        let mut token = self.token.lock().await;
        if *token != used {
            return;
        }
        let request = TokenRequest {
            user: self.access.user.clone(),
            password: self.access.password.clone(),
            lifetime_s: None,
        };
        // No answer: the next request is refused again, and tries again.
        if let Ok(made) = client.clone().with_deadline(LOGIN_WITHIN).login(&request).await {
            *token = made.token;
        }
    }

    /// Sends a change and writes down how it went.
    async fn change<F>(&self, client: String, what: What, request: impl Fn(Client, u32) -> F)
    where
        F: Future<Output = Result<(), ClientError>>,
    {
        let begun = self.clock.now();
        let (outcome, _, tries) = self.ask(request).await;
        let ended = Some(self.clock.now());
        match outcome {
            Outcome::Answered(()) => self.record(Request { client, begun, ended, tries, what }),
            Outcome::Unknown => self.record(Request { client, begun, ended: None, tries, what }),
            Outcome::NotSent => {}
            Outcome::Refused(answer) => {
                let what = What::Refused { asked: format!("{what:?}"), answer };
                self.record(Request { client, begun, ended, tries, what });
            }
        }
    }

    async fn lane(self: Arc<Self>, lane: usize) {
        while !self.is_over() {
            let Some(register) = self.make_register(lane).await else {
                self.pace().await;
                continue;
            };
            let until = Instant::now() + REGISTER_LIFE;
            let writers = (0..self.load.writers).map(|at| {
                let name = format!("writer {lane}.{at}");
                tokio::spawn(Arc::clone(&self).writer(name, register.clone(), until))
            });
            let readers = (0..self.load.readers).map(|at| {
                let name = format!("reader {lane}.{at}");
                tokio::spawn(Arc::clone(&self).reader(name, register.clone(), until))
            });
            for ended in join_all(writers.chain(readers).collect::<Vec<_>>()).await {
                ended.expect("clients do not panic");
            }
        }
    }

    /// A project with a quota of no VMs; none when the city does not answer.
    async fn make_register(&self, lane: usize) -> Option<String> {
        let id = Uuid::new_v4().to_string();
        let quota = QuotaSet { vms: Some(0), ..QuotaSet::default() };
        let order = ProjectCreate {
            id: Some(id.clone()),
            name: format!("register-{lane}-{}", self.next()),
            department: Some("default".into()),
            quota: Some(quota),
        };
        let key = Client::new_request_id();
        let create = |client: Client, _| {
            let order = order.clone();
            async move { client.with_request(key).create_project(&order).await.map(drop) }
        };
        match self.ask(create).await.0 {
            Outcome::Answered(()) => {
                lock(&self.registers).insert(id.clone());
                Some(id)
            }
            Outcome::Refused(answer) => {
                let (begun, asked) = (self.clock.now(), format!("{order:?}"));
                let what = What::Refused { asked, answer };
                let client = format!("lane {lane}");
                self.record(Request { client, begun, ended: Some(begun), tries: 1, what });
                None
            }
            // Nobody uses it, whether it is there or not.
            Outcome::Unknown | Outcome::NotSent => None,
        }
    }

    async fn writer(self: Arc<Self>, name: String, register: String, until: Instant) {
        while !self.is_over() && Instant::now() < until {
            let (value, key) = (self.next(), Client::new_request_id());
            let quota = QuotaSet { vms: Some(value), ..QuotaSet::default() };
            let write = |client: Client, _| {
                let register = register.clone();
                async move { client.with_request(key).set_quota(&register, &quota).await.map(drop) }
            };
            self.change(name.clone(), What::Write { register: register.clone(), value }, write).await;
            self.pace().await;
        }
    }

    async fn reader(self: Arc<Self>, name: String, register: String, until: Instant) {
        while !self.is_over() && Instant::now() < until {
            let read = |client: Client, _| {
                let register = register.clone();
                async move { client.get_quota(&register).await }
            };
            // A repeated read is a new one: the narrower its time, the more it proves.
            let (outcome, begun, tries) = self.ask(read).await;
            let ended = Some(self.clock.now());
            let what = match outcome {
                Outcome::Answered(usage) => {
                    Some(What::Read { register: register.clone(), value: usage.quota.vms })
                }
                Outcome::Refused(answer) => {
                    Some(What::Refused { asked: format!("a read of {register}"), answer })
                }
                Outcome::Unknown | Outcome::NotSent => None,
            };
            if let Some(what) = what {
                self.record(Request { client: name.clone(), begun, ended, tries, what });
            }
            self.pace().await;
        }
    }

    async fn creator(self: Arc<Self>, at: usize) {
        while !self.is_over() {
            let number = self.next();
            let (id, department) = (Uuid::new_v4().to_string(), format!("d-{number}"));
            let order = DepartmentCreate { id: Some(id.clone()), name: department.clone() };
            let key = Client::new_request_id();
            let create = |client: Client, tries: u32| {
                let order = order.clone();
                let has_new_key = number % 2 == 1 && tries > 0;
                let client = if has_new_key { client } else { client.with_request(key) };
                async move { client.create_department(&order).await.map(drop) }
            };
            let what = What::Create { id, name: department };
            self.change(format!("creator {at}"), what, create).await;
            self.pace().await;
        }
    }
}

impl Shared {
    /// How these requests end does not matter: what they leave behind does.
    async fn ballast(self: Arc<Self>) {
        while !self.is_over() {
            let id = Uuid::new_v4().to_string();
            let order = KeypairCreate {
                id: Some(id.clone()),
                name: format!("ballast-{}", self.next()),
                project: Some("default".into()),
                public_key: format!("{BALLAST_KEY} {}", "x".repeat(BALLAST_BYTES)),
            };
            let create = |client: Client, _| {
                let order = order.clone();
                async move { client.create_keypair(&order).await.map(drop) }
            };
            if !matches!(self.ask(create).await.0, Outcome::Answered(())) {
                self.pace().await;
            }
            let id = id.as_str();
            self.ask(|client, _| async move { client.delete_keypair(id, None).await }).await;
        }
    }
}

/// A public key of all zeros, as OpenSSH writes it; its comment is the ballast.
const BALLAST_KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
/// A key's line may have 8 KiB.
const BALLAST_BYTES: usize = 8000;

/// The token is not, or no longer, known.
fn is_stranger(error: &ClientError) -> bool {
    error.problem().is_some_and(|problem| problem.status == 401)
}

/// The city said no, for good. Everything else is repeated.
fn is_refusal(error: &ClientError) -> bool {
    match error {
        ClientError::Problem(problem) => problem.status < 500 && problem.status != 429,
        ClientError::BadAnswer { .. } | ClientError::Config { .. } | ClientError::Io { .. } => true,
        ClientError::Unreachable { .. } | ClientError::Lost { .. } => false,
    }
}
