//! What all order actors of a node share.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use dashmap::DashMap;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::task::TaskTracker;

use super::clock::StoreClock;
use super::crash::CrashPoint;
use super::hot::Hot;
use super::inspect::Failing;
use super::registry::{Entry, Registry};
use super::regression::Acknowledged;
use super::skip::SkippedUndo;
use super::sweeper::Gained;
use super::tally::Tally;
use super::watch::WatchHub;
use crate::domain::Timestamp;
use crate::domain::error::OrderError;
use crate::domain::ids::{IdKey, OrderId};
use crate::domain::react::Policy;
use crate::ports::Collaborators;
use crate::ports::cache::OrderCache;
use crate::ports::placement::Placement;
use crate::ports::store::{OrderStore, Regression};
use crate::steps::StepLimits;

/// Limits of the actor layer.
#[derive(Clone, Debug)]
pub struct ActorConfig {
    /// Orders that may be live at once.
    pub max_live: usize,
    /// Commands that may be in flight for one order, waiting callers included.
    pub max_commands_per_order: u32,
    /// A settled order that nobody asked for this long leaves memory.
    pub idle_after: Duration,
    /// How often idle orders are looked for.
    pub sweep_every: Duration,
    /// Failures in a row after which an order is quarantined.
    pub max_failures: u32,
    /// Pause after the second failure in a row; doubles with each.
    pub failure_backoff: Duration,
    /// Longest pause.
    pub failure_backoff_max: Duration,
    /// How long a quarantined order is left alone.
    pub quarantine_for: Duration,
    /// How often unfinished sagas are looked for.
    pub resume_every: Duration,
    /// Unfinished sagas read at once.
    pub resume_batch: u32,
    /// Sagas and timers that may be on their way at once.
    pub resume_concurrency: usize,
    /// Timers that are taken each time.
    pub timers_batch: u32,
    /// Longest a caller waits for its command to be stored.
    pub max_wait: Duration,
    /// Orders that others read here lately and that are loaded when their slots come here, at most; 0 = none.
    pub warm_orders: usize,
    /// Batches of events kept for the slowest watcher of an order, at least 1.
    pub watch_buffer: usize,
}

/// An order whose actor failed lately.
#[derive(Clone, Copy, Debug)]
struct Trouble {
    failures: u32,
    /// Nobody gets in before this.
    not_before: Timestamp,
}

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) store: Arc<dyn OrderStore>,
    pub(super) cache: Arc<dyn OrderCache>,
    pub(super) collaborators: Collaborators,
    pub(super) clock: Arc<StoreClock>,
    pub(super) key: IdKey,
    pub(super) policy: Policy,
    pub(super) limits: StepLimits,
    pub(super) config: ActorConfig,
    pub(super) placement: Arc<dyn Placement>,
    /// Slots that have become this process's own, for the sweeper.
    pub(super) gained: Gained,
    /// The same, for whoever loads what was read lately.
    pub(super) to_warm: Gained,
    /// What was read here lately and others own.
    pub(super) hot: Hot,
    pub(super) crash_at: Option<CrashPoint>,
    pub(super) skip_undo: Option<SkippedUndo>,
    pub(super) registry: Registry,
    pub(super) hub: Arc<WatchHub>,
    pub(super) tasks: TaskTracker,
    /// Places for sagas that the sweeper resumes.
    pub(super) resuming: Arc<Semaphore>,
    pub(super) stopping: AtomicBool,
    pub(super) tally: Tally,
    /// What was acknowledged last.
    pub(super) acknowledged: Acknowledged,
    /// Versions that actors which failed had stored; looked at when their order is loaded again.
    left_at: DashMap<OrderId, i64>,
    /// Orders whose actor failed in the middle of a saga.
    pub(super) orphans: mpsc::Sender<OrderId>,
    troubles: DashMap<OrderId, Trouble>,
}

impl Shared {
    pub(super) fn new(parts: super::orders::Parts, orphans: mpsc::Sender<OrderId>) -> Self {
        let places = parts.config.resume_concurrency.clamp(1, Semaphore::MAX_PERMITS);
        Self {
            store: parts.store,
            cache: parts.cache,
            collaborators: parts.collaborators,
            clock: Arc::new(StoreClock::new(parts.clock)),
            key: parts.key,
            policy: parts.policy,
            limits: parts.limits,
            config: parts.config,
            placement: parts.placement,
            gained: Gained::default(),
            to_warm: Gained::default(),
            hot: Hot::default(),
            crash_at: parts.crash_at,
            skip_undo: parts.skip_undo,
            registry: Registry::default(),
            hub: Arc::default(),
            tasks: TaskTracker::new(),
            resuming: Arc::new(Semaphore::new(places)),
            stopping: AtomicBool::new(false),
            tally: Tally::new(),
            acknowledged: Acknowledged::default(),
            left_at: DashMap::new(),
            orphans,
            troubles: DashMap::new(),
        }
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    pub(super) fn now_millis(&self) -> i64 {
        self.clock.now().timestamp_millis()
    }

    /// Refuses an order that keeps failing.
    pub(super) fn check_trouble(&self, id: OrderId) -> Result<(), OrderError> {
        if self.troubles.is_empty() {
            return Ok(());
        }
        let Some(trouble) = self.troubles.get(&id).map(|trouble| *trouble) else { return Ok(()) };
        if trouble.not_before <= self.clock.now() {
            return Ok(());
        }
        if trouble.failures >= self.config.max_failures {
            return Err(OrderError::Quarantined);
        }
        Err(OrderError::StorageUnavailable)
    }

    /// Whether the order's actor failed so often that nobody gets in for a while.
    pub(super) fn failing(&self, id: OrderId) -> Option<Failing> {
        let trouble = self.troubles.get(&id).map(|trouble| *trouble)?;
        let Trouble { failures, not_before } = trouble;
        (not_before > self.clock.now()).then_some(Failing { failures, until: not_before })
    }

    /// Forgets that the order's actor failed.
    pub(super) fn forgive(&self, id: OrderId) {
        self.troubles.remove(&id);
    }

    /// Remembers how far an order was when its actor failed. What is loaded next must not be behind that. Of a quarantined
    /// order that is written down already.
    pub(super) fn left_at(&self, id: OrderId, version: i64) {
        let is_quarantined = matches!(self.check_trouble(id), Err(OrderError::Quarantined));
        if !is_quarantined && self.left_at.len() < self.config.max_live {
            self.left_at.insert(id, version);
        }
    }

    pub(super) fn forget_left(&self, id: OrderId) {
        self.left_at.remove(&id);
    }

    /// Whether less is stored of an order than this node knows; `stored` is 0 when there is no such order.
    pub(super) fn regression(&self, id: OrderId, stored: i64) -> Option<Regression> {
        let left = self.left_at.remove(&id).map_or(0, |(_, known)| known);
        let known = left.max(self.acknowledged.highest(id));
        (stored < known).then_some(Regression { id, known, stored })
    }

    /// Counts a failure of this order's actor. `hopeless` quarantines it at once.
    pub(super) fn failed(&self, id: OrderId, hopeless: bool) {
        let config = &self.config;
        let now = self.clock.now();
        let mut trouble = self.troubles.entry(id).or_insert(Trouble { failures: 0, not_before: now });
        trouble.failures = trouble.failures.saturating_add(1);
        if hopeless {
            trouble.failures = trouble.failures.max(config.max_failures);
        }
        let pause = if trouble.failures >= config.max_failures {
            metrics::counter!("order_quarantined_total").increment(1);
            tracing::error!(order_id = %id, failures = trouble.failures, "order quarantined");
            config.quarantine_for
        } else {
            // The first failure costs nothing: a fresh actor is most often all it takes.
            match trouble.failures.checked_sub(2) {
                None => Duration::ZERO,
                Some(doublings) => config
                    .failure_backoff
                    .saturating_mul(2u32.saturating_pow(doublings.min(16)))
                    .min(config.failure_backoff_max),
            }
        };
        let pause = chrono::Duration::from_std(pause).unwrap_or_default();
        trouble.not_before = now.checked_add_signed(pause).unwrap_or(now);
    }

    /// Forgets troubles that have been over for as long as a quarantine lasts.
    pub(super) fn forget_troubles(&self) {
        let grace = chrono::Duration::from_std(self.config.quarantine_for).unwrap_or_default();
        if let Some(before) = self.clock.now().checked_sub_signed(grace) {
            self.troubles.retain(|_, trouble| trouble.not_before > before);
        }
    }

    /// A success ends an order's troubles.
    pub(super) fn recovered(&self, id: OrderId) {
        if !self.troubles.is_empty() {
            self.troubles.remove(&id);
        }
    }

    /// Takes an order that is leaving out of the registry.
    pub(super) fn leave(&self, id: OrderId, entry: &Entry) {
        entry.close();
        self.registry.remove(id, entry.actor());
    }
}
