//! Signatures that were found right. Whether a key made a signature over a text never changes, so it is
//! computed once; whether the token it belongs to is still good does, and is asked at every request
//! ([`token`](super::token)).
//!
//! What is remembered is the hash of key, text and signature together: another key, another token or
//! another signature of the same is another question. Wrong ones are not remembered.

use std::{
    collections::BTreeSet,
    mem,
    sync::{Mutex, MutexGuard},
};

use sha2::{Digest, Sha256};

/// Signatures of one generation; two are kept. More tokens than a city has users at once, in less than
/// 1 MiB: what is forgotten costs a verification and no more.
const GENERATION_MAX: usize = 8192;

type Hash = [u8; 32];

/// Safe to share; forgets what was not asked for the longest, a generation at a time.
#[derive(Default)]
pub(crate) struct Proven {
    generations: Mutex<Generations>,
}

#[derive(Default)]
struct Generations {
    young: BTreeSet<Hash>,
    old: BTreeSet<Hash>,
}

impl Proven {
    /// Whether the signature is right, by `verify` unless it was found right before.
    pub(crate) fn or_verify(
        &self,
        (key, text, signature): (&[u8; 32], &[u8], &[u8; 64]),
        verify: impl FnOnce() -> bool,
    ) -> bool {
        // The text alone has no fixed length, and is in the middle: no two questions have one hash.
        let hash = Sha256::new().chain_update(key).chain_update(text).chain_update(signature).finalize();
        let hash: Hash = hash.into();
        if self.generations().contains(&hash) {
            return true;
        }
        let right = verify();
        if right {
            self.generations().insert(hash);
        }
        right
    }

    fn generations(&self) -> MutexGuard<'_, Generations> {
        self.generations.lock().expect("nothing panics while it holds this lock")
    }
}

impl Generations {
    fn contains(&mut self, hash: &Hash) -> bool {
        if self.young.contains(hash) {
            return true;
        }
        let known = self.old.remove(hash);
        if known {
            self.insert(*hash);
        }
        known
    }

    fn insert(&mut self, hash: Hash) {
        if self.young.len() == GENERATION_MAX {
            self.old = mem::take(&mut self.young);
        }
        self.young.insert(hash);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_known(proven: &Proven, number: usize) -> bool {
        proven.or_verify((&[1; 32], &number.to_be_bytes(), &[2; 64]), || false)
    }

    fn learn(proven: &Proven, number: usize) {
        assert!(proven.or_verify((&[1; 32], &number.to_be_bytes(), &[2; 64]), || true));
    }

    #[test]
    fn what_was_right_is_remembered_and_what_was_wrong_is_not() {
        let proven = Proven::default();
        assert!(!is_known(&proven, 1));
        learn(&proven, 1);
        assert!(is_known(&proven, 1));
        assert!(!is_known(&proven, 2));
        assert!(!proven.or_verify((&[3; 32], &1usize.to_be_bytes(), &[2; 64]), || false), "another key");
        assert!(
            !proven.or_verify((&[1; 32], &1usize.to_be_bytes(), &[3; 64]), || false),
            "another signature"
        );
    }

    #[test]
    fn what_is_asked_for_stays_and_the_rest_is_forgotten_in_time() {
        let proven = Proven::default();
        for number in 0..4 * GENERATION_MAX {
            learn(&proven, number);
            learn(&proven, 0);
        }
        assert!(is_known(&proven, 0));
        assert!(!is_known(&proven, 1));
        let generations = proven.generations();
        assert!(generations.young.len() + generations.old.len() <= 2 * GENERATION_MAX);
    }
}
