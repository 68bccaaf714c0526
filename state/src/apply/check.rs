//! Checks that several commands share.

use scp_model::{
    Name, NodeId, ProjectId, Rejection, Resources, Subject, VmId,
    flavor::{RESOURCES_MAX, RESOURCES_MIN},
    node::Node,
    rejection::QuotaResource,
    tenancy::Project,
    vm::Vm,
};

use super::Verdict;
use crate::{NameScope, State};

pub(super) fn invalid(field: &str, why: impl Into<String>) -> Rejection {
    Rejection::Invalid { field: field.into(), why: why.into() }
}

pub(super) fn stale(why: impl Into<String>) -> Rejection {
    Rejection::StalePlan { why: why.into() }
}

/// That a field is not empty and at most so many bytes long.
pub(super) fn bytes_within(field: &str, length: usize, limit: usize) -> Verdict {
    match length {
        0 => Err(invalid(field, "is needed")),
        length if length > limit => Err(invalid(field, format!("has {length} bytes, at most {limit} fit"))),
        _ => Ok(()),
    }
}

/// That a text is one printable line of at most so many bytes.
pub(super) fn line_within(field: &str, text: &str, limit: usize) -> Verdict {
    bytes_within(field, text.len(), limit)?;
    // Most are printable ASCII, which their bytes tell at a fraction of what reading characters costs.
    let is_plain = text.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    let control = if is_plain { None } else { text.chars().find(|c| c.is_control()) };
    match control {
        Some(c) => Err(invalid(field, format!("{c:?} may not stand in it"))),
        None => Ok(()),
    }
}

/// That there are at most so many.
pub(super) fn at_most(what: &str, have: usize, limit: usize) -> Verdict {
    if have <= limit {
        return Ok(());
    }
    Err(Rejection::LimitReached { what: what.into(), limit: limit as u64 })
}

/// That a table has room for one more.
pub(super) fn room_for(what: &str, have: usize, limit: usize) -> Verdict {
    at_most(what, have + 1, limit)
}

/// That a size is one that a VM may have.
pub(super) fn resources_within_bounds(resources: Resources) -> Verdict {
    let parts = [
        ("vcpus", resources.vcpus, RESOURCES_MIN.vcpus, RESOURCES_MAX.vcpus),
        ("memory_mib", resources.memory_mib, RESOURCES_MIN.memory_mib, RESOURCES_MAX.memory_mib),
        ("disk_mib", resources.disk_mib, RESOURCES_MIN.disk_mib, RESOURCES_MAX.disk_mib),
    ];
    let outside = parts.into_iter().find(|(_, has, min, max)| !(min..=max).contains(&has));
    match outside {
        Some((field, has, min, max)) => Err(invalid(field, format!("{has} is not within {min} to {max}"))),
        None => Ok(()),
    }
}

/// One row of a project's quota.
pub(super) struct QuotaRow {
    pub resource: QuotaResource,
    pub limit: u64,
    pub used: u64,
    pub asked: u64,
}

impl QuotaRow {
    /// Used may be above the limit: a quota may be set below what is in use.
    pub(super) fn check(self) -> Verdict {
        let Self { resource, limit, used, asked } = self;
        let fits = used.saturating_add(asked) <= limit;
        if fits { Ok(()) } else { Err(Rejection::QuotaExceeded { resource, limit, used, asked }) }
    }
}

impl State {
    pub(super) fn name_is_free(&self, scope: NameScope, name: &Name, kind: &str) -> Verdict {
        if self.names.contains_key(&(scope, name.clone())) {
            return Err(Rejection::NameTaken { kind: kind.into(), name: name.to_string() });
        }
        Ok(())
    }

    pub(super) fn known_node(&self, id: NodeId) -> Result<&Node, Rejection> {
        self.nodes.get(&id).ok_or(Rejection::NotFound { subject: Subject::Node(id) })
    }

    pub(super) fn known_project(&self, id: ProjectId) -> Result<&Project, Rejection> {
        self.projects.get(&id).ok_or(Rejection::NotFound { subject: Subject::Project(id) })
    }

    pub(super) fn known_vm(&self, id: VmId) -> Result<&Vm, Rejection> {
        self.vms.get(&id).ok_or(Rejection::NotFound { subject: Subject::Vm(id) })
    }
}

/// `1 VM`, `2 VMs`.
pub(super) fn counted(count: u64, what: &str) -> String {
    match count {
        1 => format!("1 {what}"),
        _ => format!("{count} {what}s"),
    }
}

/// A text cut to so many bytes, at a character, with an ellipsis when something is missing.
pub(super) fn clipped(text: &str, limit: usize) -> String {
    const ELLIPSIS: &str = "…";
    if text.len() <= limit {
        return text.into();
    }
    let mut end = limit - ELLIPSIS.len();
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{ELLIPSIS}", &text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clipped_text_is_within_its_bound_and_still_text() {
        for text in ["", "short", "exactly ten", "ágora ágora ágora", "日本語の長いメッセージ", "a日日日日"]
        {
            for limit in 3..24 {
                let cut = clipped(text, limit);
                assert!(cut.len() <= limit, "{text:?} at {limit}: {cut:?}");
                assert!(
                    cut == text || (text.len() > limit && cut.ends_with('…')),
                    "{text:?} at {limit}: {cut:?}"
                );
            }
        }
    }

    #[test]
    fn a_quota_below_what_is_in_use_gives_nothing_more() {
        let row = |limit, used, asked| QuotaRow { resource: QuotaResource::Vms, limit, used, asked }.check();
        assert_eq!(row(3, 2, 1), Ok(()));
        assert!(row(3, 3, 1).is_err());
        assert!(row(1, 3, 1).is_err());
        assert!(row(u64::MAX - 1, u64::MAX, 1).is_err(), "sums do not wrap");
    }
}
