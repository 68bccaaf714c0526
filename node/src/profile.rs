//! Keeps what the city knows of this server true: after an upgrade, a new address, more memory, a
//! hypervisor that was installed.

use std::{sync::Arc, time::Duration};

use scp_model::{Actor, Command, command::UpdateNode, node::NodeProfile};
use scp_state::State;
use tokio_util::sync::CancellationToken;

use crate::{
    config::{Config, Names},
    proposer::Proposer,
    server::Server,
};

/// Pause before a rejected or failed update is tried again.
const RETRY: Duration = Duration::from_secs(30);

/// Tells the city when this server is not what the state says.
pub struct Profile {
    pub proposer: Proposer,
    pub server: Arc<Server>,
    pub config: Arc<Config>,
}

impl Profile {
    pub async fn keep(self, stop: CancellationToken) {
        let mut applied = self.proposer.published.applied();
        let mut compute = self.server.compute.clone();
        loop {
            let pause = match self.outdated(&self.proposer.published.state()) {
                Some(profile) => self.update(profile).await,
                None => Duration::ZERO,
            };
            tokio::select! {
                () = stop.cancelled() => return,
                Ok(()) = compute.changed() => {}
                () = tokio::time::sleep(pause), if !pause.is_zero() => {}
                changed = applied.changed(), if pause.is_zero() => if changed.is_err() { return },
            }
        }
    }

    /// The true profile, when the state has another.
    fn outdated(&self, state: &State) -> Option<NodeProfile> {
        let known = &state.nodes.get(&self.proposer.me())?.profile;
        let known_names = Names {
            name: Some(known.name.clone()),
            zone: Some(known.zone.clone()),
            country: Some(known.country),
        };
        let names = self.config.names.clone().or(known_names);
        let profile = self.server.profile(&self.config, names).ok()?;
        (profile != *known).then_some(profile)
    }

    /// How long to wait before looking again.
    async fn update(&self, profile: NodeProfile) -> Duration {
        let node = self.proposer.me();
        let command = Command::UpdateNode(Box::new(UpdateNode { node, profile }));
        match self.proposer.command(Actor::Node(node), command).await {
            Ok(answer) => match answer.result {
                Ok(()) => Duration::ZERO,
                Err(rejection) => {
                    tracing::warn!(%rejection, "the city does not take this server's new profile");
                    RETRY
                }
            },
            Err(error) => {
                tracing::debug!(%error, "this server's new profile has to wait");
                RETRY
            }
        }
    }
}
