//! The command line, parsed by hand: a parser crate would take longer to compile than all of xtask.

use anyhow::{Result, bail};

use crate::test;

/// What was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Task {
    Demo(Demo),
    /// Ends the city that `demo --keep` left running.
    DemoEnd,
    /// Runs a command on a server of the kept city.
    On {
        server: String,
        words: Vec<String>,
    },
    /// The steps of these names; none: all.
    Test {
        steps: Vec<String>,
    },
    Verify,
    Fix,
    Fuzz {
        seconds: u64,
    },
    /// The benchmark of this name; none: all.
    Bench {
        name: Option<String>,
        json: bool,
    },
    Chaos(Chaos),
    /// Hunts the seeded bugs.
    Mutants {
        json: bool,
    },
    /// Prints the path of the guest image, built first if need be.
    Guest,
    Help,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Demo {
    pub keep: bool,
    pub json: bool,
}

/// What of chaos/scenarios is played, and how.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Chaos {
    pub short: bool,
    pub json: bool,
    /// None: all.
    pub names: Vec<String>,
}

pub const HELP: &str = "\
cargo xtask demo [--keep] [--json]   three servers, one city, a VM that survives its server's death
cargo xtask demo --end               ends the city that --keep left running
cargo xtask on SERVER COMMAND...     runs a command on a server (n1, n2, n3) of the kept city
cargo xtask test [STEP]...           everything: verify, tests, doctests, fuzz, guest, chaos, demo, story
cargo xtask verify                   format, lints, layers, house rules; never writes
cargo xtask fix                      mends what of that can be mended by itself
cargo xtask fuzz [--seconds N]       each decoder for N seconds (default 20)
cargo xtask bench [NAME] [--json]    the benchmarks that exist, or the one of this name
cargo xtask chaos [--short] [--json] [NAME]...   scenarios of faults on a real city; all when none is named
cargo xtask mutants [--json]         seeded bugs, one at a time: which of them the simulator finds
cargo xtask guest                    builds the guest image and prints its path
";

/// Long enough for libFuzzer to leave the seeds behind, short enough for every test run.
const FUZZ_SECONDS: u64 = 20;

/// The tasks' names, as the help lists them.
#[cfg(test)]
const NAMES: [&str; 10] =
    ["demo", "on", "test", "verify", "fix", "fuzz", "bench", "chaos", "mutants", "guest"];

/// Reads the words after `cargo xtask`.
pub fn parse(words: &[String]) -> Result<Task> {
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    let task = match words[..] {
        [] | ["help" | "--help" | "-h"] => Task::Help,
        ["demo", "--end"] => Task::DemoEnd,
        ["demo", ref flags @ ..] => Task::Demo(demo(flags)?),
        ["on", server, ref words @ ..] if !words.is_empty() => {
            Task::On { server: server.into(), words: words.iter().map(|word| (*word).to_string()).collect() }
        }
        ["on", ..] => bail!("a server and a command belong to it: cargo xtask on n1 scpctl status"),
        ["test", ref names @ ..] => Task::Test { steps: steps(names)? },
        ["verify"] => Task::Verify,
        ["fix"] => Task::Fix,
        ["fuzz"] => Task::Fuzz { seconds: FUZZ_SECONDS },
        ["fuzz", "--seconds", number] => match number.parse() {
            Ok(seconds) if seconds > 0 => Task::Fuzz { seconds },
            Ok(_) | Err(_) => bail!("--seconds takes a whole number above 0, not {number:?}"),
        },
        ["bench"] => Task::Bench { name: None, json: false },
        ["bench", "--json"] => Task::Bench { name: None, json: true },
        ["bench", name] if !name.starts_with('-') => Task::Bench { name: Some(name.into()), json: false },
        ["bench", name, "--json"] => Task::Bench { name: Some(name.into()), json: true },
        ["chaos", ref words @ ..] => Task::Chaos(chaos(words)?),
        ["mutants"] => Task::Mutants { json: false },
        ["mutants", "--json"] => Task::Mutants { json: true },
        ["guest"] => Task::Guest,
        [first, ..] => bail!("{:?} is not a task, or not with these words after it.\n\n{HELP}", first),
    };
    Ok(task)
}

fn steps(names: &[&str]) -> Result<Vec<String>> {
    match names.iter().find(|name| !test::steps().any(|step| step == **name)) {
        Some(name) => {
            bail!("{name:?} is no step; there are: {}", test::steps().collect::<Vec<_>>().join(", "))
        }
        None => Ok(names.iter().map(|name| (*name).to_string()).collect()),
    }
}

fn chaos(words: &[&str]) -> Result<Chaos> {
    let mut chaos = Chaos::default();
    for word in words {
        match *word {
            "--short" => chaos.short = true,
            "--json" => chaos.json = true,
            flag if flag.starts_with('-') => bail!("chaos has no {flag:?}; it has --short and --json"),
            name => chaos.names.push(name.into()),
        }
    }
    Ok(chaos)
}

fn demo(flags: &[&str]) -> Result<Demo> {
    let mut demo = Demo::default();
    for flag in flags {
        match *flag {
            "--keep" => demo.keep = true,
            "--json" => demo.json = true,
            other => bail!("the demo has no {other:?}; it has --keep, --json and --end"),
        }
    }
    Ok(demo)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_line(line: &str) -> Result<Task> {
        parse(&line.split_whitespace().map(String::from).collect::<Vec<_>>())
    }

    #[test]
    fn every_task_in_the_help_is_understood() {
        for line in HELP.lines() {
            let words: Vec<_> =
                line.split("   ").next().expect("a line has a beginning").split(' ').collect();
            let name = words[2];
            assert!(NAMES.contains(&name), "{name} has no entry in NAMES");
            let example = match name {
                "on" => "on n1 scpctl status".to_string(),
                "demo" if words.contains(&"--end") => "demo --end".to_string(),
                other => other.to_string(),
            };
            assert!(parse_line(&example).is_ok(), "{example}");
        }
    }

    #[test]
    fn flags_are_read_and_unknown_ones_are_refused() {
        assert_eq!(
            parse_line("demo --json --keep").expect("both exist"),
            Task::Demo(Demo { keep: true, json: true })
        );
        assert_eq!(parse_line("fuzz --seconds 3").expect("exists"), Task::Fuzz { seconds: 3 });
        let named = Task::Bench { name: Some("schedule".into()), json: true };
        assert_eq!(parse_line("bench schedule --json").expect("exists"), named);
        assert_eq!(parse_line("test demo").expect("exists"), Task::Test { steps: vec!["demo".into()] });
        let chaos = Chaos { short: true, json: false, names: vec!["pause".into()] };
        assert_eq!(parse_line("chaos pause --short").expect("exists"), Task::Chaos(chaos));
        for wrong in [
            "demo --fast",
            "fuzz --seconds 0",
            "fuzz --seconds x",
            "on n1",
            "tset",
            "test --quick",
            "bench --slow",
            "chaos --x",
        ] {
            assert!(parse_line(wrong).is_err(), "{wrong}");
        }
    }
}
