//! The source tree in memory: what the checks look at, and what their tests make up.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use anyhow::{Context, Result};

use super::rust;

/// Folders that hold nothing of ours.
const SKIPPED: [&str; 5] = ["target", ".git", "corpus", "artifacts", "coverage"];
/// What is looked at.
const ENDINGS: [&str; 7] = ["rs", "md", "toml", "sh", "yml", "yaml", "json"];

/// Text files by path from the root, with `/` between folders.
#[derive(Debug, Default)]
pub struct Tree {
    pub files: BTreeMap<String, File>,
    /// Paths of everything else: data, and what has no ending.
    pub others: BTreeSet<String>,
}

#[derive(Debug)]
pub struct File {
    pub text: String,
    /// For Rust: the same lines with comments, strings and characters blanked out.
    pub code: String,
}

impl Tree {
    pub fn read(root: &Path) -> Result<Self> {
        let mut tree = Self::default();
        tree.read_dir(root, "")?;
        Ok(tree)
    }

    fn read_dir(&mut self, dir: &Path, prefix: &str) -> Result<()> {
        for entry in fs::read_dir(dir).with_context(|| format!("{} cannot be read", dir.display()))? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let path = format!("{prefix}{name}");
            if entry.file_type()?.is_dir() {
                if !SKIPPED.contains(&name.as_str()) {
                    self.read_dir(&entry.path(), &format!("{path}/"))?;
                }
            } else if ENDINGS.iter().any(|ending| name.ends_with(&format!(".{ending}"))) || path == ".ci/run"
            {
                let text = fs::read_to_string(entry.path()).with_context(|| format!("{path} is not text"))?;
                self.add(&path, text);
            } else {
                self.others.insert(path);
            }
        }
        Ok(())
    }

    pub fn add(&mut self, path: &str, text: String) {
        let code = if path.ends_with(".rs") { rust::code_of(&text) } else { String::new() };
        self.files.insert(path.into(), File { text, code });
    }

    /// Whether there is a file, or a folder with files, of that path.
    pub fn has(&self, path: &str) -> bool {
        let path = path.trim_end_matches('/');
        let is_it = |known: &String| {
            known.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        self.files.keys().any(is_it) || self.others.iter().any(is_it)
    }

    /// Rust files by path.
    pub fn rust(&self) -> impl Iterator<Item = (&str, &File)> {
        self.files.iter().filter(|(path, _)| path.ends_with(".rs")).map(|(path, file)| (path.as_str(), file))
    }

    /// Markdown files by path.
    pub fn markdown(&self) -> impl Iterator<Item = (&str, &File)> {
        self.files.iter().filter(|(path, _)| path.ends_with(".md")).map(|(path, file)| (path.as_str(), file))
    }
}

#[cfg(test)]
impl Tree {
    pub fn of(files: &[(&str, &str)]) -> Self {
        let mut tree = Self::default();
        for (path, text) in files {
            tree.add(path, (*text).to_string());
        }
        tree
    }
}
