//! The page: verdict, facts, legend, chart, lines. One file that loads nothing.

use data_encoding::BASE64;
use maud::{DOCTYPE, Markup, PreEscaped, html};
use sha2::{Digest, Sha256};

use crate::{
    chart::{self, Chart, key},
    record::{Fault, Outcome, Record, Verdict, seconds},
    spans::{self, Spans},
    story::{self, Kind, Row},
};

/// A browser draws so many at ease; a page of as many is some megabytes long.
pub const MARKS_MAX: usize = 20_000;

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// The whole page.
pub fn page(record: &Record) -> String {
    let spans = spans::of(record);
    let rows = story::rows(record);
    let chart = chart::chart(record, &spans);
    let markup = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="Content-Security-Policy" content=(policy());
                meta name="viewport" content="width=device-width";
                meta name="color-scheme" content="light dark";
                title { (verdict_word(&record.verdict)) ": " (record.title) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                (head(record))
                (patterns())
                (legend(&spans))
                (figure(&chart))
                (lines(record, &rows))
                script { (PreEscaped(SCRIPT)) }
            }
        }
    };
    markup.into_string()
}

/// Nothing but our own style and script, word for word.
fn policy() -> String {
    let hash = |text: &str| format!("'sha256-{}'", BASE64.encode(&Sha256::digest(text.as_bytes())));
    format!("default-src 'none'; style-src {}; script-src {}", hash(STYLE), hash(SCRIPT))
}

fn verdict_word(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::None => "broken off",
        Verdict::Good => "kept",
        Verdict::Broken(_) => "BROKEN",
    }
}

fn head(record: &Record) -> Markup {
    let (class, symbol) = match record.verdict {
        Verdict::Good => ("good", "✓"),
        Verdict::None => ("none", "?"),
        Verdict::Broken(_) => ("broken", "✗"),
    };
    html! {
        header {
            p class=(format!("verdict {class}")) { span.symbol aria-hidden="true" { (symbol) } " " (story::verdict_line(record)) }
            h1 { (record.title) }
            dl.facts {
                @for (name, value) in &record.facts {
                    div.long[value.len() > FACT_MAX] { dt { (name) } dd { (value) } }
                }
            }
            @if !record.again.is_empty() {
                p.again { "The same run again:" }
                pre tabindex="0" { @for command in &record.again { code { (command) } "\n" } }
            }
            @if let Verdict::Broken(reasons) = &record.verdict {
                @for why in reasons { (broken(record, why)) }
            }
        }
    }
}

/// Longer ones have a line of their own.
const FACT_MAX: usize = 44;

fn broken(record: &Record, why: &str) -> Markup {
    html! {
        section.why {
            details open {
                summary { "What led to it: " strong { (record.named(why)) } }
                ol { @for (at, text) in story::blamed(record, why) { li { time { (seconds(at)) } " " (text) } } }
            }
        }
    }
}

/// A picture of eight by eight for each fault: told apart without colours too.
fn patterns() -> Markup {
    html! {
        svg.defs width="0" height="0" aria-hidden="true" focusable="false" {
            defs {
                @for fault in Fault::ALL {
                    pattern id=(format!("p-{}", key(fault))) class=(format!("c-{}", key(fault)))
                        width="8" height="8" patternUnits="userSpaceOnUse" {
                        rect.back width="8" height="8" {}
                        (strokes(fault))
                    }
                }
            }
        }
    }
}

fn strokes(fault: Fault) -> Markup {
    let d = match fault {
        Fault::Crash => "M0 0L8 8M8 0L0 8",
        Fault::Power => "M0 1H8M0 3H8M0 5H8M0 7H8M1 0V8M5 0V8",
        Fault::Pause => "M2 0V8M6 0V8",
        Fault::Partition => "M-2 2L2 -2M0 8L8 0M6 10L10 6",
        Fault::OneWay => "M-2 6L2 10M0 0L8 8M6 -2L10 2",
        Fault::Slow => "M0 4Q2 0 4 4T8 4",
        Fault::Lossy => "M1 2h2M5 6h2",
        Fault::Clock => "M0 8L4 2L8 8",
        Fault::DiskFull => "M0 2H8M0 6H8",
        Fault::DiskStall => "M0 4H8M4 0V8",
        Fault::Damage => "M0 6L2 2L4 6L6 2L8 6",
        Fault::Hypervisor => "M4 1V7M1 4H7",
    };
    html! { path d=(d) {} }
}

fn swatch(name: &str) -> Markup {
    html! {
        svg.swatch width="26" height="14" aria-hidden="true" focusable="false" {
            rect width="26" height="14" fill=(format!("url(#p-{name})")) {}
        }
    }
}

/// What the other marks mean: class of the sample, and words.
const MARKS: [(&str, &str); 8] = [
    ("leads", "leads, with its term"),
    ("asks", "asks for votes"),
    ("follows", "follows"),
    ("learns", "learns: has no vote"),
    ("index", "applied index"),
    ("granted", "VM granted (its name and epoch)"),
    ("ran", "VM runs under its grant"),
    ("late", "VM runs longer than granted"),
];

fn legend(spans: &Spans) -> Markup {
    let count = |fault| spans.faults.iter().filter(|span| span.fault == fault).count();
    html! {
        section.legend aria-label="Legend" {
            h2 { "Faults" }
            ul {
                @for fault in Fault::ALL {
                    li.absent[count(fault) == 0] {
                        (swatch(key(fault))) (fault.word()) " " span.count { "×" (count(fault)) }
                    }
                }
            }
            h2 { "Marks" }
            ul {
                @for (class, words) in MARKS {
                    li { svg.swatch width="26" height="14" aria-hidden="true" focusable="false" { (sample(class)) } (words) }
                }
            }
            h2 { "Requests" }
            ul {
                @for outcome in Outcome::ALL {
                    li { svg.swatch width="26" height="14" aria-hidden="true" focusable="false" { (tick(outcome)) } (outcome.word()) }
                }
            }
        }
    }
}

fn sample(class: &str) -> Markup {
    match class {
        "leads" => {
            html! { g.leads.odd { rect width="13" height="14" {} } g.leads.even { rect x="13" width="13" height="14" {} } }
        }
        "follows" | "learns" => html! { g class=(class) { rect y="6" width="26" height="2" {} } },
        "index" => html! { g.index { polyline points="0,12 8,12 12,4 26,2" {} } },
        "granted" => html! { g.vm { rect.granted x="1" y="2" width="24" height="10" rx="2" {} } },
        "ran" => {
            html! { g.vm { rect.granted x="1" y="2" width="24" height="10" rx="2" {} rect.ran x="4" y="8" width="21" height="4" {} } }
        }
        "late" => html! { g.vm { rect.ran.late x="1" y="8" width="24" height="4" {} } },
        _ => html! { g class=(class) { rect width="26" height="14" {} } },
    }
}

fn tick(outcome: Outcome) -> Markup {
    let (class, y, height) = match outcome {
        Outcome::Ok => ("op ok", 5, 5),
        Outcome::Refused => ("op refused", 3, 9),
        Outcome::Unknown => ("op unknown", 1, 13),
        Outcome::Failed => ("op failed", 0, 14),
    };
    html! {
        g class=(class) {
            @for x in [4, 12, 20] {
                rect x=(x) y=(y) width="2" height=(height) {}
                @if outcome >= Outcome::Unknown { circle cx=(x + 1) cy=(y + 2) r="2.2" {} }
            }
        }
    }
}

fn figure(chart: &Chart) -> Markup {
    let Chart { labels, marks, width, height, left_out } = chart;
    html! {
        section.run aria-label="The run: time across, nodes down" {
            h2 { "The run" }
            p.keys { "Tab goes from row to row, the arrow keys from mark to mark, Home and End to the first and the last." }
            p.detail role="status" aria-live="polite" { "A mark under the pointer, or with the focus, is told here." }
            div.chart {
                svg.labels width="92" height=(height) aria-hidden="true" focusable="false" { (labels) }
                div.scroll tabindex="0" role="region" aria-label="Chart, scrolls" {
                    svg.marks width=(width) height=(height) viewBox=(format!("0 0 {width} {height}"))
                        role="group" aria-label="Chart" { (marks) }
                }
            }
            @if *left_out > 0 { p { (left_out) " marks did not fit and are left out." } }
        }
    }
}

fn lines(record: &Record, rows: &[Row]) -> Markup {
    html! {
        section.story {
            details {
                summary { h2 { "Line by line" } " (" (rows.len()) ")" }
                table {
                    thead { tr { th scope="col" { "seconds" } th scope="col" { "who" } th scope="col" { "what happened" } } }
                    tbody { @for row in rows { (line(record, row)) } }
                }
            }
        }
    }
}

fn line(record: &Record, row: &Row) -> Markup {
    let class = match row.kind {
        Kind::Event => "event",
        Kind::Fault => "fault",
        Kind::Leader => "leader",
        Kind::Phase => "phase",
        Kind::Quiet => "quiet",
    };
    let who = row.node.map_or("", |node| &record.nodes[node]);
    html! { tr class=(class) { td { (seconds(row.at)) } td { (who) } td { (row.text) } } }
}
