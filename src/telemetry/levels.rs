//! Which log lines are written, changeable while the node runs.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tracing_subscriber::{EnvFilter, Registry, reload};

use super::TelemetryError;

/// Longest filter, in bytes.
const FILTER_BYTES: usize = 1_024;

/// The filter of the log lines of this process. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Levels {
    handle: reload::Handle<EnvFilter, Registry>,
    now: Arc<Mutex<Now>>,
}

#[derive(Debug)]
struct Now {
    filter: String,
    /// Grows with each change.
    change: u64,
}

/// A change of the filter.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Changed {
    /// The filter before.
    pub before: String,
    change: u64,
}

impl Levels {
    pub(super) fn new(handle: reload::Handle<EnvFilter, Registry>, filter: &str) -> Self {
        Self { handle, now: Arc::new(Mutex::new(Now { filter: filter.to_owned(), change: 0 })) }
    }

    fn now(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The filter, in the syntax of `log.level`.
    pub fn filter(&self) -> String {
        self.now().filter.clone()
    }

    /// Replaces the filter.
    ///
    /// # Errors
    /// When it is malformed, empty or longer than 1,024 bytes.
    pub fn set(&self, filter: &str) -> Result<Changed, TelemetryError> {
        self.replace(&mut self.now(), filter)
    }

    /// Sets the filter back to what it was before, unless it was changed again meanwhile; answers whether it did.
    pub fn set_back(&self, changed: &Changed) -> bool {
        let mut now = self.now();
        now.change == changed.change && self.replace(&mut now, &changed.before).is_ok()
    }

    fn replace(&self, now: &mut Now, filter: &str) -> Result<Changed, TelemetryError> {
        if filter.trim().is_empty() || filter.len() > FILTER_BYTES {
            return Err(TelemetryError::NoLevel);
        }
        self.handle.reload(EnvFilter::try_new(filter)?).map_err(|_gone| TelemetryError::Gone)?;
        let before = std::mem::replace(&mut now.filter, filter.to_owned());
        now.change = now.change.wrapping_add(1);
        Ok(Changed { before, change: now.change })
    }
}
