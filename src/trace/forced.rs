//! How many traces callers may have recorded by their word.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

const SECOND: u64 = 1_000_000_000;

/// So many a second, and as many at once. One number: the time at which all that was used would be there again.
#[derive(Debug)]
pub(super) struct Forced {
    per_second: u64,
    since: Instant,
    full_at: AtomicU64,
}

impl Forced {
    pub(super) fn new(per_second: u32) -> Self {
        Self { per_second: u64::from(per_second), since: Instant::now(), full_at: AtomicU64::new(0) }
    }

    /// Whether one more may be.
    pub(super) fn take(&self) -> bool {
        self.take_at(u64::try_from(self.since.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    fn take_at(&self, now: u64) -> bool {
        let Some(every) = SECOND.checked_div(self.per_second) else { return false };
        let next = |full_at: u64| {
            let full_at = full_at.max(now).saturating_add(every);
            (full_at.saturating_sub(now) <= SECOND).then_some(full_at)
        };
        self.full_at.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_a_second_and_as_many_at_once() {
        let taken = |forced: &Forced, at: u64| (0..100).filter(|_| forced.take_at(at)).count();
        let forced = Forced::new(10);
        assert_eq!((taken(&forced, 7 * SECOND), taken(&forced, 7 * SECOND)), (10, 0));
        assert_eq!(taken(&forced, 7 * SECOND + SECOND / 10 - 1), 0);
        assert_eq!(taken(&forced, 7 * SECOND + SECOND / 10), 1);
        assert_eq!(taken(&forced, 3_600 * SECOND), 10, "no more after a long time");
        assert_eq!(taken(&Forced::new(1), 0), 1);
        assert_eq!(taken(&Forced::new(0), SECOND), 0);
    }
}
