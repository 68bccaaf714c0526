//! The typed client: one method a route.
//!
//! # Guarantees
//! - Any node will do: the addresses are tried in turn, the one that answered last first.
//! - Every write carries an idempotency key and, where it creates, an id, both made once a call. A lost
//!   connection or a 503 is therefore repeated (with backoff, until the deadline) without doing anything
//!   twice.
//! - Only the city's own certificate authority is trusted. Which node answers does not matter, so its
//!   certificate is not bound to an address and a node may be re-addressed; see [`tls`].
//!
//! # Errors
//! [`ClientError::Problem`] is the server's own account, with its remedy. [`ClientError::Unreachable`]:
//! nobody was asked. [`ClientError::Lost`]: asked, and the answer is not known.

mod calls;
mod console;
mod send;
mod tls;
mod upload;
mod watch;

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use rustls::time_provider::TimeProvider;
use scp_model::RequestId;

pub use self::{
    calls::collect,
    console::{Console, ConsoleInput, ConsoleOutput},
    tls::client_config,
    upload::Upload,
    watch::{Watch, Watched},
};
use crate::v1::{Consistency, Problem};

/// How long a call may take in all, retries included, unless set otherwise.
pub const DEADLINE_DEFAULT: Duration = Duration::from_secs(30);

/// A connection to a city. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
    token: Option<Arc<str>>,
    consistency: Consistency,
    deadline: Duration,
    request: Option<RequestId>,
}

struct Shared {
    http: reqwest::Client,
    door: Door,
    /// Which address answered last.
    preferred: AtomicUsize,
    /// How old the state was that the last answer was read from.
    age_ms: AtomicU64,
}

enum Door {
    Https { addresses: Vec<String>, tls: Arc<rustls::ClientConfig> },
    Unix { path: PathBuf },
}

/// Why a call gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The server said no, and why.
    #[error("{0}")]
    Problem(Box<Problem>),
    /// Nothing was sent.
    #[error("no node could be reached: {}", tried.join("; "))]
    Unreachable { tried: Vec<String> },
    /// Sent, but not answered before the deadline: it may or may not have happened. Repeating it with
    /// [`Client::with_request`] and this id is safe.
    #[error("the answer was lost: {why}")]
    Lost { why: String, request: Option<RequestId> },
    /// What answered does not speak this protocol.
    #[error("the answer makes no sense: {why}")]
    BadAnswer { why: String },
    #[error("{why}")]
    Config { why: String },
    /// A local file.
    #[error("{doing}: {source}")]
    Io { doing: String, source: std::io::Error },
}

impl ClientError {
    /// The server's account, where there is one.
    pub fn problem(&self) -> Option<&Problem> {
        match self {
            Self::Problem(problem) => Some(problem),
            Self::Unreachable { .. }
            | Self::Lost { .. }
            | Self::BadAnswer { .. }
            | Self::Config { .. }
            | Self::Io { .. } => None,
        }
    }

    /// The problem's code, or a word for what went wrong on the way.
    pub fn code(&self) -> &str {
        match self {
            Self::Problem(problem) => &problem.code,
            Self::Unreachable { .. } => "unreachable",
            Self::Lost { .. } => "answer_lost",
            Self::BadAnswer { .. } => "bad_answer",
            Self::Config { .. } => "bad_configuration",
            Self::Io { .. } => "file_error",
        }
    }
}

pub type Result<T, E = ClientError> = std::result::Result<T, E>;

impl Client {
    /// Over HTTPS to any of `addresses` (`host:port`), trusting only `ca_certificate` (PEM).
    pub fn https<A: Into<String>>(
        addresses: impl IntoIterator<Item = A>,
        ca_certificate: &str,
    ) -> Result<Self> {
        Self::over(addresses, client_config(ca_certificate)?)
    }

    /// The same, in a city whose clock is not the operating system's: simulations and tests of time.
    pub fn https_at<A: Into<String>>(
        addresses: impl IntoIterator<Item = A>,
        ca_certificate: &str,
        clock: Arc<dyn TimeProvider>,
    ) -> Result<Self> {
        Self::over(addresses, tls::client_config_at(ca_certificate, clock)?)
    }

    fn over<A: Into<String>>(
        addresses: impl IntoIterator<Item = A>,
        tls: Arc<rustls::ClientConfig>,
    ) -> Result<Self> {
        let addresses: Vec<String> = addresses.into_iter().map(Into::into).collect();
        if addresses.is_empty() {
            return Err(ClientError::Config { why: "the address of at least one node is needed".into() });
        }
        // Consoles speak HTTP/1.1 only, over the configuration as it is.
        let mut both = (*tls).clone();
        both.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let http = send::builder().tls_backend_preconfigured(both);
        Self::open(http, Door::Https { addresses, tls })
    }

    /// Over this server's unix socket, as the city's administrator.
    pub fn unix(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref().to_owned();
        let http = send::builder().tls_backend_preconfigured(tls::nobody()?).unix_socket(path.clone());
        Self::open(http, Door::Unix { path })
    }

    fn open(http: reqwest::ClientBuilder, door: Door) -> Result<Self> {
        let http = http.build().map_err(|error| ClientError::Config { why: send::describe(&error) })?;
        let shared =
            Arc::new(Shared { http, door, preferred: AtomicUsize::new(0), age_ms: AtomicU64::new(0) });
        let consistency = Consistency::Linearizable;
        Ok(Self { shared, token: None, consistency, deadline: DEADLINE_DEFAULT, request: None })
    }

    /// Asks as the owner of this access token.
    pub fn with_token(mut self, token: &str) -> Self {
        self.token = Some(token.into());
        self
    }

    /// How old the state may have been that the last answer was read from: 0 unless it was a stale read.
    pub fn last_age_ms(&self) -> u64 {
        self.shared.age_ms.load(Ordering::Relaxed)
    }

    /// Reads are as fresh as this.
    pub fn with_consistency(mut self, consistency: Consistency) -> Self {
        self.consistency = consistency;
        self
    }

    /// How long a call may take in all.
    pub fn with_deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Writes carry this idempotency key instead of one of their own: to repeat a call of which the
    /// answer was lost. For one call.
    pub fn with_request(mut self, request: RequestId) -> Self {
        self.request = Some(request);
        self
    }
}
