//! The run as lines: who did what, when, and how the nodes stood then. Quiet stretches are one line each.

use std::collections::{BTreeMap, BTreeSet};

use crate::record::{Event, Fault, Micros, Outcome, Record, Role, What, seconds};

/// More lines than this are left out in the middle: nobody reads them, and the beginning and the end tell most.
pub const ROWS_MAX: usize = 3_000;
/// Shorter is not a stretch: what went on in it is counted with the next.
const QUIET_MIN: Micros = 1_500_000;
/// VMs that move from one node within this are one event.
const MOVE_TOGETHER: Micros = 200_000;
/// Events that led to a broken promise: so many of the last, of VMs and of nodes each.
const BLAMED_MAX: usize = 12;

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    pub at: Micros,
    pub kind: Kind,
    /// Who did it, or whom it met.
    pub node: Option<usize>,
    pub text: String,
    /// How every node stands after it.
    pub cells: Vec<Cell>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Event,
    Fault,
    Leader,
    Phase,
    Quiet,
}

/// One node, at the time of a line.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cell {
    /// None: no process, or one that has not spoken yet.
    pub role: Option<Role>,
    pub term: u64,
    pub applied: u64,
    pub faults: BTreeSet<Fault>,
    /// Role or term changed since the line before.
    pub is_new: bool,
}

/// All lines, in order of time.
pub fn rows(record: &Record) -> Vec<Row> {
    let mut teller = Teller::new(record);
    for event in &record.events {
        teller.pass(event.at);
        teller.take(event.at, &event.what);
    }
    teller.pass(record.end);
    teller.flush_moves();
    teller.quiet(record.end);
    thinned(teller.rows)
}

fn thinned(mut rows: Vec<Row>) -> Vec<Row> {
    if rows.len() > ROWS_MAX {
        let left_out = rows.len() - ROWS_MAX;
        let at = ROWS_MAX / 2;
        let first = &rows[at];
        let text = format!("{left_out} lines are left out here");
        let gap = Row { kind: Kind::Quiet, node: None, text, ..first.clone() };
        rows.splice(at..at + left_out, [gap]);
    }
    rows
}

/// What went on without a line of its own.
#[derive(Debug, Default)]
struct Counts {
    answers: BTreeMap<Outcome, usize>,
    granted: usize,
    ended: usize,
}

/// VMs that lost their node and got another.
struct Move {
    at: Micros,
    from: usize,
    parts: Vec<String>,
}

struct Teller<'a> {
    record: &'a Record,
    cells: Vec<Cell>,
    /// When faults of nodes end by themselves.
    until: BTreeMap<(usize, Fault), Micros>,
    rows: Vec<Row>,
    last: Micros,
    counts: Counts,
    /// Places in `record.operations`, by when they were over.
    answers: Vec<(Micros, Outcome)>,
    answered: usize,
    /// Each VM's last node.
    places: BTreeMap<&'a str, usize>,
    moving: Option<Move>,
    /// What runs where, by VM: nodes and epochs.
    running: BTreeMap<&'a str, BTreeSet<(usize, u64)>>,
}

impl<'a> Teller<'a> {
    fn new(record: &'a Record) -> Self {
        let over = record.operations.iter().map(|it| (it.ended.unwrap_or(it.begun), it.outcome));
        let mut answers: Vec<_> = over.collect();
        answers.sort_unstable();
        Self {
            record,
            cells: vec![Cell::default(); record.nodes.len()],
            until: BTreeMap::new(),
            rows: Vec::new(),
            last: 0,
            counts: Counts::default(),
            answers,
            answered: 0,
            places: BTreeMap::new(),
            moving: None,
            running: BTreeMap::new(),
        }
    }

    /// Time goes on to the next event: what ends by itself ends, what waited is told.
    fn pass(&mut self, at: Micros) {
        let due = self.until.iter().filter(|(_, until)| **until <= at).map(|(key, until)| (*until, *key));
        let mut due: Vec<_> = due.collect();
        due.sort_unstable();
        for (until, key) in due {
            self.until.remove(&key);
            if key.1 == Fault::Pause {
                self.quiet(until);
            }
            self.cells[key.0].faults.remove(&key.1);
            if key.1 == Fault::Pause {
                self.tell(until, (Kind::Event, Some(key.0)), "goes on");
            }
        }
        if self.moving.as_ref().is_some_and(|moving| at > moving.at + MOVE_TOGETHER) {
            self.flush_moves();
        }
    }

    fn tell(&mut self, at: Micros, (kind, node): (Kind, Option<usize>), text: impl Into<String>) {
        self.quiet(at);
        let row = Row { at, kind, node, text: text.into(), cells: self.cells.clone() };
        // One thing that meets several nodes at once is said once.
        let is_same = |last: &Row| (last.at, last.kind, &last.text) == (row.at, row.kind, &row.text);
        match self.rows.last_mut().filter(|last| is_same(last)) {
            Some(last) => last.cells = row.cells,
            None => self.rows.push(row),
        }
        self.cells.iter_mut().for_each(|cell| cell.is_new = false);
        self.last = at;
    }

    /// A line for the stretch since the last one, if it was long and something went on. It shows how nodes
    /// stood before what ends it.
    fn quiet(&mut self, at: Micros) {
        while let Some((_, outcome)) = self.answers.get(self.answered).filter(|(over, _)| *over <= at) {
            *self.counts.answers.entry(*outcome).or_default() += 1;
            self.answered += 1;
        }
        if at.saturating_sub(self.last) < QUIET_MIN {
            return;
        }
        let stretch = at - self.last;
        self.last = at;
        let Some(text) = told(&std::mem::take(&mut self.counts), stretch) else { return };
        let mut cells = self.cells.clone();
        cells.iter_mut().for_each(|cell| cell.is_new = true);
        self.rows.push(Row { at, kind: Kind::Quiet, node: None, text, cells });
    }

    fn flush_moves(&mut self) {
        if let Some(Move { at, from, parts }) = self.moving.take() {
            let text = format!("VMs move from {}: {}", self.record.nodes[from], parts.join(", "));
            self.tell(at.max(self.last), (Kind::Event, None), text);
        }
    }

    fn take(&mut self, at: Micros, what: &'a What) {
        match what {
            What::Said { node, text } => {
                self.tell(at, (Kind::Event, *node), self.record.named(text));
            }
            What::Phase { text } => self.tell(at, (Kind::Phase, None), text),
            What::FaultBegan { fault, node, until, text } => {
                self.quiet(at);
                let cell = &mut self.cells[*node];
                cell.faults.insert(*fault);
                if fault.ends_process() {
                    cell.role = None;
                }
                match until {
                    Some(until) => self.until.insert((*node, *fault), *until),
                    None => self.until.remove(&(*node, *fault)),
                };
                self.tell(at, (Kind::Fault, Some(*node)), self.record.named(text));
            }
            What::FaultEnded { fault, node } => {
                self.until.remove(&(*node, *fault));
                self.cells[*node].faults.remove(fault);
            }
            What::Standing { node, role, term } => self.stand(at, *node, (*role, *term)),
            What::Applied { node, index } => self.cells[*node].applied = *index,
            What::Granted { node, vm, epoch } => self.grant(at, (*node, vm, *epoch)),
            What::GrantEnded { .. } => self.counts.ended += 1,
            What::Started { node, vm, epoch } => self.start(at, (*node, vm, *epoch)),
            What::Stopped { node, vm, epoch } => {
                if let Some(on) = self.running.get_mut(vm.as_str()) {
                    on.remove(&(*node, *epoch));
                }
            }
        }
    }

    #[allow(clippy::too_many_arguments, reason = "when, who and what it is now")]
    fn stand(&mut self, at: Micros, node: usize, (role, term): (Role, u64)) {
        let before = self.cells[node].role;
        let text = match (before, role) {
            (_, Role::Leader | Role::Candidate) => Some(format!("{} in term {term}", role.word())),
            (Some(Role::Leader), _) => Some(format!("leads no longer, {} in term {term}", role.word())),
            (Some(Role::Follower | Role::Candidate), Role::Learner | Role::Out) => Some(role.word().into()),
            (_, _) => None,
        };
        if text.is_some() {
            self.quiet(at);
        }
        let cell = &mut self.cells[node];
        cell.is_new |= before != Some(role) || cell.term != term;
        (cell.role, cell.term) = (Some(role), term);
        let kind = if role == Role::Leader { Kind::Leader } else { Kind::Event };
        if let Some(text) = text {
            self.tell(at, (kind, Some(node)), text);
        }
    }

    fn grant(&mut self, at: Micros, (node, vm, epoch): (usize, &'a str, u64)) {
        match self.places.insert(vm, node) {
            Some(from) if from != node => {
                if self.moving.as_ref().is_some_and(|moving| moving.from != from) {
                    self.flush_moves();
                }
                let moving = self.moving.get_or_insert_with(|| Move { at, from, parts: Vec::new() });
                moving.parts.push(format!("{vm} to {} (epoch {epoch})", self.record.nodes[node]));
            }
            Some(_) | None => self.counts.granted += 1,
        }
    }

    fn start(&mut self, at: Micros, (node, vm, epoch): (usize, &'a str, u64)) {
        let on = self.running.entry(vm).or_default();
        on.insert((node, epoch));
        if on.len() > 1 {
            let where_ =
                |(node, epoch): &(usize, u64)| format!("{} (epoch {epoch})", self.record.nodes[*node]);
            let places: Vec<_> = on.iter().map(where_).collect();
            let text = format!("{vm} runs more than once: {}", places.join(", "));
            self.tell(at, (Kind::Event, Some(node)), text);
        }
    }
}

fn told(counts: &Counts, stretch: Micros) -> Option<String> {
    let mut parts: Vec<String> =
        counts.answers.iter().map(|(outcome, count)| format!("{count} {}", outcome.word())).collect();
    if counts.granted > 0 {
        parts.push(format!("{} VM{} placed", counts.granted, if counts.granted == 1 { "" } else { "s" }));
    }
    if counts.ended > 0 {
        parts.push(format!("{} left their place", counts.ended));
    }
    let (seconds, tenth) = (stretch / 1_000_000, stretch / 100_000 % 10);
    (!parts.is_empty()).then(|| format!("{seconds}.{tenth} s: {}", parts.join(", ")))
}

/// What led to a broken promise: the last events of the nodes and VMs that the verdict names.
pub fn blamed(record: &Record, why: &str) -> Vec<(Micros, String)> {
    let why = record.named(why);
    let words: BTreeSet<&str> =
        why.split(|c: char| !(c.is_alphanumeric() || c == '-')).filter(|word| !word.is_empty()).collect();
    let is_named = |name: &str| words.contains(name);
    let nodes = || record.nodes.iter().enumerate().filter(|(_, name)| is_named(name)).map(|(at, _)| at);
    let nodes: BTreeSet<usize> = nodes().collect();
    let names_vm = record.events.iter().any(|event| vm_of(&event.what).is_some_and(is_named));
    let concerns = |what: &What| match vm_of(what) {
        // Where a VM is named, other VMs of the same node say nothing.
        Some(vm) => is_named(vm) || (!names_vm && node_of(what).is_some_and(|node| nodes.contains(&node))),
        None => {
            !matches!(what, What::Applied { .. }) && node_of(what).is_none_or(|node| nodes.contains(&node))
        }
    };
    let concerned = record.events.iter().filter(|event| concerns(&event.what));
    let (vms, others): (Vec<_>, Vec<_>) = concerned.partition(|event| vm_of(&event.what).is_some());
    let last = |events: Vec<&Event>| {
        let told = events.into_iter().filter_map(|event| Some((event.at, sentence(record, &event.what)?)));
        let told: Vec<_> = told.collect();
        told[told.len().saturating_sub(BLAMED_MAX)..].to_vec()
    };
    let mut told = [last(vms), last(others)].concat();
    told.sort_by_key(|(at, _)| *at);
    told
}

fn vm_of(what: &What) -> Option<&str> {
    match what {
        What::Granted { vm, .. }
        | What::GrantEnded { vm, .. }
        | What::Started { vm, .. }
        | What::Stopped { vm, .. } => Some(vm),
        What::Said { .. }
        | What::Phase { .. }
        | What::FaultBegan { .. }
        | What::FaultEnded { .. }
        | What::Standing { .. }
        | What::Applied { .. } => None,
    }
}

fn node_of(what: &What) -> Option<usize> {
    match what {
        What::Said { node, .. } => *node,
        What::Phase { .. } => None,
        What::FaultBegan { node, .. }
        | What::FaultEnded { node, .. }
        | What::Standing { node, .. }
        | What::Applied { node, .. }
        | What::Granted { node, .. }
        | What::GrantEnded { node, .. }
        | What::Started { node, .. }
        | What::Stopped { node, .. } => Some(*node),
    }
}

fn sentence(record: &Record, what: &What) -> Option<String> {
    let name = |node: &usize| &record.nodes[*node];
    Some(match what {
        What::Said { node: Some(node), text } => format!("{}: {}", name(node), record.named(text)),
        What::Said { node: None, text } => record.named(text),
        What::Phase { text } => text.clone(),
        What::FaultBegan { node, text, .. } => format!("{}: {}", name(node), record.named(text)),
        What::FaultEnded { node, fault } => format!("{}: over: {}", name(node), fault.word()),
        What::Standing { node, role, term } => format!("{} {} in term {term}", name(node), role.word()),
        What::Applied { .. } => return None,
        What::Granted { node, vm, epoch } => format!("{vm} is granted to {} with epoch {epoch}", name(node)),
        What::GrantEnded { node, vm, epoch } => {
            format!("the grant of {vm} to {} with epoch {epoch} ends", name(node))
        }
        What::Started { node, vm, epoch } => format!("{vm} starts on {} with epoch {epoch}", name(node)),
        What::Stopped { node, vm, epoch } => {
            format!("{vm} of epoch {epoch} runs on {} no longer", name(node))
        }
    })
}

/// The line of a violation, with its time.
pub fn verdict_line(record: &Record) -> String {
    match &record.verdict {
        crate::Verdict::None => format!("the run broke off at {} s", seconds(record.end)),
        crate::Verdict::Good => format!("every promise was kept, {} s", seconds(record.end)),
        crate::Verdict::Broken(why) => {
            let first = why.first().map_or_else(String::new, |why| record.named(why));
            format!("a promise is broken at {} s: {first}", seconds(record.end))
        }
    }
}
