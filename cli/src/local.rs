//! The door for root on a server: `/local/*` over the unix socket of its own `scpd`.

use std::{path::Path, time::Duration};

use scp_api::local::{LocalInit, LocalInitialised, LocalJoin, LocalJoined, LocalStatus};
use serde::{Serialize, de::DeserializeOwned};

use crate::error::{CliError, Exit, Result};

/// A socket on the same machine answers at once or not at all.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

pub struct Local {
    http: reqwest::Client,
    socket: std::path::PathBuf,
}

impl Local {
    pub fn new(socket: &Path) -> Result<Self> {
        let http = reqwest::Client::builder()
            .unix_socket(socket)
            .connect_timeout(CONNECT_TIMEOUT)
            .no_proxy()
            .build()
            .map_err(|error| CliError::failed(format!("no HTTP client can be made: {error}")))?;
        Ok(Self { http, socket: socket.to_owned() })
    }

    pub async fn status(&self) -> Result<LocalStatus> {
        self.send(self.http.get("http://localhost/local/status")).await
    }

    pub async fn init(&self, order: &LocalInit) -> Result<LocalInitialised> {
        self.post("init", order).await
    }

    pub async fn join(&self, order: &LocalJoin) -> Result<LocalJoined> {
        self.post("join", order).await
    }

    pub async fn leave(&self) -> Result<()> {
        let _: serde_json::Value = self.post("leave", &serde_json::json!({})).await?;
        Ok(())
    }

    async fn post<B: Serialize, T: DeserializeOwned>(&self, what: &str, body: &B) -> Result<T> {
        self.send(self.http.post(format!("http://localhost/local/{what}")).json(body)).await
    }

    async fn send<T: DeserializeOwned>(&self, request: reqwest::RequestBuilder) -> Result<T> {
        let response = request.send().await.map_err(|error| self.unreachable(&error))?;
        let status = response.status();
        let body = response.bytes().await.map_err(|error| self.unreachable(&error))?;
        if !status.is_success() {
            return Err(crate::problem::from_body(status.as_u16(), &body));
        }
        serde_json::from_slice(&body).map_err(|error| {
            CliError::failed("the answer of scpd cannot be understood").because(error.to_string()).remedy(
                "scpctl and scpd are of different releases: compare scpctl --version with scpd --version",
            )
        })
    }

    /// Whether anybody is there.
    pub async fn knock(&self) -> Result<()> {
        match tokio::net::UnixStream::connect(&self.socket).await {
            Ok(_) => Ok(()),
            Err(error) => Err(self.absent(&error.to_string(), true)),
        }
    }

    fn unreachable(&self, error: &reqwest::Error) -> CliError {
        self.absent(&root_cause(error), error.is_connect())
    }

    fn absent(&self, reason: &str, is_connect: bool) -> CliError {
        let out = CliError::new(
            Exit::Unavailable,
            "unreachable",
            format!("scpd does not answer on {}", self.socket.display()),
        )
        .because(reason);
        if reason.contains("ermission denied") {
            return CliError { exit: Exit::Denied, ..out }.remedy("the socket is root's: run it with sudo");
        }
        if is_connect {
            return out.remedy("start it: systemctl start scpd (or, without systemd: scpd &)");
        }
        out.remedy("see what scpd says: journalctl -u scpd -n 50 (or its scpd.log)")
    }
}

/// The innermost cause of an error: the one that says something.
pub fn root_cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}
