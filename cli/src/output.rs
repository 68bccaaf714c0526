//! Data on stdout, talk on stderr. A table for people, the API's own JSON for programs.

use std::io::{IsTerminal, Write};

use clap::ValueEnum;
use comfy_table::{ContentArrangement, presets};
pub use scp_api::health::{count, duration_ms};
use serde::Serialize;

use crate::error::{CliError, Result, stdout_failed};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Format {
    /// Columns for people.
    #[default]
    Table,
    /// The API's JSON, stable within a major version.
    Json,
}

/// Where a command puts what it has to say.
#[derive(Debug, Clone, Copy)]
pub struct Out {
    pub format: Format,
    pub quiet: bool,
    pub verbose: u8,
}

impl Out {
    /// The answer: `value` as JSON, or what `table` makes of it.
    pub fn data<T: Serialize>(self, value: &T, table: impl FnOnce(&T) -> String) -> Result<()> {
        let text = match self.format {
            Format::Table => table(value),
            Format::Json => {
                let mut text = serde_json::to_string_pretty(value)
                    .map_err(|error| CliError::failed(format!("the answer cannot be shown: {error}")))?;
                text.push('\n');
                text
            }
        };
        self.raw(text.as_bytes())
    }

    /// One JSON value a line (streams), or a line for people.
    pub fn line<T: Serialize>(self, value: &T, line: impl FnOnce(&T) -> String) -> Result<()> {
        let mut text = match self.format {
            Format::Table => line(value),
            Format::Json => serde_json::to_string(value)
                .map_err(|error| CliError::failed(format!("the answer cannot be shown: {error}")))?,
        };
        text.push('\n');
        self.raw(text.as_bytes())
    }

    /// Bytes as they are.
    pub fn raw(self, bytes: &[u8]) -> Result<()> {
        let mut stdout = std::io::stdout().lock();
        stdout.write_all(bytes).and_then(|()| stdout.flush()).map_err(|error| stdout_failed(&error))
    }

    /// A remark for people, unless `--quiet`. A closed stderr is nobody's error.
    pub fn talk(self, text: impl AsRef<str>) {
        if !self.quiet {
            let _ = writeln!(std::io::stderr(), "{}", clean(text.as_ref()));
        }
    }

    /// Said with `-v` only.
    pub fn detail(self, text: impl AsRef<str>) {
        if self.verbose > 0 {
            let _ = writeln!(std::io::stderr(), "{}", clean(text.as_ref()));
        }
    }

    /// Whether bars and spinners have somebody to look at them.
    pub fn animated(self) -> bool {
        !self.quiet && std::io::stderr().is_terminal()
    }
}

/// Text from elsewhere (names, messages of drivers, details of errors), made harmless for a terminal:
/// control characters other than the newline become `\u{..}`.
pub fn clean(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() && c != '\n' {
            out.extend(c.escape_unicode());
        } else {
            out.push(c);
        }
    }
    out
}

/// Columns without borders, as `grep` and `awk` like them.
pub fn table<const N: usize>(headers: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let mut table = comfy_table::Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(headers);
    for row in rows {
        table.add_row(row.map(|cell| {
            let cell = clean(&cell).replace('\n', " ");
            if cell.is_empty() { "-".into() } else { cell }
        }));
    }
    finish(&mut table)
}

/// One thing: a field a line. Continuation lines of a value are indented under it.
pub fn fields<'a>(fields: impl IntoIterator<Item = (&'a str, String)>) -> String {
    let mut table = comfy_table::Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    for (name, value) in fields {
        let value = clean(&value);
        table.add_row([name.to_owned(), if value.is_empty() { "-".into() } else { value }]);
    }
    finish(&mut table)
}

fn finish(table: &mut comfy_table::Table) -> String {
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let mut text: String = table.lines().map(|line| format!("{}\n", line.trim_end())).collect();
    if text.is_empty() {
        text.push('\n');
    }
    text
}

/// `512 MiB`, `2 GiB`, `1.5 TiB`.
pub fn mib(amount: u64) -> String {
    bytes(amount.saturating_mul(1 << 20))
}

/// A size in the largest binary unit that keeps at least one digit before the point.
pub fn bytes(amount: u64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut unit = 0;
    let mut scale = 1u64;
    while unit + 1 < UNITS.len() && amount / scale >= 1024 {
        unit += 1;
        scale *= 1024;
    }
    let tenths = u128::from(amount) * 10 / u128::from(scale);
    if tenths.is_multiple_of(10) {
        format!("{} {}", tenths / 10, UNITS[unit])
    } else {
        format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_aligned_and_has_no_trailing_blanks() {
        let text = table(
            ["NAME", "STATE"],
            [["web".into(), "running".into()], ["database-1".into(), String::new()]],
        );
        assert_eq!(text, "NAME        STATE\nweb         running\ndatabase-1  -\n");
    }

    #[test]
    fn an_empty_table_still_has_its_header() {
        assert_eq!(table(["NAME"], []), "NAME\n");
    }

    #[test]
    fn a_cell_cannot_break_the_line_or_the_terminal() {
        let text = table(["NAME", "X"], [["a\nb\u{1b}[2J".into(), "y".into()]]);
        assert_eq!(text.lines().count(), 2);
        assert!(!text.contains('\u{1b}'));
    }

    #[test]
    fn fields_line_up() {
        let text = fields([("name", "web".into()), ("image", String::new())]);
        assert_eq!(text, "name   web\nimage  -\n");
    }

    #[test]
    fn sizes_read_naturally() {
        for (given, expected) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1 KiB"),
            (1536, "1.5 KiB"),
            (4 << 20, "4 MiB"),
            (u64::MAX, "16383.9 PiB"),
        ] {
            assert_eq!(bytes(given), expected);
        }
        assert_eq!(mib(2048), "2 GiB");
        assert_eq!(mib(u64::MAX), bytes(u64::MAX));
    }
}
