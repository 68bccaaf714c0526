//! From events to what lasted from when to when.

use std::collections::BTreeMap;

use crate::record::{Fault, Micros, Record, Role, What};

/// From (inclusive) to (exclusive).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span {
    pub from: Micros,
    pub to: Micros,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FaultSpan {
    pub fault: Fault,
    pub node: usize,
    pub span: Span,
    pub text: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoleSpan {
    pub node: usize,
    pub role: Role,
    pub term: u64,
    pub span: Span,
}

/// A VM on a node under one epoch: granted, running, or both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tenancy {
    pub node: usize,
    pub vm: String,
    pub epoch: u64,
    pub granted: Option<Span>,
    /// It may stop and start under one epoch.
    pub ran: Vec<Span>,
}

impl Tenancy {
    /// From the first to the last that is known of it.
    pub fn whole(&self) -> Span {
        let spans = || self.granted.iter().chain(&self.ran);
        let from = spans().map(|span| span.from).min().unwrap_or(0);
        Span { from, to: spans().map(|span| span.to).max().unwrap_or(from) }
    }
}

/// Everything that lasts.
#[derive(Debug, Default)]
pub struct Spans {
    pub faults: Vec<FaultSpan>,
    pub roles: Vec<RoleSpan>,
    pub tenancies: Vec<Tenancy>,
    /// Per node: what it had applied when.
    pub applied: Vec<Vec<(Micros, u64)>>,
}

/// What has begun and not ended yet.
#[derive(Default)]
struct Open {
    faults: BTreeMap<(usize, Fault), (FaultSpan, Option<Micros>)>,
    roles: BTreeMap<usize, RoleSpan>,
    tenancies: BTreeMap<(usize, String, u64), Tenancy>,
    granted: BTreeMap<(usize, String, u64), Micros>,
    running: BTreeMap<(usize, String, u64), Micros>,
}

/// Reads a record that is finished.
pub fn of(record: &Record) -> Spans {
    let mut open = Open::default();
    let mut spans = Spans { applied: vec![Vec::new(); record.nodes.len()], ..Spans::default() };
    for event in &record.events {
        take(&mut open, &mut spans, event.at, &event.what);
    }
    let end = record.end;
    let Open { faults, roles, mut tenancies, granted, running } = open;
    spans.faults.extend(faults.into_values().map(|(fault, until)| closed_fault(fault, until, end)));
    spans.roles.extend(roles.into_values().map(|role| RoleSpan { span: until(role.span, end), ..role }));
    for (key, from) in granted {
        tenancy(&mut tenancies, &key).granted = Some(Span { from, to: end });
    }
    for (key, from) in running {
        tenancy(&mut tenancies, &key).ran.push(Span { from, to: end });
    }
    spans.tenancies = tenancies.into_values().collect();
    spans.faults.sort_by_key(|fault| (fault.span, fault.node));
    spans.roles.sort_by_key(|role| (role.span, role.node));
    spans.tenancies.sort_by_key(|tenancy| (tenancy.whole(), tenancy.node));
    spans
}

fn until(span: Span, to: Micros) -> Span {
    Span { from: span.from, to: to.max(span.from) }
}

fn closed_fault(fault: FaultSpan, by_itself: Option<Micros>, at: Micros) -> FaultSpan {
    FaultSpan { span: until(fault.span, by_itself.map_or(at, |end| end.min(at))), ..fault }
}

fn tenancy<'a>(
    tenancies: &'a mut BTreeMap<(usize, String, u64), Tenancy>,
    key: &(usize, String, u64),
) -> &'a mut Tenancy {
    let (node, vm, epoch) = key;
    tenancies.entry(key.clone()).or_insert_with(|| Tenancy {
        node: *node,
        vm: vm.clone(),
        epoch: *epoch,
        granted: None,
        ran: Vec::new(),
    })
}

#[allow(clippy::too_many_arguments, reason = "what is open, where it goes, and the event in its two parts")]
fn take(open: &mut Open, spans: &mut Spans, at: Micros, what: &What) {
    match what {
        What::Said { .. } | What::Phase { .. } => {}
        What::FaultBegan { fault, node, until, text } => {
            let span = Span { from: at, to: at };
            let begun = FaultSpan { fault: *fault, node: *node, span, text: text.clone() };
            if let Some((before, by_itself)) = open.faults.insert((*node, *fault), (begun, *until)) {
                spans.faults.push(closed_fault(before, by_itself, at));
            }
            // What its process was, it is no longer; one that only stands still does not know.
            if fault.ends_process() {
                end_role(open, spans, (*node, at));
            }
        }
        What::FaultEnded { fault, node } => {
            if let Some((before, by_itself)) = open.faults.remove(&(*node, *fault)) {
                spans.faults.push(closed_fault(before, by_itself, at));
            }
        }
        What::Standing { node, role, term } => {
            end_role(open, spans, (*node, at));
            let span = Span { from: at, to: at };
            open.roles.insert(*node, RoleSpan { node: *node, role: *role, term: *term, span });
        }
        What::Applied { node, index } => {
            if let Some(points) = spans.applied.get_mut(*node) {
                points.push((at, *index));
            }
        }
        What::Granted { node, vm, epoch } => {
            open.granted.entry((*node, vm.clone(), *epoch)).or_insert(at);
        }
        What::Started { node, vm, epoch } => {
            open.running.entry((*node, vm.clone(), *epoch)).or_insert(at);
        }
        What::GrantEnded { node, vm, epoch } => {
            let key = (*node, vm.clone(), *epoch);
            if let Some(from) = open.granted.remove(&key) {
                tenancy(&mut open.tenancies, &key).granted = Some(Span { from, to: at });
            }
        }
        What::Stopped { node, vm, epoch } => {
            let key = (*node, vm.clone(), *epoch);
            if let Some(from) = open.running.remove(&key) {
                tenancy(&mut open.tenancies, &key).ran.push(Span { from, to: at });
            }
        }
    }
}

fn end_role(open: &mut Open, spans: &mut Spans, (node, at): (usize, Micros)) {
    if let Some(before) = open.roles.remove(&node) {
        spans.roles.push(RoleSpan { span: until(before.span, at), ..before });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(events: Vec<(Micros, What)>) -> Record {
        let mut record = Record { nodes: vec!["n1".into(), "n2".into()], end: 100, ..Record::default() };
        events.into_iter().for_each(|(at, what)| record.push(at, what));
        record.finish();
        record
    }

    fn began(fault: Fault, until: Option<Micros>) -> What {
        What::FaultBegan { fault, node: 0, until, text: String::new() }
    }

    fn leads(term: u64) -> What {
        What::Standing { node: 0, role: Role::Leader, term }
    }

    #[test]
    fn a_fault_ends_by_itself_by_word_or_with_the_run() {
        let spans = of(&record(vec![
            (10, began(Fault::Pause, Some(20))),
            (30, began(Fault::Crash, None)),
            (40, What::FaultEnded { fault: Fault::Crash, node: 0 }),
            (50, began(Fault::Clock, None)),
            (60, began(Fault::Clock, None)),
        ]));
        let found: Vec<_> = spans.faults.iter().map(|it| (it.fault, it.span.from, it.span.to)).collect();
        let expected =
            [(Fault::Pause, 10, 20), (Fault::Crash, 30, 40), (Fault::Clock, 50, 60), (Fault::Clock, 60, 100)];
        assert_eq!(found, expected);
    }

    #[test]
    fn a_process_that_is_killed_leads_no_longer_and_one_that_stands_still_does() {
        let killed = of(&record(vec![(10, leads(3)), (30, began(Fault::Crash, None))]));
        assert_eq!((killed.roles[0].span.from, killed.roles[0].span.to), (10, 30));
        let paused = of(&record(vec![(10, leads(3)), (30, began(Fault::Pause, Some(50)))]));
        assert_eq!((paused.roles[0].span.from, paused.roles[0].span.to), (10, 100));
    }

    #[test]
    fn a_tenancy_is_what_was_granted_and_what_ran() {
        let (vm, epoch) = (String::from("vm-1"), 7);
        let spans = of(&record(vec![
            (10, What::Granted { node: 1, vm: vm.clone(), epoch }),
            (15, What::Started { node: 1, vm: vm.clone(), epoch }),
            (20, What::Stopped { node: 1, vm: vm.clone(), epoch }),
            (25, What::Started { node: 1, vm: vm.clone(), epoch }),
            (30, What::GrantEnded { node: 1, vm: vm.clone(), epoch }),
        ]));
        let ran = vec![Span { from: 15, to: 20 }, Span { from: 25, to: 100 }];
        let granted = Some(Span { from: 10, to: 30 });
        assert_eq!(spans.tenancies, [Tenancy { node: 1, vm, epoch, granted, ran }]);
        assert_eq!(spans.tenancies[0].whole(), Span { from: 10, to: 100 });
    }
}
