//! Seeded bugs: each a mistake that somebody could make, at the place where it would be made. The simulator
//! has to find them (docs/mutations.md).
//!
//! Without the feature `seeded`, which nothing but the simulator turns on, [`on`] is the constant `false`,
//! and the compiler leaves nothing of them. With it, one of them is active in a process, or none.

/// A seeded bug.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mutation {
    pub name: &'static str,
    /// File in which it lives.
    pub place: &'static str,
    /// What is wrong, in one sentence.
    pub bug: &'static str,
}

const fn m(name: &'static str, place: &'static str, bug: &'static str) -> Mutation {
    Mutation { name, place, bug }
}

/// All of them, by crate.
pub const ALL: &[Mutation] = &[
    m("vote-not-persisted", "raft/src/log/store.rs", "A vote is given before it is on disk."),
    m("append-not-synced", "raft/src/log/writer.rs", "Entries are acknowledged before they are synced."),
    m("torn-group-believed", "raft/src/log/format.rs", "A group of records counts whatever its checksum."),
    m("truncation-not-logged", "raft/src/log/store.rs", "A truncation is remembered, and not written."),
    m("segment-dropped-early", "raft/src/log/writer.rs", "A purge drops segments that still hold entries."),
    m("snapshot-not-synced", "raft/src/snapshot.rs", "A snapshot replaces the old one unsynced."),
    m("snapshot-name-not-synced", "raft/src/snapshot.rs", "The name of a new snapshot is not synced."),
    m("snapshot-without-membership", "raft/src/applier.rs", "A snapshot is taken without the membership."),
    m("install-without-membership", "raft/src/applier.rs", "A snapshot is installed without the membership."),
    m("snapshot-claims-too-much", "raft/src/applier.rs", "A snapshot says that it covers one entry more."),
    m(
        "apply-skips-an-entry",
        "raft/src/applier.rs",
        "The last but one of a batch of entries is not applied.",
    ),
    m("read-without-asking", "raft/src/raft.rs", "A read is answered from what is here."),
    m("read-before-applied", "raft/src/raft.rs", "A confirmed read does not wait for the log to be applied."),
    m("lease-without-margin", "raft/src/core.rs", "A leader trusts its clock instead of asking a quorum."),
    m(
        "snapshot-without-retry-table",
        "node/src/machine.rs",
        "A snapshot is restored without known requests.",
    ),
    m("snapshot-without-evictions", "node/src/machine.rs", "A snapshot is restored without the evictions."),
    m("retry-makes-a-new-id", "node/src/proposer.rs", "A repeated write gets a new request id."),
    m("rejection-hidden", "node/src/proposer.rs", "A forwarded write that was rejected is answered as done."),
    m("unknown-is-success", "node/src/proposer.rs", "A write of unknown outcome is answered as done."),
    m("silence-taken-for-life", "node/src/leader.rs", "Who is not known to be silent counts as heard."),
    m("lagging-agent", "node/src/hands.rs", "The agent acts on a state that may be old."),
    m("eviction-forgotten", "agent/src/round.rs", "A node that comes back keeps what it no longer owns."),
    m("gone-before-removed", "agent/src/round.rs", "A removal is reported before it happened."),
    m("stop-forgotten", "agent/src/vms.rs", "A guest that is to stop runs on."),
    m("restart-policy-ignored", "agent/src/vms.rs", "A guest that crashed is never started again."),
    m(
        "only-copy-dropped",
        "scheduler/src/images.rs",
        "Idle copies of an image are dropped, the only one too.",
    ),
    m("copy-claimed-early", "agent/src/images.rs", "A copy is reported before it was fetched."),
    m("dedupe-missing", "state/src/apply/mod.rs", "A repeated request is applied again."),
    m("watch-ring-skips", "state/src/apply/mod.rs", "Of several events the last is not kept."),
    m("clock-not-monotonic", "state/src/apply/mod.rs", "The city's time is the last proposer's clock."),
    m("report-of-old-epoch", "state/src/apply/report.rs", "A report counts whatever its node and epoch."),
    m("report-order", "state/src/apply/report.rs", "Reports are applied in the order of a hash map."),
    m("eviction-not-left", "state/src/apply/placement.rs", "A placement ends without an eviction."),
    m("usage-not-released", "state/src/apply/placement.rs", "A deleted VM goes on counting in its quota."),
    m("holdout-ignored", "state/src/queries.rs", "A VM is bound while its old node may still run it."),
    m("capacity-ignored", "state/src/queries.rs", "More is promised on a node than it has."),
    m("anti-affinity-ignored", "state/src/queries.rs", "VMs that are to be apart share a node."),
    m("quota-ignored", "state/src/apply/create_vm.rs", "A VM is created beyond its project's quota."),
    m("token-reusable", "state/src/apply/admit_node.rs", "A used join token admits another server."),
    m("token-never-expires", "state/src/apply/admit_node.rs", "An expired join token admits a server."),
    m("token-secret-ignored", "state/src/apply/admit_node.rs", "A token's id is enough, without its secret."),
    m("evidence-not-required", "scheduler/src/health.rs", "Any silence is enough to declare a node down."),
    m("brake-removed", "scheduler/src/health.rs", "Everything is evacuated when many nodes vanish at once."),
];

/// Whether this bug is the one that is active.
#[cfg(not(feature = "seeded"))]
#[inline(always)]
pub const fn on(_name: &str) -> bool {
    false
}

#[cfg(feature = "seeded")]
static SELECTED: std::sync::OnceLock<&'static str> = std::sync::OnceLock::new();

/// Whether this bug is the one that is active.
#[cfg(feature = "seeded")]
pub fn on(name: &str) -> bool {
    SELECTED.get().is_some_and(|selected| *selected == name)
}

/// Makes one bug active for the rest of the process; false: there is none of that name.
#[cfg(feature = "seeded")]
pub fn select(name: &str) -> bool {
    let known = ALL.iter().find(|mutation| mutation.name == name);
    known.is_some_and(|mutation| SELECTED.set(mutation.name).is_ok())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_bug_has_a_name_of_its_own_and_is_where_it_says() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let names: BTreeSet<_> = ALL.iter().map(|mutation| mutation.name).collect();
        assert_eq!(names.len(), ALL.len());
        for mutation in ALL {
            let text = std::fs::read_to_string(root.join(mutation.place)).expect("the file is there");
            assert!(text.contains(&format!("scp_mutant::on(\"{}\")", mutation.name)), "{}", mutation.name);
        }
    }

    #[test]
    #[cfg(not(feature = "seeded"))]
    fn no_bug_is_active_in_a_build_that_did_not_ask_for_them() {
        assert!(ALL.iter().all(|mutation| !on(mutation.name)));
    }
}
