//! The connection to libvirtd: a few threads, a bounded queue, and reconnection.
//!
//! libvirt's calls block, for seconds when a guest is started. They run on [`THREADS`] threads of their
//! own, so that neither the runtime nor its blocking pool waits for libvirtd; the connection itself is
//! shared, as libvirt allows. A call that finds the connection dead opens a new one first. A hanging
//! libvirtd is noticed by keepalive, which makes its calls fail; callers wait no longer than [`CALL_MAX`].

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::sync::{mpsc, oneshot};
use virt::{connect::Connect, error::Error};

use super::events::{self, Registration, Wake};
use crate::DriverError;

/// Starting a guest occupies one for about half a second; the others keep answering.
const THREADS: usize = 4;
/// Callers wait beyond this many calls: an agent has one op a VM under way.
const JOBS_MAX: usize = 256;
/// A libvirtd that is silent for 4 × 5 s is given up.
const KEEPALIVE_SECONDS: i32 = 5;
const KEEPALIVE_COUNT: u32 = 3;

/// Opening a connection to a hanging libvirtd has no keepalive yet. Longer than any call takes that is
/// under way at all: a guest with much memory on a slow disk starts within a minute.
const CALL_MAX: Duration = Duration::from_secs(120);

type Job = Box<dyn FnOnce(&Shared) + Send>;

/// A handle on the threads that talk to libvirtd. They end when it is dropped.
pub(super) struct Link {
    jobs: mpsc::Sender<Job>,
}

/// An open connection with its callbacks.
struct Session {
    connect: Connect,
    registration: Registration,
}

impl Drop for Session {
    fn drop(&mut self) {
        events::deregister(&self.connect, &self.registration);
        if let Err(error) = self.connect.close() {
            tracing::debug!(%error, "a connection to libvirt was not closed");
        }
    }
}

struct Shared {
    uri: String,
    wakes: mpsc::Sender<Wake>,
    session: Mutex<Option<Arc<Session>>>,
}

impl Shared {
    /// The open connection, or a new one.
    fn session(&self) -> Result<Arc<Session>, Error> {
        let mut slot = self.session.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(session) = slot.as_ref().filter(|session| session.connect.is_alive().unwrap_or(false)) {
            return Ok(session.clone());
        }
        *slot = None;
        let mut connect = Connect::open(Some(&self.uri))?;
        connect.set_keep_alive(KEEPALIVE_SECONDS, KEEPALIVE_COUNT)?;
        let registration = match events::register(&connect, &self.wakes) {
            Ok(registration) => registration,
            Err(error) => {
                let _ = connect.close();
                return Err(error);
            }
        };
        let session = Arc::new(Session { connect, registration });
        *slot = Some(session.clone());
        Ok(session)
    }
}

impl Link {
    /// Starts the threads; the connection is opened by the first call.
    pub(super) fn start(uri: String, wakes: mpsc::Sender<Wake>) -> Result<Self, DriverError> {
        let doing = "connecting to libvirt";
        events::start_loop().map_err(|why| DriverError::retryable(doing, why))?;
        let (jobs, queue) = mpsc::channel::<Job>(JOBS_MAX);
        let queue = Arc::new(Mutex::new(queue));
        let shared = Arc::new(Shared { uri, wakes, session: Mutex::new(None) });
        for number in 0..THREADS {
            let (queue, shared) = (queue.clone(), shared.clone());
            let work = move || {
                loop {
                    let job = queue.lock().unwrap_or_else(PoisonError::into_inner).blocking_recv();
                    match job {
                        Some(job) => job(&shared),
                        None => return,
                    }
                }
            };
            std::thread::Builder::new()
                .name(format!("libvirt-{number}"))
                .spawn(work)
                .map_err(|error| DriverError::retryable(doing, error))?;
        }
        Ok(Self { jobs })
    }

    /// Runs `work` with the connection on one of the threads. Given up by the caller it still runs to its
    /// end, some time: every step is such that it may.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        doing: &str,
        work: impl FnOnce(&Connect) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, DriverError> {
        let (answer, answered) = oneshot::channel();
        let job: Job = Box::new(move |shared| {
            let result = shared.session().and_then(|session| work(&session.connect));
            let _ = answer.send(result);
        });
        let failed = |why: &str| DriverError::retryable(doing, why);
        let called = async {
            let gone = "the libvirt threads have ended";
            self.jobs.send(job).await.map_err(|_| failed(gone))?;
            let result = answered.await.map_err(|_| failed(gone))?;
            result.map_err(|error| failed(error.message()))
        };
        tokio::time::timeout(CALL_MAX, called)
            .await
            .unwrap_or_else(|_| Err(failed("libvirt does not answer")))
    }
}
