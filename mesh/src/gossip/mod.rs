//! Membership and small facts, by chitchat, in cells.
//!
//! ```text
//!   set_fact ──┬▶ own facts ─▶ chitchat of our cell ─┬─▶ view: our cell, first hand
//!   set_gauge ─┘     │         chitchat, city-wide  ─┤        other cells, told by their ambassadors
//!              set_fact only ─▶ news, at once       ─┘        whatever is newest
//!   roster (from the state) decides the circles: see `cell`
//! ```
//!
//! # Guarantees
//! - The view holds members of the roster only, and of each at most [`FACTS_MAX`] facts.
//! - A circle whose chitchat stopped is begun anew.
//! - A fact is known to the whole cell, and to the voters, some hops later (see `news`); a gauge with
//!   the next exchanges, which are the rarer the larger the cell.
//! - What a member sends does not grow with the city: exchanges have a budget (see `link`), and so has news.
//!   Nor do its connections: whatever it sends goes to a dozen neighbours (see `ring`).
//!
//! # Caveats
//! - A node that is neither ambassador nor voter sees its own cell only. Up to 200 members there is one
//!   cell, and everyone sees all.
//! - An ambassador that does not vote sees its own cell only, too.
//! - `alive` is slow, and the slower the larger the cell: decisions rest on [`crate::observe`].
//! - Voters of a city of several cells learn gauges of the others late, and the later the larger the city.

pub mod cell;
mod circle;
mod link;
mod news;
mod ring;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use scp_model::{CityId, NodeId};
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;

use self::{
    cell::{CellId, Roster},
    circle::Membership,
    link::{Circle, Partners, Router},
    news::{Allowance, Latest, News, Version, Way},
};
use crate::transport::Transport;

/// The longest value of a fact, in bytes.
pub const FACT_VALUE_BYTES_MAX: usize = 256;
/// The most facts of one node. Every gossip exchange may carry all of a cell: 200 nodes × 16 × 256 B is
/// 800 KiB at the very worst, some 50 KiB in practice.
pub const FACTS_MAX: usize = 16;
/// The longest key of a fact, in bytes.
pub const FACT_KEY_BYTES_MAX: usize = 32;

/// How often each circle may begin exchanges, if its budget allows it.
const GOSSIP_INTERVAL: Duration = Duration::from_millis(500);
/// How often the view is made anew when there was news; all that it adds to the second within which news is to
/// be known.
const VIEW_INTERVAL: Duration = Duration::from_millis(250);
/// It is made anew in any case at every so many turns: what exchanges bring is not that urgent.
const VIEW_TURNS: u64 = 4;

/// What gossip knows of a node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MemberView {
    /// chitchat's slow opinion; the verdict is [`crate::observe`]'s.
    pub alive: bool,
    pub facts: Arc<Facts>,
}

/// What a node tells of itself, ordered by key.
pub type Facts = BTreeMap<String, String>;

/// What one source knows of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    alive: bool,
    version: Version,
    facts: Arc<Facts>,
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
    facts: Mutex<Facts>,
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
        let us = transport.node();
        let (router, arriving) = Router::new(transport);
        let task = Task {
            us,
            config,
            router,
            arriving,
            roster,
            shared: shared.clone(),
            circles: BTreeMap::new(),
            place: Place::new(us, Arc::default()),
            has_changed: true,
            cell: BTreeMap::new(),
            latest: Latest::default(),
            allowance: Allowance::new(),
            is_news: false,
        };
        tokio::spawn(task.run());
        Self { shared }
    }

    /// Tells a fact about this node at once; an equal value is told once. For what seldom changes: a few
    /// in a row are told at once, more of them when the cell can bear it.
    pub fn set_fact(&self, key: &str, value: impl Into<String>) -> Result<(), FactError> {
        if self.set(key, value.into())? {
            self.shared.facts_changed.notify_one();
        }
        Ok(())
    }

    /// As [`Gossip::set_fact`], for what changes all the time: told along with the next exchanges.
    pub fn set_gauge(&self, key: &str, value: impl Into<String>) -> Result<(), FactError> {
        self.set(key, value.into()).map(drop)
    }

    /// Whether it changed.
    fn set(&self, key: &str, value: String) -> Result<bool, FactError> {
        check_fact(key, &value)?;
        let mut facts = self.shared.facts();
        if !facts.contains_key(key) && facts.len() >= FACTS_MAX {
            return Err(FactError::TooMany);
        }
        Ok(facts.insert(key.to_owned(), value.clone()) != Some(value))
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
    fn facts(&self) -> MutexGuard<'_, Facts> {
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

/// Where we stand in a roster: what follows from it and costs too much to find out at every turn.
struct Place {
    roster: Arc<Roster>,
    cell: CellId,
    /// For our cell, to the city.
    speaks: bool,
    corresponds: bool,
    /// Of the city, if we correspond with them.
    correspondents: Vec<NodeId>,
    ambassadors: BTreeSet<NodeId>,
}

impl Place {
    fn new(us: NodeId, roster: Arc<Roster>) -> Self {
        let cell = roster.cell_of(us);
        let speaks = !cell.is_whole_city() && roster.ambassadors(cell).contains(&us);
        let corresponds = speaks || (!cell.is_whole_city() && roster.voters.contains(&us));
        let (mut correspondents, mut ambassadors) = (Vec::new(), BTreeSet::new());
        if corresponds {
            correspondents = roster.correspondents().into_iter().collect();
            ambassadors = roster.cells().into_iter().flat_map(|cell| roster.ambassadors(cell)).collect();
        }
        Self { roster, cell, speaks, corresponds, correspondents, ambassadors }
    }

    /// Everyone in a circle.
    fn ring(&self, circle: Circle) -> Vec<NodeId> {
        match circle {
            Circle::Cell(cell) => self.roster.members_of(cell).collect(),
            Circle::CityWide => self.correspondents.clone(),
        }
    }
}

/// Owns the circles and keeps them as the roster wants them.
struct Task {
    us: NodeId,
    config: GossipConfig,
    router: Arc<Router>,
    arriving: mpsc::Receiver<News>,
    roster: watch::Receiver<Arc<Roster>>,
    shared: Arc<Shared>,
    circles: BTreeMap<Circle, Membership>,
    place: Place,
    /// Something that the view shows changed since it was made.
    has_changed: bool,
    /// Our cell as chitchat had it last.
    cell: BTreeMap<NodeId, Seen>,
    latest: Latest,
    allowance: Allowance,
    /// A fact changed and was not told as news yet.
    is_news: bool,
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
        let mut turn = 0u64;
        loop {
            let roster = self.roster.borrow_and_update().clone();
            if !Arc::ptr_eq(&roster, &self.place.roster) {
                self.place = Place::new(self.us, roster);
                self.meet();
                self.has_changed = true;
            }
            tokio::select! {
                _ = refresh.tick() => {
                    turn += 1;
                    self.take_part().await;
                    self.tell_facts().await;
                    if self.has_changed || turn.is_multiple_of(VIEW_TURNS) {
                        self.has_changed = false;
                        self.refresh().await;
                    }
                }
                Some(news) = self.arriving.recv() => self.pass_on(&news),
                () = shared.facts_changed.notified() => {
                    self.has_changed = true;
                    self.is_news = true;
                    self.tell_facts().await;
                }
                changed = self.roster.changed() => if changed.is_err() { return },
            }
        }
    }

    /// To those after us, if we have not heard it this way yet and it is about a member.
    fn pass_on(&mut self, news: &News) {
        if news.node == self.us || !self.place.roster.members.contains_key(&news.node) {
            return;
        }
        if self.latest.take(news) {
            self.has_changed = true;
            self.send_on(news);
        }
    }

    fn send_on(&self, news: &News) {
        let roster = &self.place.roster;
        news.next(self.us, roster).into_iter().for_each(|node| self.router.tell(node, news));
        if news.way == Way::Up {
            let abroad = News { way: Way::Abroad, ..news.clone() };
            news.abroad(self.us, roster).into_iter().for_each(|voter| self.router.tell(voter, &abroad));
        }
    }

    /// The roster changed: exchanges are with other partners.
    fn meet(&self) {
        for circle in self.circles.keys() {
            let partners = Partners::new(self.us, &self.place.ring(*circle), &self.place.roster);
            self.router.meet(*circle, partners);
        }
    }

    /// Enters and leaves circles as the roster says; what stopped is begun anew.
    async fn take_part(&mut self) {
        let mut wanted = BTreeSet::from([Circle::Cell(self.place.cell)]);
        wanted.extend(self.place.corresponds.then_some(Circle::CityWide));
        self.circles.retain(|circle, membership| wanted.contains(circle) && membership.is_running());
        for circle in wanted {
            if self.circles.contains_key(&circle) {
                continue;
            }
            let ring = self.place.ring(circle);
            self.router.meet(circle, Partners::new(self.us, &ring, &self.place.roster));
            if let Some(membership) = Membership::begin(self, circle, &ring).await {
                self.circles.insert(circle, membership);
            }
        }
    }

    async fn tell_facts(&mut self) {
        let cell = self.place.cell;
        let Some(membership) = self.circles.get(&Circle::Cell(cell)) else { return };
        let facts = self.shared.facts().clone();
        let version = membership.tell(facts.iter().map(|(key, value)| (key.as_str(), value.as_str()))).await;
        if self.is_news && self.allowance.take(self.place.roster.members_of(cell).count()) {
            self.is_news = false;
            for way in [Way::Up, Way::Down] {
                self.send_on(&News { way, node: self.us, version, facts: facts.clone() });
            }
        }
    }

    async fn refresh(&mut self) {
        let Place { roster, cell: own_cell, .. } = &self.place;
        let own_cell = *own_cell;
        let mut members = BTreeMap::new();
        let city_wide = self.circles.get(&Circle::CityWide);
        if let Some(city_wide) = city_wide.filter(|_| roster.voters.contains(&self.us)) {
            members = city_wide.told(&self.place.ambassadors).await;
        }
        if let Some(cell) = self.circles.get(&Circle::Cell(own_cell)) {
            members.retain(|node, _| !own_cell.contains(*node));
            self.cell = cell.members(&self.cell).await;
            if let Some(city_wide) = city_wide.filter(|_| self.place.speaks) {
                city_wide.speak_for(&self.cell).await;
            }
            members.extend(self.cell.clone());
        }
        self.latest.keep(roster);
        let newest = |(node, seen): (NodeId, Seen)| {
            let facts = self.latest.newer(node, seen.version).unwrap_or(&seen.facts).clone();
            (node, MemberView { alive: seen.alive, facts })
        };
        let mut view: View = members.into_iter().map(newest).collect();
        for (node, facts) in self.latest.all() {
            // Of whom only news came so far: it lived a moment ago.
            view.entry(node).or_insert_with(|| MemberView { alive: true, facts: facts.clone() });
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
    fn where_each_stands_is_what_the_roster_says() {
        for members in [1, 200, 700] {
            let members = (0..members).map(|id| (NodeId(cell::mix(id + 1)), id % 5 > 0)).collect();
            let mut roster = Roster { members, ..Roster::default() };
            roster.voters = roster.members.keys().step_by(100).copied().collect();
            let (roster, correspondents) = (Arc::new(roster.clone()), roster.correspondents());
            for node in roster.members.keys() {
                let place = Place::new(*node, roster.clone());
                assert_eq!(place.corresponds, correspondents.contains(node));
                assert!(!place.corresponds || place.ring(Circle::CityWide).iter().eq(&correspondents));
                assert!(!place.speaks || place.ambassadors.contains(node));
            }
        }
    }

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
