//! What happened in a run: a digest of everything, and the lines that a person reads.

use std::fmt::Write as _;

use scp_chronicle::What;

use crate::recorder::Recorder;

/// How many of the last lines are kept for the report of a failure.
const LINES_MAX: usize = 20_000;

/// A digest over every event, and the readable ones.
#[derive(Debug)]
pub struct Trace {
    digest: u64,
    events: u64,
    lines: std::collections::VecDeque<Line>,
    /// Print lines as they come.
    pub aloud: bool,
    /// Only where somebody wants to see the run.
    pub recorder: Option<Recorder>,
}

/// One readable event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    pub at_ms: u64,
    pub who: String,
    pub what: String,
}

impl Default for Trace {
    fn default() -> Self {
        Self {
            digest: 0xcbf2_9ce4_8422_2325,
            events: 0,
            lines: Default::default(),
            aloud: false,
            recorder: None,
        }
    }
}

impl Trace {
    fn mix(&mut self, number: u64) {
        self.digest = (self.digest ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    }

    fn mix_text(&mut self, text: &str) {
        for piece in text.as_bytes().chunks(8) {
            let mut bytes = [0; 8];
            bytes[..piece.len()].copy_from_slice(piece);
            self.mix(u64::from_le_bytes(bytes));
        }
        self.mix(text.len() as u64);
    }

    /// An event of the machinery: a message.
    pub fn event(&mut self, at: u64, kind: u64, numbers: [u64; 2]) {
        self.events += 1;
        self.mix(at);
        self.mix(kind);
        numbers.into_iter().for_each(|number| self.mix(number));
    }

    /// An event that a person wants to read.
    pub fn line(&mut self, at_ms: u64, who: impl Into<String>, what: impl Into<String>) {
        let line = Line { at_ms, who: who.into(), what: what.into() };
        if let Some(recorder) = &self.recorder {
            recorder.line(at_ms * 1000, &line.who, &line.what);
        }
        self.mixed(line);
    }

    /// The same for what means more than its words.
    pub fn told(&mut self, at_ms: u64, who: impl Into<String>, what: impl Into<String>) {
        self.mixed(Line { at_ms, who: who.into(), what: what.into() });
    }

    /// Only for the eyes: the digest knows nothing of it.
    pub fn record(&mut self, at_us: u64, what: impl FnOnce() -> What) {
        if let Some(recorder) = &mut self.recorder {
            recorder.what(at_us, what());
        }
    }

    fn mixed(&mut self, line: Line) {
        let at_ms = line.at_ms;
        self.mix(at_ms);
        self.mix_text(&line.who);
        self.mix_text(&line.what);
        if self.aloud {
            println!("{}", render(&line));
        }
        if self.lines.len() == LINES_MAX {
            self.lines.pop_front();
        }
        self.lines.push_back(line);
    }

    pub fn digest(&self) -> u64 {
        self.digest
    }

    pub fn events(&self) -> u64 {
        self.events
    }

    /// The lines so far, in columns: time, who, what.
    pub fn report(&self) -> String {
        self.lines.iter().fold(String::new(), |mut out, line| {
            let _ = writeln!(out, "{}", render(line));
            out
        })
    }

    pub fn lines(&self) -> impl Iterator<Item = &Line> {
        self.lines.iter()
    }
}

fn render(line: &Line) -> String {
    format!("{:>10.3} s  {:<8}  {}", line.at_ms as f64 / 1000.0, line.who, line.what)
}
