//! How often somebody may do something.

use std::fmt::Debug;
use std::time::Duration;

use async_trait::async_trait;

/// How often something may be done: `burst` times at once, and from then on once each `every`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Quota {
    /// The time after which one more is allowed; at least a microsecond.
    pub every: Duration,
    /// How many are allowed at once, 1...
    pub burst: u32,
}

/// Something that is counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Counted {
    /// Who does what: a keyed hash, so that no name stands where it is counted.
    pub key: u64,
    /// How often they may.
    pub quota: Quota,
}

/// A limit is used up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UsedUp {
    /// Its place in what was counted.
    pub which: usize,
    /// When the same would be allowed.
    pub retry_after: Duration,
}

/// Counts. It never fails: what cannot be counted together is counted by each node for itself.
#[async_trait]
pub trait Limiter: Send + Sync + Debug {
    /// Counts one call against all of these limits; against none of them when one is used up. Takes bounded time,
    /// whatever stands behind it.
    ///
    /// # Errors
    /// Which limit is used up, and until when.
    async fn take(&self, counted: &[Counted]) -> Result<(), UsedUp>;
}
