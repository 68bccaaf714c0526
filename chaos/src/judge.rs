//! The verdict: pure, from the history and from what each node holds at the end.
//!
//! # Guarantees
//! - Every register is linearizable (Wing and Gong's search, the checker of `sim/`), with what the nodes
//!   hold at the end as further reads. Too many overlapping requests to say is a violation too.
//! - An acknowledged creation is on every node exactly once; one without an answer at most once.
//! - All nodes hold the same.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    history::{History, Micros, Request, What},
    linear::{self, Kind, Operation, Verdict},
};

/// What one node holds when all is over.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Holding {
    pub node: String,
    pub at: Micros,
    pub applied: u64,
    /// Id and name of every department.
    pub departments: Vec<(String, String)>,
    /// Value of each register.
    pub registers: BTreeMap<String, u64>,
}

/// Everything that is wrong; empty: nothing is.
pub fn judge(history: &History, holdings: &[Holding]) -> Vec<String> {
    let mut wrong = refusals(history);
    wrong.extend(registers(history, holdings));
    wrong.extend(creations(history, holdings));
    wrong.extend(differences(holdings));
    wrong
}

/// Of each kind this many are told; the rest is in the history.
const TOLD_MAX: usize = 5;

fn refusals(history: &History) -> Vec<String> {
    let refusals = history.requests.iter().filter_map(|request| match &request.what {
        What::Refused { asked, answer } => {
            Some(format!("{} asked {asked} and was refused: {answer}", request.client))
        }
        What::Write { .. } | What::Read { .. } | What::Create { .. } => None,
    });
    refusals.take(TOLD_MAX).collect()
}

fn operation(request: &Request) -> Option<(&str, Operation)> {
    let (register, kind) = match &request.what {
        What::Write { register, value } => (register, Kind::Write(*value)),
        What::Read { register, value } => (register, Kind::Read(Some(*value))),
        What::Create { .. } | What::Refused { .. } => return None,
    };
    Some((register, Operation { begun: request.begun, ended: request.ended, kind }))
}

fn registers(history: &History, holdings: &[Holding]) -> Vec<String> {
    let mut by_register: BTreeMap<&str, Vec<Operation>> = BTreeMap::new();
    for (register, operation) in history.requests.iter().filter_map(operation) {
        by_register.entry(register).or_default().push(operation);
    }
    for holding in holdings {
        for (register, value) in &holding.registers {
            let read =
                Operation { begun: holding.at, ended: Some(holding.at), kind: Kind::Read(Some(*value)) };
            by_register.entry(register).or_default().push(read);
        }
    }
    let mut wrong = Vec::new();
    for (register, mut operations) in by_register {
        // A project begins with 0.
        operations.push(Operation { begun: 0, ended: Some(0), kind: Kind::Write(0) });
        match linear::check(&operations) {
            Verdict::Linearizable => {}
            Verdict::Violation => wrong.push(format!("register {register} is not linearizable")),
            Verdict::Unknown => wrong.push(format!("register {register}: too many requests overlap to say")),
        }
    }
    wrong
}

fn creations(history: &History, holdings: &[Holding]) -> Vec<String> {
    let mut wrong = Vec::new();
    for holding in holdings {
        let mut ids: BTreeMap<&str, usize> = BTreeMap::new();
        let mut names: BTreeMap<&str, usize> = BTreeMap::new();
        for (id, name) in &holding.departments {
            *ids.entry(id).or_default() += 1;
            *names.entry(name).or_default() += 1;
        }
        let acknowledged = history.requests.iter().filter(|request| request.ended.is_some());
        let lost = acknowledged.filter_map(|request| match &request.what {
            What::Create { id, name } if !ids.contains_key(id.as_str()) => Some(name),
            What::Create { .. } | What::Write { .. } | What::Read { .. } | What::Refused { .. } => None,
        });
        for name in lost.take(TOLD_MAX) {
            wrong.push(format!("{}: department {name} was acknowledged and is not there", holding.node));
        }
        let doubled = ids.iter().chain(&names).filter(|(_, count)| **count > 1);
        for (which, count) in doubled.take(TOLD_MAX) {
            wrong.push(format!("{}: department {which} is there {count} times", holding.node));
        }
    }
    wrong
}

fn differences(holdings: &[Holding]) -> Vec<String> {
    let Some((first, rest)) = holdings.split_first() else {
        return vec!["no node told what it holds".into()];
    };
    let set = |holding: &Holding| holding.departments.iter().cloned().collect::<BTreeSet<_>>();
    let differs = |other: &&Holding| {
        set(first) != set(other) || first.registers != other.registers || first.applied != other.applied
    };
    let tell = |other: &Holding| {
        format!(
            "{} and {} do not hold the same (index {} and {}, {} and {} departments)",
            first.node,
            other.node,
            first.applied,
            other.applied,
            first.departments.len(),
            other.departments.len()
        )
    };
    rest.iter().filter(differs).map(tell).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(begun: Micros, ended: Option<Micros>, what: What) -> Request {
        Request { client: "c".into(), begun, ended, tries: 1, what }
    }

    fn write(begun: Micros, ended: Option<Micros>, value: u64) -> Request {
        request(begun, ended, What::Write { register: "r".into(), value })
    }

    fn read(begun: Micros, ended: Micros, value: u64) -> Request {
        request(begun, Some(ended), What::Read { register: "r".into(), value })
    }

    fn create(ended: Option<Micros>, id: &str) -> Request {
        request(1, ended, What::Create { id: id.into(), name: format!("d-{id}") })
    }

    fn holding(node: &str, ids: &[&str], value: u64) -> Holding {
        let departments = ids.iter().map(|id| ((*id).to_string(), format!("d-{id}"))).collect();
        let registers = BTreeMap::from([("r".to_string(), value)]);
        Holding { node: node.into(), at: 1000, applied: 7, departments, registers }
    }

    fn judged(requests: Vec<Request>, holdings: &[Holding]) -> Vec<String> {
        judge(&History { requests }, holdings)
    }

    #[test]
    fn an_honest_city_has_nothing_wrong() {
        let requests = vec![
            read(1, 2, 0),
            write(3, Some(4), 1),
            write(5, None, 2),
            read(6, 7, 1),
            create(Some(9), "a"),
            create(None, "b"),
            create(None, "c"),
        ];
        let holdings = [holding("n1", &["a", "b"], 2), holding("n2", &["b", "a"], 2)];
        assert_eq!(judged(requests, &holdings), Vec::<String>::new());
    }

    #[test]
    fn a_lost_creation_is_told_with_its_node() {
        let wrong = judged(vec![create(Some(9), "a")], &[holding("n1", &["a"], 0), holding("n2", &[], 0)]);
        assert!(wrong[0].contains("n2: department d-a was acknowledged"), "{wrong:?}");
    }

    #[test]
    fn a_doubled_creation_is_told_also_when_its_answer_was_lost() {
        let wrong = judged(vec![create(None, "a")], &[holding("n1", &["a", "a"], 0)]);
        assert!(wrong.iter().any(|it| it.contains("2 times")), "{wrong:?}");
    }

    #[test]
    fn a_stale_read_and_a_lost_write_are_violations() {
        let stale = vec![write(1, Some(2), 1), read(3, 4, 0)];
        assert_eq!(judged(stale, &[holding("n1", &[], 1)]), ["register r is not linearizable"]);
        // Read by nobody but the node itself, at the end.
        let lost = vec![write(1, Some(2), 1)];
        assert_eq!(judged(lost, &[holding("n1", &[], 0)]), ["register r is not linearizable"]);
    }

    #[test]
    fn nodes_that_differ_are_told() {
        let wrong = judged(vec![], &[holding("n1", &["a"], 0), holding("n2", &[], 0)]);
        assert!(wrong[0].contains("n1 and n2 do not hold the same"), "{wrong:?}");
        let behind = Holding { applied: 6, ..holding("n2", &["a"], 0) };
        assert_eq!(judged(vec![], &[holding("n1", &["a"], 0), behind]).len(), 1);
        assert_eq!(judged(vec![], &[]).len(), 1);
    }

    #[test]
    fn an_unexplained_refusal_is_told() {
        let refused = What::Refused { asked: "a write".into(), answer: "unauthorized".into() };
        let wrong = judged(vec![request(1, Some(2), refused)], &[holding("n1", &[], 0)]);
        assert!(wrong[0].contains("unauthorized"), "{wrong:?}");
    }
}
