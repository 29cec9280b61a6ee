//! What a lane counts. Looked up once: it counts for every job.

use metrics::{Counter, Histogram};

use super::{Done, JobResult};
use crate::ports::store::CommitError;

pub(super) struct Tally {
    pub(super) size: Histogram,
    pub(super) seconds: Histogram,
    committed: Counter,
    claimed: Counter,
}

impl Tally {
    pub(super) fn new() -> Self {
        Self {
            size: metrics::histogram!("order_store_batch_size"),
            seconds: metrics::histogram!("order_store_batch_seconds"),
            committed: metrics::counter!("order_store_jobs_total", "outcome" => "committed"),
            claimed: metrics::counter!("order_store_jobs_total", "outcome" => "claimed"),
        }
    }

    /// Counts a job that has ended.
    pub(super) fn ended(&self, result: &JobResult) {
        let outcome = match result {
            Ok(Done::Committed) => return self.committed.increment(1),
            Ok(Done::Claimed) => return self.claimed.increment(1),
            Ok(Done::NoSuchOrder) => "no_such_order",
            Err(CommitError::Conflict) => "conflict",
            Err(CommitError::NumberTaken) => "number_taken",
            Err(CommitError::CouponExhausted) => "coupon_exhausted",
            Err(CommitError::QueueFull) => "queue_full",
            Err(CommitError::Quarantined) => "quarantined",
            Err(CommitError::NotCommitted(_)) => "not_committed",
            Err(CommitError::Unknown(_)) => "unknown",
        };
        metrics::counter!("order_store_jobs_total", "outcome" => outcome).increment(1);
    }
}
