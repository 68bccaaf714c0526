//! As much of Rust's lexical grammar as the checks need.

use std::{iter::Peekable, str::Chars};

/// The text with comments, strings and character literals blanked out, line breaks kept, so that what
/// is left can be searched for code.
pub fn code_of(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text.chars().peekable();
    let mut previous = ' ';
    while let Some(c) = rest.next() {
        match (c, rest.peek()) {
            ('/', Some('/')) => line_comment(&mut rest),
            ('/', Some('*')) => block_comment(&mut rest, &mut out),
            ('"', _) => {
                out.push('"');
                string(&mut rest, &mut out);
            }
            ('r', Some('"' | '#')) if !is_word(previous) || previous == 'b' => raw(&mut rest, &mut out),
            ('\'', _) => character(&mut rest, &mut out),
            _ => out.push(c),
        }
        previous = c;
    }
    out
}

pub fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn line_comment(rest: &mut Peekable<Chars<'_>>) {
    while rest.next_if(|c| *c != '\n').is_some() {}
}

fn block_comment(rest: &mut Peekable<Chars<'_>>, out: &mut String) {
    let mut depth = 0;
    let mut before = '/';
    for c in rest.by_ref() {
        match (before, c) {
            ('/', '*') => {
                depth += 1;
                before = ' ';
            }
            ('*', '/') => {
                depth -= 1;
                before = ' ';
            }
            _ => before = c,
        }
        if c == '\n' {
            out.push('\n');
        }
        if depth == 0 {
            break;
        }
    }
}

fn string(rest: &mut Peekable<Chars<'_>>, out: &mut String) {
    while let Some(c) = rest.next() {
        match c {
            '\\' => out.extend(rest.next().filter(|c| *c == '\n')),
            '"' => break,
            '\n' => out.push('\n'),
            _ => {}
        }
    }
    out.push('"');
}

/// `r"…"`, `r#"…"#`, or `r#identifier`, from behind the `r`.
fn raw(rest: &mut Peekable<Chars<'_>>, out: &mut String) {
    let mut hashes = 0;
    while rest.next_if_eq(&'#').is_some() {
        hashes += 1;
    }
    if rest.next_if_eq(&'"').is_none() {
        return;
    }
    out.push('"');
    let mut seen = None;
    for c in rest.by_ref() {
        seen = match (c, seen) {
            ('"', _) => Some(0),
            ('#', Some(count)) => Some(count + 1),
            _ => None,
        };
        if c == '\n' {
            out.push('\n');
        }
        if seen == Some(hashes) {
            break;
        }
    }
    out.push('"');
}

/// A character literal, or a lifetime, from behind the quote.
fn character(rest: &mut Peekable<Chars<'_>>, out: &mut String) {
    let mut ahead = rest.clone();
    let literal = match ahead.next() {
        Some('\\') => true,
        Some(_) => ahead.next() == Some('\''),
        None => false,
    };
    if !literal {
        out.push('\'');
        return;
    }
    if rest.next() == Some('\\') {
        rest.next();
    }
    for c in rest.by_ref() {
        if c == '\'' {
            break;
        }
    }
}

/// The identifiers of blanked code, with their line numbers from 1.
pub fn identifiers(code: &str) -> impl Iterator<Item = (usize, &str)> {
    code.lines().enumerate().flat_map(|(at, line)| {
        let words = line
            .split(|c| !is_word(c))
            .filter(|word| word.starts_with(|c: char| c.is_alphabetic() || c == '_'));
        words.map(move |word| (at + 1, word))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_strings_and_characters_are_blanked() {
        let text = "a // b\n/* c /* d */ e\n */ f \"g \\\" h\" r#\"i \" j\"# 'k' '\\'' '\\u{1f}' 'l: m<'n> br\"o\" p";
        let code = code_of(text);
        let found: Vec<_> = identifiers(&code).map(|(_, word)| word).collect();
        assert_eq!(found, ["a", "f", "l", "m", "n", "b", "p"], "{code}");
    }

    #[test]
    fn lines_keep_their_numbers() {
        let text = "/* 1\n 2 */ let x =\n \"4\n 5\";\nlet y = r\"6\n\";\nz";
        let code = code_of(text);
        assert_eq!(identifiers(&code).find(|(_, word)| *word == "z").map(|(line, _)| line), Some(7));
        assert_eq!(code.lines().count(), text.lines().count());
    }
}
