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
        let payload = scp_codec::to_payload(proposal).expect("what a log can hold encodes");
        self.apply_logged(index, proposal, &payload)
    }

    /// The same where the proposal was read from `payload`, as the log holds it.
    pub fn apply_logged(&mut self, index: u64, proposal: &Proposal, payload: &[u8]) -> Applied {
        assert!(index > self.index, "index {index} is applied after {}", self.index);
        self.index = index;
        if let Some(answer) = self.requests.answers.get(&proposal.request)
            && !scp_mutant::on("dedupe-missing")
        {
            return Applied { answer: answer.clone(), events: Vec::new() };
        }
        self.time = match scp_mutant::on("clock-not-monotonic") {
            true => proposal.time,
            false => self.time.max(proposal.time),
        };
        self.audit_head = audit_link(self.audit_head, index, payload);

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
        let skipped = usize::from(events.len() > 1 && scp_mutant::on("watch-ring-skips"));
        self.events.extend(events[..events.len() - skipped].iter().cloned());
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
pub fn audit_link(head: Digest, index: u64, payload: &[u8]) -> Digest {
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

#[cfg(test)]
mod tests {
    use scp_model::{NodeId, command::DeleteVm};

    use super::*;

    fn proposal(request: u128) -> Proposal {
        Proposal {
            request: RequestId::from_u128(request),
            actor: Actor::Local(NodeId(1)),
            time: Timestamp(5),
            command: Command::DeleteVm(DeleteVm { vm: Default::default() }),
        }
    }

    #[test]
    fn the_request_table_forgets_the_oldest_and_keeps_its_bound() {
        let mut requests = Requests::default();
        let more = 10;
        for at in 0..(limits::REQUESTS_MAX + more) as u64 {
            let answer = Answer { index: at, result: Ok(()) };
            requests.remember(RequestId::from_u128(u128::from(at)), answer);
        }
        assert_eq!(
            (requests.order.len(), requests.answers.len()),
            (limits::REQUESTS_MAX, limits::REQUESTS_MAX)
        );
        let kept = |at: usize| requests.answers.get(&RequestId::from_u128(at as u128));
        assert_eq!(kept(more - 1), None);
        assert_eq!(kept(more).map(|answer| answer.index), Some(more as u64));
    }

    #[test]
    fn the_watch_ring_drops_the_oldest_and_says_so() {
        let mut state = State::default();
        for _ in 0..limits::EVENTS_MAX + 5 {
            let event = Event {
                sequence: state.next_event,
                index: 1,
                time: Timestamp(1),
                actor: Actor::Local(NodeId(1)),
                subject: Subject::City,
                project: None,
                kind: EventKind::SettingsChanged,
            };
            state.publish(&[event]);
        }
        assert_eq!(state.events.len(), limits::EVENTS_MAX);
        assert_eq!(state.events_from(4).err(), Some(crate::EventsGap { oldest: 5 }));
        assert_eq!(state.events_from(5).map(Iterator::count), Ok(limits::EVENTS_MAX));
        let last = state.next_event - 1;
        assert_eq!(
            state.events_from(last).map(|mut events| events.next().map(|e| e.sequence)),
            Ok(Some(last))
        );
        assert_eq!(state.events_from(last + 1).map(Iterator::count), Ok(0));
        assert_eq!(state.events_from(last + 100).map(Iterator::count), Ok(0), "not there yet is no gap");
    }

    #[test]
    fn the_audit_chain_holds_every_command_its_place_and_its_order() {
        let links = |log: &[(u64, u128)]| {
            log.iter().fold(Digest::default(), |head, (index, request)| {
                let payload = scp_codec::to_payload(&proposal(*request)).expect("it encodes");
                audit_link(head, *index, &payload)
            })
        };
        let head = links(&[(1, 1), (2, 2)]);
        for other in [&[(1, 2), (2, 1)][..], &[(1, 1), (3, 2)], &[(1, 1)], &[(2, 2)], &[(1, 1), (2, 3)]] {
            assert_ne!(links(other), head, "{other:?}");
        }
        let mut state = State::default();
        state.apply(1, &proposal(1));
        state.apply(2, &proposal(2));
        assert_eq!(state.audit_head, head, "rejected commands are in the chain too");
        state.apply(3, &proposal(2));
        assert_eq!((state.audit_head, state.index), (head, 3), "a repetition is not applied");
    }

    #[test]
    #[should_panic(expected = "index 1 is applied after 1")]
    fn a_log_that_is_applied_out_of_order_is_our_mistake() {
        let mut state = State::default();
        state.apply(1, &proposal(1));
        state.apply(1, &proposal(2));
    }
}
