//! Clients: ask, wait, repeat elsewhere.

use scp_model::RequestId;

use crate::{
    city::City,
    entropy::SplitMix,
    workload::{self, Outcome, Task, request_id},
};

/// A client waits so long for one node before it asks another.
const PATIENCE_US: u64 = 12_000_000;

/// All clients of a run.
pub struct Clients {
    rng: SplitMix,
    think_us: u64,
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
}

impl Clients {
    pub fn new(rng: SplitMix, count: usize, think_ms: u64) -> Self {
        let clients = (0..count).map(|_| Client::default()).collect();
        Self { rng, think_us: think_ms * 1000, clients, stopped: false }
    }

    /// No new requests; those under way are repeated until they are answered.
    pub fn stop(&mut self) {
        self.stopped = true;
    }

    pub fn idle(&self) -> bool {
        self.clients.iter().all(|client| client.asking.is_none())
    }

    pub fn step(&mut self, city: &mut City) {
        for (task, outcome) in city.outcomes.take() {
            self.take(city, &task, &outcome);
        }
        for number in 0..self.clients.len() {
            self.step_one(city, number);
        }
    }

    fn step_one(&mut self, city: &mut City, number: usize) {
        let now_us = city.now_us();
        let client = &mut self.clients[number];
        match &mut client.asking {
            Some(asking) if now_us - asking.asked_us > PATIENCE_US => {
                asking.asked_us = now_us;
                let task = asking.task.clone();
                self.ask(city, task);
            }
            Some(_) => {}
            None if self.stopped || now_us < client.next_us => {}
            None => {
                let nodes: Vec<_> = city.hosts.iter().map(|host| host.id).collect();
                let what = city.ledger.draw(&mut self.rng, &nodes);
                let task = Task { client: number, request: request_id(&mut self.rng), what };
                client.asking = Some(Asking { task: task.clone(), begun_us: now_us, asked_us: now_us });
                self.ask(city, task);
            }
        }
    }

    /// Gives the task to a node that runs, if the one that was picked does.
    fn ask(&mut self, city: &City, task: Task) {
        let host = self.rng.pick(&city.hosts);
        if let Some(process) = host.process() {
            host.spawn(workload::carry_out(process.door, task, city.outcomes.clone()));
        }
    }

    fn take(&mut self, city: &mut City, task: &Task, outcome: &Outcome) {
        let now_us = city.now_us();
        let client = &mut self.clients[task.client];
        let Some(asking) = client.asking.as_mut().filter(|asking| same(asking, task.request)) else {
            return;
        };
        if let Outcome::Failed(_) = outcome {
            city.ledger.failed += 1;
            // Asked again at the next step.
            asking.asked_us = now_us.saturating_sub(PATIENCE_US + 1);
            return;
        }
        city.ledger.answered((asking.begun_us, now_us), task, outcome);
        client.asking = None;
        client.next_us = now_us + self.rng.below(2 * self.think_us + 1);
    }

    /// What never got an answer.
    pub fn abandon(&mut self, city: &mut City) {
        for client in &mut self.clients {
            if let Some(asking) = client.asking.take() {
                city.ledger.abandoned(asking.begun_us, &asking.task);
            }
        }
    }
}

fn same(asking: &Asking, request: RequestId) -> bool {
    asking.task.request == request
}
