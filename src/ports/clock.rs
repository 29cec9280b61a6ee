//! Time as a dependency: the one place that reads the machine's clock is in `app`.

use crate::domain::Timestamp;

/// Tells the time.
pub trait Clock: Send + Sync + std::fmt::Debug {
    /// Now, truncated to microseconds.
    fn now(&self) -> Timestamp;
}
