//! What was seen of a run, as the record that the report in columns and the page are made of.

use std::collections::BTreeMap;

use scp_chronicle::{Fault as Seen, Operation, Outcome, Record, Role, Verdict, What as Event};

use crate::{
    history::{History, Micros, Request, What, seconds},
    report::{Blow, Report},
    scenario::{Fault, Scenario, Step, Way},
    vms::Sighting as VmSighting,
    watch::Sighting,
};

/// Everything that a record is made of.
pub struct Sources<'a> {
    pub scenario: &'a Scenario,
    pub report: &'a Report,
    pub history: &'a History,
    pub nodes: Vec<String>,
    /// Ids of nodes and VMs, and their names.
    pub names: Vec<(String, String)>,
    pub sightings: Vec<Sighting>,
    pub vms: Vec<VmSighting>,
    /// When the city said which node is down.
    pub downs: Vec<(Micros, String)>,
    /// The command that plays it again.
    pub again: String,
}

pub fn record(sources: &Sources) -> Record {
    let Sources { scenario, report, history, .. } = sources;
    let mut record = Record {
        title: format!("scp-chaos, {}", scenario.name),
        facts: facts(sources),
        again: vec![sources.again.clone()],
        nodes: sources.nodes.clone(),
        names: sources.names.clone(),
        verdict: match report.violations.is_empty() {
            true => Verdict::Good,
            false => Verdict::Broken(report.violations.clone()),
        },
        end: report.took,
        ..Record::default()
    };
    report.blows.iter().for_each(|blow| strike(&mut record, blow));
    stand(&mut record, &sources.sightings);
    machines(&mut record, &sources.vms);
    for (at, id) in &sources.downs {
        let name = record.named(id);
        let node = place(&record, &name);
        record.push(*at, Event::Said { node, text: "is declared down".into() });
    }
    record.operations = history.requests.iter().map(operation).collect();
    record.finish();
    record
}

fn facts(Sources { scenario, report, .. }: &Sources) -> Vec<(String, String)> {
    let Report { seed, took, writes, reads, creations, unknown, .. } = report;
    let requests = format!("{writes} writes, {reads} reads, {creations} creations, {unknown} unanswered");
    // The fields' own names, as the scenario writes them.
    let fields = |text: String| text.split_once('{').map_or(text.clone(), |(_, rest)| rest.replace('}', ""));
    [
        ("about", scenario.about.clone()),
        ("seed", seed.to_string()),
        ("took", format!("{:.1} s", seconds(*took))),
        ("requests", requests),
        ("city", fields(format!("{:?}", scenario.city))),
        ("load", fields(format!("{:?}", scenario.load))),
    ]
    .map(|(name, value)| (name.to_string(), value.trim().to_string()))
    .into()
}

fn place(record: &Record, name: &str) -> Option<usize> {
    record.nodes.iter().position(|known| known == name)
}

/// A step's fault as a person sees it; none: nothing goes wrong by it.
pub fn kind(step: &Step) -> Option<Seen> {
    Some(match (step.fault, step.way) {
        (Fault::Kill | Fault::Terminate, _) => Seen::Crash,
        (Fault::Pause | Fault::Freeze, _) => Seen::Pause,
        (Fault::PowerCut, _) => Seen::Power,
        (Fault::Unplug, _) | (Fault::Cut, Way::Both) => Seen::Partition,
        (Fault::Cut, Way::In | Way::Out) => Seen::OneWay,
        (Fault::Lose, _) => Seen::Lossy,
        (Fault::Delay, _) => Seen::Slow,
        (Fault::FillDisk, _) => Seen::DiskFull,
        (Fault::SlowDisk, _) => Seen::DiskStall,
        (Fault::Corrupt, _) => Seen::Damage,
        (Fault::Clock, _) => Seen::Clock,
        (Fault::Join | Fault::Leave, _) => return None,
    })
}

/// What is noted of a clock that is moved to where it belongs.
const CLOCK_RIGHT: &str = "+0 s";

fn strike(record: &mut Record, blow: &Blow) {
    let Blow { seen, targets, at, back, healthy, note, .. } = blow;
    // A clock that was moved stays so until it is moved back.
    let (moves_clock, is_right) = (*seen == Some(Seen::Clock), note.as_deref() == Some(CLOCK_RIGHT));
    let note = note.as_ref().map_or(String::new(), |note| format!(": {note}"));
    let text = format!("{} {}{note}", blow.fault, targets.join(" "));
    for node in targets.iter().filter_map(|name| place(record, name)).collect::<Vec<_>>() {
        let text = text.clone();
        match seen {
            Some(Seen::Clock) if is_right => {
                record.push(*at, Event::FaultEnded { fault: Seen::Clock, node });
                record.push(*at, Event::Said { node: Some(node), text });
            }
            None => record.push(*at, Event::Said { node: Some(node), text }),
            Some(fault) => {
                let until = (!moves_clock).then_some(*back);
                record.push(*at, Event::FaultBegan { fault: *fault, node, until, text });
            }
        }
    }
    if seen.is_some() && !moves_clock {
        record.push(*back, Event::Said { node: None, text: format!("{} is taken back", blow.fault) });
    }
    if let Some(healthy) = healthy {
        record.push(*healthy, Event::Phase { text: format!("healthy again after {}", blow.fault) });
    }
}

/// From looks to changes.
fn stand(record: &mut Record, sightings: &[Sighting]) {
    let mut last: BTreeMap<&str, (Role, u64)> = BTreeMap::new();
    for Sighting { at, node: name, term, leads, applied } in sightings {
        let Some(node) = place(record, name) else { continue };
        let role = if *leads { Role::Leader } else { Role::Follower };
        if last.insert(name, (role, *term)) != Some((role, *term)) {
            record.push(*at, Event::Standing { node, role, term: *term });
        }
        record.push(*at, Event::Applied { node, index: *applied });
    }
}

fn machines(record: &mut Record, vms: &[VmSighting]) {
    for VmSighting { vm, server, from, to } in vms {
        let Some(node) = place(record, server) else { continue };
        let vm = record.named(vm);
        // The process table knows no epochs.
        record.push(*from, Event::Started { node, vm: vm.clone(), epoch: 0 });
        if *to < record.end {
            record.push(*to, Event::Stopped { node, vm, epoch: 0 });
        }
    }
}

fn operation(request: &Request) -> Operation {
    let (what, is_refused) = match &request.what {
        What::Write { register, value } => (format!("write {register} = {value}"), false),
        What::Read { register, value } => (format!("read {register}: {value}"), false),
        What::Create { name, .. } => (format!("create department {name}"), false),
        What::Refused { asked, answer } => (format!("{asked}: {answer}"), true),
    };
    let outcome = match (is_refused, request.ended) {
        (true, _) => Outcome::Refused,
        (false, Some(_)) => Outcome::Ok,
        (false, None) => Outcome::Unknown,
    };
    let what = if request.tries > 1 { format!("{what} ({} tries)", request.tries) } else { what };
    let Request { client, begun, ended, .. } = request;
    Operation { client: client.clone(), node: None, begun: *begun, ended: *ended, what, outcome }
}
