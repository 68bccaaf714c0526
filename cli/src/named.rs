//! Every `scpctl …` that is named anywhere is one that can be typed: in the strings and comments of all
//! crates (remedies above all) and in the documents. What follows `scpctl` is walked along the tree of
//! commands: nouns, verbs and options must exist, and no more may follow than is taken.
//!
//! In fenced blocks of documents a line is a command and nothing else; it must parse as it stands.

use std::path::{Path, PathBuf};

use clap::{CommandFactory, Parser};
use proc_macro2::{TokenStream, TokenTree};
use scp_model::{
    DepartmentId, FlavorId, ImageId, JoinTokenId, KeypairId, ProjectId, Rejection, Subject, UserId, VmId,
};

use crate::args::Cli;

/// What may follow `scpctl` in a sentence about the program itself.
const PROSE: &[&str] = &[
    "and", "is", "are", "was", "has", "knows", "cannot", "can", "with", "without", "speaks", "repeats",
    "itself", "on", "in", "as", "at", "or", "nor", "says", "needs", "to", "does", "of", "for", "command",
    "that", "types", "against", "asks", "beside", "gives", "makes", "reaches", "would", "will", "calls",
    "WORDS", "…", "...",
];

/// The command that a text begins with, if it is one that cannot be typed: why.
fn wrong(text: &str) -> Option<String> {
    let mut root = Cli::command();
    root.build();
    let mut command = &root;
    let mut taken = 0;
    let mut words = text.split_whitespace();
    while let Some(word) = words.next() {
        let core =
            word.trim_matches(|c: char| "[](){}`\"'.,;:!?*|".contains(c) && !(c == '.' && word == "..."));
        let ends = word.ends_with(|c: char| ".,;:)`\"'!?|".contains(c));
        if core.is_empty() || core.starts_with('#') || word == "|" {
            return None;
        }
        if matches!(core, "--help" | "--version") {
            return None;
        }
        if let Some(option) = core.strip_prefix('-') {
            let (name, value) =
                option.split_once('=').map_or((option, None), |(name, value)| (name, Some(value)));
            let found = command.get_arguments().find(|arg| match name.strip_prefix('-') {
                Some(long) => arg.get_long() == Some(long),
                None => arg.get_short() == name.chars().next(),
            });
            let Some(found) = found else {
                return Some(format!("{} has no option {core}", command.get_name()));
            };
            if found.get_action().takes_values() && value.is_none() && !ends {
                words.next();
            }
        } else if let Some(sub) = command.find_subcommand(core) {
            command = sub;
        } else if command.has_subcommands() {
            // Which noun it is, is only known when it runs: the remedies of the API are tried below.
            let prose = command.get_name() == "scpctl"
                && (core == "X" || word.starts_with('(') || PROSE.contains(&core));
            return (!prose).then(|| format!("{} has no command {core:?}", command.get_name()));
        } else if taken < command.get_positionals().map(places).sum::<usize>() {
            taken += 1;
        } else {
            let value = core.chars().all(|c| c.is_ascii_uppercase() || "-_/".contains(c));
            return value.then(|| format!("{} takes no {core}", command.get_name()));
        }
        if ends {
            return None;
        }
    }
    None
}

fn places(arg: &clap::Arg) -> usize {
    arg.get_num_args().map_or(1, |range| range.max_values())
}

/// Every command in a text, with what is wrong with it.
fn wrong_in(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, _) in text.match_indices("scpctl ") {
        let before = text[..at].chars().next_back();
        if before.is_some_and(|c| c.is_alphanumeric() || "/_-".contains(c)) {
            continue;
        }
        let rest = text[at + "scpctl ".len()..].lines().next().unwrap_or_default();
        found.extend(
            wrong(rest).map(|why| format!("scpctl {}: {why}", rest.chars().take(60).collect::<String>())),
        );
    }
    found
}

/// String literals of a source, doc comments included, with their lines. A placeholder of `format!` becomes
/// a word.
fn strings(tokens: TokenStream, found: &mut Vec<(usize, String)>) {
    for token in tokens {
        match token {
            TokenTree::Group(group) => strings(group.stream(), found),
            TokenTree::Literal(literal) => {
                let line = literal.span().start().line;
                if let Ok(text) = syn::parse_str::<syn::LitStr>(&literal.to_string()) {
                    found.push((line, text.value()));
                }
            }
            TokenTree::Ident(_) | TokenTree::Punct(_) => {}
        }
    }
}

/// `{name}`, `{}` and `{0}` become `X`, as `format!` would put a name there.
fn filled(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('{') {
        out.push_str(before);
        match after.split_once('}') {
            Some((name, behind)) if name.chars().all(|c| c.is_alphanumeric() || "_:?.".contains(c)) => {
                out.push('X');
                rest = behind;
            }
            Some(_) | None => {
                out.push('{');
                rest = after;
            }
        }
    }
    out + rest
}

fn wrong_in_rust(source: &str) -> Vec<String> {
    let tokens = source.parse().expect("the source compiles, so it has tokens");
    let mut found = Vec::new();
    strings(tokens, &mut found);
    let told = |(line, text): &(usize, String)| {
        let line = *line;
        wrong_in(&filled(text)).into_iter().map(move |why| format!("{line}: {why}"))
    };
    found.iter().flat_map(told).collect()
}

fn wrong_in_markdown(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut fenced = false;
    for (at, line) in text.lines().enumerate() {
        let told = line.trim().trim_start_matches("$ ");
        if told.starts_with("```") {
            fenced = !fenced;
        } else if fenced && told.starts_with("scpctl ") {
            let typed = told.split(" #").next().unwrap_or(told).split(" > ").next().unwrap_or(told);
            if let Err(error) = Cli::try_parse_from(typed.split_whitespace())
                && !matches!(
                    error.kind(),
                    clap::error::ErrorKind::DisplayHelp | clap::error::ErrorKind::DisplayVersion
                )
            {
                found.push(format!(
                    "{}: {typed}: {}",
                    at + 1,
                    error.to_string().lines().next().unwrap_or_default()
                ));
            }
        } else {
            found.extend(wrong_in(line).into_iter().map(|why| format!("{}: {why}", at + 1)));
        }
    }
    found
}

/// Sources and documents under a folder, without what was built or is hidden.
fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    let entries = std::fs::read_dir(folder).expect("the repository can be read");
    for path in entries.map(|entry| entry.expect("an entry can be read").path()) {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name.starts_with('.') || name == "target" {
            continue;
        }
        if path.is_dir() {
            files(&path, found);
        } else if path.extension().is_some_and(|it| it == "rs" || it == "md") {
            found.push(path);
        }
    }
}

#[test]
fn every_command_that_is_named_anywhere_can_be_typed() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the repository");
    let mut paths = Vec::new();
    files(root, &mut paths);
    let mut found = Vec::new();
    let mut commands = 0;
    for path in paths.iter().filter(|path| !path.ends_with(file!())) {
        let text = std::fs::read_to_string(path).expect("a source is text");
        commands += text.matches("scpctl ").count();
        let wrong = match path.extension().is_some_and(|it| it == "md") {
            true => wrong_in_markdown(&text),
            false if text.contains("scpctl ") => wrong_in_rust(&text),
            false => Vec::new(),
        };
        found.extend(wrong.into_iter().map(|why| format!("{}:{why}", path.display())));
    }
    assert!(commands > 200, "only {commands} were found: the search is broken");
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

#[test]
fn what_cannot_be_typed_is_found() {
    for text in [
        "See it: scpctl frobnicate",
        "scpctl node explode n2",
        "repeat scpctl node remove NAME --hard.",
        "(scpctl node show NAME ANOTHER)",
        "scpctl nodes --colour",
    ] {
        assert_eq!(wrong_in(text).len(), 1, "{text}");
    }
    for text in [
        "scpctl node drain NAME --wait. Then repeat it.",
        "scpctl and scpd are of different releases: compare scpctl --version with scpd --version",
        "An operator makes a new one: scpctl token create",
        "on a node of the city (scpctl status --stale names them)",
        "repeat the same scpctl join in a moment",
        "`scpctl node`: servers",
        "scpctl vm create web --image: which one",
        "/usr/bin/scpctl nonsense",
    ] {
        assert_eq!(wrong_in(text), Vec::<String>::new(), "{text}");
    }
}

#[test]
fn remedies_in_strings_and_examples_in_comments_are_read() {
    let source = r##"
        /// scpctl vm explode
        fn remedy() -> String { format!("Mend it: scpctl node mend {name} \
            --now") }
        const RAW: &str = r#"scpctl node list"#; // scpctl nonsense in a plain comment
    "##;
    let found = wrong_in_rust(source);
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[1].contains("scpctl node mend X --now"), "{found:?}");
    let text = "```sh\nscpctl vm create web --image i\nscpctl vm list # all\n```\n`scpctl vm explode`\n";
    assert_eq!(wrong_in_markdown(text).len(), 2, "a flavor is missing, and a command");
}

#[test]
fn the_remedies_of_every_rejection_can_be_typed() {
    let id = 7;
    let subjects = [
        Subject::City,
        Subject::Node(scp_model::NodeId(7)),
        Subject::JoinToken(JoinTokenId::from_u128(id)),
        Subject::Department(DepartmentId::from_u128(id)),
        Subject::Project(ProjectId::from_u128(id)),
        Subject::User(UserId::from_u128(id)),
        Subject::Keypair(KeypairId::from_u128(id)),
        Subject::Flavor(FlavorId::from_u128(id)),
        Subject::Image(ImageId::from_u128(id)),
        Subject::Vm(VmId::from_u128(id)),
    ];
    for subject in subjects {
        let (by, state) = ("vm x".to_owned(), "deleting".to_owned());
        for rejection in [
            Rejection::NotFound { subject },
            Rejection::NameTaken { kind: subject.kind().into(), name: "web".into() },
            Rejection::InUse { subject, by },
            Rejection::WrongState { subject, state },
        ] {
            let problem = scp_api::v1::Problem::from(rejection);
            assert_eq!(wrong_in(&problem.remedy.unwrap_or_default()), Vec::<String>::new());
        }
    }
}
