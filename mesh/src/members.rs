//! The city's members as this node knows them, and until when it knows.
//!
//! A node's state may be old: it was off, or cut off. Whoever joined meanwhile is not in it, and may well
//! lead the city by now; refusing that node would keep this one behind for ever. So the state's own time
//! goes with the keys, and an unknown key is judged by when its certificate was issued:
//!
//! ```text
//! issued after what we know  ──▶ joined later than our state ends: the authority vouches for it
//! issued before              ──▶ our state would have it, had it not been removed: refused
//! ```
//! A removed node's last certificate is older than its removal, so it is refused wherever the removal is
//! known. Its key is refused for good: nobody renews a certificate for it.

use std::{
    collections::BTreeMap,
    ops::{Deref, DerefMut},
};

use scp_model::{NodeId, PublicKey, Timestamp};

use crate::{certificate::Certificate, join::CLOCK_SKEW_MS_MAX};

/// By how much the clock that issued a certificate and the one that stamped our state may differ.
const SKEW_MS: u64 = 2 * CLOCK_SKEW_MS_MAX;

/// The keys of the city's members.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Members {
    keys: BTreeMap<NodeId, PublicKey>,
    /// Time of the last command in the state that the keys are from.
    known_until: Timestamp,
}

/// Nobody, and that is certain.
impl Default for Members {
    fn default() -> Self {
        Self { keys: BTreeMap::new(), known_until: Timestamp(u64::MAX) }
    }
}

/// As if known for all time; see [`Members::known_until`].
impl FromIterator<(NodeId, PublicKey)> for Members {
    fn from_iter<T: IntoIterator<Item = (NodeId, PublicKey)>>(keys: T) -> Self {
        Self { keys: keys.into_iter().collect(), ..Self::default() }
    }
}

impl Deref for Members {
    type Target = BTreeMap<NodeId, PublicKey>;

    fn deref(&self) -> &Self::Target {
        &self.keys
    }
}

impl DerefMut for Members {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.keys
    }
}

/// What the members' list says of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Known {
    Member,
    /// Not in the list, which may be too old to have it.
    Perhaps,
    Removed,
}

impl Members {
    /// The same keys, from a state whose last command was applied at `time`.
    #[must_use]
    pub fn known_until(mut self, time: Timestamp) -> Self {
        self.known_until = time;
        self
    }

    pub(crate) fn look_up(&self, certificate: &Certificate) -> Known {
        match self.keys.get(&certificate.node()) {
            Some(key) if *key == certificate.public_key => Known::Member,
            // Another key with the same id: not a matter of age.
            Some(_) => Known::Removed,
            None if certificate.issued_at().plus_ms(SKEW_MS) >= self.known_until => Known::Perhaps,
            None => Known::Removed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{authority::BACKDATE_MS, certificate::node_id};

    const STATE: u64 = 10_000_000;

    fn issued(key: u8, at: u64) -> Certificate {
        Certificate {
            public_key: PublicKey([key; 32]),
            not_before: Timestamp(at - BACKDATE_MS),
            not_after: Timestamp(u64::MAX),
            is_authority: false,
        }
    }

    fn members() -> Members {
        let key = PublicKey([1; 32]);
        Members::from_iter([(node_id(&key), key)]).known_until(Timestamp(STATE))
    }

    #[test]
    fn a_known_key_is_a_member_however_old_its_certificate() {
        assert_eq!(members().look_up(&issued(1, STATE - 5_000_000)), Known::Member);
    }

    #[test]
    fn an_unknown_key_is_judged_by_when_it_was_vouched_for() {
        assert_eq!(members().look_up(&issued(2, STATE + 1)), Known::Perhaps);
        assert_eq!(members().look_up(&issued(2, STATE - SKEW_MS)), Known::Perhaps, "clocks differ");
        assert_eq!(members().look_up(&issued(2, STATE - SKEW_MS - 1)), Known::Removed);
    }

    #[test]
    fn a_list_without_an_age_is_certain() {
        assert_eq!(Members::default().look_up(&issued(2, STATE)), Known::Removed);
    }
}
