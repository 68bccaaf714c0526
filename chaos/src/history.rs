//! What clients asked and what they were told: all that is judged.

use std::time::Instant;

use serde::Serialize;

/// Microseconds since the run began: the one clock that all clients share.
pub type Micros = u64;

/// A request and its outcome.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Request {
    pub client: String,
    pub begun: Micros,
    /// None: no answer came. It may have taken effect at any time after, or never.
    pub ended: Option<Micros>,
    /// How often it was sent: repeats carry the same idempotency key, or the same id.
    pub tries: u32,
    pub what: What,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "what")]
pub enum What {
    /// Into the register of that project.
    Write {
        register: String,
        value: u64,
    },
    Read {
        register: String,
        value: u64,
    },
    /// A department.
    Create {
        id: String,
        name: String,
    },
    /// Answered with a refusal that nothing explains: that alone fails the run.
    Refused {
        asked: String,
        answer: String,
    },
}

/// All of them, in no order.
#[derive(Debug, Default, Serialize)]
pub struct History {
    pub requests: Vec<Request>,
}

impl History {
    /// When each change was acknowledged, in order.
    pub fn acknowledged(&self) -> Vec<Micros> {
        let is_change = |request: &&Request| matches!(request.what, What::Write { .. } | What::Create { .. });
        let mut times: Vec<_> =
            self.requests.iter().filter(is_change).filter_map(|request| request.ended).collect();
        times.sort_unstable();
        times
    }

    pub fn count(&self, of: impl Fn(&What) -> bool) -> usize {
        self.requests.iter().filter(|request| of(&request.what)).count()
    }
}

/// The run's clock.
#[derive(Debug, Clone, Copy)]
pub struct Clock(Instant);

impl Clock {
    pub fn start() -> Self {
        Self(scp_servers::now())
    }

    pub fn now(self) -> Micros {
        // Half a million years.
        u64::try_from(self.0.elapsed().as_micros()).expect("a run is shorter than u64 microseconds")
    }
}

/// For people: seconds.
pub fn seconds(micros: Micros) -> f64 {
    micros as f64 / 1e6
}
