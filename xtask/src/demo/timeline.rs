//! What happened when, and the numbers that matter.

use std::time::{Duration, Instant};

use scp_servers::now;
use serde_json::{Value, json};

use crate::talk;

/// Goals of the demo, on an idle machine with two cores.
pub const READY_S_MAX: f64 = 90.0;
pub const DECLARED_DEAD_S_MAX: f64 = 3.0;
pub const VM_RESTARTED_S_MAX: f64 = 5.0;

/// Milestones since the servers were switched on, in the order in which they happened.
#[derive(Debug)]
pub struct Timeline {
    began: Instant,
    milestones: Vec<(Instant, String)>,
}

/// The measured numbers; none: it did not come to it.
#[derive(Debug, Clone, Default)]
pub struct Measures {
    /// From switching the servers on to a city that survives the loss of any one of them.
    pub ready_s: Option<f64>,
    /// From asking for the VM to its running.
    pub vm_active_s: Option<f64>,
    /// From the kill to the city's saying that the node is down.
    pub declared_dead_s: Option<f64>,
    /// From the kill to the VM's process on another server.
    pub vm_restarted_s: Option<f64>,
    /// From the kill to the guest's being up again.
    pub guest_up_s: Option<f64>,
    /// From switching the lost server on again to its being up in the city.
    pub node_back_s: Option<f64>,
    /// How many times the VM was seen running twice.
    pub double_runs: Option<u64>,
}

impl Timeline {
    pub fn begin() -> Self {
        Self { began: now(), milestones: Vec::new() }
    }

    /// Something happened now.
    pub fn reached(&mut self, what: impl Into<String>) -> Instant {
        self.reached_at(now(), what)
    }

    /// Something was found to have happened at that time.
    pub fn reached_at(&mut self, at: Instant, what: impl Into<String>) -> Instant {
        let what = what.into();
        talk!("{what}");
        self.milestones.push((at, what));
        at
    }

    fn ordered(&self) -> Vec<(f64, &str)> {
        let mut milestones: Vec<_> = self.milestones.iter().map(|(at, what)| (*at, what.as_str())).collect();
        milestones.sort_by_key(|(at, _)| *at);
        milestones.into_iter().map(|(at, what)| (seconds(at.duration_since(self.began)), what)).collect()
    }

    /// The aligned timeline and the goals, for people.
    pub fn show(&self, measures: &Measures) -> String {
        let mut text = String::from("\nTimeline, in seconds since the servers were switched on:\n");
        for (at, what) in self.ordered() {
            text.push_str(&format!("{at:9.2}  {what}\n"));
        }
        text.push_str("\nMeasured:\n");
        for (name, value, goal) in measures.goals() {
            let (mark, goal) = match (value, goal) {
                (Some(value), Some(goal)) if value <= goal => ("ok  ", format!("goal: at most {goal}")),
                (Some(_), Some(goal)) => ("slow", format!("goal: at most {goal}, on an idle machine")),
                (None, Some(goal)) => ("    ", format!("goal: at most {goal}; it did not come to it")),
                (_, None) => ("    ", String::new()),
            };
            let value = value.map_or("-".to_owned(), |value| format!("{value:.2}"));
            text.push_str(&format!("  {mark}  {name:<16} {value:>8}  {goal}\n"));
        }
        let (mark, runs) = match measures.double_runs {
            Some(0) => ("ok  ", "0".to_owned()),
            Some(runs) => ("BAD ", runs.to_string()),
            None => ("    ", "-".to_owned()),
        };
        text.push_str(&format!("  {mark}  {:<16} {runs:>8}  promise: 0\n", "double_runs"));
        text
    }

    /// The same for programs.
    pub fn json(&self, measures: &Measures) -> Value {
        let mut object = serde_json::Map::new();
        for (name, value, _) in measures.goals() {
            object.insert(name.into(), json!(value));
        }
        object.insert("double_runs".into(), json!(measures.double_runs));
        let timeline: Vec<_> =
            self.ordered().iter().map(|(at, what)| json!({"at_s": at, "what": what})).collect();
        object.insert("timeline".into(), json!(timeline));
        Value::Object(object)
    }
}

impl Measures {
    fn goals(&self) -> [(&'static str, Option<f64>, Option<f64>); 6] {
        [
            ("ready_s", self.ready_s, Some(READY_S_MAX)),
            ("vm_active_s", self.vm_active_s, None),
            ("declared_dead_s", self.declared_dead_s, Some(DECLARED_DEAD_S_MAX)),
            ("vm_restarted_s", self.vm_restarted_s, Some(VM_RESTARTED_S_MAX)),
            ("guest_up_s", self.guest_up_s, None),
            ("node_back_s", self.node_back_s, None),
        ]
    }
}

/// Seconds with the two digits that mean something here.
pub fn seconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 100.0).round() / 100.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn milestones_are_told_in_the_order_in_which_they_happened() {
        let mut timeline = Timeline::begin();
        let late = timeline.began + Duration::from_millis(2500);
        timeline.reached_at(late, "sunset");
        timeline.reached_at(timeline.began + Duration::from_millis(30), "sunrise");
        let shown = timeline.show(&Measures {
            declared_dead_s: Some(3.5),
            double_runs: Some(0),
            ..Measures::default()
        });
        assert!(shown.find("sunrise") < shown.find("sunset"), "{shown}");
        assert!(shown.contains("     2.50  sunset\n"), "{shown}");
        assert!(shown.contains("slow  declared_dead_s      3.50"), "{shown}");
        assert!(shown.contains("ok    double_runs             0"), "{shown}");
        let json = timeline.json(&Measures::default());
        for name in ["ready_s", "vm_active_s", "declared_dead_s", "vm_restarted_s", "double_runs"] {
            assert!(json.get(name).is_some(), "{name}");
        }
    }

    #[test]
    fn what_was_not_measured_is_not_told_as_good() {
        let timeline = Timeline::begin();
        let shown = timeline.show(&Measures::default());
        assert!(!shown.contains("ok"), "{shown}");
        let json = timeline.json(&Measures::default());
        assert!(json["double_runs"].is_null() && json["ready_s"].is_null(), "{json}");
    }
}
