//! One circle of gossip: a running chitchat, and how facts go in and come out.

use std::{collections::BTreeMap, time::Duration};

use chitchat::{
    Chitchat, ChitchatConfig, ChitchatHandle, ChitchatId, FailureDetectorConfig, NodeState, spawn_chitchat,
};
use data_encoding::BASE64;
use futures::FutureExt;
use scp_model::NodeId;

use super::{
    FACTS_MAX, GOSSIP_INTERVAL, MemberView, Task, View, check_fact,
    link::{Circle, CircleTransport, address_of},
};

/// Beside members' ids in the city-wide circle: an ambassador's word for a member of its cell.
const SPOKEN_FOR: &str = "n:";
/// A member with all its facts at their longest, in base64.
const WORD_BYTES_MAX: usize = 8 << 10;
/// How long deleted keys and dead members are remembered: longer than any partition that heals by itself.
const DELETED_GRACE: Duration = Duration::from_secs(3600);
const DEAD_GRACE: Duration = Duration::from_secs(24 * 3600);

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
            chitchat_id: ChitchatId::new(task.us.to_string(), task.config.incarnation, address_of(task.us)),
            cluster_id: format!("{}/{circle}", task.config.city),
            gossip_interval: GOSSIP_INTERVAL,
            listen_addr: address_of(task.us),
            seed_nodes: partners.iter().map(|node| address_of(*node).to_string()).collect(),
            failure_detector_config: FailureDetectorConfig {
                dead_node_grace_period: DEAD_GRACE,
                initial_interval: GOSSIP_INTERVAL,
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

    /// Our own facts; chitchat passes on only what changed.
    pub(super) async fn tell(&self, facts: impl Iterator<Item = (&str, &str)>) {
        let facts: Vec<_> = facts.collect();
        let tell = |chitchat: &mut Chitchat| {
            let ours = chitchat.self_node_state();
            for (key, value) in &facts {
                if ours.get(key) != Some(*value) {
                    ours.set(key, value);
                }
            }
        };
        self.handle.with_chitchat(tell).await;
    }

    /// Everyone in this circle, first hand.
    pub(super) async fn members(&self) -> View {
        self.handle.with_chitchat(|chitchat| first_hand(chitchat)).await
    }

    /// As an ambassador: tells the city what we know of our cell.
    pub(super) async fn speak_for(&self, members: &View) {
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

    /// What the ambassadors of all cells tell.
    pub(super) async fn told(&self) -> View {
        let told = |chitchat: &mut Chitchat| {
            let mut view = View::new();
            for ambassador in chitchat.live_nodes().filter_map(|id| chitchat.node_state(id)) {
                let words = ambassador.iter_prefix(SPOKEN_FOR).filter(|(_, value)| !value.is_deleted());
                for (key, value) in words {
                    let node = key.strip_prefix(SPOKEN_FOR).and_then(|id| id.parse().ok());
                    if let (Some(node), Some(member)) = (node, heard(&value.value)) {
                        view.entry(node).or_insert(member);
                    }
                }
            }
            view
        };
        self.handle.with_chitchat(told).await
    }
}

fn first_hand(chitchat: &Chitchat) -> View {
    let mut newest: BTreeMap<NodeId, (&ChitchatId, &NodeState)> = BTreeMap::new();
    for (id, state) in chitchat.node_states() {
        let Ok(node) = id.node_id.parse::<NodeId>() else { continue };
        let known = newest.entry(node).or_insert((id, state));
        if id.generation_id > known.0.generation_id {
            *known = (id, state);
        }
    }
    let live: std::collections::BTreeSet<_> = chitchat.live_nodes().collect();
    let ours = chitchat.self_chitchat_id();
    let view = |(id, state): (&ChitchatId, &NodeState)| MemberView {
        alive: id == ours || live.contains(id),
        facts: bounded(state.key_values()),
    };
    newest.into_iter().map(|(node, entry)| (node, view(entry))).collect()
}

/// Facts as they may be; a peer that tells more is not believed more.
fn bounded<'a>(facts: impl Iterator<Item = (&'a str, &'a str)>) -> BTreeMap<String, String> {
    let good = facts.filter(|(key, value)| check_fact(key, value).is_ok());
    good.take(FACTS_MAX).map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

fn word(member: &MemberView) -> Option<String> {
    let word = BASE64.encode(&scp_codec::to_payload(member).ok()?);
    (word.len() <= WORD_BYTES_MAX).then_some(word)
}

pub(super) fn heard(word: &str) -> Option<MemberView> {
    if word.len() > WORD_BYTES_MAX {
        return None;
    }
    let member: MemberView = scp_codec::from_payload(&BASE64.decode(word.as_bytes()).ok()?).ok()?;
    let facts = bounded(member.facts.iter().map(|(key, value)| (key.as_str(), value.as_str())));
    Some(MemberView { alive: member.alive, facts })
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
            let member = MemberView { alive, facts };
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
        let member = MemberView { alive: true, facts: many };
        assert_eq!(heard(&word(&member).expect("encodes")).map(|member| member.facts.len()), Some(FACTS_MAX));
    }
}
