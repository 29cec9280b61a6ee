//! The time that orders go by: the store's, where it has a clock of its own. A node whose clock is wrong, or is set, must
//! not let time run out for anybody.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use chrono::TimeDelta;

use crate::domain::Timestamp;
use crate::ports::clock::Clock;
use crate::ports::store::OrderStore;

/// Clocks that differ by less count as equal, so that time runs evenly.
const TOLERANCE: TimeDelta = TimeDelta::seconds(1);

/// The machine's clock, set right by the store's.
#[derive(Debug)]
pub(super) struct StoreClock {
    machine: Arc<dyn Clock>,
    /// How far the store's clock is ahead, in microseconds.
    ahead: AtomicI64,
}

impl StoreClock {
    pub(super) fn new(machine: Arc<dyn Clock>) -> Self {
        Self { machine, ahead: AtomicI64::new(0) }
    }

    /// Now, truncated to microseconds.
    pub(super) fn now(&self) -> Timestamp {
        let machine = self.machine.now();
        let ahead = TimeDelta::microseconds(self.ahead.load(Ordering::Acquire));
        machine.checked_add_signed(ahead).unwrap_or(machine)
    }

    /// Asks the store what time it is. Without an answer, or with one that took long, things stay as they are.
    pub(super) async fn set_by(&self, store: &dyn OrderStore) {
        let (asked, machine) = (tokio::time::Instant::now(), self.machine.now());
        let told = match store.now().await {
            Ok(Some(told)) => told,
            Ok(None) => return,
            Err(error) => {
                tracing::debug!(%error, "the store did not say what time it is");
                return;
            }
        };
        self.adjust(machine, told, asked.elapsed());
    }

    /// As [`Self::set_by`], with an answer that took so long until now.
    pub(super) fn set(&self, told: Timestamp, took: Duration) {
        let took_delta = TimeDelta::from_std(took).unwrap_or(TimeDelta::MAX);
        let asked_at = self.machine.now().checked_sub_signed(took_delta);
        if let Some(asked_at) = asked_at {
            self.adjust(asked_at, told, took);
        }
    }

    /// `told` is the answer to a question that was asked when it was `machine` here, and that took so long.
    fn adjust(&self, machine: Timestamp, told: Timestamp, took: Duration) {
        let took = TimeDelta::from_std(took).unwrap_or(TimeDelta::MAX);
        if took >= TOLERANCE {
            return;
        }
        let ahead = told.signed_duration_since(machine);
        let before = TimeDelta::microseconds(self.ahead.load(Ordering::Acquire));
        if ahead.checked_sub(&before).unwrap_or(TimeDelta::MAX).abs() < TOLERANCE {
            return;
        }
        let seconds = ahead.num_seconds();
        tracing::warn!(
            seconds,
            "the store's clock is ahead of this machine's (behind, if negative); it counts"
        );
        self.ahead.store(ahead.num_microseconds().unwrap_or_default(), Ordering::Release);
    }
}

impl Clock for StoreClock {
    fn now(&self) -> Timestamp {
        Self::now(self)
    }
}
