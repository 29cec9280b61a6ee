//! What time it is by the store's clock, as far as a node can know: the one clock that all nodes share.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::ports::clock::Clock;
use crate::ports::store::OrderStore;

/// How often the store is asked.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// How long its answer counts.
const COUNTS_FOR: Duration = Duration::from_secs(30);

/// What is known of the store's clock.
#[derive(Clone, Copy, Debug)]
enum Told {
    Nothing,
    /// The store has no clock of its own, and one process uses it.
    Machine,
    /// It was `time` at some moment after it was asked and before it was heard.
    Store {
        time: i64,
        asked: Moment,
        heard: Moment,
    },
}

/// A moment by both clocks of the machine: one may stand still with it, the other may be set.
#[derive(Clone, Copy, Debug)]
struct Moment {
    steady: Instant,
    wall: i64,
}

impl Moment {
    /// How long ago another one was: by the clock that says less, and by the one that says more.
    fn since(self, earlier: Self) -> (Duration, Duration) {
        let steady = self.steady.saturating_duration_since(earlier.steady);
        let wall = u64::try_from(self.wall.saturating_sub(earlier.wall)).unwrap_or(0);
        let wall = Duration::from_micros(wall);
        (steady.min(wall), steady.max(wall))
    }
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

/// The store's clock, between two bounds.
#[derive(Debug)]
pub(super) struct StoreTime {
    machine: Arc<dyn Clock>,
    told: Mutex<Told>,
}

impl StoreTime {
    pub(super) fn new(machine: Arc<dyn Clock>) -> Self {
        Self { machine, told: Mutex::new(Told::Nothing) }
    }

    fn moment(&self) -> Moment {
        Moment { steady: Instant::now(), wall: self.machine.now().timestamp_micros() }
    }

    /// Microseconds since 1970: it is surely this late by the store's clock; 0 = nobody knows.
    pub(super) fn earliest(&self) -> i64 {
        let now = self.moment();
        match self.told() {
            Told::Nothing => 0,
            Told::Machine => now.wall,
            Told::Store { time, heard, .. } => match now.since(heard) {
                (shorter, longer) if longer <= COUNTS_FOR => time.saturating_add(micros(shorter)),
                _ => 0,
            },
        }
    }

    /// It is surely not later than this; none = nobody knows.
    fn latest(&self) -> Option<i64> {
        let now = self.moment();
        match self.told() {
            Told::Nothing => None,
            Told::Machine => Some(now.wall),
            Told::Store { time, asked, .. } => match now.since(asked) {
                (_, longer) if longer <= COUNTS_FOR => Some(time.saturating_add(micros(longer))),
                _ => None,
            },
        }
    }

    /// How long ago something was so that was so at `at`, at most; none = nobody knows, or it is ahead of time, as after a
    /// clock was set back.
    pub(super) fn age(&self, at: i64) -> Option<Duration> {
        let age = self.latest()?.checked_sub(at)?;
        u64::try_from(age).ok().filter(|_| at > 0).map(Duration::from_micros)
    }

    /// Asks the store now and then. Ends with the task.
    pub(super) async fn keep(&self, store: &dyn OrderStore) {
        loop {
            let asked = self.moment();
            match store.now().await {
                Ok(Some(time)) => {
                    let heard = self.moment();
                    self.set(Told::Store { time: time.timestamp_micros(), asked, heard });
                }
                Ok(None) => self.set(Told::Machine),
                Err(error) => tracing::debug!(%error, "the store did not say what time it is"),
            }
            tokio::time::sleep(ASK_EVERY).await;
        }
    }

    fn told(&self) -> Told {
        *self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, told: Told) {
        *self.told.lock().unwrap_or_else(PoisonError::into_inner) = told;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::atomic::{AtomicI64, Ordering};

    use super::*;
    use crate::domain::Timestamp;

    #[derive(Debug)]
    struct Wall(AtomicI64);

    impl Clock for Wall {
        fn now(&self) -> Timestamp {
            Timestamp::from_timestamp_micros(self.0.load(Ordering::SeqCst)).unwrap()
        }
    }

    const SECOND: i64 = 1_000_000;

    fn told_100_seconds() -> (Arc<Wall>, StoreTime) {
        let wall = Arc::new(Wall(AtomicI64::new(7 * SECOND)));
        let time = StoreTime::new(Arc::clone(&wall) as Arc<dyn Clock>);
        let (asked, heard) = (time.moment(), time.moment());
        time.set(Told::Store { time: 100 * SECOND, asked, heard });
        (wall, time)
    }

    #[test]
    fn nothing_has_an_age_before_the_store_has_said_what_time_it_is() {
        let time = StoreTime::new(Arc::new(Wall(AtomicI64::new(5 * SECOND))));
        assert_eq!((time.earliest(), time.age(1)), (0, None));
        time.set(Told::Machine);
        assert_eq!((time.earliest(), time.age(2 * SECOND)), (5 * SECOND, Some(Duration::from_secs(3))));
    }

    #[test]
    fn an_age_is_never_less_than_it_is() {
        let (wall, time) = told_100_seconds();
        // The machine slept: only one of its clocks knows.
        wall.0.fetch_add(3 * SECOND, Ordering::SeqCst);
        assert!(time.age(100 * SECOND).unwrap() >= Duration::from_secs(3));
        assert!(time.earliest() < 101 * SECOND, "what is noted now is no younger than it is");
        // Set back, it is the other one that counts.
        wall.0.store(0, Ordering::SeqCst);
        assert!(time.age(100 * SECOND).unwrap() < Duration::from_secs(2));
        assert_eq!(time.age(0), None, "not known since when");
        assert_eq!(time.age(200 * SECOND), None, "ahead of time");
    }

    #[test]
    fn what_the_store_said_long_ago_does_not_count() {
        let (wall, time) = told_100_seconds();
        wall.0.fetch_add(31 * SECOND, Ordering::SeqCst);
        assert_eq!((time.earliest(), time.age(100 * SECOND)), (0, None));
    }
}
