//! What a person sees when something does not work: what happened, why, who can mend it, and the exact
//! next command. Never a debug dump.
//!
//! ```text
//! error: VM "web" cannot be created: the project may have 40 vCPUs, has 38 and asked for 4 more
//!   why:      quota_exceeded
//!   remedy:   ask a city administrator for a larger quota: scpctl project quota culture --vcpus 48
//!   request:  0198c3a2-…
//! ```

use std::fmt::Write as _;

use serde_json::json;

use crate::output::clean;

/// How `scpctl` ends. The numbers are part of its interface (docs/cli.md).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// The operation was tried and failed.
    Failed = 1,
    /// The command line, a file given on it, or the request is wrong.
    Usage = 2,
    /// What was named does not exist.
    NotFound = 3,
    /// Not logged in, or not allowed.
    Denied = 4,
    /// It stands against something that is there: a taken name, a quota, a state that does not allow it.
    Refused = 5,
    /// No node could be reached, or the city cannot agree at the moment.
    Unavailable = 6,
    /// `--wait` did not see the end within `--timeout`; the operation goes on.
    Timeout = 7,
}

/// An error with everything needed to act on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CliError {
    pub exit: Exit,
    /// What happened, in one sentence without a full stop.
    pub what: String,
    /// Further lines: causes, fields, nodes tried.
    pub why: Vec<String>,
    /// What to do next, and who can.
    pub remedy: Option<String>,
    /// The API's code for the kind of problem, or our own.
    pub code: Box<str>,
    pub request: Option<Box<str>>,
    /// The reader of our output went away: nobody is there to be told.
    pub silent: bool,
}

pub type Result<T> = std::result::Result<T, CliError>;

impl CliError {
    pub fn new(exit: Exit, code: &str, what: impl Into<String>) -> Self {
        Self {
            exit,
            what: what.into(),
            why: Vec::new(),
            remedy: None,
            code: code.into(),
            request: None,
            silent: false,
        }
    }

    pub fn usage(what: impl Into<String>) -> Self {
        Self::new(Exit::Usage, "usage", what)
    }

    pub fn failed(what: impl Into<String>) -> Self {
        Self::new(Exit::Failed, "failed", what)
    }

    pub fn not_found(what: impl Into<String>) -> Self {
        Self::new(Exit::NotFound, "not_found", what)
    }

    /// A file could not be read or written.
    pub fn file(path: &std::path::Path, error: &std::io::Error) -> Self {
        let exit = match error.kind() {
            std::io::ErrorKind::PermissionDenied => Exit::Denied,
            std::io::ErrorKind::NotFound => Exit::NotFound,
            _ => Exit::Failed,
        };
        Self::new(exit, "file", format!("{}: {error}", path.display()))
    }

    #[must_use]
    pub fn because(mut self, why: impl Into<String>) -> Self {
        self.why.push(why.into());
        self
    }

    #[must_use]
    pub fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }

    /// For people, on stderr. Everything that came from elsewhere is stripped of control characters.
    pub fn render(&self) -> String {
        let mut text = format!("error: {}\n", clean(&self.what));
        let mut line = |label: &str, value: &str| {
            let _ = writeln!(text, "  {label:<9} {}", clean(value));
        };
        for (at, why) in self.why.iter().enumerate() {
            line(if at == 0 { "why:" } else { "" }, why);
        }
        if let Some(remedy) = &self.remedy {
            line("remedy:", remedy);
        }
        if let Some(request) = &self.request {
            line("request:", &format!("{request} ({})", self.code));
        }
        text
    }

    /// For programs, on stderr, when `--output json` was given: one line.
    pub fn render_json(&self) -> String {
        let value = json!({
            "error": {
                "code": self.code,
                "what": self.what,
                "why": self.why,
                "remedy": self.remedy,
                "request": self.request,
                "exit": self.exit as u8,
            }
        });
        format!("{value}\n")
    }
}

/// Our own output. A reader that went away (`scpctl vm list | head -1`) is no error worth a word.
pub fn stdout_failed(error: &std::io::Error) -> CliError {
    let mut out = CliError::failed(format!("the output cannot be written: {error}"));
    out.silent = error.kind() == std::io::ErrorKind::BrokenPipe;
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> CliError {
        CliError {
            exit: Exit::Refused,
            what: "the project may have 40 vCPUs, has 38 and asked for 4 more".into(),
            why: vec!["vm web".into(), "second line".into()],
            remedy: Some("ask a city administrator: scpctl project quota culture --vcpus 48".into()),
            code: "quota_exceeded".into(),
            request: Some("0198c3a2".into()),
            silent: false,
        }
    }

    #[test]
    fn an_error_tells_what_why_remedy_and_request() {
        assert_eq!(
            example().render(),
            "error: the project may have 40 vCPUs, has 38 and asked for 4 more\n\
             \x20 why:      vm web\n\
             \x20           second line\n\
             \x20 remedy:   ask a city administrator: scpctl project quota culture --vcpus 48\n\
             \x20 request:  0198c3a2 (quota_exceeded)\n"
        );
    }

    #[test]
    fn an_error_cannot_move_the_cursor_or_set_the_title() {
        let error = CliError::failed("bad \u{1b}]0;owned\u{7} name");
        assert!(!error.render().contains('\u{1b}'));
        assert!(!error.render().contains('\u{7}'));
    }

    #[test]
    fn a_program_gets_one_line_of_json() {
        let text = example().render_json();
        assert_eq!(text.lines().count(), 1);
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["error"]["code"], "quota_exceeded");
        assert_eq!(value["error"]["exit"], 5);
    }
}
