//! What is told to the state, in the form in which the state keeps it: otherwise the comparison with
//! what it shows would never end.

use scp_model::{fact::VmFact, node::Orphan};
use scp_state::limits;

/// A message for people, no longer than the state keeps it.
pub(crate) fn message(text: String) -> String {
    cut(text, limits::MESSAGE_BYTES_MAX)
}

/// An orphan as the state keeps it.
pub(crate) fn clip(orphan: Orphan) -> Orphan {
    Orphan { name: cut(orphan.name, limits::ORPHAN_NAME_BYTES_MAX), detail: message(orphan.detail) }
}

/// An instance of which the state knows nothing.
pub(crate) fn orphan(fact: &VmFact) -> Orphan {
    Orphan {
        name: fact.vm.to_string(),
        detail: format!("an instance with epoch {} of a VM that the city does not know", fact.epoch.0),
    }
}

fn cut(mut text: String, bytes_max: usize) -> String {
    let boundary = (0..=bytes_max.min(text.len())).rev().find(|at| text.is_char_boundary(*at));
    text.truncate(boundary.expect("0 is a boundary of every text"));
    text
}
