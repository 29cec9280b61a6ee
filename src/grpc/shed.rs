//! Whether work is turned away because what was taken before has waited for too long.
//!
//! A queue that is long for a moment is none to worry about: a batch empties it. So the oldest has to be late for a whole
//! while before anybody is refused, and the first look that finds it in time ends that. (CoDel's rule, by the age of
//! what waits, and with refusals instead of drops.)

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::domain::error::OrderError;

/// Refuses changes while those before them wait too long. Clones share what they know.
#[derive(Clone, Debug)]
pub(super) struct Shed {
    /// How long a change may wait, and for how long it must have been more; zero = however long.
    target: Duration,
    state: Arc<Mutex<Rule>>,
}

impl Shed {
    pub(super) fn new(target: Duration) -> Self {
        Self { target, state: Arc::default() }
    }

    /// Lets one more change in. `oldest` is how long the oldest one waits.
    ///
    /// # Errors
    /// [`OrderError::Overloaded`].
    pub(super) fn admit(&self, oldest: impl FnOnce() -> Duration) -> Result<(), OrderError> {
        if self.target.is_zero() {
            return Ok(());
        }
        let mut rule = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if rule.sheds(oldest(), self.target, Instant::now()) {
            metrics::counter!("order_shed_total").increment(1);
            return Err(OrderError::Overloaded { what: "changes wait too long to be stored on this node" });
        }
        Ok(())
    }
}

/// What was seen so far.
#[derive(Clone, Copy, Default, Debug)]
struct Rule {
    /// When it was first and last seen late, without having been in time between.
    late: Option<(Instant, Instant)>,
}

impl Rule {
    /// Whether the next change is refused, when the oldest one waits for `oldest` at `now`.
    fn sheds(&mut self, oldest: Duration, target: Duration, now: Instant) -> bool {
        if oldest <= target {
            self.late = None;
            return false;
        }
        // Between two looks that are far from each other it may have been in time.
        let first = match self.late {
            Some((first, last)) if now.saturating_duration_since(last) <= target => first,
            _ => now,
        };
        self.late = Some((first, now));
        now.saturating_duration_since(first) >= target
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::arithmetic_side_effects)]

    use super::*;

    const TARGET: Duration = Duration::from_secs(1);

    /// What becomes of looks at these moments, in milliseconds, that find the oldest of these ages.
    fn looks(looks: &[(u64, u64)]) -> Vec<bool> {
        let (mut rule, start) = (Rule::default(), Instant::now());
        let ms = Duration::from_millis;
        looks.iter().map(|(at, age)| rule.sheds(ms(*age), TARGET, start + ms(*at))).collect()
    }

    #[test]
    fn a_moment_of_waiting_refuses_nobody() {
        assert_eq!(looks(&[(0, 0), (100, 900), (200, 1_000), (300, 1_001), (400, 20)]), [false; 5]);
    }

    #[test]
    fn who_comes_when_all_have_waited_for_a_while_is_refused_until_one_is_in_time() {
        let found =
            looks(&[(0, 1_100), (500, 1_600), (999, 2_099), (1_000, 2_100), (1_500, 1_200), (1_600, 999)]);
        assert_eq!(found, [false, false, false, true, true, false]);
        // From there it begins anew.
        let again =
            looks(&[(0, 2_000), (1_000, 3_000), (1_001, 0), (1_002, 5_000), (2_001, 6_000), (2_002, 6_000)]);
        assert_eq!(again, [false, true, false, false, false, true]);
    }

    #[test]
    fn looks_that_are_far_from_each_other_prove_nothing() {
        assert_eq!(
            looks(&[(0, 2_000), (60_000, 2_000), (60_500, 2_500), (61_000, 3_000)]),
            [false, false, false, true]
        );
    }

    #[test]
    fn zero_turns_it_off() {
        assert_eq!(Shed::new(Duration::ZERO).admit(|| Duration::MAX), Ok(()));
    }
}
