//! Waiting for what a test cannot be told of: looking again and again, with a deadline.

use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval, timeout_at};

/// Long enough for anything on a busy machine, short enough for whoever waits for a failing test.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Looks until there is something to see; fails the test when that takes longer than `PATIENCE`.
pub async fn eventually<T>(what: &str, look: impl AsyncFnMut() -> Option<T>) -> T {
    within(PATIENCE, what, look).await
}

/// Looks until there is something to see; fails the test when that takes longer than `patience`.
pub async fn within<T>(patience: Duration, what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + patience;
    let mut tick = interval(Duration::from_millis(4));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let looking = async {
        loop {
            tick.tick().await;
            if let Some(seen) = look().await {
                return seen;
            }
        }
    };
    timeout_at(deadline, looking).await.unwrap_or_else(|_| panic!("waited {patience:?} in vain for {what}"))
}
