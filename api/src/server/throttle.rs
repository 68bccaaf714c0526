//! Slows down guessing: failed logins by user and address.
//!
//! Five failures are free; after each further one the next try has to wait, 1 s at first and twice as
//! long each time, up to a minute. A success, or a quarter of an hour without a try, forgets it all. The
//! address is part of the key so that a stranger cannot lock a user out.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr},
    sync::Mutex,
    time::Duration,
};

use tokio::time::Instant;

const FREE: u32 = 5;
const WAIT_MIN: Duration = Duration::from_secs(1);
const WAIT_MAX: Duration = Duration::from_secs(60);
const FORGET: Duration = Duration::from_secs(15 * 60);
/// Keys remembered: some megabytes. When it is full, the one that failed longest ago goes.
const KEYS_MAX: usize = 10_000;
/// Of a name, what counts: names are shorter.
const NAME_CHARACTERS_MAX: usize = 64;

type Key = (String, IpAddr);

#[derive(Debug, Clone, Copy)]
struct Failures {
    count: u32,
    last: Instant,
}

impl Failures {
    fn wait(&self) -> Duration {
        match self.count.checked_sub(FREE) {
            None | Some(0) => Duration::ZERO,
            Some(beyond) => (WAIT_MIN * 2u32.saturating_pow(beyond - 1).min(64)).min(WAIT_MAX),
        }
    }
}

#[derive(Default)]
pub(crate) struct Throttle {
    table: Mutex<BTreeMap<Key, Failures>>,
}

fn key(user: &str, address: IpAddr) -> Key {
    // Whoever has one IPv6 address has 2^64 of them.
    let address = match address {
        IpAddr::V6(address) if address.to_ipv4_mapped().is_none() => {
            let network = u128::from(address) & !u128::from(u64::MAX);
            IpAddr::V6(Ipv6Addr::from(network))
        }
        other => other.to_canonical(),
    };
    (user.chars().take(NAME_CHARACTERS_MAX).collect(), address)
}

impl Throttle {
    /// Whether a try may be made now; if not, after how long. A try counts as failed until
    /// [`Throttle::succeeded`], so that many at once do not all go free.
    pub(crate) fn attempt(&self, user: &str, address: IpAddr) -> Result<(), Duration> {
        let now = Instant::now();
        let mut table = self.table.lock().expect("nothing panics while it holds this lock");
        let key = key(user, address);
        let failures = table.get(&key).copied().filter(|failures| now - failures.last < FORGET);
        let failures = failures.unwrap_or(Failures { count: 0, last: now });
        let since = now - failures.last;
        if failures.count > 0 && since < failures.wait() {
            return Err(failures.wait() - since);
        }
        if table.len() >= KEYS_MAX && !table.contains_key(&key) {
            table.retain(|_, failures| now - failures.last < FORGET);
            let oldest = table.iter().min_by_key(|(_, failures)| failures.last).map(|(key, _)| key.clone());
            if let Some(oldest) = oldest.filter(|_| table.len() >= KEYS_MAX) {
                table.remove(&oldest);
            }
        }
        table.insert(key, Failures { count: failures.count + 1, last: now });
        Ok(())
    }

    pub(crate) fn succeeded(&self, user: &str, address: IpAddr) {
        self.table.lock().expect("nothing panics while it holds this lock").remove(&key(user, address));
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const HERE: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1));
    const NEXT_DOOR: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 9, 9, 9, 9));
    const ELSEWHERE: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, 1));

    #[tokio::test(start_paused = true)]
    async fn guessing_gets_slower_and_a_success_forgets_it() {
        let throttle = Throttle::default();
        for _ in 0..=FREE {
            assert_eq!(throttle.attempt("ana", HERE), Ok(()));
        }
        assert_eq!(throttle.attempt("ana", HERE), Err(Duration::from_secs(1)));
        assert_eq!(throttle.attempt("ana", NEXT_DOOR), Err(Duration::from_secs(1)), "the same network");
        assert_eq!(throttle.attempt("ana", ELSEWHERE), Ok(()), "a stranger locks nobody out");
        assert_eq!(throttle.attempt("rui", HERE), Ok(()));
        advance(Duration::from_secs(1)).await;
        assert_eq!(throttle.attempt("ana", HERE), Ok(()));
        assert_eq!(throttle.attempt("ana", HERE), Err(Duration::from_secs(2)));
        advance(Duration::from_secs(2)).await;
        throttle.succeeded("ana", HERE);
        assert_eq!(throttle.attempt("ana", HERE), Ok(()));
        assert_eq!(throttle.attempt("ana", HERE), Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn the_wait_has_an_end_and_so_has_the_memory() {
        let throttle = Throttle::default();
        for _ in 0..40 {
            let _ = throttle.attempt("ana", HERE);
            advance(WAIT_MAX).await;
        }
        let _ = throttle.attempt("ana", HERE);
        assert_eq!(throttle.attempt("ana", HERE), Err(WAIT_MAX));
        advance(FORGET).await;
        assert_eq!(throttle.attempt("ana", HERE), Ok(()));
        assert_eq!(throttle.attempt("ana", HERE), Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn the_table_is_bounded() {
        let throttle = Throttle::default();
        for number in 0..KEYS_MAX + 10 {
            let _ = throttle.attempt(&number.to_string(), HERE);
            advance(Duration::from_millis(1)).await;
        }
        assert_eq!(throttle.table.lock().expect("no panic").len(), KEYS_MAX);
    }
}
