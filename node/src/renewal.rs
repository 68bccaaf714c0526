//! Keeps this node's certificate fresh: at half of its life, or when its name or address changed.

use std::{net::IpAddr, sync::Arc, time::Duration};

use scp_mesh::{Identity, IdentityDirectory, Mesh, renew};
use scp_model::Name;
use tokio_util::sync::CancellationToken;

use crate::{issuer::Issuer, proposer::Proposer, serve};

/// How often it is looked at, which costs next to nothing. Validity is days; but when a city comes back from
/// a long outage, nodes hear each other again only when all have renewed.
const INTERVAL: Duration = Duration::from_secs(5);
const ASK_TIMEOUT: Duration = Duration::from_secs(10);

/// Renews the certificate of this node.
pub struct Renewal {
    pub proposer: Proposer,
    pub issuer: Arc<Issuer>,
    pub directory: IdentityDirectory,
    pub mesh: Mesh,
    pub https: serve::Certificate,
}

/// What a certificate was issued for.
type Names = Option<(Name, IpAddr, IpAddr)>;

impl Renewal {
    pub async fn run(self, mut identity: Identity, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(INTERVAL);
        let mut issued_for = self.names();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = ticks.tick() => {}
            }
            let names = self.names();
            let renamed = issued_for.is_some() && names != issued_for;
            if !renamed && !renew::is_due(identity.certificate(), self.proposer.clock.now()) {
                issued_for = names;
                continue;
            }
            match self.renew(&identity).await {
                Ok(renewed) => {
                    tracing::info!("the certificate was renewed");
                    identity = renewed;
                    issued_for = names;
                }
                Err(why) => {
                    tracing::warn!(%why, "the certificate was not renewed; trying again in some seconds")
                }
            }
        }
    }

    fn names(&self) -> Names {
        let state = self.proposer.published.state();
        let profile = &state.nodes.get(&self.proposer.me())?.profile;
        Some((profile.name.clone(), profile.mesh_address.ip(), profile.api_address.ip()))
    }

    async fn renew(&self, identity: &Identity) -> Result<Identity, String> {
        let renewed = if self.issuer.has_key() {
            let pem = self.issuer.renew(self.proposer.me()).map_err(|refusal| refusal.why)?;
            Identity::new(identity.key.clone(), &pem, identity.authority_pem()).map_err(|e| e.to_string())?
        } else {
            let mut askable: Vec<_> = self.proposer.raft.status().borrow().voters.iter().copied().collect();
            // After a long absence the voters that this node knows may all be gone; whoever has found it
            // since may be one of today's.
            askable.extend(self.mesh.connected());
            renew::renew(&*self.proposer.transport, &askable, identity, ASK_TIMEOUT)
                .await
                .map_err(|error| error.to_string())?
        };
        self.directory.store(&renewed).map_err(|error| error.to_string())?;
        self.mesh.reload(renewed.clone()).map_err(|error| error.to_string())?;
        self.https.replace(renewed.chain(), renewed.key.to_tls()).map_err(|error| error.to_string())?;
        Ok(renewed)
    }
}
