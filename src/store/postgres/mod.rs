//! Orders in a Postgres database: what runs in production.
//!
//! Several lanes commit side by side, each with a connection of its own; an order is always in the same lane, which
//! keeps its commits in order. Reads that decide anything come from the primary.

mod arrays;
mod backlog;
mod claim;
mod config;
mod ear;
mod fault;
mod grants;
mod keeper;
mod keys;
mod link;
mod listing;
mod loader;
mod members;
mod open;
mod pool;
mod read;
mod source;
mod statement;
mod steps;
mod write;

use std::collections::HashSet;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;

use self::claim::Doubts;
use self::ear::Ear;
use self::keeper::Keeper;
use self::pool::Pool;
use self::read::Reader;
use self::write::PostgresWriter;
use super::committer::{BatchWriter, Committer, Done, Job, Limits};
use super::links::link;
use crate::domain::Timestamp;
use crate::domain::chain::EventHash;
use crate::domain::event::RecordedEvent;
use crate::domain::ids::{OrderId, OrderNumber, UserId};
use crate::domain::order::Order;
use crate::ports::seen::{Mark, Seen};
use crate::ports::store::{
    ClaimError, Commit, CommitError, ListQuery, OrderStore, Owner, Quarantine, Regression, Scanned,
    StoreError, Stored, Trailed, Unfinished,
};
use crate::ports::usage::{Backlog, PoolUsage, StoreUsage};

pub use self::config::{Pooler, PostgresConfig, Safety, SslMode, Target};
pub use self::grants::{GrantError, grant};
pub use self::members::PostgresMembers;
pub use self::open::{OpenError, Setting, migrate};

/// The statement that reads one order, for a benchmark that sends it by other means. Its one value is the id.
#[doc(hidden)]
pub fn load_statement_text() -> String {
    read::load_one_statement(&source::columns())
}

/// How long [`OrderStore::ping`] waits.
const PING: Duration = Duration::from_secs(2);

/// Unreadable orders are logged once each, up to this many; the counter counts them all.
const REPORTED: usize = 1_000;

/// The store.
pub struct PostgresStore {
    committer: Committer,
    reader: Reader,
    /// Where reads go that may be a little late.
    replica: Option<Reader>,
    keeper: Option<Keeper>,
    epoch: Option<i64>,
    /// Counts how often a server was found again; never closed.
    reconnects: watch::Sender<u64>,
    reported: Arc<Mutex<HashSet<OrderId>>>,
    /// Hears the server while keys are written, one statement at a time.
    ear: Arc<tokio::sync::Mutex<Ear>>,
}

impl fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresStore").field("committer", &self.committer).finish_non_exhaustive()
    }
}

fn limits(config: &PostgresConfig) -> Limits {
    Limits {
        batch_max: config.batch_max,
        queue_max: config.queue_max,
        lane_jobs: config.lane_jobs,
        gather: config.gather,
    }
}

impl PostgresStore {
    /// Checks the database and starts to write. It has to be migrated.
    ///
    /// # Errors
    /// One sentence that says what to do.
    pub async fn open(config: PostgresConfig) -> Result<Arc<Self>, OpenError> {
        for Setting { name, value } in open::check(&config).await? {
            tracing::info!(name, value, "setting of the database server");
            metrics::gauge!("order_store_server_setting", "name" => name, "value" => value).set(1.0);
        }
        if matches!(config.safety, Safety::Refuse { .. }) {
            grants::look(&config).await?;
        }
        let (reconnected, reconnects) = watch::channel(0);
        // A pooler that gives each transaction another session cannot hold a lock.
        let keeper = match config.pooler {
            Pooler::None if config.exclusive => Some(Keeper::start(&config, reconnected.clone()).await?),
            _ => None,
        };
        let epoch = if config.exclusive { Some(members::exclusive_epoch(&config).await?) } else { None };
        let reader = Reader::new(Pool::primary(&config, reconnects.clone()));
        let replica = config.replica.as_ref();
        let replica = replica.map(|to| Reader::new(Pool::replica(&config, to, reconnects)));
        let doubts = Doubts::default();
        let writers = (0..config.lanes.max(1))
            .map(|lane| {
                let writer = PostgresWriter::new(&config, lane, doubts.clone(), reconnected.clone());
                Box::new(writer) as Box<dyn BatchWriter>
            })
            .collect();
        let committer = Committer::start(writers, limits(&config));
        let (reconnects, reported) = (reconnected, Arc::default());
        let ear = Arc::new(tokio::sync::Mutex::new(Ear::new()));
        Ok(Arc::new(Self { committer, reader, replica, keeper, epoch, reconnects, reported, ear }))
    }

    /// Opens the database for reading only, beside the nodes that use it.
    ///
    /// # Errors
    /// When it is not reachable, or its schema is not exactly the one this program knows.
    pub async fn open_reader(config: &PostgresConfig) -> Result<Arc<Self>, OpenError> {
        open::check(config).await?;
        let reconnects = watch::Sender::new(0);
        Ok(Arc::new(Self {
            committer: Committer::start(Vec::new(), limits(config)),
            reader: Reader::new(Pool::primary(config, reconnects.subscribe())),
            replica: None,
            keeper: None,
            epoch: None,
            reconnects,
            reported: Arc::default(),
            ear: Arc::new(tokio::sync::Mutex::new(Ear::new())),
        }))
    }

    /// The owner epoch of this life: above those of everybody who had the database before. None when others share it.
    pub fn epoch(&self) -> Option<i64> {
        self.epoch
    }

    /// Opens the cluster's records, for a node that shares the database. Its reconnects count as those of the store.
    ///
    /// # Errors
    /// As [`PostgresMembers::open`].
    pub async fn members(&self, config: &PostgresConfig) -> Result<PostgresMembers, OpenError> {
        PostgresMembers::open(config, self.reconnects.clone()).await
    }

    /// Runs a read as a task of its own: a caller that goes away takes no connection with it.
    async fn read<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, StoreError>> + Send + 'static,
    ) -> Result<T, StoreError> {
        let ended = tokio::spawn(work).await;
        ended.unwrap_or_else(|_| Err(StoreError::Unavailable(String::from("the read was cut short"))))
    }

    fn late_reader(&self) -> Reader {
        self.replica.as_ref().unwrap_or(&self.reader).clone()
    }
}

fn report(reported: &Mutex<HashSet<OrderId>>, order: OrderId, what: &str) {
    metrics::counter!("order_store_corrupt_total").increment(1);
    let mut reported = reported.lock().unwrap_or_else(PoisonError::into_inner);
    if reported.len() < REPORTED && reported.insert(order) {
        tracing::error!(%order, what, "a stored order cannot be read; it is left out");
    }
}

#[async_trait]
impl OrderStore for PostgresStore {
    async fn claim(&self, id: OrderId, owner: Owner) -> Result<Option<Stored>, ClaimError> {
        match self.committer.run(Job::Claim { id, owner }).await {
            // From here on nobody else can write it, so what a reader finds is the newest state. In one statement with the
            // claim it would not be: that one sees the children as they were before it waited for the row.
            Ok(Done::Claimed) => Ok(self.load(id).await?),
            Ok(Done::NoSuchOrder | Done::Committed) => Ok(None),
            Err(CommitError::Conflict) => Err(ClaimError::Deposed),
            Err(error @ CommitError::Quarantined) => {
                Err(StoreError::Corrupt { order: id, what: error.to_string() }.into())
            }
            Err(error) => Err(StoreError::Unavailable(error.to_string()).into()),
        }
    }

    async fn append(&self, mut commit: Commit) -> Result<Option<EventHash>, CommitError> {
        if commit.guard.version.checked_add(1) != Some(commit.order.version) {
            return Err(CommitError::NotCommitted(String::from(
                "the change does not follow the version it names",
            )));
        }
        let head = link(&mut commit)?;
        self.committer.run(Job::Commit(Box::new(commit))).await.map(|_| head)
    }

    async fn load(&self, id: OrderId) -> Result<Option<Stored>, StoreError> {
        let loaded = self.reader.load(id).await;
        if let Err(StoreError::Corrupt { order, what }) = &loaded {
            report(&self.reported, *order, what);
        }
        loaded
    }

    async fn load_stale(&self, id: OrderId) -> Result<Option<Seen<Stored>>, StoreError> {
        // How far behind a replica is, is not known.
        let age = self.replica.is_none().then_some(Duration::ZERO);
        Ok(self.late_reader().load(id).await?.map(|what| Seen { what, age }))
    }

    async fn mark(&self, id: OrderId) -> Result<Option<Mark>, StoreError> {
        self.reader.mark(id).await
    }

    async fn marks(&self, query: &ListQuery) -> Result<Option<Vec<(OrderId, Mark)>>, StoreError> {
        let (reader, query) = (self.late_reader(), query.clone());
        self.read(async move { reader.marks(&query).await }).await
    }

    async fn page(&self, query: &ListQuery) -> Result<Option<Vec<Stored>>, StoreError> {
        let (reader, query, reported) = (self.late_reader(), query.clone(), self.reported.clone());
        let page = async move { reader.list(&query, |order, what| report(&reported, order, what)).await };
        self.read(page).await.map(Some)
    }

    fn has_replica(&self) -> bool {
        self.replica.is_some()
    }

    async fn find_by_number(&self, number: &OrderNumber) -> Result<Option<OrderId>, StoreError> {
        let (reader, number) = (self.reader.clone(), number.clone());
        self.read(async move { reader.find_by_number(&number).await }).await
    }

    async fn list(&self, query: &ListQuery) -> Result<Vec<Arc<Order>>, StoreError> {
        let page = self.page(query).await?.unwrap_or_default();
        Ok(page.into_iter().map(|stored| stored.order).collect())
    }

    async fn events(
        &self,
        id: OrderId,
        after_seq: i64,
        limit: u32,
    ) -> Result<Vec<RecordedEvent>, StoreError> {
        let reader = self.reader.clone();
        self.read(async move { reader.events(id, after_seq, limit).await }).await
    }

    async fn unfinished(
        &self,
        due_before: Timestamp,
        after: Option<Unfinished>,
        limit: u32,
    ) -> Result<Vec<Unfinished>, StoreError> {
        let reader = self.reader.clone();
        self.read(async move { reader.unfinished(due_before, after, limit).await }).await
    }

    async fn timers(
        &self,
        due_before: Timestamp,
        after: Option<Unfinished>,
        limit: u32,
    ) -> Result<Vec<Unfinished>, StoreError> {
        let reader = self.reader.clone();
        self.read(async move { reader.timers(due_before, after, limit).await }).await
    }

    async fn count_of_user(&self, user: UserId, since: Timestamp, at_most: u32) -> Result<u32, StoreError> {
        let reader = self.reader.clone();
        self.read(async move { reader.count_of_user(user, since, at_most).await }).await
    }

    async fn open_of_user(&self, user: UserId, at_most: u32) -> Result<Vec<OrderId>, StoreError> {
        let reader = self.reader.clone();
        self.read(async move { reader.open_of_user(user, at_most).await }).await
    }

    fn oldest_wait(&self) -> Duration {
        self.committer.oldest_wait()
    }

    fn usage(&self) -> StoreUsage {
        let (waiting, waiting_limit, writing, lanes) = self.committer.usage();
        let idle = lanes.saturating_sub(writing);
        let write = PoolUsage { name: "write", idle, used: writing, limit: lanes, waiting: None };
        let replica = self.replica.as_ref().map(|reader| reader.pool().usage("replica"));
        let pools = [self.reader.pool().usage("read"), write].into_iter().chain(replica).collect();
        StoreUsage { waiting, waiting_limit, pools }
    }

    async fn backlog(&self, started_before: Timestamp, at_most: u32) -> Result<Backlog, StoreError> {
        let reader = self.reader.clone();
        self.read(async move { reader.backlog(started_before, at_most).await }).await
    }

    async fn now(&self) -> Result<Option<Timestamp>, StoreError> {
        let reader = self.reader.clone();
        self.read(async move { reader.now().await }).await
    }

    async fn scan(&self, after: Option<OrderId>, limit: u32) -> Result<Vec<Scanned>, StoreError> {
        let reader = self.reader.clone();
        self.read(async move { reader.scan(after, limit).await }).await
    }

    async fn trails(
        &self,
        after: Option<OrderId>,
        since: Option<Timestamp>,
        limit: u32,
    ) -> Result<Vec<Trailed>, StoreError> {
        let reader = self.reader.clone();
        self.read(async move { reader.trails(after, since, limit).await }).await
    }

    fn reconnects(&self) -> watch::Receiver<u64> {
        self.reconnects.subscribe()
    }

    async fn versions(&self, ids: &[OrderId]) -> Result<Vec<(OrderId, i64)>, StoreError> {
        let (reader, ids) = (self.reader.clone(), ids.to_vec());
        self.read(async move { reader.versions(&ids).await }).await
    }

    async fn quarantine(&self, regressions: &[Regression], at: Timestamp) -> Result<(), StoreError> {
        let (reader, regressions) = (self.reader.clone(), regressions.to_vec());
        self.read(async move { reader.quarantine(&regressions, at).await }).await
    }

    async fn quarantined(&self, id: OrderId) -> Result<Option<Quarantine>, StoreError> {
        let reader = self.reader.clone();
        self.read(async move { reader.quarantined(id).await }).await
    }

    async fn release(&self, id: OrderId) -> Result<(), StoreError> {
        let reader = self.reader.clone();
        self.read(async move { reader.release(id).await }).await
    }

    async fn take_out(&self, id: OrderId) -> Result<(), StoreError> {
        self.empty(id).await
    }

    async fn stuck(
        &self,
        started_before: Timestamp,
        after: Option<OrderId>,
        limit: u32,
    ) -> Result<Vec<OrderId>, StoreError> {
        let reader = self.reader.clone();
        self.read(async move { reader.stuck(started_before, after, limit).await }).await
    }

    async fn ping(&self) -> Result<(), StoreError> {
        if !self.committer.is_running() {
            return Err(StoreError::Unavailable(String::from("a writer has stopped")));
        }
        let reader = self.reader.clone();
        tokio::time::timeout(PING, self.read(async move { reader.ping().await }))
            .await
            .unwrap_or_else(|_| Err(StoreError::Unavailable(String::from("no answer in time"))))
    }

    async fn close(&self) {
        self.committer.close().await;
        self.reader.close().await;
        if let Some(replica) = &self.replica {
            replica.close().await;
        }
        if let Some(keeper) = &self.keeper {
            keeper.stop().await;
        }
    }
}
