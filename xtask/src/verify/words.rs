//! Names: one idea, one word. The words that the glossary forbids, as parts of identifiers.

use super::{Findings, rust::identifiers, tree::Tree};

/// A word, and what to say instead.
const FORBIDDEN: [(&str, &str); 9] = [
    ("host", "node (a server with our binary), server, or address"),
    ("hosts", "nodes"),
    ("manager", "the thing itself: what does it hold?"),
    ("helper", "what it does"),
    ("helpers", "what they do"),
    ("util", "what is in it"),
    ("utils", "what is in it"),
    ("common", "what is in it"),
    ("handler", "what it does with what it is given"),
];

/// Where (a path's beginning), which identifier or lower-case word, and why: names that other people gave, or where the word
/// means what it says.
const ALLOWED: [(&str, &str, &str); 16] = [
    ("", "tokio_util", "a crate's name"),
    ("", "hyper_util", "a crate's name"),
    ("", "HOST", "HTTP's header of that name"),
    ("", "CommonName", "X.509's field of that name"),
    ("", "Manager", "the role's name in OpenStack: reader, member, manager"),
    ("", "manager", "the role's name in OpenStack: reader, member, manager"),
    ("", "RaftNetworkV2", "openraft's trait"),
    ("mesh/src/", "handler", "a StreamHandler, see below"),
    ("", "StreamHandler", "the mesh's port for whole streams; what it does is up to who registers it"),
    ("api/src/client/", "host", "the part of a URL (RFC 3986)"),
    ("cli/src/", "host", "the part of a URL (RFC 3986)"),
    ("node/src/", "host_name", "the machine's own name, as gethostname calls it"),
    ("api/tests/", "manager", "the role's name in OpenStack: reader, member, manager"),
    ("raft/tests/", "common", "cargo's own name for what several test programs share"),
    ("sim/", "host", "a machine of the simulation, which is not always a node of the city"),
    ("sim/", "hosts", "machines of the simulation, which are not always nodes of the city"),
];

/// Identifiers with forbidden words.
pub fn forbidden_names(tree: &Tree) -> Findings {
    let mut findings = Findings::new();
    for (path, file) in tree.rust() {
        for (line, identifier) in identifiers(&file.code) {
            if let Some(instead) = objection(path, identifier) {
                findings.push(format!("{path}:{line}: {identifier}: say {instead}"));
            }
        }
    }
    findings.dedup();
    findings
}

fn objection(path: &str, identifier: &str) -> Option<&'static str> {
    let words = words_of(identifier);
    // A word alone is allowed in a place only: everywhere it would be no longer forbidden.
    let holds = |allowed: &str| words.iter().any(|word| word == allowed);
    let names = |place: &str, allowed: &str| allowed == identifier || (!place.is_empty() && holds(allowed));
    if ALLOWED.iter().any(|(place, allowed, _)| path.starts_with(place) && names(place, allowed)) {
        return None;
    }
    if words.len() > 1 && words[0] == "do" && identifier.starts_with("do_") {
        return Some("what it does, without `do_`");
    }
    if words.len() > 1 && words.last().is_some_and(|word| word == "v2") {
        return Some("what is different about it");
    }
    FORBIDDEN.iter().find(|(word, _)| words.iter().any(|own| own == word)).map(|(_, instead)| *instead)
}

/// `snake_case`, `CamelCase` and `SCREAMING_CASE` in lower-case words.
fn words_of(identifier: &str) -> Vec<String> {
    let mut words = Vec::new();
    for part in identifier.split('_').filter(|part| !part.is_empty()) {
        let mut word = String::new();
        let mut was_lower = false;
        for c in part.chars() {
            if c.is_uppercase() && was_lower {
                words.push(std::mem::take(&mut word));
            }
            was_lower = c.is_lowercase() || c.is_numeric();
            word.extend(c.to_lowercase());
        }
        words.push(word);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forbidden_words_are_found_in_every_case() {
        for name in
            ["host", "VmManager", "HOST_NAME", "request_handler", "do_it", "apply_v2", "ApplyV2", "Utils"]
        {
            assert!(objection("a/src/lib.rs", name).is_some(), "{name}");
        }
    }

    #[test]
    fn words_that_only_contain_one_are_left_alone() {
        for name in
            ["hostname", "ghost", "commonly", "utility", "handle", "RaftNetworkV2Ext", "do", "tokio_util"]
        {
            assert!(objection("a/src/lib.rs", name).is_none(), "{name}");
        }
    }

    #[test]
    fn an_exception_holds_where_it_was_made() {
        assert!(objection("cli/src/app.rs", "host").is_none());
        assert!(objection("sim/src/city.rs", "HostPort").is_none());
        assert!(objection("raft/src/lib.rs", "host").is_some());
        assert!(objection("raft/src/lib.rs", "VmManager").is_some());
    }

    #[test]
    fn comments_and_strings_may_say_it() {
        let tree = Tree::of(&[("a/src/lib.rs", "//! The host.\nlet x = \"host\";\nfn helper() {}\n")]);
        assert_eq!(forbidden_names(&tree), ["a/src/lib.rs:3: helper: say what it does"]);
    }
}
