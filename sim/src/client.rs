//! Clients: ask, wait, repeat elsewhere.

use scp_chronicle::Outcome as Seen;
use scp_model::RequestId;

use crate::{
    city::{City, WINDOW_US},
    entropy::SplitMix,
    options::Options,
    recorder,
    workload::{self, Done, Outcome, Task, request_id},
};

/// All clients of a run.
pub struct Clients {
    rng: SplitMix,
    think_us: u64,
    patience_us: u64,
    clients: Vec<Client>,
    stopped: bool,
}

#[derive(Default)]
struct Client {
    next_us: u64,
    asking: Option<Asking>,
}

struct Asking {
    task: Task,
    begun_us: u64,
    asked_us: u64,
    /// The host that is asked, and since when; none: it has answered.
    on: Option<(usize, u64)>,
}

impl Asking {
    /// The host that was asked has answered, or is not waited for any longer.
    fn over(&mut self, city: &City, (ended_us, outcome): (Option<u64>, Seen)) {
        if let Some((at, begun_us)) = self.on.take() {
            let node = Some(at);
            city.record_asking(&self.task, recorder::Asking { node, begun_us, ended_us, outcome });
        }
    }
}

impl Clients {
    pub fn new(rng: SplitMix, options: &Options) -> Self {
        let clients = (0..options.clients).map(|_| Client::default()).collect();
        let (think_us, patience_us) = (options.think_ms * 1000, options.patience_ms * 1000);
        Self { rng, think_us, patience_us, clients, stopped: false }
    }

    /// No new requests; those under way are repeated until they are answered.
    pub fn stop(&mut self) {
        self.stopped = true;
    }

    pub fn idle(&self) -> bool {
        self.clients.iter().all(|client| client.asking.is_none())
    }

    pub fn step(&mut self, city: &mut City) {
        for done in city.outcomes.take() {
            self.take(city, &done);
        }
        for number in 0..self.clients.len() {
            self.step_one(city, number);
        }
    }

    fn step_one(&mut self, city: &mut City, number: usize) {
        let now_us = city.now_us();
        let client = &mut self.clients[number];
        match &mut client.asking {
            Some(asking) if now_us - asking.asked_us > self.patience_us => {
                asking.asked_us = now_us;
                asking.over(city, (None, Seen::Unknown));
                let task = asking.task.clone();
                let at = self.ask(city, task, 0);
                self.asked(number, (at, now_us));
            }
            Some(_) => {}
            None if self.stopped || now_us < client.next_us => {}
            None => {
                let nodes: Vec<_> = city.hosts.iter().map(|host| host.id).collect();
                let what = city.ledger.draw(&mut self.rng, (now_us, &nodes));
                let task = Task { client: number, request: request_id(&mut self.rng), what };
                // Within the window, so that faults, which begin with windows, meet requests half done. A
                // host's instants are up to a millisecond early.
                let delay_ms = self.rng.below(WINDOW_US / 1000);
                let begun_us = now_us + delay_ms.saturating_sub(2) * 1000;
                client.asking = Some(Asking { task: task.clone(), begun_us, asked_us: now_us, on: None });
                let at = self.ask(city, task, delay_ms);
                self.asked(number, (at, begun_us));
            }
        }
    }

    fn asked(&mut self, number: usize, on: (usize, u64)) {
        if let Some(asking) = &mut self.clients[number].asking {
            asking.on = Some(on);
        }
    }

    /// Gives the task to a node that runs, if the one that was picked does; says which was picked.
    fn ask(&mut self, city: &City, task: Task, delay_ms: u64) -> usize {
        let at = self.rng.below(city.hosts.len() as u64) as usize;
        let host = &city.hosts[at];
        if let Some(asked) = host.asked() {
            let outcomes = city.outcomes.clone();
            host.spawn(async move {
                tokio::time::sleep(std::time::Duration::from_millis(delay_ms)).await;
                workload::carry_out(asked, task, outcomes).await;
            });
        }
        at
    }

    fn take(&mut self, city: &mut City, done: &Done) {
        let now_us = city.now_us();
        let Done { task, outcome, at_us } = done;
        let client = &mut self.clients[task.client];
        let Some(asking) = client.asking.as_mut().filter(|asking| same(asking, task.request)) else {
            return;
        };
        asking.over(city, (Some(*at_us), seen(outcome)));
        if let Outcome::Failed(_) = outcome {
            city.ledger.failed += 1;
            // Asked again at the next step.
            asking.asked_us = now_us.saturating_sub(self.patience_us + 1);
            return;
        }
        city.ledger.answered((asking.begun_us, *at_us), task, outcome);
        client.asking = None;
        client.next_us = now_us + self.rng.below(2 * self.think_us + 1);
    }

    /// What never got an answer.
    pub fn abandon(&mut self, city: &mut City) {
        for client in &mut self.clients {
            if let Some(mut asking) = client.asking.take() {
                asking.over(city, (None, Seen::Unknown));
                city.ledger.abandoned(asking.begun_us, &asking.task);
            }
        }
    }
}

fn seen(outcome: &Outcome) -> Seen {
    match outcome {
        Outcome::Read(_) => Seen::Ok,
        Outcome::Answered(answer) if answer.result.is_ok() => Seen::Ok,
        Outcome::Answered(_) => Seen::Refused,
        Outcome::Failed(_) => Seen::Failed,
    }
}

fn same(asking: &Asking, request: RequestId) -> bool {
    asking.task.request == request
}
