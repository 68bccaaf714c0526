//! What this node gossips of itself: things that change too often for the log.

use std::{sync::Arc, time::Duration};

use scp_mesh::{
    Gossip,
    gossip::{GossipConfig, cell::Roster},
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{proposer::Proposer, server::SOFTWARE};

const INTERVAL: Duration = Duration::from_secs(2);

/// Gossips from the moment at which the city is known.
pub struct Facts {
    pub proposer: Proposer,
    pub roster: watch::Receiver<Arc<Roster>>,
    /// How busy this server is, in percent of one core.
    pub load_percent: fn() -> u64,
}

impl Facts {
    pub async fn run(self, stop: CancellationToken) {
        let Some(gossip) = self.start(&stop).await else { return };
        let mut ticks = tokio::time::interval(INTERVAL);
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                _ = ticks.tick() => self.tell(&gossip),
            }
        }
        gossip.shutdown().await;
    }

    async fn start(&self, stop: &CancellationToken) -> Option<Gossip> {
        let mut applied = self.proposer.published.applied();
        loop {
            if let Some(city) = &self.proposer.published.state().city {
                let config = GossipConfig { city: city.id, incarnation: self.proposer.clock.now().0 };
                return Some(Gossip::start(config, self.proposer.transport.clone(), self.roster.clone()));
            }
            tokio::select! {
                () = stop.cancelled() => return None,
                _ = applied.changed() => {}
            }
        }
    }

    fn tell(&self, gossip: &Gossip) {
        let state = self.proposer.published.state();
        let Some(node) = state.nodes.get(&self.proposer.me()) else { return };
        let free = state.free(node);
        let facts = [
            ("software", SOFTWARE.to_owned()),
            ("mesh_address", node.profile.mesh_address.to_string()),
            ("api_address", node.profile.api_address.to_string()),
        ];
        let gauges = [
            ("applied_index", state.index.to_string()),
            ("vcpus_free", free.vcpus.to_string()),
            ("memory_mib_free", free.memory_mib.to_string()),
            ("disk_mib_free", free.disk_mib.to_string()),
            ("load_percent", (self.load_percent)().to_string()),
        ];
        let facts = facts.map(|(key, value)| gossip.set_fact(key, value));
        let gauges = gauges.map(|(key, value)| gossip.set_gauge(key, value));
        for error in facts.into_iter().chain(gauges).filter_map(Result::err) {
            tracing::error!(%error, "a fact cannot be told");
        }
    }
}

/// The load average of the last minute, in percent of one core.
pub fn load_percent() -> u64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load: f64 = text.split(' ').next().and_then(|word| word.parse().ok()).unwrap_or_default();
    (load * 100.0) as u64
}
