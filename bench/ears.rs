//! The service of a member that is not a whole node.

use std::sync::Mutex;

use async_trait::async_trait;
use bytes::Bytes;
use scp_mesh::{
    JoinRefusal, JoinReply, JoinRequest, Lane, Observer, Refusal, RefusalKind, Service, Stranger,
    StreamHandler,
};
use scp_model::NodeId;

/// Answers the leader's questions about silence, and nothing else.
#[derive(Default)]
pub struct Ears(Mutex<Option<Observer>>);

impl Ears {
    /// From now on the observer is asked.
    pub fn open(&self, observer: Observer) {
        *self.0.lock().expect("nothing panics while it holds this lock") = Some(observer);
    }
}

fn not_here() -> Refusal {
    Refusal::new(RefusalKind::NotHere, "only silence is told here")
}

#[async_trait]
impl Service for Ears {
    async fn answer(&self, _: NodeId, lane: Lane, request: Bytes) -> Result<Bytes, Refusal> {
        let observer = self.0.lock().expect("nothing panics while it holds this lock").clone();
        match (lane, observer) {
            (Lane::Probe, Some(observer)) => observer.answer(&request),
            (_, _) => Err(not_here()),
        }
    }

    async fn stream(&self, _: NodeId, _: Bytes) -> Result<StreamHandler, Refusal> {
        Err(not_here())
    }

    async fn join(&self, _: Stranger, _: JoinRequest) -> Result<JoinReply, JoinRefusal> {
        Err(JoinRefusal::TokenUnknown)
    }
}
