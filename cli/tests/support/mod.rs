//! Runs the real `scpctl` in a place of its own, and a stand-in for `scpd` on a unix socket.

#![allow(dead_code, reason = "each test binary uses its part")]

pub mod city;

use std::{
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use axum::Router;
use serde_json::Value;

/// A home directory and a socket for one test.
pub struct Place {
    pub dir: tempfile::TempDir,
}

/// What a command said and how it ended.
#[derive(Debug)]
pub struct Said {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Place {
    pub fn new() -> Self {
        // Beside the binaries, so that they can be linked here; short, for the socket's path.
        let dir = tempfile::Builder::new().prefix("s").tempdir_in(env!("CARGO_TARGET_TMPDIR"));
        Self { dir: dir.expect("a directory can be made") }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn socket(&self) -> PathBuf {
        self.path("sock")
    }

    pub fn config(&self) -> PathBuf {
        self.path("config.toml")
    }

    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, text).expect("the file can be written");
        path
    }

    pub fn command(&self) -> Command {
        self.command_of(Path::new(env!("CARGO_BIN_EXE_scpctl")))
    }

    pub fn command_of(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("SCP_") {
                command.env_remove(name);
            }
        }
        command.env("HOME", self.dir.path()).env("SCP_CONFIG", self.config()).stdin(Stdio::null());
        command
    }

    /// `scpctl WORDS`; words are split at blanks.
    pub fn run(&self, words: &str) -> Said {
        said(self.command().args(words.split_whitespace()).output().expect("scpctl can be run"))
    }

    /// The same over the stand-in's socket.
    pub fn over_socket(&self, words: &str) -> Said {
        let mut command = self.command();
        command.arg("--socket").arg(self.socket()).args(words.split_whitespace());
        said(command.output().expect("scpctl can be run"))
    }
}

pub fn said(output: Output) -> Said {
    Said {
        code: output.status.code().expect("it was not killed"),
        out: String::from_utf8(output.stdout).expect("it writes text"),
        err: String::from_utf8(output.stderr).expect("it writes text"),
    }
}

impl Said {
    #[track_caller]
    pub fn ok(self) -> Self {
        assert_eq!(self.code, 0, "{self:#?}");
        self
    }

    #[track_caller]
    pub fn failed(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{self:#?}");
        self
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:#?}"))
    }
}

/// Serves a router on a unix socket from a thread of its own, to the end of the process. It listens when
/// this returns.
pub fn serve(socket: &Path, router: Router) {
    let listener = std::os::unix::net::UnixListener::bind(socket).expect("the socket can be bound");
    listener.set_nonblocking(true).expect("the socket can be made non-blocking");
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime can be started").block_on(async move {
            let listener = tokio::net::UnixListener::from_std(listener).expect("the socket is one");
            axum::serve(listener, router).await.expect("it serves to the end");
        });
    });
}
