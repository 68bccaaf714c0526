//! The first sentence of `scpctl status` and of `GET /v1/status`: whether the city is well, what it
//! survives, and otherwise what is wrong with it. Pure: facts in, words out.
//!
//! ```text
//! nobody leads ─────────────▶ Unavailable
//! a node is down, VMs wait ─▶ Degraded
//! fewer than three voters ──▶ Running, not highly available
//! a warning of another kind ▶ Works
//! otherwise ────────────────▶ Healthy
//! ```

use crate::v1::Health;

/// From this many voters on the city survives the loss of any one.
pub const VOTERS_MIN: usize = 3;

/// What the sentence is made of.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Facts {
    pub nodes: Vec<NodeFacts>,
    pub has_leader: bool,
    /// Pending with nowhere to go, or on their way to another node.
    pub vms_waiting: usize,
    /// Ended by themselves and not running again.
    pub vms_crashed: usize,
    /// Warnings of any kind, those about the above included.
    pub warnings: usize,
    /// Whether the asker may know which nodes there are.
    pub names_shown: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeFacts {
    pub name: String,
    pub voter: bool,
    /// How long it has been down; `None`: it is up.
    pub down_ms: Option<u64>,
}

impl Facts {
    fn voters(&self) -> usize {
        self.nodes.iter().filter(|node| node.voter).count()
    }

    fn voters_up(&self) -> usize {
        self.nodes.iter().filter(|node| node.voter && node.down_ms.is_none()).count()
    }

    fn quorum(&self) -> usize {
        self.voters() / 2 + 1
    }

    /// How many more voters may die before changes stop.
    pub fn survives(&self) -> usize {
        self.voters_up().saturating_sub(self.quorum())
    }

    fn down(&self) -> impl Iterator<Item = (&str, u64)> {
        self.nodes.iter().filter_map(|node| Some((node.name.as_str(), node.down_ms?)))
    }

    pub fn health(&self) -> Health {
        if !self.has_leader || self.voters_up() < self.quorum() {
            Health::Unavailable
        } else if self.down().next().is_some() || self.vms_waiting > 0 || self.vms_crashed > 0 {
            Health::Degraded
        } else if self.voters() < VOTERS_MIN {
            Health::NotHighlyAvailable
        } else if self.warnings > 0 {
            Health::Warned
        } else {
            Health::Healthy
        }
    }
}

/// The sentence.
pub fn sentence(facts: &Facts) -> String {
    match facts.health() {
        Health::Healthy => format!("Healthy. {}. {}.", survival(facts), members(facts)),
        Health::Warned => {
            let warnings = count(facts.warnings, "warning");
            format!("Works, with {warnings}. {}. {}.", survival(facts), members(facts))
        }
        // Enough servers: they become voters by themselves within seconds.
        Health::NotHighlyAvailable if facts.nodes.len() >= VOTERS_MIN => format!(
            "Running, not highly available yet ({} of {VOTERS_MIN} voters): the other nodes are catching up.",
            facts.voters()
        ),
        Health::NotHighlyAvailable => {
            let has = facts.nodes.len();
            let servers = if has + 1 == VOTERS_MIN { "one server" } else { "two servers" };
            format!("Running, NOT highly available ({has} of {VOTERS_MIN}). Add {servers}.")
        }
        Health::Degraded => format!("Degraded: {}. {}.", troubles(facts), survival(facts)),
        Health::Unavailable => unavailable(facts),
    }
}

fn members(facts: &Facts) -> String {
    format!("{}, {}", count(facts.nodes.len(), "node"), count(facts.voters(), "voter"))
}

fn survival(facts: &Facts) -> String {
    match facts.survives() {
        0 if facts.voters() < VOTERS_MIN => "Not highly available".into(),
        0 => "One more node lost stops changes until it is back".into(),
        1 => "Survives any 1 node".into(),
        n => format!("Survives any {n} nodes"),
    }
}

/// At most this many nodes are named; the table below has them all.
const NAMED_MAX: usize = 3;

fn troubles(facts: &Facts) -> String {
    let mut parts = Vec::new();
    let down: Vec<_> = facts.down().collect();
    if down.len() > NAMED_MAX || (!facts.names_shown && !down.is_empty()) {
        let verb = if down.len() == 1 { "is" } else { "are" };
        parts.push(format!("{} of {} {verb} down", down.len(), count(facts.nodes.len(), "node")));
    } else {
        parts.extend(down.iter().map(|(name, ms)| format!("{name} is down since {}", duration_ms(*ms))));
    }
    if facts.vms_waiting > 0 {
        parts.push(format!("{} waiting", count(facts.vms_waiting, "VM")));
    }
    if facts.vms_crashed > 0 {
        parts.push(format!("{} crashed", count(facts.vms_crashed, "VM")));
    }
    parts.join(", ")
}

fn unavailable(facts: &Facts) -> String {
    let (up, all, needed) = (facts.voters_up(), facts.voters(), facts.quorum());
    if up >= needed {
        return "Unavailable: the asked node reaches no leader (an election, or it is cut off). What runs goes on; changes wait.".into();
    }
    format!(
        "Unavailable: {up} of {all} voters up, {needed} needed to agree. What runs goes on; changes and restarts elsewhere wait."
    )
}

/// `0.4 s`, `12 s`, `3 min`, `5 h`, `2 d`.
pub fn duration_ms(ms: u64) -> String {
    let seconds = ms / 1000;
    match seconds {
        0 => format!("0.{} s", ms / 100),
        1..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// How many, with the right form of the noun: `1 VM`, `2 VMs`.
pub fn count(number: usize, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `v` a voter, `l` a learner, upper case: down for 12 s.
    fn city(nodes: &str) -> Facts {
        let nodes = nodes.char_indices().map(|(at, kind)| NodeFacts {
            name: format!("n{}", at + 1),
            voter: kind.eq_ignore_ascii_case(&'v'),
            down_ms: kind.is_ascii_uppercase().then_some(12_000),
        });
        let nodes = nodes.collect();
        Facts { nodes, has_leader: true, vms_waiting: 0, vms_crashed: 0, warnings: 0, names_shown: true }
    }

    #[test]
    fn the_sentence_is_honest_about_what_the_city_survives() {
        let leaderless = Facts { has_leader: false, ..city("vvv") };
        let waiting = Facts { vms_waiting: 1, ..city("vVv") };
        let crashed = Facts { vms_waiting: 2, vms_crashed: 1, ..city("vvv") };
        let warned = Facts { warnings: 2, ..city("vvv") };
        let warned_alone = Facts { warnings: 2, ..city("v") };
        let to_a_tenant = Facts { names_shown: false, ..city("vVv") };
        let pending_alone = Facts { vms_waiting: 1, ..city("v") };
        let table = [
            (city("v"), "Running, NOT highly available (1 of 3). Add two servers."),
            (city("vl"), "Running, NOT highly available (2 of 3). Add one server."),
            (city("vv"), "Running, NOT highly available (2 of 3). Add one server."),
            (
                city("vll"),
                "Running, not highly available yet (1 of 3 voters): the other nodes are catching up.",
            ),
            (city("vvv"), "Healthy. Survives any 1 node. 3 nodes, 3 voters."),
            (city("vvvl"), "Healthy. Survives any 1 node. 4 nodes, 3 voters."),
            (city("vvvvvll"), "Healthy. Survives any 2 nodes. 7 nodes, 5 voters."),
            (
                city("vVv"),
                "Degraded: n2 is down since 12 s. One more node lost stops changes until it is back.",
            ),
            (
                waiting,
                "Degraded: n2 is down since 12 s, 1 VM waiting. One more node lost stops changes until it is back.",
            ),
            (city("vvvL"), "Degraded: n4 is down since 12 s. Survives any 1 node."),
            (crashed, "Degraded: 2 VMs waiting, 1 VM crashed. Survives any 1 node."),
            (warned, "Works, with 2 warnings. Survives any 1 node. 3 nodes, 3 voters."),
            (warned_alone, "Running, NOT highly available (1 of 3). Add two servers."),
            (
                to_a_tenant,
                "Degraded: 1 of 3 nodes is down. One more node lost stops changes until it is back.",
            ),
            (pending_alone, "Degraded: 1 VM waiting. Not highly available."),
            (city("vvvvvLLLL"), "Degraded: 4 of 9 nodes are down. Survives any 2 nodes."),
            (
                city("vVV"),
                "Unavailable: 1 of 3 voters up, 2 needed to agree. What runs goes on; changes and restarts elsewhere wait.",
            ),
            (
                city("vV"),
                "Unavailable: 1 of 2 voters up, 2 needed to agree. What runs goes on; changes and restarts elsewhere wait.",
            ),
            (
                leaderless,
                "Unavailable: the asked node reaches no leader (an election, or it is cut off). What runs goes on; changes wait.",
            ),
        ];
        for (facts, expected) in table {
            assert_eq!(sentence(&facts), expected, "{facts:?}");
        }
    }

    #[test]
    fn durations_read_naturally() {
        for (given, expected) in [
            (0, "0.0 s"),
            (450, "0.4 s"),
            (12_000, "12 s"),
            (180_000, "3 min"),
            (7_200_000, "2 h"),
            (200_000_000, "2 d"),
        ] {
            assert_eq!(duration_ms(given), expected);
        }
    }
}
