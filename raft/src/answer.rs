//! Answers peers' requests.

use openraft::{
    async_runtime::WatchReceiver,
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, TransferLeaderError, TransferLeaderRequest, VoteRequest,
        VoteResponse,
    },
};
use scp_model::NodeId;

use crate::{
    core::Core,
    log::record::Ballot,
    snapshot::Offer,
    types::{Entry, LogId, Types, Vote},
    wire::{Append, Appended, Canvass, Refusal, Request, Response, TransferAnswer},
};

type Snapshot = openraft::alias::SnapshotOf<Types, crate::snapshot::SnapshotFile>;

impl Core {
    /// Carries out a peer's request. Never fails: a refusal is an answer.
    pub(crate) async fn answer(&self, from: NodeId, request: Request) -> Response {
        self.carry_out(from, request).await.unwrap_or_else(Response::Refused)
    }

    async fn carry_out(&self, from: NodeId, request: Request) -> Result<Response, Refusal> {
        if let Some(claimed) = speaker(&request).filter(|&claimed| claimed != from) {
            return Err(Refusal::Invalid(format!("node {from} speaks for {claimed}")));
        }
        match request {
            Request::Append(append) => self.append(append).await,
            Request::Vote(canvass) => {
                self.raft.vote(vote_request(canvass)).await.map(voted).map_err(|_| Refusal::Stopped)
            }
            Request::PreVote(canvass) => {
                self.raft.pre_vote(vote_request(canvass)).await.map(voted).map_err(|_| Refusal::Stopped)
            }
            Request::Transfer { leader, to, last } => {
                let request = TransferLeaderRequest::new(leader.into(), to, last.map(LogId::from));
                let answer = self.raft.handle_transfer_leader(request).await.map_err(|_| Refusal::Stopped)?;
                Ok(Response::Transfer(transferred(answer)))
            }
            Request::SnapshotOffer { leader, offer } => self.offered(leader, offer).await,
            Request::SnapshotChunk { leader, offer, offset, bytes } => {
                self.follows(leader)?;
                let snapshots = self.applier.snapshots();
                let received =
                    self.applier.worker().run(move || snapshots.received(offer, offset, &bytes)).await;
                let there = received
                    .map_err(|_| Refusal::Stopped)?
                    .map_err(|error| Refusal::Disk(error.to_string()))?;
                // Nothing of it is here any more: start again.
                Ok(Response::SnapshotAt(there.unwrap_or(0)))
            }
            Request::SnapshotInstall { leader, offer } => self.install(leader, offer).await,
            Request::ReadIndex => self.read_index().await.map(Response::ReadIndex),
            Request::Writable => match self.read_only() {
                None => Ok(Response::Writable),
                Some(why) => Err(Refusal::ReadOnly(why)),
            },
        }
    }

    async fn append(&self, append: Append) -> Result<Response, Refusal> {
        // Heartbeats are taken whatever the disk says: they need none of it.
        if !append.entries.is_empty() {
            self.takes_entries()?;
        }
        let request = AppendEntriesRequest {
            vote: Vote::from(append.leader),
            prev_log_id: append.previous.map(LogId::from),
            entries: append.entries.into_iter().map(Entry::from).collect(),
            leader_commit: append.committed.map(LogId::from),
        };
        let answer = self.raft.append_entries(request).await.map_err(|_| Refusal::Stopped)?;
        Ok(Response::Append(match answer {
            AppendEntriesResponse::Success => Appended::Success,
            AppendEntriesResponse::PartialSuccess(at) => Appended::Partial(at.map(Into::into)),
            AppendEntriesResponse::Conflict => Appended::Conflict,
            AppendEntriesResponse::HigherVote(vote) => Appended::HigherVote(vote.into()),
        }))
    }

    /// Snapshots are taken from the leader that this node follows, or a newer one.
    fn follows(&self, leader: Ballot) -> Result<(), Refusal> {
        let known = self.raft.metrics().borrow_watched().vote;
        if Vote::from(leader) >= known {
            return Ok(());
        }
        Err(Refusal::Invalid("a newer leader is known".into()))
    }

    async fn offered(&self, leader: Ballot, offer: Offer) -> Result<Response, Refusal> {
        self.follows(leader)?;
        let snapshots = self.applier.snapshots();
        let there = self.applier.worker().run(move || snapshots.offered(offer)).await;
        let there = there.map_err(|_| Refusal::Stopped)?.map_err(|error| Refusal::Disk(error.to_string()))?;
        Ok(Response::SnapshotAt(there))
    }

    async fn install(&self, leader: Ballot, offer: Offer) -> Result<Response, Refusal> {
        self.follows(leader)?;
        let snapshots = self.applier.snapshots();
        let file = self.applier.worker().run(move || snapshots.complete(offer)).await;
        let file = file.map_err(|_| Refusal::Stopped)?.map_err(|error| Refusal::Disk(error.to_string()))?;
        let snapshot = Snapshot { meta: file.meta.clone(), snapshot: file };
        let installed = self.raft.install_full_snapshot(Vote::from(leader), snapshot).await;
        installed
            .map(|response| Response::SnapshotInstalled(response.vote.into()))
            .map_err(|_| Refusal::Stopped)
    }
}

/// For whom the request claims to speak.
fn speaker(request: &Request) -> Option<NodeId> {
    match request {
        Request::Append(append) => Some(append.leader.candidate),
        Request::Vote(canvass) | Request::PreVote(canvass) => Some(canvass.ballot.candidate),
        Request::Transfer { leader, .. }
        | Request::SnapshotOffer { leader, .. }
        | Request::SnapshotChunk { leader, .. }
        | Request::SnapshotInstall { leader, .. } => Some(leader.candidate),
        Request::ReadIndex | Request::Writable => None,
    }
}

fn vote_request(canvass: Canvass) -> VoteRequest<Types> {
    VoteRequest {
        vote: canvass.ballot.into(),
        last_log_id: canvass.last.map(LogId::from),
        leadership_transfer: canvass.transfer,
    }
}

fn voted(response: VoteResponse<Types>) -> Response {
    Response::Vote {
        ballot: response.vote.into(),
        granted: response.vote_granted,
        last: response.last_log_id.map(Into::into),
    }
}

fn transferred(answer: Result<(), TransferLeaderError<Types>>) -> TransferAnswer {
    match answer {
        Ok(()) => TransferAnswer::Accepted,
        Err(TransferLeaderError::VoteChanged { expected, actual }) => {
            TransferAnswer::VoteChanged { expected: expected.into(), actual: actual.into() }
        }
        Err(TransferLeaderError::LogNotFlushed { expected, actual }) => {
            TransferAnswer::LogBehind { expected: expected.map(Into::into), actual: actual.map(Into::into) }
        }
    }
}
