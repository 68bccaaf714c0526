//! Contexts: which city, through which nodes, as whom. One TOML file, readable by its owner only,
//! replaced atomically, so that a crash or two commands at once never leave half a file.
//!
//! ```toml
//! current = "lisboa"
//!
//! [contexts.lisboa]
//! nodes = ["10.0.0.1:8443", "10.0.0.2:8443"]
//! user = "admin"
//! token = "…"
//! ca = """-----BEGIN CERTIFICATE-----…"""
//! ```
//!
//! # Guarantees
//! - Written with mode 0600 through a temporary file in the same directory, synced, then renamed.
//! - A file that cannot be understood is never overwritten: the error says where it is broken.

use std::{
    collections::BTreeMap,
    io::Write,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::error::{CliError, Exit, Result};

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Contexts {
    /// The context used when none is named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub current: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub contexts: BTreeMap<String, Context>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Context {
    /// `host:port` of the HTTPS of several nodes; the first that answers is used.
    #[serde(default)]
    pub nodes: Vec<String>,
    /// The server's own socket, for root on a node: no token needed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub socket: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Name or id of the project that commands work in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub project: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// RFC 3339; told before the token is refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_expires_at: Option<String>,
    /// PEM of the city's certificate authority.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<String>,
}

/// The file and what it holds.
#[derive(Debug, Clone)]
pub struct Store {
    pub path: PathBuf,
    pub contexts: Contexts,
}

/// `SCP_CONFIG`, or `config.toml` in `scp/` of the user's configuration directory.
pub fn path() -> Result<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(path) = set("SCP_CONFIG") {
        return Ok(path);
    }
    let base =
        set("XDG_CONFIG_HOME").or_else(|| set("HOME").map(|home| home.join(".config"))).ok_or_else(|| {
            CliError::usage(
                "neither SCP_CONFIG, XDG_CONFIG_HOME nor HOME is set, so there is no place for contexts",
            )
            .remedy("name a file: SCP_CONFIG=/root/.config/scp/config.toml scpctl …")
        })?;
    Ok(base.join("scp/config.toml"))
}

impl Store {
    /// Reads the file; a missing one is empty.
    pub fn open(path: PathBuf) -> Result<Self> {
        let contexts = match std::fs::read_to_string(&path) {
            Ok(text) => parse(&path, &text)?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Contexts::default(),
            Err(error) => {
                return Err(CliError::file(&path, &error)
                    .because("this file holds the contexts (cities and tokens) of scpctl"));
            }
        };
        Ok(Self { path, contexts })
    }

    /// The named context, or the current one; none when neither is there.
    pub fn find(&self, name: Option<&str>) -> Result<Option<(&str, &Context)>> {
        let Some(wanted) = name.or(self.contexts.current.as_deref()) else { return Ok(None) };
        match self.contexts.contexts.get_key_value(wanted) {
            Some((name, context)) => Ok(Some((name, context))),
            None => Err(self.unknown(wanted)),
        }
    }

    fn unknown(&self, name: &str) -> CliError {
        let known: Vec<_> = self.contexts.contexts.keys().map(String::as_str).collect();
        let error = CliError::not_found(format!("there is no context {name:?} in {}", self.path.display()));
        if known.is_empty() {
            error.remedy(format!("make it: scpctl login --context {name} --node ADDRESS --ca FILE"))
        } else {
            error.because(format!("known: {}", known.join(", "))).remedy("scpctl context list")
        }
    }

    /// Adds or replaces a context and makes it the current one.
    pub fn put(&mut self, name: &str, context: Context) -> Result<()> {
        self.contexts.contexts.insert(name.to_owned(), context);
        self.contexts.current = Some(name.to_owned());
        self.save()
    }

    pub fn select(&mut self, name: &str) -> Result<()> {
        if !self.contexts.contexts.contains_key(name) {
            return Err(self.unknown(name));
        }
        self.contexts.current = Some(name.to_owned());
        self.save()
    }

    pub fn remove(&mut self, name: &str) -> Result<()> {
        if self.contexts.contexts.remove(name).is_none() {
            return Err(self.unknown(name));
        }
        if self.contexts.current.as_deref() == Some(name) {
            self.contexts.current = None;
        }
        self.save()
    }

    fn save(&self) -> Result<()> {
        let text = toml::to_string(&self.contexts)
            .map_err(|error| CliError::failed(format!("the contexts cannot be written: {error}")))?;
        replace(&self.path, text.as_bytes(), 0o600).map_err(|error| CliError::file(&self.path, &error))
    }
}

fn parse(path: &Path, text: &str) -> Result<Contexts> {
    toml::from_str(text).map_err(|error| {
        let place = error.span().map_or_else(String::new, |span| {
            let before = &text[..span.start.min(text.len())];
            format!(" at line {}", before.matches('\n').count() + 1)
        });
        CliError::new(Exit::Usage, "config", format!("{} cannot be understood{place}", path.display()))
            .because(error.message())
            .remedy(format!(
                "mend the file, or move it away and log in anew: mv {0} {0}.broken && scpctl login",
                path.display()
            ))
    })
}

/// Replaces a file as a whole: written beside it, synced, renamed, and the directory synced.
pub fn replace(path: &Path, content: &[u8], mode: u32) -> std::io::Result<()> {
    let directory = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !directory.exists() {
        std::fs::create_dir_all(directory)?;
        std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o700))?;
    }
    let beside = directory.join(format!(
        ".{}.{}",
        path.file_name().unwrap_or_default().to_string_lossy(),
        uuid::Uuid::new_v4().simple()
    ));
    let write = || {
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&beside)?;
        // The umask may have taken bits away, never added any.
        file.set_permissions(std::fs::Permissions::from_mode(mode))?;
        file.write_all(content)?;
        file.sync_all()?;
        std::fs::rename(&beside, path)?;
        std::fs::File::open(directory)?.sync_all()
    };
    write().inspect_err(|_| {
        let _ = std::fs::remove_file(&beside);
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Context {
        Context {
            nodes: vec!["10.0.0.1:8443".into(), "[2001:db8::1]:8443".into()],
            socket: Some("/run/scp/scpd.sock".into()),
            user: Some("admin".into()),
            project: Some("default".into()),
            token: Some("secret".into()),
            token_expires_at: Some("2026-11-24T15:00:00Z".into()),
            ca: Some("-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n".into()),
        }
    }

    #[test]
    fn what_was_put_is_read_back_and_only_its_owner_can_read_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/config.toml");
        let mut store = Store::open(path.clone()).unwrap();
        store.put("lisboa", example()).unwrap();
        let again = Store::open(path.clone()).unwrap();
        assert_eq!(again.find(None).unwrap(), Some(("lisboa", &example())));
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::metadata(dir.path().join("new")).unwrap().permissions().mode() & 0o777, 0o700);
    }

    #[test]
    fn replacing_leaves_nothing_else_behind_and_a_tightened_mode() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.toml");
        std::fs::write(&path, "").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        Store::open(path.clone()).unwrap().put("a", example()).unwrap();
        let names: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, ["config.toml"]);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_write_that_fails_leaves_the_old_file_whole() {
        let dir = tempfile::tempdir().unwrap();
        // A directory in the file's place: the rename at the end fails, whoever runs the test.
        let path = dir.path().join("config.toml");
        std::fs::create_dir(&path).unwrap();
        std::fs::write(path.join("kept"), "x").unwrap();
        assert!(replace(&path, b"new", 0o600).is_err());
        let names: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, ["config.toml"], "the temporary file is gone");
        assert!(path.join("kept").exists());
    }

    #[test]
    fn a_malformed_file_is_told_with_its_line_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.toml");
        for broken in ["current = \"a\"\n[contexts.a\n", "current = \"a\"\n[contexts.a]\nnodez = []\n"] {
            std::fs::write(&path, broken).unwrap();
            let error = Store::open(path.clone()).unwrap_err();
            assert_eq!(error.exit, Exit::Usage);
            assert!(error.what.contains("line 2") || error.what.contains("line 3"), "{}", error.what);
            assert!(error.remedy.unwrap().contains("scpctl login"));
            assert_eq!(std::fs::read_to_string(&path).unwrap(), broken);
        }
    }

    #[test]
    fn an_unknown_context_names_the_known_ones() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = Store::open(dir.path().join("config.toml")).unwrap();
        assert_eq!(store.find(None).unwrap(), None);
        store.put("lisboa", example()).unwrap();
        let error = store.find(Some("porto")).unwrap_err();
        assert_eq!(error.exit, Exit::NotFound);
        assert_eq!(error.why, ["known: lisboa"]);
        assert!(store.select("porto").is_err());
        assert!(store.remove("porto").is_err());
    }

    #[test]
    fn deleting_the_current_context_leaves_none_current() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = Store::open(dir.path().join("config.toml")).unwrap();
        store.put("lisboa", example()).unwrap();
        store.put("porto", example()).unwrap();
        store.select("lisboa").unwrap();
        store.remove("lisboa").unwrap();
        assert_eq!(store.contexts.current, None);
        assert_eq!(Store::open(store.path).unwrap().contexts.contexts.len(), 1);
    }
}
