//! One circle of gossip: a running chitchat, and how facts go in and come out.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use chitchat::{
    Chitchat, ChitchatConfig, ChitchatHandle, ChitchatId, FailureDetectorConfig, NodeState, spawn_chitchat,
};
use data_encoding::BASE64;
use futures::FutureExt;
use scp_model::NodeId;
use serde::{Deserialize, Serialize};

use super::{
    FACTS_MAX, Facts, GOSSIP_INTERVAL, Seen, Task, check_fact,
    link::{Circle, CircleTransport, address_of, node_at},
    news::Version,
};

/// Beside members' ids in the city-wide circle: an ambassador's word for a member of its cell.
const SPOKEN_FOR: &str = "n:";
/// A member with all its facts at their longest, in base64.
const WORD_BYTES_MAX: usize = 8 << 10;
/// How long deleted keys and dead members are remembered: longer than any partition that heals by itself.
const DELETED_GRACE: Duration = Duration::from_secs(3600);
const DEAD_GRACE: Duration = Duration::from_secs(24 * 3600);

/// The rarest signs of life that still count, far above what the budget leaves of them at 200 members.
const HEARTBEAT_INTERVAL_MAX: Duration = Duration::from_secs(60);
/// Signs of life by which a member's next is expected: few, because they come the rarer the more members
/// come to be known, and each member keeps so many of every other.
const HEARTBEATS_KEPT: usize = 16;

/// An ambassador's word for a member.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Word {
    alive: bool,
    version: Version,
    facts: Facts,
}

pub(super) struct Membership {
    handle: ChitchatHandle,
}

impl Drop for Membership {
    fn drop(&mut self) {
        self.handle.abort();
    }
}

impl Membership {
    pub(super) async fn begin(task: &Task, circle: Circle, partners: &[NodeId]) -> Option<Self> {
        let config = ChitchatConfig {
            // The address tells who it is, and every message names every member.
            chitchat_id: ChitchatId::new("", task.config.incarnation, address_of(task.us)),
            cluster_id: format!("{}/{circle}", task.config.city),
            gossip_interval: GOSSIP_INTERVAL,
            listen_addr: address_of(task.us),
            seed_nodes: partners.iter().map(|node| address_of(*node).to_string()).collect(),
            failure_detector_config: FailureDetectorConfig {
                dead_node_grace_period: DEAD_GRACE,
                initial_interval: GOSSIP_INTERVAL,
                max_interval: HEARTBEAT_INTERVAL_MAX,
                sampling_window_size: HEARTBEATS_KEPT,
                ..FailureDetectorConfig::default()
            },
            marked_for_deletion_grace_period: DELETED_GRACE,
            catchup_callback: None,
            extra_liveness_predicate: None,
        };
        let transport = CircleTransport { router: task.router.clone(), circle };
        match spawn_chitchat(config, vec![], &transport).await {
            Ok(handle) => Some(Self { handle }),
            Err(error) => {
                // Tried again at the next turn.
                tracing::warn!(%circle, %error, "gossip does not start");
                None
            }
        }
    }

    pub(super) fn is_running(&self) -> bool {
        self.handle.termination_watcher().now_or_never().is_none()
    }

    /// Our own facts; chitchat passes on only what changed. The version that they have now.
    pub(super) async fn tell(&self, facts: impl Iterator<Item = (&str, &str)>) -> Version {
        let facts: Vec<_> = facts.collect();
        let tell = |chitchat: &mut Chitchat| {
            let ours = chitchat.self_node_state();
            for (key, value) in &facts {
                if ours.get(key) != Some(*value) {
                    ours.set(key, value);
                }
            }
            let number = ours.max_version();
            Version { incarnation: chitchat.self_chitchat_id().generation_id, number }
        };
        self.handle.with_chitchat(tell).await
    }

    /// Everyone in this circle, first hand; what is `known` in the same version is taken from there.
    pub(super) async fn members(&self, known: &BTreeMap<NodeId, Seen>) -> BTreeMap<NodeId, Seen> {
        self.handle.with_chitchat(|chitchat| first_hand(chitchat, known)).await
    }

    /// As an ambassador: tells the city what we know of our cell.
    pub(super) async fn speak_for(&self, members: &BTreeMap<NodeId, Seen>) {
        let words: BTreeMap<String, String> = members
            .iter()
            .filter_map(|(node, member)| Some((format!("{SPOKEN_FOR}{node}"), word(member)?)))
            .collect();
        let speak = |chitchat: &mut Chitchat| {
            let ours = chitchat.self_node_state();
            let gone: Vec<_> = ours
                .iter_prefix(SPOKEN_FOR)
                .filter(|(key, value)| !value.is_deleted() && !words.contains_key(*key))
                .map(|(key, _)| key.to_owned())
                .collect();
            gone.iter().for_each(|key| ours.delete(key));
            for (key, value) in &words {
                if ours.get(key) != Some(value) {
                    ours.set(key, value);
                }
            }
        };
        self.handle.with_chitchat(speak).await;
    }

    /// What the ambassadors tell of all cells.
    pub(super) async fn told(&self, ambassadors: &BTreeSet<NodeId>) -> BTreeMap<NodeId, Seen> {
        let told = |chitchat: &mut Chitchat| {
            let mut members: BTreeMap<NodeId, Seen> = BTreeMap::new();
            let speaks = |id: &ChitchatId| node_of(id).is_some_and(|node| ambassadors.contains(&node));
            for (_, ambassador) in chitchat.node_states().iter().filter(|(id, _)| speaks(id)) {
                let words = ambassador.iter_prefix(SPOKEN_FOR).filter(|(_, value)| !value.is_deleted());
                for (key, value) in words {
                    let node = key.strip_prefix(SPOKEN_FOR).and_then(|id| id.parse().ok());
                    let (Some(node), Some(member)) = (node, heard(&value.value)) else { continue };
                    match members.get(&node) {
                        Some(known) if known.version >= member.version => {}
                        Some(_) | None => drop(members.insert(node, member)),
                    }
                }
            }
            members
        };
        self.handle.with_chitchat(told).await
    }
}

fn node_of(id: &ChitchatId) -> Option<NodeId> {
    node_at(id.gossip_advertise_addr)
}

fn first_hand(chitchat: &Chitchat, known: &BTreeMap<NodeId, Seen>) -> BTreeMap<NodeId, Seen> {
    let mut newest: BTreeMap<NodeId, (&ChitchatId, &NodeState)> = BTreeMap::new();
    for (id, state) in chitchat.node_states() {
        let Some(node) = node_of(id) else { continue };
        let known = newest.entry(node).or_insert((id, state));
        if id.generation_id > known.0.generation_id {
            *known = (id, state);
        }
    }
    let live: BTreeSet<_> = chitchat.live_nodes().collect();
    let ours = chitchat.self_chitchat_id();
    let seen = |node: NodeId, id: &ChitchatId, state: &NodeState| {
        let version = Version { incarnation: id.generation_id, number: state.max_version() };
        let same = known.get(&node).filter(|known| known.version == version);
        let read = || Arc::new(bounded(state.key_values()));
        let facts = same.map_or_else(read, |known| known.facts.clone());
        Seen { alive: id == ours || live.contains(id), version, facts }
    };
    newest.into_iter().map(|(node, (id, state))| (node, seen(node, id, state))).collect()
}

/// Facts as they may be; a peer that tells more is not believed more.
pub(super) fn bounded<'a>(facts: impl Iterator<Item = (&'a str, &'a str)>) -> Facts {
    let good = facts.filter(|(key, value)| check_fact(key, value).is_ok());
    good.take(FACTS_MAX).map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

fn word(Seen { alive, version, facts }: &Seen) -> Option<String> {
    let word = Word { alive: *alive, version: *version, facts: (**facts).clone() };
    let word = BASE64.encode(&scp_codec::to_payload(&word).ok()?);
    (word.len() <= WORD_BYTES_MAX).then_some(word)
}

pub(super) fn heard(word: &str) -> Option<Seen> {
    if word.len() > WORD_BYTES_MAX {
        return None;
    }
    let word: Word = scp_codec::from_payload(&BASE64.decode(word.as_bytes()).ok()?).ok()?;
    let facts = bounded(word.facts.iter().map(|(key, value)| (key.as_str(), value.as_str())));
    Some(Seen { alive: word.alive, version: word.version, facts: Arc::new(facts) })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn an_ambassadors_word_is_heard_as_it_was_spoken(
            alive: bool,
            facts in prop::collection::btree_map("[a-z_]{1,32}", "[ -~]{0,256}", 0..=FACTS_MAX),
        ) {
            let member = Seen { alive, version: Version { incarnation: 1, number: 7 }, facts: Arc::new(facts) };
            prop_assert_eq!(heard(&word(&member).expect("within the bounds")), Some(member));
        }

        #[test]
        fn arbitrary_words_never_panic(word: String, bytes: Vec<u8>) {
            let _ = heard(&word);
            let _ = heard(&BASE64.encode(&bytes));
        }
    }

    #[test]
    fn what_is_out_of_bounds_is_not_heard() {
        let many = (0..40).map(|number| (format!("k{number:02}"), "v".to_owned())).collect();
        let member = Seen { alive: true, version: Version::default(), facts: Arc::new(many) };
        assert_eq!(heard(&word(&member).expect("encodes")).map(|member| member.facts.len()), Some(FACTS_MAX));
    }
}
