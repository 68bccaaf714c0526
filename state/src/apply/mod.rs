//! One command at a time: is it a repetition, who asks, may it be, what changes.
//!
//! ```text
//!  Proposal ─▶ request known? ──yes──▶ the first answer again; nothing changes but the index
//!                   │ no
//!                   ▼
//!              time, audit chain
//!                   ▼
//!              permit: has the city begun; does a node speak only for itself
//!                   ▼
//!              the command's own file: first every check, then every change and its events
//!                   ▼
//!              request table, watch ring
//! ```
//!
//! # Guarantees
//! - Deterministic: nothing but the state and the proposal is read. In particular not this binary's
//!   own protocol number: two releases run side by side during an upgrade.
//! - A rejection leaves no trace but index, time, audit head and request table.
//! - Creating what exists already, with the same contents under the same id, succeeds and changes
//!   nothing; with other contents it is [`Rejection::IdTaken`]. So even a retry that comes after its
//!   answer was forgotten doubles nothing.
//! - Asking for what is so already (the same power, a cordoned node cordoned) succeeds without an event.
//!
//! # Caveats
//! - Time is the latest proposer's clock. One far ahead carries the city's time along for good; the
//!   join check and the API's own clock check keep such a node out.
//! - Who among *users* may ask what is decided by the API before it proposes.
//!
//! Adding a command: see docs/guides/add-a-command.md.

mod admit_node;
mod assign_image;
mod bind_vm;
mod check;
mod city;
mod create_vm;
mod delete_vm;
mod department;
mod evacuate_vm;
mod flavor;
mod image;
mod join_token;
mod keypair;
mod liveness;
mod node;
mod permit;
mod placement;
mod project;
mod remove_node;
mod report;
mod user;
mod vm;

use scp_model::{
    Actor, Answer, Command, Digest, Event, EventKind, ProjectId, Proposal, Rejection, RequestId, Subject,
    Timestamp,
};
use sha2::{Digest as _, Sha256};

use crate::{Requests, State, invariants, limits};

/// What applying one command gave.
#[derive(Debug, Clone, PartialEq)]
pub struct Applied {
    pub answer: Answer,
    /// Also appended to [`State::events`].
    pub events: Vec<Event>,
}

type Verdict = Result<(), Rejection>;

/// A command's effect: first every check, then every change.
trait Effect {
    fn apply(&self, change: &mut Change<'_>) -> Verdict;
}

/// The state while one command changes it, and the events so far.
struct Change<'a> {
    state: &'a mut State,
    index: u64,
    actor: Actor,
    events: Vec<Event>,
}

impl Change<'_> {
    fn now(&self) -> Timestamp {
        self.state.time
    }

    fn event(&mut self, subject: Subject, project: Option<ProjectId>, kind: EventKind) {
        let sequence = self.state.next_event + self.events.len() as u64;
        let (index, time, actor) = (self.index, self.state.time, self.actor);
        self.events.push(Event { sequence, index, time, actor, subject, project, kind });
    }
}

impl State {
    /// Applies the command committed at `index`. Indices rise; they need not be consecutive, since Raft
    /// has entries of its own.
    ///
    /// # Panics
    /// When `index` is not above the last one: the log would be applied out of order.
    pub fn apply(&mut self, index: u64, proposal: &Proposal) -> Applied {
        assert!(index > self.index, "index {index} is applied after {}", self.index);
        self.index = index;
        if let Some(answer) = self.requests.answers.get(&proposal.request) {
            return Applied { answer: answer.clone(), events: Vec::new() };
        }
        self.time = self.time.max(proposal.time);
        self.audit_head = audit_link(self.audit_head, index, proposal);

        let mut change = Change { state: self, index, actor: proposal.actor, events: Vec::new() };
        let result = permit::permit(&change, &proposal.command)
            .and_then(|()| effect(&proposal.command).apply(&mut change));
        let events = change.events;
        debug_assert!(result.is_ok() || events.is_empty(), "a rejected command has no events");

        let answer = Answer { index, result };
        self.requests.remember(proposal.request, answer.clone());
        self.publish(&events);
        if cfg!(debug_assertions)
            && let Err(broken) = invariants::check_sampled(self)
        {
            panic!("after {:?} at index {index}: {broken}", proposal.command);
        }
        Applied { answer, events }
    }

    fn publish(&mut self, events: &[Event]) {
        self.next_event += events.len() as u64;
        self.events.extend(events.iter().cloned());
        while self.events.len() > limits::EVENTS_MAX {
            self.events.pop_front();
        }
    }
}

impl Requests {
    fn remember(&mut self, request: RequestId, answer: Answer) {
        self.answers.insert(request, answer);
        self.order.push_back(request);
        while self.order.len() > limits::REQUESTS_MAX {
            let oldest = self.order.pop_front().expect("a list longer than its bound is not empty");
            self.answers.remove(&oldest);
        }
    }
}

/// The next link of the audit chain: SHA-256 over the head before, the index and the proposal as the
/// log holds it.
pub fn audit_link(head: Digest, index: u64, proposal: &Proposal) -> Digest {
    let payload = scp_codec::to_payload(proposal).expect("a proposal came out of the log, so it encodes");
    let link = Sha256::new().chain_update(head.0).chain_update(index.to_be_bytes()).chain_update(payload);
    Digest(link.finalize().into())
}

/// Which file is in charge. Every command has an arm; there is no other place to add one.
fn effect(command: &Command) -> &dyn Effect {
    match command {
        Command::InitCity(command) => command.as_ref(),
        Command::SetOvercommit(command) => command,
        Command::CreateJoinToken(command) => command,
        Command::RevokeJoinToken(command) => command,
        Command::AdmitNode(command) => command.as_ref(),
        Command::UpdateNode(command) => command.as_ref(),
        Command::SetNodeSchedulable(command) => command,
        Command::DrainNode(command) => command,
        Command::MarkNodeDown(command) => command,
        Command::MarkNodeUp(command) => command,
        Command::RemoveNode(command) => command,
        Command::CreateDepartment(command) => command,
        Command::DeleteDepartment(command) => command,
        Command::CreateProject(command) => command,
        Command::SetQuota(command) => command,
        Command::DeleteProject(command) => command,
        Command::CreateUser(command) => command,
        Command::UpdateUser(command) => command,
        Command::DeleteUser(command) => command,
        Command::CreateKeypair(command) => command,
        Command::DeleteKeypair(command) => command,
        Command::CreateFlavor(command) => command,
        Command::DeleteFlavor(command) => command,
        Command::CreateImage(command) => command.as_ref(),
        Command::AssignImage(command) => command,
        Command::DeleteImage(command) => command,
        Command::CreateVm(command) => command.as_ref(),
        Command::BindVm(command) => command,
        Command::EvacuateVm(command) => command,
        Command::SetVmPower(command) => command,
        Command::RebootVm(command) => command,
        Command::DeleteVm(command) => command,
        Command::Report(command) => command,
    }
}
