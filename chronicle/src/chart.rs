//! The chart: time across, nodes down, clients below them.
//!
//! ```text
//!   leader   ▐ n1 · term 2 ████▌ gap ▐ n2 · term 3 ████████
//!   n1       faults, one strip each; what stops the node shades all of it
//!            role: a bar a term while it leads
//!            applied index, as a line
//!            VMs: outlined while granted, filled while they run; a curve where one moves
//!   n2 …
//!   clients  ticks by outcome, one row a client
//! ```
//!
//! Each row is a group that takes the focus; each mark in it has a title, and the script of the page goes from
//! mark to mark with the arrow keys. Without a script the titles are shown under the pointer.

use std::collections::BTreeMap;

use maud::{Markup, html};

use crate::{
    axis::{Scale, px},
    page::MARKS_MAX,
    record::{Fault, Micros, Operation, Outcome, Record, Role, What, seconds},
    spans::{FaultSpan, RoleSpan, Span, Spans, Tenancy},
};

/// Phases above, seconds below.
const AXIS: u64 = 34;
const SECONDS: u64 = 20;
const BAR: u64 = 16;
const STRIP: u64 = 9;
const INDEX: u64 = 22;
const VM: u64 = 13;
const CLIENT: u64 = 14;
const GAP: u64 = 5;
/// Requests that begin within so many pixels are one tick.
const TICK: u64 = 3;
/// Narrower bars carry no text; a letter of the small font is about so wide.
const LETTER: f64 = 6.2;

/// The chart and the labels beside it.
pub struct Chart {
    pub labels: Markup,
    pub marks: Markup,
    pub width: u64,
    pub height: u64,
    /// Marks that did not fit.
    pub left_out: usize,
}

/// A row: what it is called, and how it is drawn.
struct Band {
    title: String,
    about: String,
    top: u64,
    height: u64,
    body: Markup,
}

struct Draw<'a> {
    record: &'a Record,
    scale: Scale,
    marks: usize,
    left_out: usize,
    /// Where each tenancy was drawn, for the curves between them.
    places: Vec<(&'a Tenancy, f64)>,
}

pub fn chart(record: &Record, spans: &Spans) -> Chart {
    let scale = Scale::of(record.end);
    let mut draw = Draw { record, scale, marks: 0, left_out: 0, places: Vec::new() };
    let mut bands = vec![draw.leaders(&spans.roles)];
    for node in 0..record.nodes.len() {
        let top = bottom(&bands);
        bands.push(draw.node(node, spans, top));
    }
    let top = bottom(&bands);
    let moves = draw.moves();
    bands.extend(draw.clients(top));
    let height = bottom(&bands) + SECONDS;
    let marks = html! {
        (draw.grid(height))
        @for band in &bands {
            g.band tabindex="0" role="group" aria-label=(format!("{}: {}", band.title, band.about)) {
                rect.ground x="0" y=(band.top) width=(scale.width()) height=(band.height) {}
                (band.body)
                text.inside x="2" y=(band.top + 9) { (band.title) }
            }
        }
        (moves)
        (draw.phases(height))
    };
    let labels = html! {
        @for band in &bands {
            text.name x="4" y=(band.top + 12) { (band.title) }
            @if band.height > 24 { text.about x="4" y=(band.top + 25) { (band.about) } }
        }
    };
    Chart { labels, marks, width: scale.width(), height, left_out: draw.left_out }
}

fn bottom(bands: &[Band]) -> u64 {
    bands.last().map_or(AXIS, |band| band.top + band.height + GAP)
}

/// Puts spans into lanes so that none overlaps another; an empty lane is used again, the preferred first.
#[derive(Default)]
struct Lanes(Vec<Micros>);

impl Lanes {
    fn put(&mut self, span: Span, preferred: Option<usize>) -> usize {
        let is_free = |at: usize, lanes: &Self| lanes.0.get(at).is_some_and(|busy| *busy <= span.from);
        let free = preferred.filter(|at| is_free(*at, self));
        let free = free.or_else(|| (0..self.0.len()).find(|at| is_free(*at, self)));
        let at = free.unwrap_or(self.0.len());
        if at == self.0.len() {
            self.0.push(0);
        }
        self.0[at] = span.to;
        at
    }
}

impl<'a> Draw<'a> {
    /// Whether one more mark fits.
    fn fits(&mut self) -> bool {
        let fits = self.marks < MARKS_MAX;
        self.marks += usize::from(fits);
        self.left_out += usize::from(!fits);
        fits
    }

    fn extent(&self, span: Span) -> (f64, f64) {
        let x = self.scale.x(span.from);
        // What is shorter than a pixel is seen all the same.
        (x, (self.scale.x(span.to) - x).max(1.5))
    }

    fn grid(&self, height: u64) -> Markup {
        let y = height - SECONDS;
        html! {
            g.grid aria-hidden="true" {
                @for (x, label) in self.scale.grid() {
                    line x1=(px(x)) y1=(AXIS - 6) x2=(px(x)) y2=(y + 4) {}
                    text x=(px(x + 3.0)) y=(AXIS - 8) { (label) }
                    text x=(px(x + 3.0)) y=(y + 14) { (label) }
                }
            }
        }
    }

    fn phases(&self, height: u64) -> Markup {
        let phases = self.record.events.iter().filter_map(|event| match &event.what {
            What::Phase { text } => Some((self.scale.x(event.at), event.at, text)),
            What::Said { .. }
            | What::FaultBegan { .. }
            | What::FaultEnded { .. }
            | What::Standing { .. }
            | What::Applied { .. }
            | What::Granted { .. }
            | What::GrantEnded { .. }
            | What::Started { .. }
            | What::Stopped { .. } => None,
        });
        let mut free = 0.0;
        let phases = phases.map(|(x, at, text)| {
            // One above the other nobody can read.
            let shown = (x >= free).then(|| free = x + text.chars().count() as f64 * LETTER + 12.0);
            (x, at, text, shown.is_some())
        });
        let is_broken = matches!(self.record.verdict, crate::Verdict::Broken(_));
        let x = self.scale.x(self.record.end) - 1.0;
        html! {
            @for (x, at, text, is_shown) in phases {
                g.phase { title { (seconds(at)) " s: " (text) }
                    line x1=(px(x)) y1="2" x2=(px(x)) y2=(height - SECONDS) {}
                    @if is_shown { text x=(px(x + 4.0)) y="11" { (text) } } }
            }
            @if is_broken {
                g.broken { title { (crate::story::verdict_line(self.record)) }
                    line x1=(px(x)) y1="0" x2=(px(x)) y2=(height) {} }
            }
        }
    }

    fn leaders(&mut self, roles: &[RoleSpan]) -> Band {
        let led: Vec<_> = roles.iter().filter(|role| role.role == Role::Leader).collect();
        // Two that believe to lead at once are seen one above the other.
        let mut lanes = Lanes::default();
        let placed: Vec<_> = led.iter().map(|role| (lanes.put(role.span, None) as u64, *role)).collect();
        let body = html! {
            @for (lane, role) in placed { @if self.fits() {
                (self.term(role, AXIS + lane * (BAR + 1), &format!("{}, term {}", self.record.nodes[role.node], role.term)))
            } }
        };
        let height = (lanes.0.len() as u64).max(1) * (BAR + 1);
        let about = format!("led {} times", led.len());
        Band { title: "leader".into(), about, top: AXIS, height, body }
    }

    #[allow(clippy::too_many_arguments, reason = "what, where and what is written on it")]
    fn term(&self, role: &RoleSpan, y: u64, text: &str) -> Markup {
        let (x, width) = self.extent(role.span);
        let name = &self.record.nodes[role.node];
        let class = match (role.role, role.term % 2) {
            (Role::Leader, 0) => "mark leads even",
            (Role::Leader, _) => "mark leads odd",
            (Role::Candidate, _) => "mark asks",
            (Role::Follower, _) => "mark follows",
            (Role::Learner | Role::Out, _) => "mark learns",
        };
        let (y, height) = match role.role {
            Role::Leader | Role::Candidate => (y, BAR),
            Role::Learner | Role::Follower | Role::Out => (y + BAR / 2 - 1, 2),
        };
        let shown = (role.role == Role::Leader).then_some(text);
        let shown = shown.filter(|text| text.chars().count() as f64 * LETTER < width).or_else(|| {
            // The number alone is better than nothing.
            let is_short = role.role == Role::Leader && width > LETTER * 3.0;
            is_short.then(|| text.rsplit(' ').next()).flatten()
        });
        html! {
            g class=(class) {
                title { (name) " " (role.role.word()) " in term " (role.term) ", " (period(role.span)) }
                rect x=(px(x)) y=(y) width=(px(width)) height=(height) {}
                @if let Some(text) = shown { text x=(px(x + 4.0)) y=(y + 12) { (text) } }
            }
        }
    }

    fn node(&mut self, node: usize, spans: &'a Spans, top: u64) -> Band {
        let faults: Vec<_> = spans.faults.iter().filter(|fault| fault.node == node).collect();
        let (still, strips): (Vec<&FaultSpan>, Vec<&FaultSpan>) =
            faults.iter().copied().partition(|fault| fault.fault.is_still());
        let mut lanes = Lanes::default();
        let strips: Vec<_> =
            strips.into_iter().map(|fault| (lanes.put(fault.span, None) as u64, fault)).collect();
        let role_top = top + 2 + lanes.0.len() as u64 * STRIP;
        let index_top = role_top + BAR + 2;
        let vm_top = index_top + INDEX + 2;
        let (vms, vm_lanes) = self.tenants(node, &spans.tenancies, vm_top);
        let height = vm_top + vm_lanes * VM + 3 - top;
        let body = html! {
            @for fault in &still { @if self.fits() { (self.fault(fault, top, height)) } }
            @for (lane, fault) in strips { @if self.fits() { (self.fault(fault, top + 1 + lane * STRIP, STRIP - 1)) } }
            @for role in spans.roles.iter().filter(|role| role.node == node) { @if self.fits() {
                (self.term(role, role_top, &format!("term {}", role.term)))
            } }
            (self.index(&spans.applied[node], index_top))
            (vms)
        };
        let about = match faults.len() {
            0 => "no faults".to_string(),
            1 => "1 fault".to_string(),
            count => format!("{count} faults"),
        };
        Band { title: self.record.nodes[node].clone(), about, top, height, body }
    }

    #[allow(clippy::too_many_arguments, reason = "what, and where")]
    fn fault(&self, fault: &FaultSpan, y: u64, height: u64) -> Markup {
        let (x, width) = self.extent(fault.span);
        let name = &self.record.nodes[fault.node];
        html! {
            g.mark.fault data-fault=(key(fault.fault)) {
                title { (name) ": " (fault.fault.word()) ", " (period(fault.span)) " (" (self.record.named(&fault.text)) ")" }
                rect x=(px(x)) y=(y) width=(px(width)) height=(height) fill=(format!("url(#p-{})", key(fault.fault))) {}
            }
        }
    }

    /// A line that rises with the applied index; a point a pixel.
    fn index(&self, points: &[(Micros, u64)], top: u64) -> Markup {
        let most = self.record.events.iter().filter_map(|event| match &event.what {
            What::Applied { index, .. } => Some(*index),
            What::Said { .. }
            | What::Phase { .. }
            | What::FaultBegan { .. }
            | What::FaultEnded { .. }
            | What::Standing { .. }
            | What::Granted { .. }
            | What::GrantEnded { .. }
            | What::Started { .. }
            | What::Stopped { .. } => None,
        });
        let most = most.max().unwrap_or(0).max(1);
        let y = |index: u64| (top + INDEX) as f64 - index as f64 * INDEX as f64 / most as f64;
        let mut last = None;
        let mut path = String::new();
        for (at, index) in points {
            let pixel = self.scale.bucket(*at, 1);
            if last.is_some_and(|(before, _)| before == pixel) {
                continue;
            }
            if let Some((_, level)) = last {
                // It stays until it rises.
                path.push_str(&format!("{},{} ", px(self.scale.x(*at)), px(level)));
            }
            path.push_str(&format!("{},{} ", px(self.scale.x(*at)), px(y(*index))));
            last = Some((pixel, y(*index)));
        }
        let Some((_, first)) = points.first() else { return html! {} };
        let end = points.last().map_or(*first, |(_, index)| *index);
        html! {
            g.mark.index {
                title { "applied index, from " (first) " to " (end) "; the lane's top is " (most) }
                polyline points=(path.trim_end()) {}
            }
        }
    }

    fn tenants(&mut self, node: usize, tenancies: &'a [Tenancy], top: u64) -> (Markup, u64) {
        let mut lanes = Lanes::default();
        let mut before: BTreeMap<&str, usize> = BTreeMap::new();
        let mut placed = Vec::new();
        for tenancy in tenancies.iter().filter(|tenancy| tenancy.node == node) {
            let lane = lanes.put(tenancy.whole(), before.get(tenancy.vm.as_str()).copied());
            before.insert(&tenancy.vm, lane);
            if self.fits() {
                placed.push((tenancy, top + lane as u64 * VM));
            }
        }
        self.places.extend(placed.iter().map(|(tenancy, y)| (*tenancy, (*y + VM / 2) as f64)));
        let body = html! { @for (tenancy, y) in placed { (self.tenancy(tenancy, y)) } };
        (body, lanes.0.len() as u64)
    }

    fn tenancy(&self, tenancy: &Tenancy, y: u64) -> Markup {
        let Tenancy { vm, epoch, granted, ran, .. } = tenancy;
        let name = &self.record.nodes[tenancy.node];
        let (x, width) = self.extent(tenancy.whole());
        let label = if *epoch > 0 { format!("{vm} e{epoch}") } else { vm.clone() };
        let label = [label, vm.clone()].into_iter().find(|text| text.len() as f64 * LETTER * 0.85 < width);
        let told = |span: &Option<Span>| span.map_or("never".to_string(), period);
        let runs: Vec<_> = ran.iter().take(RUNS_TOLD_MAX).map(|span| period(*span)).collect();
        let runs = if runs.is_empty() { "never".into() } else { runs.join(" and ") };
        html! {
            g.mark.vm data-vm=(vm) {
                title {
                    (vm) " on " (name)
                    @if *epoch > 0 { ", epoch " (epoch) ": granted " (told(granted)) "; ran " (runs) }
                    @else { ": ran " (runs) }
                }
                @if let Some(span) = granted {
                    @let (x, width) = self.extent(*span);
                    rect.granted x=(px(x)) y=(y) width=(px(width)) height=(VM - 2) rx="2" {}
                }
                @for (span, is_late) in ran.iter().flat_map(|span| parts(*span, *granted)) {
                    @let (x, width) = self.extent(span);
                    rect.ran.late[is_late] x=(px(x)) y=(y + VM - 5) width=(px(width)) height="3" {}
                }
                @if let Some(label) = label { text x=(px(x + 3.0)) y=(y + 8) { (label) } }
            }
        }
    }

    /// Curves from where a VM was to where it is next.
    fn moves(&mut self) -> Markup {
        let mut places = std::mem::take(&mut self.places);
        places.sort_by_key(|(tenancy, _)| (&tenancy.vm, tenancy.epoch, tenancy.whole()));
        let pairs = places.windows(2).filter(|pair| {
            let [(a, _), (b, _)] = pair else { return false };
            a.vm == b.vm && a.node != b.node
        });
        html! {
            g.moves aria-hidden="true" {
                @for pair in pairs { (self.curve(pair[0], pair[1])) }
            }
        }
    }

    fn curve(&self, from: (&Tenancy, f64), to: (&Tenancy, f64)) -> Markup {
        let left = from.0.granted.map_or(from.0.whole().to, |granted| granted.to);
        let (x1, x2) = (self.scale.x(left), self.scale.x(to.0.whole().from));
        let path = format!(
            "M{} {}C{} {} {} {} {} {}",
            px(x1),
            px(from.1),
            px(x1 + 12.0),
            px(from.1),
            px(x2 - 12.0),
            px(to.1),
            px(x2),
            px(to.1)
        );
        html! { path d=(path) {} }
    }

    fn clients(&mut self, top: u64) -> Vec<Band> {
        let mut clients: BTreeMap<&str, BTreeMap<u64, Vec<&Operation>>> = BTreeMap::new();
        for operation in &self.record.operations {
            let bucket = self.scale.bucket(operation.begun, TICK);
            clients.entry(&operation.client).or_default().entry(bucket).or_default().push(operation);
        }
        let mut bands = Vec::new();
        let mut top = top;
        for (name, buckets) in clients {
            let count: usize = buckets.values().map(Vec::len).sum();
            let body = html! {
                @for operations in buckets.values() { @if self.fits() { (self.tick(operations, top)) } }
            };
            let about = format!("{count} requests");
            bands.push(Band { title: name.to_string(), about, top, height: CLIENT, body });
            top += CLIENT + 1;
        }
        bands
    }

    /// All requests of one client that begin in the same place.
    fn tick(&self, operations: &[&Operation], top: u64) -> Markup {
        let worst = operations.iter().map(|it| it.outcome).max().unwrap_or(Outcome::Ok);
        let x = self.scale.x(operations[0].begun);
        let (class, y, height) = match worst {
            Outcome::Ok => ("mark op ok", top + 5, 5),
            Outcome::Refused => ("mark op refused", top + 3, 9),
            Outcome::Unknown => ("mark op unknown", top + 1, 13),
            Outcome::Failed => ("mark op failed", top, 14),
        };
        html! {
            g class=(class) {
                title { (self.told(operations)) }
                @if let Some(ended) = operations.iter().filter_map(|it| it.ended).max() {
                    @let (x, width) = self.extent(Span { from: operations[0].begun, to: ended });
                    @if width > 4.0 { rect.wait x=(px(x)) y=(top + 7) width=(px(width)) height="1" {} }
                }
                rect x=(px(x)) y=(y) width="2" height=(height) {}
                @if worst >= Outcome::Unknown { circle cx=(px(x + 1.0)) cy=(y + 2) r="2.2" {} }
            }
        }
    }

    fn told(&self, operations: &[&Operation]) -> String {
        let first = operations[0];
        if let [only] = operations {
            let node = only.node.map_or(String::new(), |node| format!(" of {}", self.record.nodes[node]));
            let took = only.ended.map_or(String::new(), |ended| {
                format!(" after {} ms", ended.saturating_sub(only.begun) / 1000)
            });
            let what = self.record.named(&only.what);
            let (client, outcome) = (&only.client, only.outcome.word());
            return format!("{} s: {client} asked{node}: {what}: {outcome}{took}", seconds(only.begun));
        }
        let counts = Outcome::ALL.into_iter().filter_map(|outcome| {
            let count = operations.iter().filter(|it| it.outcome == outcome).count();
            (count > 0).then(|| format!("{count} {}", outcome.word()))
        });
        let counts: Vec<_> = counts.collect();
        let (count, client) = (operations.len(), &first.client);
        format!("{} s: {client}, {count} requests: {}", seconds(first.begun), counts.join(", "))
    }
}

/// Of a VM that stopped and started under one epoch.
const RUNS_TOLD_MAX: usize = 4;

/// A fault's name in ids and classes.
pub fn key(fault: Fault) -> &'static str {
    match fault {
        Fault::Crash => "crash",
        Fault::Power => "power",
        Fault::Pause => "pause",
        Fault::Partition => "partition",
        Fault::OneWay => "oneway",
        Fault::Slow => "slow",
        Fault::Lossy => "lossy",
        Fault::Clock => "clock",
        Fault::DiskFull => "full",
        Fault::DiskStall => "stall",
        Fault::Damage => "damage",
        Fault::Hypervisor => "hypervisor",
    }
}

/// The part of a run under the grant, and the part after it.
fn parts(ran: Span, granted: Option<Span>) -> impl Iterator<Item = (Span, bool)> {
    let end = granted.map_or(ran.to, |granted| granted.to.clamp(ran.from, ran.to));
    let parts = [(Span { from: ran.from, to: end }, false), (Span { from: end, to: ran.to }, true)];
    parts.into_iter().filter(|(part, _)| part.to > part.from)
}

fn period(span: Span) -> String {
    let took_ms = (span.to - span.from) / 1000;
    format!("{} to {} s ({took_ms} ms)", seconds(span.from), seconds(span.to))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lanes_never_overlap_and_are_used_again() {
        let mut lanes = Lanes::default();
        let span = |from, to| Span { from, to };
        let put = [span(0, 10), span(5, 8), span(8, 20), span(10, 12), span(30, 31)];
        let at: Vec<_> = put.into_iter().map(|span| lanes.put(span, None)).collect();
        assert_eq!(at, [0, 1, 1, 0, 0]);
        assert_eq!(lanes.put(span(40, 50), Some(1)), 1);
    }
}
