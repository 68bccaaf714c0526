//! The report of a made-up run, as it is to look. `REWRITE=1` writes it anew.

mod example;

use scp_chronicle::columns::{Colours, report};

#[test]
fn the_report_reads_as_written() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/report.txt");
    let told = report(&example::run(), Colours::None);
    if std::env::var_os("REWRITE").is_some() {
        std::fs::write(path, &told).expect("the golden file can be written");
    }
    let golden = std::fs::read_to_string(path).expect("the golden file is there");
    assert_eq!(told, golden, "REWRITE=1 if it is meant to be so");
}

#[test]
fn no_line_is_wider_than_a_terminal_and_colours_change_no_word() {
    let plain = report(&example::run(), Colours::None);
    for line in plain.lines() {
        assert!(line.chars().count() <= 120, "{line}");
    }
    let painted = report(&example::run(), Colours::Ansi);
    assert!(painted.contains("\x1b["), "nothing is painted");
    let mut words = String::new();
    for piece in painted.split("\x1b[") {
        words.push_str(
            piece
                .split_once('m')
                .filter(|(code, _)| !code.contains(|c: char| !c.is_ascii_digit() && c != ';'))
                .map_or(piece, |(_, rest)| rest),
        );
    }
    let squeeze = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(squeeze(&words), squeeze(&plain));
}
