//! Documents: decisions, links, invariants, commands.

use super::{Findings, tree::Tree};
use crate::args;

/// What every decision has.
const SECTIONS: [&str; 4] = ["## Context", "## Decision", "## Consequences", "## Alternatives"];

/// docs/decisions/NNNN-title.md: numbered without a gap, each with all its sections.
pub fn decisions_are_numbered_and_whole(tree: &Tree) -> Findings {
    let mut findings = Findings::new();
    let decisions =
        tree.markdown().filter_map(|(path, file)| Some((path, path.strip_prefix("docs/decisions/")?, file)));
    let decisions = decisions.filter(|(_, name, _)| *name != "README.md");
    for (at, (path, name, file)) in decisions.enumerate() {
        let number = format!("{:04}", at + 1);
        if !name.starts_with(&format!("{number}-")) {
            findings.push(format!("{path}:1: the next decision is {number}-something.md"));
        }
        if !file.text.starts_with(&format!("# {number}. ")) {
            findings.push(format!("{path}:1: begins with `# {number}. ` and the title"));
        }
        let missing = SECTIONS.iter().filter(|section| !file.text.lines().any(|line| line == **section));
        findings.extend(missing.map(|section| format!("{path}:1: has no {section:?}")));
    }
    findings
}

/// Targets of markdown links in a line.
fn links(line: &str) -> impl Iterator<Item = &str> {
    line.split("](").skip(1).filter_map(|rest| rest.split(')').next())
}

/// Links between documents lead to files, and every document under docs/ is linked from somewhere.
pub fn links_lead_somewhere(tree: &Tree) -> Findings {
    let mut findings = Findings::new();
    let mut reached = Vec::new();
    for (path, file) in tree.markdown() {
        for (at, line) in file.text.lines().enumerate() {
            for link in links(line).filter(|link| !link.contains("://") && !link.starts_with('#')) {
                let target = resolve(path, link.split('#').next().unwrap_or_default());
                if !tree.has(&target) {
                    findings.push(format!("{path}:{}: {link} leads nowhere", at + 1));
                }
                if target != path {
                    reached.push(target);
                }
            }
        }
    }
    let is_reached = |path: &str| reached.iter().any(|target| target == path || is_folder_of(target, path));
    let documents = tree.markdown().map(|(path, _)| path).filter(|path| path.starts_with("docs/"));
    findings.extend(
        documents.filter(|path| !is_reached(path)).map(|path| format!("{path}:1: no document links here")),
    );
    findings
}

/// Whether `folder` is the one that `path` lies in, not one further up.
fn is_folder_of(folder: &str, path: &str) -> bool {
    path.rsplit_once('/').is_some_and(|(dir, _)| dir == folder.trim_end_matches('/'))
}

/// A link's target as a path from the root.
fn resolve(from: &str, link: &str) -> String {
    let mut parts: Vec<_> = from.split('/').collect();
    parts.pop();
    for part in link.split('/') {
        match part {
            "." | "" => {}
            ".." => drop(parts.pop()),
            name => parts.push(name),
        }
    }
    parts.join("/")
}

/// Every `Invariant:` of ARCHITECTURE.md names, in backquotes, tests that exist.
pub fn invariants_name_their_tests(tree: &Tree) -> Findings {
    let mut findings = Findings::new();
    let Some(file) = tree.files.get("ARCHITECTURE.md") else {
        return vec!["ARCHITECTURE.md:1: is missing".into()];
    };
    // An invariant may be longer than a line: it ends with its paragraph or list item.
    let paragraphs = file.text.split("\n\n").flat_map(|paragraph| paragraph.split("\n- "));
    for paragraph in paragraphs.filter(|paragraph| paragraph.contains("Invariant:")) {
        let named: Vec<_> =
            paragraph.split('`').skip(1).step_by(2).filter(|name| name.contains('_')).collect();
        let first = paragraph.lines().find(|line| line.contains("Invariant:")).unwrap_or_default();
        if named.is_empty() {
            findings.push(format!("ARCHITECTURE.md: names no test: {first}"));
        }
        let exists = |name: &str| tree.rust().any(|(_, file)| file.code.contains(&format!("fn {name}(")));
        let missing = named.iter().filter(|name| !exists(name));
        findings.extend(missing.map(|name| format!("ARCHITECTURE.md: there is no test {name}: {first}")));
    }
    findings
}

/// Commands of one program in the fenced blocks of a document: each line's words behind its name.
fn commands_in<'a>(text: &'a str, program: &'a str) -> impl Iterator<Item = (usize, &'a str)> {
    let mut fenced = false;
    text.lines().enumerate().filter_map(move |(at, line)| {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
            return None;
        }
        let words = line.trim().trim_start_matches("$ ").strip_prefix(program)?.strip_prefix(' ')?;
        fenced.then_some((at + 1, words.split(" #").next().unwrap_or(words).trim()))
    })
}

/// `cargo xtask X` in a document: X exists, with those words behind it.
pub fn documented_tasks_exist(tree: &Tree) -> Findings {
    let mut findings = Findings::new();
    for (path, file) in tree.markdown() {
        for (line, words) in commands_in(&file.text, "cargo xtask") {
            let words: Vec<_> = words.split_whitespace().map(String::from).collect();
            if let Err(error) = args::parse(&words) {
                let why = error.to_string();
                findings.push(format!("{path}:{line}: {}", why.lines().next().unwrap_or_default()));
            }
        }
    }
    findings
}

/// The README's five-minute story: the commands of the block that begins with ```sh story.
pub fn story(readme: &str) -> Vec<String> {
    let block = readme.lines().skip_while(|line| line.trim() != "```sh story").skip(1);
    let lines = block.take_while(|line| line.trim() != "```");
    lines
        .map(|line| line.trim().to_string())
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: &str = "# 0001. A\n\n## Context\n\n## Decision\n\n## Consequences\n\n## Alternatives\n";

    #[test]
    fn a_gap_between_decisions_is_found() {
        let tree = Tree::of(&[("docs/decisions/0001-a.md", WHOLE), ("docs/decisions/0003-c.md", WHOLE)]);
        assert_eq!(decisions_are_numbered_and_whole(&tree).len(), 2);
        let tree = Tree::of(&[("docs/decisions/0001-a.md", &WHOLE.replace("## Alternatives", ""))]);
        assert_eq!(
            decisions_are_numbered_and_whole(&tree),
            ["docs/decisions/0001-a.md:1: has no \"## Alternatives\""]
        );
    }

    #[test]
    fn broken_links_and_unlinked_documents_are_found() {
        let tree = Tree::of(&[
            ("README.md", "[a](docs/a.md) [b](docs/none.md) [c](https://example.org/x) [d](docs/more)"),
            ("docs/a.md", "[back](../README.md#top)"),
            ("docs/more/x.md", ""),
            ("docs/lonely.md", "[self](lonely.md)"),
        ]);
        assert_eq!(
            links_lead_somewhere(&tree),
            ["README.md:1: docs/none.md leads nowhere", "docs/lonely.md:1: no document links here",]
        );
    }

    #[test]
    fn an_invariant_without_its_test_is_found() {
        let text = "# A\n\n- Invariant: x (`it_holds`).\n- Invariant: y\n  (`it_is\n- Invariant: z (`no_such_test`).\n";
        let tree = Tree::of(&[("ARCHITECTURE.md", text), ("a/src/lib.rs", "fn it_holds() {}")]);
        assert_eq!(invariants_name_their_tests(&tree).len(), 2);
    }

    #[test]
    fn tasks_that_do_not_exist_are_found_in_documents() {
        let tree = Tree::of(&[(
            "README.md",
            "```sh\ncargo xtask test # all\ncargo xtask tset\n```\ncargo xtask prose\n",
        )]);
        assert_eq!(documented_tasks_exist(&tree).len(), 1);
    }

    #[test]
    fn the_story_is_the_block_with_that_name() {
        let text = "```sh\nno\n```\n```sh story\n# Says why.\nscpctl status\n\nscpctl vm list # c\n```\nno\n";
        assert_eq!(story(text), ["scpctl status", "scpctl vm list # c"]);
    }
}
