//! Sizes, docs, leftovers, purity, dead files.

use super::{
    Findings,
    rust::identifiers,
    tree::{File, Tree},
};

/// The longest function, in lines of code. What does not fit is two functions.
const FUNCTION_LINES_MAX: usize = 70;
/// The longest file; from [`FILE_LINES_WARN`] on it should be looked at.
const FILE_LINES_MAX: usize = 800;
const FILE_LINES_WARN: usize = 500;

/// Functions whose code (blank lines and comments do not count) is too long.
pub fn functions_are_short(tree: &Tree) -> Findings {
    let mut findings = Findings::new();
    for (path, file) in tree.rust() {
        for (line, name, length) in functions(file) {
            if length > FUNCTION_LINES_MAX {
                findings.push(format!(
                    "{path}:{line}: {name} has {length} lines, {FUNCTION_LINES_MAX} are allowed"
                ));
            }
        }
    }
    findings
}

/// Line, name and length of each function, found by rustfmt's layout: it ends at the first brace that
/// stands as far in as its beginning.
fn functions(file: &File) -> Vec<(usize, String, usize)> {
    let lines: Vec<_> = file.code.lines().collect();
    let mut found = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let Some(name) = function_name(line) else { continue };
        let indent = line.len() - line.trim_start().len();
        let ends = |line: &&str| {
            line.len() - line.trim_start().len() == indent && line.trim_start().starts_with('}')
        };
        // A signature without a body ends in a semicolon before any brace.
        let body = lines[at..].iter().take_while(|line| !ends(line));
        let is_open = lines[at..]
            .iter()
            .take_while(|line| !line.trim_end().ends_with(';'))
            .any(|line| line.contains('{'));
        if is_open && !(line.contains('{') && line.trim_end().ends_with('}')) {
            let length = body.filter(|line| !line.trim().is_empty()).count().saturating_sub(1);
            found.push((at + 1, name.to_string(), length));
        }
    }
    found
}

fn function_name(line: &str) -> Option<&str> {
    let (before, after) = line.split_once("fn ")?;
    let modifiers = ["pub", "async", "const", "unsafe", "extern", "default", "crate", "super", "in"];
    let is_signature = identifiers(before).all(|(_, word)| modifiers.contains(&word));
    let name = after.split(|c: char| !super::rust::is_word(c)).next()?;
    (is_signature && !name.is_empty()).then_some(name)
}

fn is_written_by_hand(path: &str) -> bool {
    path.ends_with(".rs") || path.ends_with(".md")
}

/// Files that are too long.
pub fn files_are_short(tree: &Tree) -> Findings {
    long_files(tree, FILE_LINES_MAX)
}

/// Files that are long, but not too long yet.
pub fn files_that_grow(tree: &Tree) -> Findings {
    let mut findings = long_files(tree, FILE_LINES_WARN);
    let too_long = files_are_short(tree);
    findings
        .retain(|finding| !too_long.iter().any(|other| other.split(':').next() == finding.split(':').next()));
    findings
}

fn long_files(tree: &Tree, limit: usize) -> Findings {
    let lengths = tree.files.iter().filter(|(path, _)| is_written_by_hand(path));
    let lengths = lengths.map(|(path, file)| (path, file.text.lines().count()));
    lengths
        .filter(|(_, length)| *length > limit)
        .map(|(path, length)| format!("{path}:1: {length} lines, more than {limit}"))
        .collect()
}

/// Every Rust file begins by saying what it is.
pub fn modules_begin_with_their_doc(tree: &Tree) -> Findings {
    let undocumented = tree.rust().filter(|(_, file)| {
        let first = file.text.lines().find(|line| !line.is_empty() && !line.starts_with("#!["));
        !first.is_some_and(|line| line.starts_with("//!"))
    });
    undocumented.map(|(path, _)| format!("{path}:1: begins without a `//!` that says what it is")).collect()
}

/// Nothing that says "later".
pub fn nothing_is_unfinished(tree: &Tree) -> Findings {
    let mut findings = Findings::new();
    for (path, file) in tree.rust() {
        for (at, line) in file.code.lines().enumerate() {
            for marker in ["todo!", "unimplemented!", "#[ignore", "dbg!("] {
                if line.contains(marker) {
                    findings.push(format!("{path}:{}: {marker} is not finished code", at + 1));
                }
            }
        }
    }
    findings
}

/// Where packages come from is each machine's own configuration, never ours.
pub fn no_registry_is_named(tree: &Tree) -> Findings {
    // In two pieces, so that this file does not name them either.
    let registries = ["crates.\u{200b}io", "npmjs.\u{200b}org", "pypi.\u{200b}org", "docker.\u{200b}io"];
    let registries = registries.map(|name| name.replace('\u{200b}', ""));
    let mut findings = Findings::new();
    for (path, file) in &tree.files {
        for (at, line) in file.text.lines().enumerate() {
            if let Some(name) = registries.iter().find(|name| line.contains(name.as_str())) {
                findings.push(format!("{path}:{}: names the registry {name}", at + 1));
            }
        }
    }
    findings
}

/// Crates that only compute.
const PURE: [&str; 4] = ["model/src/", "state/src/", "scheduler/src/", "agent/src/"];

/// Identifiers that reach for time, chance, the world, or an order that differs from run to run.
const IMPURE: [(&str, &str); 10] = [
    ("SystemTime", "time comes in with the proposal"),
    ("Instant", "time comes in with the proposal"),
    ("HashMap", "its order differs from run to run; use BTreeMap or OrdMap"),
    ("HashSet", "its order differs from run to run; use BTreeSet or OrdSet"),
    ("new_v4", "ids come in with the command"),
    ("now_v7", "ids come in with the command"),
    ("now_utc", "time comes in with the proposal"),
    ("File", "nothing is read or written here"),
    ("TcpStream", "nothing is sent from here"),
    ("thread", "nothing runs beside this"),
];

/// Pure crates do not name what would make them impure.
pub fn pure_crates_stay_pure(tree: &Tree) -> Findings {
    let mut findings = Findings::new();
    for (path, file) in tree.rust().filter(|(path, _)| PURE.iter().any(|pure| path.starts_with(pure))) {
        for (line, identifier) in identifiers(&file.code) {
            if let Some((_, why)) = IMPURE.iter().find(|(name, _)| *name == identifier) {
                findings.push(format!("{path}:{line}: {identifier} in a pure crate: {why}"));
            }
        }
    }
    findings
}

/// Rust files that no `mod` leads to.
pub fn every_file_is_reached(tree: &Tree) -> Findings {
    let dead = tree.rust().filter(|(path, _)| !is_reached(tree, path));
    dead.map(|(path, _)| format!("{path}:1: no `mod` leads here")).collect()
}

fn is_reached(tree: &Tree, path: &str) -> bool {
    let Some((dir, file)) = path.rsplit_once('/') else { return false };
    let folder = dir.rsplit('/').next().unwrap_or_default();
    let is_root = matches!(file, "lib.rs" | "main.rs" | "build.rs");
    // Each file here is a program of its own for cargo.
    if is_root
        || (file != "mod.rs" && ["tests", "benches", "examples", "bin", "fuzz_targets"].contains(&folder))
    {
        return true;
    }
    let (name, parent) = match file.strip_suffix(".rs") {
        Some("mod") => (folder, dir.rsplit_once('/').map_or("", |(parent, _)| parent)),
        Some(name) => (name, dir),
        None => return false,
    };
    let declares = |file: &File| {
        let declaration = format!("mod {name};");
        file.code.lines().any(|line| line.trim_end().ends_with(&declaration))
            || file.text.contains(&format!("path = \"{}\"", path.rsplit('/').next().unwrap_or_default()))
    };
    let is_beside = |other: &str| {
        let in_parent = other.strip_prefix(parent).and_then(|rest| rest.strip_prefix('/'));
        let is_module_of_parent = other == format!("{parent}.rs");
        is_module_of_parent || in_parent.is_some_and(|rest| !rest.contains('/'))
    };
    tree.rust().any(|(other, file)| other != path && is_beside(other) && declares(file))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn function_of(lines: usize) -> String {
        format!(
            "//! Doc.\n\nimpl X {{\n    pub async fn long(&self) {{\n{}    }}\n}}\n",
            "        x();\n".repeat(lines)
        )
    }

    #[test]
    fn a_function_may_have_seventy_lines() {
        assert_eq!(functions_are_short(&Tree::of(&[("a/src/lib.rs", &function_of(70))])), Findings::new());
        let long = functions_are_short(&Tree::of(&[("a/src/lib.rs", &function_of(71))]));
        assert_eq!(long, ["a/src/lib.rs:4: long has 71 lines, 70 are allowed"]);
    }

    #[test]
    fn signatures_and_one_liners_are_no_long_functions() {
        let text = format!(
            "trait T {{\n    fn a(&self);\n    fn b() {{}}\n{}}}\n",
            "    const X: u8 = 1;\n".repeat(90)
        );
        assert_eq!(functions_are_short(&Tree::of(&[("a/src/lib.rs", &text)])), Findings::new());
    }

    #[test]
    fn a_file_may_have_eight_hundred_lines() {
        let tree = Tree::of(&[("a.md", &"x\n".repeat(801)), ("b.md", &"x\n".repeat(501)), ("c.md", "x")]);
        assert_eq!(files_are_short(&tree), ["a.md:1: 801 lines, more than 800"]);
        assert_eq!(files_that_grow(&tree), ["b.md:1: 501 lines, more than 500"]);
    }

    #[test]
    fn a_module_without_doc_is_found() {
        let tree = Tree::of(&[("a/src/lib.rs", "#![x]\n//! Doc.\n"), ("a/src/b.rs", "// No doc.\n")]);
        assert_eq!(modules_begin_with_their_doc(&tree).len(), 1);
    }

    #[test]
    fn unfinished_code_is_found_and_talk_about_it_is_not() {
        let tree = Tree::of(&[("a/src/lib.rs", "// todo!()\nlet x = \"todo!\";\n#[ignore]\ntodo!()\n")]);
        assert_eq!(nothing_is_unfinished(&tree).len(), 2);
    }

    #[test]
    fn a_clock_in_a_pure_crate_is_found() {
        let text = "//! No Instant.\nuse std::time::Instant;\n";
        let tree = Tree::of(&[("state/src/lib.rs", text), ("raft/src/lib.rs", text)]);
        assert_eq!(pure_crates_stay_pure(&tree).len(), 1);
    }

    #[test]
    fn a_file_without_a_mod_is_dead() {
        let tree = Tree::of(&[
            ("a/src/lib.rs", "pub mod b;\nmod c;\n"),
            ("a/src/b.rs", ""),
            ("a/src/c/mod.rs", "pub(crate) mod d;\n// mod e;\n"),
            ("a/src/c/d.rs", ""),
            ("a/src/c/e.rs", ""),
            ("a/src/f.rs", ""),
            ("a/tests/g.rs", "mod h;\n"),
            ("a/tests/h/mod.rs", ""),
            ("a/tests/i/mod.rs", ""),
        ]);
        let dead: Vec<_> = every_file_is_reached(&tree);
        let paths: Vec<_> = dead.iter().filter_map(|finding| finding.split(':').next()).collect();
        assert_eq!(paths, ["a/src/c/e.rs", "a/src/f.rs", "a/tests/i/mod.rs"]);
    }
}
