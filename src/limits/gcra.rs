//! The rule by which is counted, with one number a key: the time at which all that was used would be there again (the
//! theoretical arrival time of the generic cell rate algorithm). Times are microseconds of any clock.

use std::time::Duration;

use crate::ports::limiter::Quota;

/// A quota in microseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Rate {
    /// What one call costs.
    pub(super) every: u64,
    /// How much may be used ahead.
    pub(super) ahead: u64,
}

impl From<Quota> for Rate {
    fn from(quota: Quota) -> Self {
        let every = micros(quota.every).max(1);
        Self { every, ahead: every.saturating_mul(u64::from(quota.burst.saturating_sub(1))) }
    }
}

impl Rate {
    /// What is remembered after one more call at `now`, when `full_at` was remembered before.
    ///
    /// # Errors
    /// How long from now the call would be allowed.
    pub(super) fn next(self, full_at: u64, now: u64) -> Result<u64, u64> {
        let full_at = full_at.max(now);
        let wait = full_at.saturating_sub(now).saturating_sub(self.ahead);
        if wait > 0 { Err(wait) } else { Ok(full_at.saturating_add(self.every)) }
    }
}

/// In whole microseconds.
pub(super) fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::arithmetic_side_effects)]

    use super::*;

    const SECOND: u64 = 1_000_000;

    fn rate(per_second: u32, burst: u32) -> Rate {
        Rate::from(Quota { every: Duration::from_secs(1) / per_second, burst })
    }

    #[test]
    fn a_burst_is_let_in_and_then_one_at_a_time() {
        let (rate, start) = (rate(10, 3), 7 * SECOND);
        let mut full_at = 0;
        for _ in 0..3 {
            full_at = rate.next(full_at, start).unwrap();
        }
        assert_eq!(rate.next(full_at, start), Err(SECOND / 10));
        assert_eq!(rate.next(full_at, start + SECOND / 10 - 1), Err(1));
        full_at = rate.next(full_at, start + SECOND / 10).unwrap();
        assert!(rate.next(full_at, start + SECOND / 10).is_err());
        // Whoever comes after a long time has a burst, not more.
        let late = start + 3_600 * SECOND;
        for _ in 0..3 {
            full_at = rate.next(full_at, late).unwrap();
        }
        assert!(rate.next(full_at, late).is_err());
    }

    #[test]
    fn over_a_long_time_no_more_is_let_in_than_the_rate_allows() {
        let rate = rate(50, 5);
        let (mut full_at, mut taken) = (0, 0u64);
        for now in (0..20 * SECOND).step_by(1_777) {
            if let Ok(next) = rate.next(full_at, now) {
                (full_at, taken) = (next, taken + 1);
            }
        }
        assert!((1_000..=1_005).contains(&taken), "{taken}");
    }

    #[test]
    fn the_extremes_do_not_overflow() {
        let slow = Rate::from(Quota { every: Duration::MAX, burst: u32::MAX });
        assert_eq!(slow.next(0, u64::MAX), Ok(u64::MAX));
        let fast = Rate::from(Quota { every: Duration::ZERO, burst: 0 });
        assert_eq!((fast.every, fast.next(0, 5)), (1, Ok(6)));
    }
}
