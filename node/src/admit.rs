//! Admitting a stranger with a join token: the state decides, a voter issues the certificate.
//!
//! ```text
//!   stranger ─▶ any node ─▶ has the city key? ─no─▶ the same question to one that has
//!                               │yes
//!                               ▼
//!           agreement has let go of its last membership, if it had one
//!                               ▼
//!                    AdmitNode ─▶ applied ─▶ certificate issued ─▶ JoinReply
//! ```
//! A crash between the two leaves an admitted node without a certificate; it repeats its join with the
//! same token and gets one.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use scp_api::cluster::ClusterError;
use scp_mesh::{JoinRefusal, JoinReply, JoinRequest, Lane, Stranger, join::Peer, token::JoinSecret};
use scp_model::{Actor, Command, Country, NodeId, command::AdmitNode, node::NodeProfile};
use scp_state::State;
use tokio::time::Instant;

use crate::{
    issuer::Issuer,
    proposer::{PROPOSE_TIMEOUT, Proposer},
    removal,
    wire::{self, Admission, Ask},
};

/// `ZZ` is reserved for private use in ISO 3166-1: a server that does not say where it stands.
pub const COUNTRY_UNKNOWN: &str = "ZZ";

/// Room for the admission to be decided and the answer to travel.
const FORWARD_TIMEOUT: Duration = Duration::from_secs(PROPOSE_TIMEOUT.as_secs() + 2);

/// The group changes within a second of a removal. Well within the join's own patience.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(8);
const RELEASE_PAUSE: Duration = Duration::from_millis(100);

/// A question to each of them takes two seconds at most, and the join waits for the answer.
const HOLDERS_ASKED_MAX: usize = 8;

const NO_KEY: &str = "none of its nodes that can be reached holds the city key, without which no certificate is \
                      issued. An operator brings back the nodes that are down (scpctl node list), or puts back \
                      the file identity/city.key in the data directory of one";

/// Admits strangers, or has a voter do it.
pub struct Admitter {
    pub proposer: Proposer,
    pub issuer: Arc<Issuer>,
}

impl Admitter {
    pub async fn join(&self, stranger: Stranger, request: JoinRequest) -> Result<JoinReply, JoinRefusal> {
        if self.issuer.has_key() {
            self.admit(stranger, request).await
        } else {
            self.forward(stranger, request).await
        }
    }

    /// Decides here.
    pub async fn admit(&self, stranger: Stranger, request: JoinRequest) -> Result<JoinReply, JoinRefusal> {
        // Before anything is changed: an admission without a certificate would use the token up.
        if !self.issuer.has_key() {
            return Err(JoinRefusal::Unavailable { why: NO_KEY.into() });
        }
        self.released(stranger.node()).await?;
        let state = self.proposer.published.state();
        let profile = located(&state, request.profile)?;
        let command = Command::AdmitNode(Box::new(AdmitNode {
            token: request.token,
            secret_digest: JoinSecret(request.secret).digest(),
            node: stranger.node(),
            public_key: stranger.public_key,
            profile: profile.clone(),
        }));
        let answer =
            self.proposer.command(Actor::Node(stranger.node()), command).await.map_err(unavailable)?;
        answer.result?;
        let certificate = self
            .issuer
            .issue(stranger.public_key, &profile)
            .map_err(|why| JoinRefusal::Unavailable { why })?;
        self.reply(certificate, answer.index)
    }

    /// Until agreement has let go of a server that has just left. It may come back with
    /// an empty log, its directory removed: still in the group, it would vote without knowing what it once
    /// acknowledged.
    async fn released(&self, node: NodeId) -> Result<(), JoinRefusal> {
        let deadline = Instant::now() + RELEASE_TIMEOUT;
        loop {
            // What the leader has committed is here then, changes of the group included.
            self.proposer
                .raft
                .linearizable()
                .await
                .map_err(|error| JoinRefusal::Unavailable { why: error.to_string() })?;
            let lingers = {
                let status = self.proposer.raft.status();
                let status = status.borrow();
                status.voters.contains(&node) || status.learners.contains(&node)
            };
            // A member that asks again has been admitted, and its answer was lost.
            if !lingers || self.proposer.published.state().nodes.contains_key(&node) {
                return Ok(());
            }
            if Instant::now() > deadline {
                let why = "agreement has not yet let go of this server, which left a moment ago".into();
                return Err(JoinRefusal::Unavailable { why });
            }
            tokio::time::sleep(RELEASE_PAUSE).await;
        }
    }

    /// Another node that can issue a certificate: the leader rather than a voter, a voter rather than one
    /// that voted until a moment ago.
    async fn holder(&self) -> Result<NodeId, JoinRefusal> {
        let status = self.proposer.raft.status().borrow().clone();
        let state = self.proposer.published.state();
        let others = state.nodes_up().map(|node| node.id).filter(|id| !status.voters.contains(id));
        let known = status.leader.into_iter().chain(status.voters.iter().copied()).chain(others);
        let mut asked = BTreeSet::from([self.proposer.me()]);
        for node in known.take(HOLDERS_ASKED_MAX) {
            if asked.insert(node) && removal::holds_key(&self.proposer, &self.issuer, node).await {
                return Ok(node);
            }
        }
        let why = match status.leader {
            None => "it has no leader: an election is under way, or a majority of its voters is out of reach",
            Some(_) => NO_KEY,
        };
        Err(JoinRefusal::Unavailable { why: why.into() })
    }

    async fn forward(&self, stranger: Stranger, request: JoinRequest) -> Result<JoinReply, JoinRefusal> {
        let holder = self.holder().await?;
        let ask = Ask::Admit(Box::new(Admission {
            public_key: stranger.public_key,
            address: stranger.address,
            request,
        }));
        let failed = |why: String| JoinRefusal::Unavailable { why };
        let ask = wire::pack(&ask).map_err(|refusal| failed(refusal.to_string()))?;
        let reply = self.proposer.transport.request(holder, Lane::Forward, ask, FORWARD_TIMEOUT).await;
        let reply = reply.map_err(|error| failed(error.to_string()))?;
        wire::unpack::<Result<JoinReply, JoinRefusal>>(Lane::Forward, &reply)
            .map_err(|refusal| failed(refusal.to_string()))?
    }

    fn reply(&self, certificate: String, admitted_at: u64) -> Result<JoinReply, JoinRefusal> {
        let state = self.proposer.published.state();
        let Some(city) = &state.city else {
            return Err(JoinRefusal::Unavailable { why: "the city is not initialised".into() });
        };
        let status = self.proposer.raft.status().borrow().clone();
        let peer = |(id, node): (&NodeId, &scp_model::node::Node)| Peer {
            node: *id,
            address: node.profile.mesh_address,
            public_key: node.public_key,
            is_voter: status.voters.contains(id),
        };
        Ok(JoinReply {
            city: city.id,
            city_name: city.name.clone(),
            authority: city.ca_certificate.clone(),
            certificate,
            peers: state.nodes.iter().map(peer).collect(),
            leader: status.leader,
            admitted_at,
        })
    }
}

/// A server that does not say where it stands is taken to stand in the city's country.
fn located(state: &State, profile: NodeProfile) -> Result<NodeProfile, JoinRefusal> {
    let Some(city) = &state.city else {
        return Err(JoinRefusal::Unavailable { why: "the city is not initialised".into() });
    };
    let unknown: Country = COUNTRY_UNKNOWN.parse().expect("two upper-case letters");
    let country = if profile.country == unknown { city.country } else { profile.country };
    Ok(NodeProfile { country, ..profile })
}

fn unavailable(error: ClusterError) -> JoinRefusal {
    JoinRefusal::Unavailable { why: error.to_string() }
}
