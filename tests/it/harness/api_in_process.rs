//! The service without a network, so that a test says exactly when a stream is read, on a store that counts its reads.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use chrono::{SubsecRound, Utc};
use order_service::actor::{ActorConfig, Orders, Parts};
use order_service::cache::MemoryCache;
use order_service::clients::sim::{SimConfig, Simulator};
use order_service::domain::Timestamp;
use order_service::domain::chain::EventHash;
use order_service::domain::event::RecordedEvent;
use order_service::domain::ids::{IdKey, OrderId, OrderNumber, UserId};
use order_service::domain::order::Order;
use order_service::domain::risk::RiskRules;
use order_service::grpc::{OrderApi, OrderApiConfig, RequestLimits, WatchLimits};
use order_service::ports::clock::Clock;
use order_service::ports::placement::Alone;
use order_service::ports::store::{
    ClaimError, Commit, CommitError, ListQuery, OrderStore, Owner, Quarantine, Regression, Scanned,
    StoreError, Stored, Trailed, Unfinished,
};
use order_service::steps::StepLimits;
use order_service::store::sqlite::{SqliteConfig, SqliteStore};
use tempfile::TempDir;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{policy, price_book};

#[derive(Debug)]
struct RealClock;

impl Clock for RealClock {
    #[expect(clippy::disallowed_methods, reason = "this is a clock")]
    fn now(&self) -> Timestamp {
        Utc::now().trunc_subsecs(6)
    }
}

/// A store that counts what is read of single orders, and can refuse to give their events.
#[derive(Debug)]
pub struct CountingStore {
    inner: Arc<SqliteStore>,
    /// How often events were read.
    pub event_reads: AtomicUsize,
    /// How often an order was read.
    pub order_reads: AtomicUsize,
    /// Whether events cannot be read.
    pub is_broken: AtomicBool,
}

#[async_trait]
impl OrderStore for CountingStore {
    async fn claim(&self, id: OrderId, owner: Owner) -> Result<Option<Stored>, ClaimError> {
        self.inner.claim(id, owner).await
    }

    async fn append(&self, commit: Commit) -> Result<Option<EventHash>, CommitError> {
        self.inner.append(commit).await
    }

    async fn load(&self, id: OrderId) -> Result<Option<Stored>, StoreError> {
        self.order_reads.fetch_add(1, Ordering::SeqCst);
        self.inner.load(id).await
    }

    async fn find_by_number(&self, number: &OrderNumber) -> Result<Option<OrderId>, StoreError> {
        self.inner.find_by_number(number).await
    }

    async fn list(&self, query: &ListQuery) -> Result<Vec<Arc<Order>>, StoreError> {
        self.inner.list(query).await
    }

    async fn events(
        &self,
        id: OrderId,
        after_seq: i64,
        limit: u32,
    ) -> Result<Vec<RecordedEvent>, StoreError> {
        let read = match self.is_broken.load(Ordering::SeqCst) {
            true => Err(StoreError::Unavailable("broken by a test".to_owned())),
            false => self.inner.events(id, after_seq, limit).await,
        };
        // Whoever sees it counted may make another event, which this read has not in it.
        self.event_reads.fetch_add(1, Ordering::SeqCst);
        read
    }

    async fn unfinished(
        &self,
        due_before: Timestamp,
        after: Option<Unfinished>,
        limit: u32,
    ) -> Result<Vec<Unfinished>, StoreError> {
        self.inner.unfinished(due_before, after, limit).await
    }

    async fn timers(
        &self,
        due_before: Timestamp,
        after: Option<Unfinished>,
        limit: u32,
    ) -> Result<Vec<Unfinished>, StoreError> {
        self.inner.timers(due_before, after, limit).await
    }

    async fn count_of_user(&self, user: UserId, since: Timestamp, at_most: u32) -> Result<u32, StoreError> {
        self.inner.count_of_user(user, since, at_most).await
    }

    async fn open_of_user(&self, user: UserId, at_most: u32) -> Result<Vec<OrderId>, StoreError> {
        self.inner.open_of_user(user, at_most).await
    }

    async fn now(&self) -> Result<Option<Timestamp>, StoreError> {
        self.inner.now().await
    }

    fn reconnects(&self) -> watch::Receiver<u64> {
        self.inner.reconnects()
    }

    async fn versions(&self, ids: &[OrderId]) -> Result<Vec<(OrderId, i64)>, StoreError> {
        self.inner.versions(ids).await
    }

    async fn quarantine(&self, regressions: &[Regression], at: Timestamp) -> Result<(), StoreError> {
        self.inner.quarantine(regressions, at).await
    }

    async fn quarantined(&self, id: OrderId) -> Result<Option<Quarantine>, StoreError> {
        self.inner.quarantined(id).await
    }

    async fn release(&self, id: OrderId) -> Result<(), StoreError> {
        self.inner.release(id).await
    }

    async fn take_out(&self, id: OrderId) -> Result<(), StoreError> {
        self.inner.take_out(id).await
    }

    async fn stuck(
        &self,
        before: Timestamp,
        after: Option<OrderId>,
        limit: u32,
    ) -> Result<Vec<OrderId>, StoreError> {
        self.inner.stuck(before, after, limit).await
    }

    async fn scan(&self, after: Option<OrderId>, limit: u32) -> Result<Vec<Scanned>, StoreError> {
        self.inner.scan(after, limit).await
    }

    async fn trails(
        &self,
        after: Option<OrderId>,
        since: Option<Timestamp>,
        limit: u32,
    ) -> Result<Vec<Trailed>, StoreError> {
        self.inner.trails(after, since, limit).await
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.inner.ping().await
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}

/// A service on a store of its own.
pub struct Service {
    /// What is called.
    pub api: OrderApi,
    /// Its orders.
    pub orders: Arc<Orders>,
    /// Where they are.
    pub store: Arc<CountingStore>,
    /// What it is limited by.
    pub config: OrderApiConfig,
    /// Ends its streams.
    pub stopping: CancellationToken,
    _folder: TempDir,
}

impl Service {
    /// A service for so many watchers at once, which is so patient with them.
    pub async fn start(max_watchers: usize, watch: WatchLimits) -> Self {
        let folder = TempDir::new().unwrap();
        let config = SqliteConfig { path: folder.path().join("orders.db"), ..SqliteConfig::default() };
        let store = Arc::new(CountingStore {
            inner: SqliteStore::open(config).await.unwrap(),
            event_reads: AtomicUsize::new(0),
            order_reads: AtomicUsize::new(0),
            is_broken: AtomicBool::new(false),
        });
        let clock: Arc<dyn Clock> = Arc::new(RealClock);
        let risk = Arc::new(RiskRules::default());
        let simulator = Simulator::open(SimConfig::default(), Arc::new(|| RealClock.now()), None).unwrap();
        let collaborators = simulator.collaborators();
        let key = IdKey(b"test of watchers".to_vec());
        let second = Duration::from_secs(1);
        let orders = Orders::start(Parts {
            store: Arc::clone(&store) as Arc<dyn OrderStore>,
            cache: Arc::new(MemoryCache::new(1_000)),
            collaborators: collaborators.clone(),
            clock: Arc::clone(&clock),
            key: key.clone(),
            policy: policy(),
            limits: StepLimits { timeout: second, reservation_ttl: 600 * second },
            config: ActorConfig {
                max_live: 1_000,
                max_commands_per_order: 64,
                idle_after: 600 * second,
                sweep_every: second,
                max_failures: 3,
                failure_backoff: second,
                failure_backoff_max: second,
                quarantine_for: second,
                resume_every: second,
                resume_batch: 10,
                resume_concurrency: 10,
                timers_batch: 100,
                max_wait: 30 * second,
                warm_orders: 0,
                watch_buffer: watch.buffer,
            },
            placement: Arc::new(Alone(Owner { epoch: 1, incarnation: 1 })),
            crash_at: None,
            skip_undo: None,
        })
        .await
        .unwrap();
        let stopping = CancellationToken::new();
        let config = OrderApiConfig {
            create_wait: 10 * second,
            default_deadline: 30 * second,
            max_deadline: 30 * second,
            call_timeout: second,
            max_concurrent_requests: 1_000,
            max_watchers,
            watch,
            limits: RequestLimits {
                items_per_order: 200,
                max_quantity: 9_999,
                notes_chars: 500,
                metadata_keys: 10,
                metadata_bytes: 100,
                page_size_default: 50,
                page_size_max: 200,
            },
        };
        let pricing = Arc::new(price_book().clone());
        let (made_of, limits) = (Arc::clone(&orders), config.clone());
        let api = OrderApi::new(made_of, collaborators, pricing, risk, key, limits, stopping.clone());
        Self { api, orders, store, config, stopping, _folder: folder }
    }

    /// How often events were read, and how often an order.
    pub fn reads(&self) -> (usize, usize) {
        (self.store.event_reads.load(Ordering::SeqCst), self.store.order_reads.load(Ordering::SeqCst))
    }

    /// Ends its streams and stops it.
    pub async fn stop(self) {
        self.stopping.cancel();
        self.orders.stop(Duration::from_secs(5)).await;
    }
}
