//! Issuing certificates: the authority's key, opened with the city key where this node has it.
//!
//! The sealed key is in the state, so every node has it; the city key is a file that only voters get:
//! the founder makes it, a node that becomes a voter asks the others for it.

use std::{sync::Arc, time::Duration};

use scp_mesh::{
    Authority, CityKey, IdentityDirectory, Lane, Refusal, RefusalKind, Transport, authority::Subject,
};
use scp_model::{NodeId, PublicKey, node::NodeProfile};
use scp_raft::Raft;
use scp_state::State;
use tokio_util::sync::CancellationToken;

use crate::{
    machine::Published,
    wire::{self, Ask},
};

/// How often a node looks whether it has become a voter and lacks the city key. Until it has it, the city
/// may depend on one disk for it.
const ASK_INTERVAL: Duration = Duration::from_millis(500);
const ASK_TIMEOUT: Duration = Duration::from_secs(2);

/// Issues certificates on a node that may.
pub struct Issuer {
    pub directory: IdentityDirectory,
    pub published: Published,
    pub clock: Arc<dyn scp_mesh::Clock>,
}

impl Issuer {
    /// A node certificate in PEM, for the key that its handshake proved.
    pub fn issue(&self, public_key: PublicKey, profile: &NodeProfile) -> Result<String, String> {
        let authority = self.authority()?;
        let subject = Subject::of(public_key, profile);
        authority.issue(&subject, self.clock.now()).map_err(|error| error.to_string())
    }

    /// A new certificate for a member, with the names that the state has for it.
    pub fn renew(&self, node: NodeId) -> Result<String, Refusal> {
        let state = self.published.state();
        let Some(member) = state.nodes.get(&node) else {
            return Err(Refusal::new(RefusalKind::Forbidden, format!("{node} is no member of the city")));
        };
        self.issue(member.public_key, &member.profile).map_err(|why| Refusal::new(RefusalKind::NotHere, why))
    }

    /// Whether this node can issue.
    pub fn has_key(&self) -> bool {
        matches!(self.directory.load_city_key(), Ok(Some(_)))
    }

    fn authority(&self) -> Result<Authority, String> {
        let key = self.city_key()?;
        let state = self.published.state();
        let city = state.city.as_ref().ok_or("the city is not initialised")?;
        Authority::unseal(city.id, &city.ca_certificate, &city.ca_key_sealed, &key)
            .map_err(|error| error.to_string())
    }

    fn city_key(&self) -> Result<CityKey, String> {
        match self.directory.load_city_key() {
            Ok(Some(key)) => Ok(key),
            Ok(None) => Err("this node is not a voter and cannot issue certificates".into()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Answers [`Ask::CityKey`]: to voters only.
    pub fn city_key_for(&self, asker: NodeId, raft: &Raft) -> Result<[u8; 32], Refusal> {
        let voter = raft.status().borrow().voters.contains(&asker);
        if !voter || !self.published.state().nodes.contains_key(&asker) {
            return Err(Refusal::new(RefusalKind::Forbidden, "only voters are given the city key"));
        }
        let key = self.city_key().map_err(|why| Refusal::new(RefusalKind::NotHere, why))?;
        Ok(*key.bytes())
    }

    /// Fetches the city key once this node has become a voter.
    pub async fn keep_key(&self, raft: Raft, transport: Arc<dyn Transport>, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(ASK_INTERVAL);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = ticks.tick() => {}
            }
            if self.has_key() {
                return;
            }
            let voters = raft.status().borrow().voters.clone();
            if voters.contains(&transport.node()) {
                // Who held it may no longer vote: in a city of two the only vote moves from one to the other.
                let others = self.published.state().nodes.keys().copied().collect::<Vec<_>>();
                let others = others.into_iter().filter(|node| !voters.contains(node));
                let askable: Vec<NodeId> = voters.iter().copied().chain(others).collect();
                self.ask_for_key(&askable, &*transport).await;
            }
        }
    }

    async fn ask_for_key(&self, askable: &[NodeId], transport: &dyn Transport) {
        let me = transport.node();
        for holder in askable.iter().copied().filter(|node| *node != me) {
            let Ok(ask) = wire::pack(&Ask::CityKey) else { return };
            let Ok(reply) = transport.request(holder, Lane::Forward, ask, ASK_TIMEOUT).await else {
                continue;
            };
            let Ok(bytes) = wire::unpack::<[u8; 32]>(Lane::Forward, &reply) else { continue };
            let key = CityKey::from_bytes(bytes);
            if !self.opens(&key) {
                tracing::warn!(%holder, "a node sent a city key that does not open the authority");
                continue;
            }
            match self.directory.store_city_key(&key) {
                Ok(()) => tracing::info!(%holder, "received the city key"),
                Err(error) => tracing::warn!(%error, "cannot keep the city key"),
            }
            return;
        }
    }

    fn opens(&self, key: &CityKey) -> bool {
        self.published.state().city.as_ref().is_some_and(|city| {
            Authority::unseal(city.id, &city.ca_certificate, &city.ca_key_sealed, key).is_ok()
        })
    }
}

/// The keys of the city's members, for the mesh; none before the state knows the city.
pub fn members(state: &State) -> Option<Arc<scp_mesh::Members>> {
    state.city.as_ref()?;
    Some(Arc::new(state.nodes.iter().map(|(id, node)| (*id, node.public_key)).collect()))
}
