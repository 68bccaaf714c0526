//! The run as text: a lane a node, a line an event, the events of a broken promise once more at the end.
//!
//! ```text
//!      time  n1          n2          n3               what happened
//!    14.220  │           █           │           n1   its process is killed
//!    15.480  x           █ t4  1211  │ t4  1211       1.2 s: 31 ok, 1 refused
//! ```

use std::fmt::Write as _;

use crate::{
    record::{Fault, Record, Role, Verdict, seconds},
    story::{self, Cell, Kind, Row},
};

/// Wider only when there are so many nodes that no text would be left.
const WIDTH: usize = 120;
const TEXT_MIN: usize = 34;
const TIME: usize = 9;
/// Faults shown beside a lane; of more, `+`.
const FLAGS: usize = 2;

/// Whether the reader's terminal knows colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Colours {
    None,
    Ansi,
}

/// How wide everything is.
struct Layout {
    term: usize,
    index: usize,
    name: usize,
    text: usize,
    colours: Colours,
}

impl Layout {
    fn of(record: &Record, rows: &[Row], colours: Colours) -> Self {
        let cells = || rows.iter().flat_map(|row| &row.cells);
        let digits = |number: u64| number.to_string().len();
        let term = 1 + cells().map(|cell| digits(cell.term)).max().unwrap_or(1);
        let index = cells().map(|cell| digits(cell.applied)).max().unwrap_or(1);
        let name = record.nodes.iter().map(|name| name.chars().count()).max().unwrap_or(0);
        let mut layout = Self { term, index, name, text: 0, colours };
        let lanes = TIME + 2 + record.nodes.len() * (layout.cell() + 2) + name + 2;
        layout.text = WIDTH.saturating_sub(lanes).max(TEXT_MIN);
        layout
    }

    fn cell(&self) -> usize {
        1 + FLAGS + 1 + self.term + 1 + self.index
    }

    fn paint(&self, code: &str, text: &str) -> String {
        match self.colours {
            Colours::Ansi if !code.is_empty() => format!("\x1b[{code}m{text}\x1b[0m"),
            Colours::Ansi | Colours::None => text.into(),
        }
    }
}

const BOLD: &str = "1";
const DIM: &str = "2";
const RED: &str = "31";
const GREEN: &str = "32";
const YELLOW: &str = "33";
const RED_BOLD: &str = "1;31";
const GREEN_BOLD: &str = "1;32";

/// The whole report.
pub fn report(record: &Record, colours: Colours) -> String {
    let rows = story::rows(record);
    let layout = Layout::of(record, &rows, colours);
    let mut out = String::new();
    head(&mut out, record, &layout);
    legend(&mut out, &layout);
    titles(&mut out, record, &layout);
    for row in &rows {
        line(&mut out, record, &layout, row);
    }
    verdict(&mut out, record, &layout);
    out
}

fn put(out: &mut String, text: &str) {
    out.push_str(text.trim_end());
    out.push('\n');
}

fn head(out: &mut String, record: &Record, layout: &Layout) {
    put(out, &layout.paint(BOLD, &record.title));
    let width = record.facts.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    for (name, value) in &record.facts {
        for (at, piece) in wrapped(value, WIDTH - width - 4).iter().enumerate() {
            let name = if at == 0 { name.as_str() } else { "" };
            put(out, &format!("  {}  {piece}", layout.paint(DIM, &format!("{name:<width$}"))));
        }
    }
    for command in &record.again {
        put(out, &format!("  {}  {command}", layout.paint(DIM, &format!("{:<width$}", "again"))));
    }
}

/// Of roles and of what stands in their place.
fn life(cell: &Cell) -> char {
    let still = [Fault::Power, Fault::Crash, Fault::Pause];
    if let Some(fault) = still.into_iter().find(|fault| cell.faults.contains(fault)) {
        return fault.symbol();
    }
    match cell.role {
        None => '·',
        Some(Role::Leader) => '█',
        Some(Role::Follower) => '│',
        Some(Role::Candidate) => '?',
        Some(Role::Learner) => '┊',
        Some(Role::Out) => '-',
    }
}

/// Stands for a space at which nothing is cut.
const TIED: &str = "\u{a0}";

fn legend(out: &mut String, layout: &Layout) {
    let roles = "█ leads   │ follows   ? asks for votes   ┊ learns   - takes no part   · has not spoken yet";
    let (still, other): (Vec<_>, Vec<_>) = Fault::ALL.into_iter().partition(|fault| fault.is_still());
    let told = |faults: Vec<Fault>| {
        let parts: Vec<_> = faults
            .iter()
            .map(|fault| format!("{}{TIED}{}", fault.symbol(), fault.word().replace(' ', TIED)))
            .collect();
        parts.join("   ")
    };
    let untied = |text: &str| text.replace(TIED, " ");
    let mut lines = vec![("lane", roles.to_string()), ("", untied(&told(still)))];
    let beside = wrapped(&told(other), WIDTH - 12);
    lines.extend(
        beside.iter().enumerate().map(|(at, text)| (if at == 0 { "beside it" } else { "" }, untied(text))),
    );
    lines.push(("t4 1211", "term and applied index, where they are new".into()));
    lines.push(("⋮", "a stretch without events: what clients were told and what became of VMs".into()));
    out.push('\n');
    for (name, text) in lines {
        put(out, &format!("  {}  {text}", layout.paint(DIM, &format!("{name:<9}"))));
    }
    out.push('\n');
}

fn titles(out: &mut String, record: &Record, layout: &Layout) {
    let mut text = format!("{:>TIME$}  ", "seconds");
    for name in &record.nodes {
        let _ = write!(text, "{name:<width$}  ", width = layout.cell());
    }
    let _ = write!(text, "{:name$}  what happened", "", name = layout.name);
    put(out, &layout.paint(BOLD, &text));
}

fn lane(layout: &Layout, cell: &Cell) -> String {
    let symbol = life(cell);
    let code = match (symbol, cell.faults.is_empty()) {
        ('█', _) => GREEN_BOLD,
        ('x' | '#' | '=', _) => RED,
        (_, false) => YELLOW,
        (_, true) => "",
    };
    let beside: Vec<_> = cell.faults.iter().filter(|fault| !fault.is_still()).collect();
    let mut flags: String = beside.iter().take(FLAGS).map(|fault| fault.symbol()).collect();
    if beside.len() > FLAGS {
        flags.pop();
        flags.push('+');
    }
    layout.paint(code, &format!("{symbol}{flags:<FLAGS$}"))
}

fn lanes(layout: &Layout, cells: &[Cell], with_numbers: bool) -> String {
    cells.iter().fold(String::new(), |mut text, cell| {
        let numbers = match cell.is_new && with_numbers && cell.role.is_some() {
            true => {
                let term = format!("t{}", cell.term);
                format!("{term:>0$} {2:>1$}", layout.term, layout.index, cell.applied)
            }
            false => " ".repeat(layout.term + 1 + layout.index),
        };
        let _ = write!(text, "{} {}  ", lane(layout, cell), layout.paint(DIM, &numbers));
        text
    })
}

fn line(out: &mut String, record: &Record, layout: &Layout, row: &Row) {
    let code = match row.kind {
        Kind::Event => "",
        Kind::Fault => RED,
        Kind::Leader => GREEN,
        Kind::Phase => BOLD,
        Kind::Quiet => DIM,
    };
    let time = match row.kind {
        Kind::Quiet => "⋮".to_string(),
        Kind::Event | Kind::Fault | Kind::Leader | Kind::Phase => seconds(row.at),
    };
    let name = row.node.map_or("", |node| &record.nodes[node]);
    for (at, piece) in wrapped(&row.text, layout.text).iter().enumerate() {
        let is_first = at == 0;
        let (time, name) = if is_first { (time.as_str(), name) } else { ("", "") };
        let lanes = lanes(layout, &row.cells, is_first);
        let name = format!("{name:<width$}", width = layout.name);
        put(out, &format!("{time:>TIME$}  {lanes}{name}  {}", layout.paint(code, piece)));
    }
}

fn verdict(out: &mut String, record: &Record, layout: &Layout) {
    out.push('\n');
    let code = match record.verdict {
        Verdict::Good => GREEN_BOLD,
        Verdict::None | Verdict::Broken(_) => RED_BOLD,
    };
    let Verdict::Broken(reasons) = &record.verdict else {
        put(out, &layout.paint(code, &story::verdict_line(record)));
        return;
    };
    for why in reasons {
        let told = story::blamed(record, why);
        put(out, "What led to it:");
        for (at, text) in told {
            for (piece_at, piece) in wrapped(&text, WIDTH - TIME - 4).iter().enumerate() {
                let (mark, time) = if piece_at == 0 { ("!", seconds(at)) } else { ("", String::new()) };
                put(out, &layout.paint(RED, &format!("{mark:1}{time:>8}  {piece}")));
            }
        }
        let broken = format!("BROKEN at {} s: {}", seconds(record.end), record.named(why));
        wrapped(&broken, WIDTH).iter().for_each(|piece| put(out, &layout.paint(code, piece)));
    }
}

/// Cut at spaces into pieces of at most so many characters; a word that is longer is cut.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut pieces = vec![String::new()];
    for word in text.split(' ') {
        let mut word = word.to_string();
        loop {
            let last = pieces.last_mut().expect("there is always a last piece");
            let used = last.chars().count();
            let gap = usize::from(used > 0);
            let length = word.chars().count();
            if used + gap + length <= width {
                if gap > 0 {
                    last.push(' ');
                }
                last.push_str(&word);
                break;
            }
            if used == 0 {
                let rest = word.chars().skip(width).collect();
                last.extend(word.chars().take(width));
                word = rest;
            }
            pieces.push(String::new());
        }
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_cut_at_spaces_and_long_words_anywhere() {
        assert_eq!(wrapped("a bc def", 4), ["a bc", "def"]);
        assert_eq!(wrapped("abcdefgh i", 3), ["abc", "def", "gh", "i"]);
        assert_eq!(wrapped("", 3), [""]);
    }
}
