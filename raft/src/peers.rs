//! Asks peers on behalf of openraft. One client a peer and purpose, without anything shared between
//! them but the port: a peer that does not answer holds up nobody else.

use std::{future::Future, sync::Arc, time::Duration};

use openraft::{
    RaftNetworkFactory, RaftNetworkV2,
    errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable as PeerUnreachable},
    network::RPCOption,
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderError,
        TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
    },
};
use scp_model::NodeId;
use tokio::time::Instant;

use crate::{
    config::Config,
    log::record::{Ballot, LogEntry},
    network::Network,
    silence::Silence,
    snapshot::SnapshotFile,
    types::{LogId, Types, Vote},
    wire::{Append, Appended, Canvass, Request, Response, TransferAnswer, decode, encode_request},
    worker::Worker,
};

/// How often a chunk is sent again before the transfer is left to openraft's next attempt.
const CHUNK_ATTEMPTS: u32 = 5;
/// Pause before a chunk is sent again.
const CHUNK_PAUSE: Duration = Duration::from_millis(100);
/// Installing a received snapshot: verify, sync and restore it, all of the state.
const INSTALL_TIMEOUT: Duration = Duration::from_secs(60);

type RpcError = RPCError<Types>;
type Snapshot = openraft::alias::SnapshotOf<Types, SnapshotFile>;

/// Makes clients.
pub(crate) struct Peers {
    pub(crate) network: Arc<dyn Network>,
    pub(crate) worker: Worker,
    pub(crate) config: Arc<Config>,
    pub(crate) silence: Silence,
}

impl RaftNetworkFactory<Types> for Peers {
    type Network = Client;

    async fn new_client(&mut self, target: NodeId, _node: &()) -> Client {
        Client {
            peer: target,
            network: self.network.clone(),
            worker: self.worker.clone(),
            config: self.config.clone(),
            silence: self.silence.clone(),
            made_at: Instant::now(),
        }
    }
}

/// Asks one peer.
pub(crate) struct Client {
    peer: NodeId,
    network: Arc<dyn Network>,
    worker: Worker,
    config: Arc<Config>,
    silence: Silence,
    /// Clients that send entries are made by a leader that was just elected, or its group just changed.
    made_at: Instant,
}

impl Client {
    async fn ask(&self, request: &Request, timeout: Duration) -> Result<Response, RpcError> {
        ask(&*self.network, self.peer, request, timeout).await
    }

    fn unexpected(&self, response: Response) -> RpcError {
        // A refusal is backed off from like an unreachable peer: asking again at once changes nothing.
        let why = match response {
            Response::Refused(why) => format!("node {}: {why}", self.peer),
            other => format!("node {} answered something else: {other:?}", self.peer),
        };
        PeerUnreachable::from_string(why).into()
    }

    async fn canvass(&self, request: Request, option: &RPCOption) -> Result<VoteResponse<Types>, RpcError> {
        match self.ask(&request, option.hard_ttl()).await? {
            Response::Vote { ballot, granted, last } => {
                Ok(VoteResponse::new(Vote::from(ballot), last.map(LogId::from), granted))
            }
            other => Err(self.unexpected(other)),
        }
    }

    /// Sends what the peer lacks of the snapshot, chunk by chunk, and has it installed.
    async fn send(&self, leader: Ballot, file: SnapshotFile) -> Result<SnapshotResponse<Types>, RpcError> {
        let offer = file.offer;
        let timeout = self.config.call_timeout;
        let mut at = self.at(self.ask(&Request::SnapshotOffer { leader, offer }, timeout).await?)?;
        let mut failures = 0;
        while at < offer.bytes {
            let (source, length, offset) = (file.clone(), self.config.chunk_bytes, at);
            let bytes = self.worker.run(move || source.chunk(offset, length)).await;
            let bytes = bytes
                .map_err(|_| NetworkError::from_string("this node is stopping"))?
                .map_err(|error| NetworkError::new(&error))?;
            let chunk = Request::SnapshotChunk { leader, offer, offset, bytes: bytes.into() };
            let answer = self.ask(&chunk, timeout).await.and_then(|answer| self.at(answer));
            match answer {
                Ok(there) if there > at => {
                    at = there;
                    failures = 0;
                }
                // Lost, or the peer restarted and has to be offered it again: ask where it is.
                stalled => {
                    failures += 1;
                    if failures == CHUNK_ATTEMPTS {
                        return Err(stalled.err().unwrap_or_else(|| {
                            NetworkError::from_string(format!("node {} takes no chunk", self.peer)).into()
                        }));
                    }
                    tokio::time::sleep(CHUNK_PAUSE).await;
                    if let Ok(answer) = self.ask(&Request::SnapshotOffer { leader, offer }, timeout).await {
                        at = self.at(answer)?;
                    }
                }
            }
        }
        match self.ask(&Request::SnapshotInstall { leader, offer }, INSTALL_TIMEOUT).await? {
            Response::SnapshotInstalled(ballot) => Ok(SnapshotResponse::new(ballot.into())),
            other => Err(self.unexpected(other)),
        }
    }

    fn at(&self, answer: Response) -> Result<u64, RpcError> {
        match answer {
            Response::SnapshotAt(at) => Ok(at),
            // It follows a newer leader: openraft hears of that by its heartbeats.
            other => Err(self.unexpected(other)),
        }
    }
}

/// One question to one peer.
pub(crate) async fn ask(
    network: &dyn Network,
    peer: NodeId,
    request: &Request,
    timeout: Duration,
) -> Result<Response, RpcError> {
    let bytes = encode_request(request).map_err(|error| NetworkError::new(&error))?;
    // The port promises the timeout; this keeps it even if an implementation does not.
    let answer = tokio::time::timeout(timeout, network.call(peer, bytes, timeout)).await;
    let answer = answer
        .map_err(|_| NetworkError::from_string(format!("node {peer} did not answer in {timeout:?}")))?
        .map_err(|error| PeerUnreachable::new(&error))?;
    Ok(decode(&answer).map_err(|error| NetworkError::new(&error))?)
}

impl RaftNetworkV2<Types> for Client {
    type SnapshotData = SnapshotFile;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<Types>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RpcError> {
        let request = Request::Append(Append {
            leader: rpc.vote.into(),
            previous: rpc.prev_log_id.map(Into::into),
            entries: rpc.entries.iter().map(LogEntry::from).collect(),
            committed: rpc.leader_commit.map(Into::into),
        });
        self.silence.over(self.made_at).await;
        // openraft's limit is the heartbeat interval: far too short for a peer's sync under load.
        match self.ask(&request, self.config.call_timeout).await? {
            Response::Append(Appended::Success) => Ok(AppendEntriesResponse::Success),
            Response::Append(Appended::Partial(at)) => {
                Ok(AppendEntriesResponse::PartialSuccess(at.map(LogId::from)))
            }
            Response::Append(Appended::Conflict) => Ok(AppendEntriesResponse::Conflict),
            Response::Append(Appended::HigherVote(ballot)) => {
                Ok(AppendEntriesResponse::HigherVote(ballot.into()))
            }
            other => Err(self.unexpected(other)),
        }
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RpcError> {
        self.canvass(Request::Vote(canvass(&rpc)), &option).await
    }

    /// The default would grant without asking anybody.
    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RpcError> {
        self.canvass(Request::PreVote(canvass(&rpc)), &option).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        tokio::select! {
            closed = cancel => Err(closed.into()),
            sent = self.send(vote.into(), snapshot.snapshot) => sent.map_err(StreamingError::from),
        }
    }

    async fn transfer_leader(
        &mut self,
        rpc: TransferLeaderRequest<Types>,
        _option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types>, RpcError> {
        let request = Request::Transfer {
            leader: (*rpc.from_leader()).into(),
            to: *rpc.to_node_id(),
            last: rpc.last_log_id().copied().map(Into::into),
        };
        match self.ask(&request, self.config.call_timeout).await? {
            Response::Transfer(TransferAnswer::Accepted) => Ok(Ok(())),
            Response::Transfer(TransferAnswer::VoteChanged { expected, actual }) => {
                Ok(Err(TransferLeaderError::VoteChanged { expected: expected.into(), actual: actual.into() }))
            }
            Response::Transfer(TransferAnswer::LogBehind { expected, actual }) => {
                Ok(Err(TransferLeaderError::LogNotFlushed {
                    expected: expected.map(LogId::from),
                    actual: actual.map(LogId::from),
                }))
            }
            other => Err(self.unexpected(other)),
        }
    }
}

fn canvass(rpc: &VoteRequest<Types>) -> Canvass {
    Canvass {
        ballot: rpc.vote.into(),
        last: rpc.last_log_id.map(Into::into),
        transfer: rpc.leadership_transfer,
    }
}
