//! Makes what depends on the city's members follow the state: keys and addresses in the mesh, who
//! observes whom, who gossips with whom.

use std::{net::SocketAddr, sync::Arc};

use scp_mesh::{
    Members,
    gossip::cell::Roster,
    observe::{Seat, Watchlist},
};
use scp_model::{NodeId, node::Node};
use scp_raft::Raft;
use scp_state::State;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::machine::Published;

/// The mesh's address book.
pub type SetAddress = Arc<dyn Fn(NodeId, Option<SocketAddr>) + Send + Sync>;

/// Where the followers listen.
pub struct Follow {
    pub published: Published,
    pub raft: Raft,
    /// Tells the mesh where a member listens now; none: it is a member no more.
    pub set_address: SetAddress,
    pub members: watch::Sender<Option<Arc<Members>>>,
    pub watchlist: watch::Sender<Arc<Watchlist>>,
    pub roster: watch::Sender<Arc<Roster>>,
}

impl Follow {
    pub async fn run(self, stop: CancellationToken) {
        let mut applied = self.published.applied();
        let mut status = self.raft.status();
        let mut seen = State::default();
        let mut leader = None;
        loop {
            let state = self.published.state();
            let (now_leading, voters) = {
                let status = status.borrow_and_update();
                (status.leader, status.voters.clone())
            };
            // A pointer comparison in the common case: most commands leave the nodes alone.
            if !seen.nodes.ptr_eq(&state.nodes) || leader != now_leading {
                self.addresses(&seen, &state);
                self.tell(&state, now_leading, voters);
                seen = (*state).clone();
                leader = now_leading;
            }
            tokio::select! {
                () = stop.cancelled() => return,
                Ok(()) = applied.changed() => {}
                Ok(()) = status.changed() => {}
            }
        }
    }

    fn addresses(&self, old: &State, new: &State) {
        for (id, node) in &new.nodes {
            let address = node.profile.mesh_address;
            if old.nodes.get(id).map(|node| node.profile.mesh_address) != Some(address) {
                (self.set_address)(*id, Some(address));
            }
        }
        for (id, _) in old.nodes.iter().filter(|(id, _)| !new.nodes.contains_key(*id)) {
            (self.set_address)(*id, None);
        }
    }

    fn tell(&self, state: &State, leader: Option<NodeId>, voters: std::collections::BTreeSet<NodeId>) {
        if state.city.is_none() {
            return;
        }
        let members: Members = state.nodes.iter().map(|(id, node)| (*id, node.public_key)).collect();
        // Who is not in it may have joined later than this state ends, if it is an old one.
        self.members.send_replace(Some(Arc::new(members.known_until(state.time))));
        let seat = |node: &Node| Seat { node: node.id, zone: node.profile.zone.clone(), is_up: node.is_up() };
        let seats = state.nodes.values().map(seat).collect();
        self.watchlist.send_replace(Arc::new(Watchlist { seats, leader }));
        let members = state.nodes.iter().map(|(id, node)| (*id, Node::is_up(node))).collect();
        self.roster.send_replace(Arc::new(Roster { members, voters }));
    }
}
