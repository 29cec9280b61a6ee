//! How long this node may act as the owner of what it owns, by a clock that also runs while the machine sleeps or the
//! process is stopped.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// A moment of the boot-time clock, in nanoseconds since the machine was started. Only differences mean anything.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct BootTime(i64);

impl BootTime {
    pub(super) fn now() -> Self {
        let now = clock_gettime(ClockId::Boottime);
        Self(now.tv_sec.saturating_mul(1_000_000_000).saturating_add(now.tv_nsec))
    }

    /// How long after `earlier` this is; zero when it is not.
    pub(super) fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

/// Nothing was ever renewed.
const NEVER: i64 = i64::MIN;

/// What the last good renewal allows.
#[derive(Debug)]
pub(super) struct Lease {
    /// The start of the last good renewal.
    renewed: AtomicI64,
    dead: AtomicBool,
    serve_for: Duration,
    read_for: Duration,
}

impl Lease {
    pub(super) fn new(serve_for: Duration, read_for: Duration) -> Self {
        Self { renewed: AtomicI64::new(NEVER), dead: AtomicBool::new(false), serve_for, read_for }
    }

    /// A renewal that began then was good.
    pub(super) fn renewed(&self, started: BootTime) {
        self.renewed.fetch_max(started.0, Ordering::AcqRel);
    }

    /// This life is over. It never comes back.
    pub(super) fn end(&self) {
        self.dead.store(true, Ordering::Release);
    }

    pub(super) fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Acquire)
    }

    /// Whether this node may change what it owns.
    pub(super) fn serves(&self) -> bool {
        self.is_within(self.serve_for)
    }

    /// Whether what it has in memory is surely the newest.
    pub(super) fn reads(&self) -> bool {
        self.is_within(self.read_for)
    }

    /// For how long this node may still change what it owns; zero when it may not.
    pub(super) fn left(&self) -> Duration {
        let renewed = self.renewed.load(Ordering::Acquire);
        if renewed == NEVER || self.is_dead() {
            return Duration::ZERO;
        }
        self.serve_for.saturating_sub(BootTime::now().since(BootTime(renewed)))
    }

    fn is_within(&self, time: Duration) -> bool {
        let renewed = self.renewed.load(Ordering::Acquire);
        renewed != NEVER && !self.is_dead() && BootTime::now().since(BootTime(renewed)) < time
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ago(time: Duration) -> BootTime {
        BootTime(BootTime::now().0 - i64::try_from(time.as_nanos()).unwrap())
    }

    #[test]
    fn it_lasts_from_the_start_of_the_last_renewal() {
        let (serve_for, read_for) = (Duration::from_secs(500), Duration::from_secs(100));
        let lease = Lease::new(serve_for, read_for);
        assert_eq!((lease.serves(), lease.reads()), (false, false));
        lease.renewed(ago(Duration::from_secs(501)));
        assert_eq!((lease.serves(), lease.reads()), (false, false));
        assert_eq!(lease.left(), Duration::ZERO);
        lease.renewed(ago(Duration::from_secs(400)));
        assert_eq!((lease.serves(), lease.reads()), (true, false));
        assert!((90..=100).contains(&lease.left().as_secs()), "{:?}", lease.left());
        lease.renewed(BootTime::now());
        assert_eq!((lease.serves(), lease.reads()), (true, true));
        // An answer that comes late says nothing new.
        lease.renewed(ago(Duration::from_secs(400)));
        assert!(lease.reads());
    }

    #[test]
    fn it_ends_for_ever() {
        let lease = Lease::new(Duration::from_secs(500), Duration::from_secs(500));
        lease.renewed(BootTime::now());
        lease.end();
        lease.renewed(BootTime::now());
        assert_eq!((lease.serves(), lease.reads(), lease.is_dead()), (false, false, true));
    }
}
