//! Counts in this process, for a bounded number of keys.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;

use super::gcra::{Rate, micros};
use crate::ports::limiter::{Counted, Limiter, UsedUp};

/// Counts what happens on this node. A key is forgotten when its limit is whole again, or when there are too many: then
/// the one that would be whole soonest.
#[derive(Debug)]
pub struct LocalLimiter {
    started: Instant,
    counters: Mutex<Counters>,
}

impl LocalLimiter {
    /// Remembers at most so many keys; each takes about 100 bytes.
    pub fn new(max_keys: usize) -> Self {
        let counters = Mutex::new(Counters { max_keys: max_keys.max(1), ..Counters::default() });
        Self { started: Instant::now(), counters }
    }

    /// As [`Limiter::take`].
    pub(super) fn count(&self, counted: &[Counted]) -> Result<(), UsedUp> {
        let now = micros(self.started.elapsed());
        self.counters.lock().unwrap_or_else(PoisonError::into_inner).take(counted, now)
    }
}

#[async_trait]
impl Limiter for LocalLimiter {
    async fn take(&self, counted: &[Counted]) -> Result<(), UsedUp> {
        self.count(counted)
    }
}

#[derive(Debug, Default)]
struct Counters {
    max_keys: usize,
    full_at: HashMap<u64, u64>,
    /// The same by time.
    by_time: BTreeSet<(u64, u64)>,
}

impl Counters {
    fn take(&mut self, counted: &[Counted], now: u64) -> Result<(), UsedUp> {
        let known = |key: &u64| self.full_at.get(key).copied().unwrap_or_default();
        for (which, Counted { key, quota }) in counted.iter().enumerate() {
            if let Err(wait) = Rate::from(*quota).next(known(key), now) {
                return Err(UsedUp { which, retry_after: Duration::from_micros(wait) });
            }
        }
        for Counted { key, quota } in counted {
            let before = self.full_at.get(key).copied();
            if let Ok(next) = Rate::from(*quota).next(before.unwrap_or_default(), now) {
                self.set(*key, before, next);
            }
        }
        self.forget(now);
        Ok(())
    }

    fn set(&mut self, key: u64, before: Option<u64>, next: u64) {
        if let Some(before) = before {
            self.by_time.remove(&(before, key));
        }
        self.full_at.insert(key, next);
        self.by_time.insert((next, key));
    }

    /// Each call adds a key or two, so to look at a few more keeps up.
    fn forget(&mut self, now: u64) {
        const AT_ONCE: usize = 4;
        for _ in 0..AT_ONCE {
            let Some((full_at, key)) = self.by_time.first().copied() else { return };
            if full_at > now && self.full_at.len() <= self.max_keys {
                return;
            }
            self.by_time.pop_first();
            self.full_at.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::arithmetic_side_effects)]

    use super::*;
    use crate::ports::limiter::Quota;

    const SECOND: u64 = 1_000_000;

    fn counters(max_keys: usize) -> Counters {
        Counters { max_keys, ..Counters::default() }
    }

    fn one(key: u64, burst: u32) -> Counted {
        Counted { key, quota: Quota { every: Duration::from_secs(1), burst } }
    }

    #[test]
    fn keys_are_counted_apart() {
        let mut counters = counters(10);
        assert_eq!(counters.take(&[one(1, 1)], 0), Ok(()));
        let used_up = UsedUp { which: 0, retry_after: Duration::from_secs(1) };
        assert_eq!(counters.take(&[one(1, 1)], 0), Err(used_up));
        assert_eq!(counters.take(&[one(2, 1)], 0), Ok(()));
        assert_eq!(counters.take(&[one(1, 1)], SECOND), Ok(()));
    }

    #[test]
    fn what_is_refused_by_one_limit_costs_nothing_of_the_others() {
        let mut counters = counters(10);
        let (few, many) = (one(1, 1), one(2, 3));
        assert_eq!(counters.take(&[few, many], 0), Ok(()));
        for _ in 0..5 {
            assert_eq!(counters.take(&[many, few], 0).unwrap_err().which, 1);
        }
        assert_eq!(counters.take(&[many], 0), Ok(()));
        assert_eq!(counters.take(&[many], 0), Ok(()));
        assert!(counters.take(&[many], 0).is_err());
    }

    #[test]
    fn the_number_of_keys_is_bounded_and_those_who_used_most_stay() {
        let mut counters = counters(100);
        let greedy = one(0, 50);
        for _ in 0..50 {
            counters.take(&[greedy], 0).unwrap();
        }
        for key in 1..10_000 {
            counters.take(&[one(key, 5)], 1).unwrap();
        }
        assert_eq!((counters.full_at.len(), counters.by_time.len()), (100, 100));
        assert!(counters.take(&[greedy], 2).is_err(), "a flood of other keys does not help");
        // Those whose limit is whole again are let go of.
        for _ in 0..50 {
            counters.take(&[one(77_777, 1_000)], 100 * SECOND).unwrap();
        }
        assert_eq!(counters.full_at.len(), 1);
    }
}
