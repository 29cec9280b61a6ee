//! The requests that are being answered, to wait for the last one.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

/// How often a stopping node looks whether the last request is answered.
const QUIET_CHECK: Duration = Duration::from_millis(10);

/// The requests that are being answered.
#[derive(Clone, Debug)]
pub struct InFlight {
    pub(super) requests: Arc<Semaphore>,
    pub(super) all: usize,
    pub(super) watchers: Arc<Semaphore>,
    pub(super) all_watchers: usize,
}

impl InFlight {
    /// How many requests are being answered, and how many streams are open.
    pub fn counts(&self) -> (usize, usize) {
        let taken = |all: usize, free: &Semaphore| all.saturating_sub(free.available_permits());
        (taken(self.all, &self.requests), taken(self.all_watchers, &self.watchers))
    }

    /// Waits until there is none.
    pub async fn none(&self) {
        // Looked at, not acquired: a place in the semaphore's queue would turn late requests away as overload.
        let mut check = tokio::time::interval(QUIET_CHECK);
        while self.requests.available_permits() < self.all {
            check.tick().await;
        }
    }
}
