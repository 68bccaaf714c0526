//! Membership and small facts, by chitchat, in cells.
//!
//! ```text
//!   set_fact ─▶ own facts ─▶ chitchat of our cell ─┬─▶ view: our cell, first hand
//!                            chitchat, city-wide  ─┘        other cells, told by their ambassadors
//!   roster (from the state) decides the circles: see `cell`
//! ```
//!
//! # Guarantees
//! - The view holds members of the roster only, and of each at most [`FACTS_MAX`] facts.
//! - A circle whose chitchat stopped is begun anew.
//!
//! # Caveats
//! - A node that is neither ambassador nor voter sees its own cell only. Up to 200 members there is one
//!   cell, and everyone sees all.
//! - `alive` is slow (some 4 to 7 s at 200 members): decisions rest on [`crate::observe`].

pub mod cell;
mod circle;
mod link;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use scp_model::{CityId, NodeId};
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use self::{
    cell::Roster,
    circle::Membership,
    link::{Circle, Router},
};
use crate::transport::Transport;

/// The longest value of a fact, in bytes.
pub const FACT_VALUE_BYTES_MAX: usize = 256;
/// The most facts of one node. Every gossip exchange may carry all of a cell: 200 nodes × 16 × 256 B is
/// 800 KiB at the very worst, some 50 KiB in practice.
pub const FACTS_MAX: usize = 16;
/// The longest key of a fact, in bytes.
pub const FACT_KEY_BYTES_MAX: usize = 32;

/// How often each circle gossips with three partners: a change reaches 200 members in 1.6 s, measured.
const GOSSIP_INTERVAL: Duration = Duration::from_millis(500);
/// How often the view is read out of chitchat: half a gossip interval adds nothing to speak of.
const VIEW_INTERVAL: Duration = Duration::from_millis(250);

/// What gossip knows of a node.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct MemberView {
    /// chitchat's slow opinion; the verdict is [`crate::observe`]'s.
    pub alive: bool,
    /// Ordered by key.
    pub facts: BTreeMap<String, String>,
}

/// Everyone that gossip knows of, this node included.
pub type View = BTreeMap<NodeId, MemberView>;

/// A fact that is too long, or one too many.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FactError {
    #[error("a fact's key has 1 to {FACT_KEY_BYTES_MAX} characters a-z, 0-9 and _")]
    Key,
    #[error("the value of fact {key} has {length} bytes, at most {FACT_VALUE_BYTES_MAX} are allowed")]
    Value { key: String, length: usize },
    #[error("a node has at most {FACTS_MAX} facts")]
    TooMany,
}

/// The city's identity for gossip: circles of other cities are not listened to.
#[derive(Debug, Clone)]
pub struct GossipConfig {
    pub city: CityId,
    /// Raised by every start of this node; its clock at start will do.
    pub incarnation: u64,
}

/// A handle; clones are the same gossip.
#[derive(Clone)]
pub struct Gossip {
    shared: Arc<Shared>,
}

struct Shared {
    facts: Mutex<BTreeMap<String, String>>,
    facts_changed: Notify,
    view: watch::Sender<Arc<View>>,
    cancel: CancellationToken,
}

impl Gossip {
    /// Begins to gossip. `roster` is what the state says; circles follow it.
    pub fn start(
        config: GossipConfig,
        transport: Arc<dyn Transport>,
        roster: watch::Receiver<Arc<Roster>>,
    ) -> Self {
        let shared = Arc::new(Shared {
            facts: Mutex::default(),
            facts_changed: Notify::new(),
            view: watch::Sender::new(Arc::default()),
            cancel: CancellationToken::new(),
        });
        let task = Task {
            us: transport.node(),
            config,
            router: Router::new(transport),
            roster,
            shared: shared.clone(),
            circles: BTreeMap::new(),
        };
        tokio::spawn(task.run());
        Self { shared }
    }

    /// Tells a fact about this node; an equal value is told once.
    pub fn set_fact(&self, key: &str, value: impl Into<String>) -> Result<(), FactError> {
        let value = value.into();
        check_fact(key, &value)?;
        let mut facts = self.shared.facts();
        if !facts.contains_key(key) && facts.len() >= FACTS_MAX {
            return Err(FactError::TooMany);
        }
        let changed = facts.insert(key.to_owned(), value.clone()) != Some(value);
        drop(facts);
        if changed {
            self.shared.facts_changed.notify_one();
        }
        Ok(())
    }

    /// The latest view, and its changes.
    pub fn view(&self) -> watch::Receiver<Arc<View>> {
        self.shared.view.subscribe()
    }

    /// Leaves all circles. Others will hold this node dead after a while.
    pub async fn shutdown(&self) {
        self.shared.cancel.cancel();
    }
}

impl Shared {
    fn facts(&self) -> MutexGuard<'_, BTreeMap<String, String>> {
        self.facts.lock().expect("nothing panics while it holds this lock")
    }
}

fn check_fact(key: &str, value: &str) -> Result<(), FactError> {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    if key.is_empty() || key.len() > FACT_KEY_BYTES_MAX || !key.bytes().all(inner) {
        return Err(FactError::Key);
    }
    if value.len() > FACT_VALUE_BYTES_MAX {
        return Err(FactError::Value { key: key.to_owned(), length: value.len() });
    }
    Ok(())
}

/// Owns the circles and keeps them as the roster wants them.
struct Task {
    us: NodeId,
    config: GossipConfig,
    router: Arc<Router>,
    roster: watch::Receiver<Arc<Roster>>,
    shared: Arc<Shared>,
    circles: BTreeMap<Circle, Membership>,
}

impl Task {
    async fn run(mut self) {
        let (router, shared) = (self.router.clone(), self.shared.clone());
        tokio::select! {
            () = router.run() => {}
            () = self.follow() => {}
            () = shared.cancel.cancelled() => {}
        }
        self.circles.clear();
    }

    async fn follow(&mut self) {
        let shared = self.shared.clone();
        let mut refresh = tokio::time::interval(VIEW_INTERVAL);
        loop {
            let roster = self.roster.borrow_and_update().clone();
            self.take_part(&roster).await;
            self.tell_facts().await;
            self.refresh(&roster).await;
            tokio::select! {
                _ = refresh.tick() => {}
                () = shared.facts_changed.notified() => {}
                changed = self.roster.changed() => if changed.is_err() { return },
            }
        }
    }

    /// Enters and leaves circles as the roster says; what stopped is begun anew.
    async fn take_part(&mut self, roster: &Roster) {
        let own = Circle::Cell(roster.cell_of(self.us));
        let correspondents = roster.correspondents();
        let mut wanted = BTreeSet::from([own]);
        wanted.extend(correspondents.contains(&self.us).then_some(Circle::CityWide));
        self.circles.retain(|circle, membership| wanted.contains(circle) && membership.is_running());
        for circle in wanted {
            if self.circles.contains_key(&circle) {
                continue;
            }
            let partners: Vec<_> = match circle {
                Circle::Cell(cell) => roster.members_of(cell).collect(),
                Circle::CityWide => correspondents.iter().copied().collect(),
            };
            if let Some(membership) = Membership::begin(self, circle, &partners).await {
                self.circles.insert(circle, membership);
            }
        }
    }

    async fn tell_facts(&self) {
        let facts = self.shared.facts().clone();
        for (circle, membership) in &self.circles {
            if matches!(circle, Circle::Cell(_)) {
                membership.tell(facts.iter().map(|(key, value)| (key.as_str(), value.as_str()))).await;
            }
        }
    }

    async fn refresh(&self, roster: &Roster) {
        let mut view = View::new();
        let own_cell = roster.cell_of(self.us);
        if let Some(city_wide) = self.circles.get(&Circle::CityWide) {
            view = city_wide.told().await;
        }
        if let Some(cell) = self.circles.get(&Circle::Cell(own_cell)) {
            view.retain(|node, _| !own_cell.contains(*node));
            let first_hand = cell.members().await;
            if let Some(city_wide) = self.circles.get(&Circle::CityWide)
                && roster.ambassadors(own_cell).contains(&self.us)
            {
                city_wide.speak_for(&first_hand).await;
            }
            view.extend(first_hand);
        }
        view.retain(|node, _| *node == self.us || roster.members.contains_key(node));
        self.shared.view.send_if_modified(|old| {
            let changed = **old != view;
            if changed {
                *old = Arc::new(view);
            }
            changed
        });
    }
}

/// Decodes a message as the gossip lane does.
#[cfg(fuzzing)]
pub(crate) fn fuzz(bytes: &[u8]) {
    let _ = link::decode(bytes);
    let _ = circle::heard(&String::from_utf8_lossy(bytes));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_are_bounded() {
        assert_eq!(check_fact("load_1m", "0.3"), Ok(()));
        assert_eq!(check_fact("", "x"), Err(FactError::Key));
        assert_eq!(check_fact("a b", "x"), Err(FactError::Key));
        assert_eq!(check_fact(&"a".repeat(33), "x"), Err(FactError::Key));
        let long = "x".repeat(FACT_VALUE_BYTES_MAX + 1);
        assert_eq!(check_fact("k", &long), Err(FactError::Value { key: "k".into(), length: 257 }));
    }
}
