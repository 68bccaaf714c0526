//! Passwords: Argon2id, off the async threads, a few at a time.

use std::sync::Arc;

use argon2::password_hash::{PasswordHash, PasswordHasher, PasswordVerifier, SaltString};
use argon2::{Algorithm, Argon2, Params, Version};
use tokio::{sync::Semaphore, time::timeout};

use super::{errors::internal, problem::Code};
use crate::v1::Problem;

/// What one hash costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PasswordCost {
    pub memory_kib: u32,
    pub passes: u32,
    pub lanes: u32,
}

/// RFC 9106, section 4, second recommended option, for servers that cannot spend 2 GiB a login: 64 MiB,
/// 3 passes, 4 lanes; some 0.1 s of one core.
impl Default for PasswordCost {
    fn default() -> Self {
        Self { memory_kib: 64 << 10, passes: 3, lanes: 4 }
    }
}

/// Hashes at once: 128 MiB in all, so that logins never crowd a node's memory.
const HASHES_MAX: usize = 2;
/// A login waits this long for its turn before it is turned away.
const TURN_MAX: std::time::Duration = std::time::Duration::from_secs(5);

/// The hash of a password in PHC format. Takes its time: not for async threads.
pub fn hash(cost: PasswordCost, password: &str) -> Result<String, String> {
    let salt = SaltString::encode_b64(&rand::random::<[u8; 16]>()).map_err(|error| error.to_string())?;
    let hash = hasher(cost)?.hash_password(password.as_bytes(), &salt);
    hash.map(|hash| hash.to_string()).map_err(|error| error.to_string())
}

/// Whether the password belongs to the hash. Takes its time.
fn verify(hash: &str, password: &str) -> bool {
    PasswordHash::new(hash)
        .is_ok_and(|hash| Argon2::default().verify_password(password.as_bytes(), &hash).is_ok())
}

fn hasher(cost: PasswordCost) -> Result<Argon2<'static>, String> {
    let params =
        Params::new(cost.memory_kib, cost.passes, cost.lanes, None).map_err(|error| error.to_string())?;
    Ok(Argon2::new(Algorithm::Argon2id, Version::V0x13, params))
}

/// Hashes for the whole API of a node.
#[derive(Clone)]
pub(crate) struct Passwords {
    cost: PasswordCost,
    turns: Arc<Semaphore>,
}

impl Passwords {
    pub(crate) fn new(cost: PasswordCost) -> Self {
        Self { cost, turns: Arc::new(Semaphore::new(HASHES_MAX)) }
    }

    pub(crate) async fn hash(&self, password: String) -> Result<String, Problem> {
        let cost = self.cost;
        self.in_turn(move || hash(cost, &password)).await?.map_err(|why| internal(&why))
    }

    /// `None`: there is no such user. It takes the same time as for one that there is, so that nobody
    /// learns by the clock who exists.
    pub(crate) async fn verify(&self, hash: Option<String>, password: String) -> Result<bool, Problem> {
        let hash = hash.unwrap_or_else(|| self.nobody());
        self.in_turn(move || verify(&hash, &password)).await
    }

    /// A hash at today's cost that belongs to no password anybody knows.
    fn nobody(&self) -> String {
        let PasswordCost { memory_kib, passes, lanes } = self.cost;
        let (salt, hash) = ("AAAAAAAAAAAAAAAAAAAAAA", "A".repeat(43));
        format!("$argon2id$v=19$m={memory_kib},t={passes},p={lanes}${salt}${hash}")
    }

    async fn in_turn<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Problem> {
        let crowded = || {
            Problem::new(Code::Overloaded, "too many logins are under way")
                .remedy("Try again in some seconds.")
        };
        let turn = timeout(TURN_MAX, self.turns.clone().acquire_owned()).await.map_err(|_| crowded())?;
        let turn = turn.map_err(|_| crowded())?;
        let done = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            work()
        });
        done.await.map_err(|error| internal(&error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHEAP: PasswordCost = PasswordCost { memory_kib: 8, passes: 1, lanes: 1 };

    #[test]
    fn a_password_belongs_to_its_own_hash_only() {
        let hash = hash(CHEAP, "correct horse battery").expect("the cost is within Argon2's range");
        assert!(verify(&hash, "correct horse battery"));
        assert!(!verify(&hash, "correct horse batterz"));
        assert!(!verify("no hash at all", "correct horse battery"));
    }

    #[test]
    fn the_default_cost_is_what_the_rfc_recommends() {
        let cost = PasswordCost::default();
        assert_eq!((cost.memory_kib, cost.passes, cost.lanes), (65_536, 3, 4));
        assert!(hasher(cost).is_ok());
    }

    #[tokio::test]
    async fn nobody_costs_a_whole_hash_and_is_never_let_in() {
        let passwords = Passwords::new(CHEAP);
        let nobody = passwords.nobody();
        let parsed = PasswordHash::new(&nobody).expect("it is a PHC string");
        let params = Params::try_from(&parsed).expect("with Argon2's parameters");
        assert_eq!((params.m_cost(), params.t_cost(), params.p_cost()), (8, 1, 1));
        assert_eq!(passwords.verify(None, String::new()).await, Ok(false));
    }
}
