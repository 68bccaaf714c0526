//! A network in memory: every pair of nodes is a link that can be cut, one way or both.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use bytes::Bytes;
use scp_model::NodeId;

use crate::{Network, Raft, Unreachable, network::Answerer};

/// Joins nodes. Cheap to clone.
#[derive(Clone, Default)]
pub struct Switch {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    nodes: BTreeMap<NodeId, Answerer>,
    /// How often a node was unplugged: ports made before that are dead.
    lives: BTreeMap<NodeId, u64>,
    cut: BTreeSet<(NodeId, NodeId)>,
    latency: Duration,
    bytes: BTreeMap<(NodeId, NodeId), u64>,
    largest: usize,
}

impl Switch {
    /// The port of one node, until it is unplugged.
    pub fn port(&self, node: NodeId) -> Arc<dyn Network> {
        let life = self.lock().life(node);
        Arc::new(Port { switch: self.clone(), node, life })
    }

    /// Makes a node reachable.
    pub fn plug(&self, node: NodeId, raft: Raft) {
        self.plug_answerer(
            node,
            Arc::new(move |from, request| {
                let raft = raft.clone();
                Box::pin(async move { raft.answer(from, request).await })
            }),
        );
    }

    /// The same for anything that answers.
    pub fn plug_answerer(&self, node: NodeId, answerer: Answerer) {
        self.lock().nodes.insert(node, answerer);
    }

    /// Calls to it fail at once, and calls from what still runs of it never arrive.
    pub fn unplug(&self, node: NodeId) {
        let mut state = self.lock();
        *state.lives.entry(node).or_default() += 1;
        state.nodes.remove(&node);
    }

    /// What `from` sends to `to` is lost without a word.
    pub fn cut(&self, from: NodeId, to: NodeId) {
        self.lock().cut.insert((from, to));
    }

    /// Cuts both ways between `node` and all others.
    pub fn isolate(&self, node: NodeId) {
        let mut state = self.lock();
        let others: Vec<NodeId> = state.nodes.keys().copied().filter(|&other| other != node).collect();
        for other in others {
            state.cut.insert((node, other));
            state.cut.insert((other, node));
        }
    }

    /// All links work again.
    pub fn heal(&self) {
        self.lock().cut.clear();
    }

    /// Every request and every answer takes so long.
    pub fn set_latency(&self, latency: Duration) {
        self.lock().latency = latency;
    }

    /// Bytes of requests sent over a link so far.
    pub fn sent(&self, from: NodeId, to: NodeId) -> u64 {
        self.lock().bytes.get(&(from, to)).copied().unwrap_or(0)
    }

    /// The largest request so far.
    pub fn largest(&self) -> usize {
        self.lock().largest
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no one panics while holding the switch")
    }

    fn passes(&self, from: NodeId, to: NodeId) -> bool {
        !self.lock().cut.contains(&(from, to))
    }
}

impl State {
    fn life(&self, node: NodeId) -> u64 {
        self.lives.get(&node).copied().unwrap_or(0)
    }
}

struct Port {
    switch: Switch,
    node: NodeId,
    life: u64,
}

#[async_trait::async_trait]
impl Network for Port {
    async fn call(&self, peer: NodeId, request: Bytes, timeout: Duration) -> Result<Bytes, Unreachable> {
        let unreachable = |reason: &str| Unreachable { peer, reason: reason.to_owned() };
        let (target, latency) = {
            let mut state = self.switch.lock();
            if state.life(self.node) != self.life {
                return Err(unreachable("the caller is unplugged"));
            }
            *state.bytes.entry((self.node, peer)).or_default() += request.len() as u64;
            state.largest = state.largest.max(request.len());
            let target = state.nodes.get(&peer).cloned().ok_or_else(|| unreachable("it is not there"))?;
            (target, state.latency)
        };
        let (switch, node) = (self.switch.clone(), self.node);
        let lost = std::future::pending::<Bytes>();
        // A task of its own: what arrived is answered even when the caller gives up.
        let answer = tokio::spawn(async move {
            tokio::time::sleep(latency).await;
            if !switch.passes(node, peer) {
                return lost.await;
            }
            let answer = target(node, request).await;
            tokio::time::sleep(latency).await;
            if switch.passes(peer, node) { answer } else { std::future::pending().await }
        });
        let abort = answer.abort_handle();
        match tokio::time::timeout(timeout, answer).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) => Err(unreachable("it is gone")),
            Err(_) => {
                abort.abort();
                Err(unreachable("no answer in time"))
            }
        }
    }
}
