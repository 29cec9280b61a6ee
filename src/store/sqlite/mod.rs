//! Orders in one SQLite file: what a single node runs on.
//!
//! One process has the file, one connection writes, several read. A commit goes through the
//! [committer](super::committer) and is synced to the disk before anyone hears of it.

mod backlog;
mod bind;
mod children;
mod coupons;
mod guard;
mod keys;
mod open;
#[cfg(test)]
mod plans;
mod read;
mod scan;
mod source;
mod statement;
mod write;

use std::collections::HashSet;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use sqlx::query_scalar;
use sqlx::sqlite::SqlitePool;
use tokio::sync::watch;

use super::committer::{Committer, Done, Job, Limits};
use super::links::link;
use crate::domain::Timestamp;
use crate::domain::chain::EventHash;
use crate::domain::event::RecordedEvent;
use crate::domain::ids::{OrderId, OrderNumber, UserId};
use crate::domain::order::Order;
use crate::ports::seen::Mark;
use crate::ports::store::{
    ClaimError, Commit, CommitError, ListQuery, OrderStore, Owner, Quarantine, Regression, Scanned,
    StoreError, Stored, Trailed, Unfinished,
};
use crate::ports::usage::{Backlog, PoolUsage, StoreUsage};

pub use open::{OpenError, SqliteConfig, migrate};

/// How long [`OrderStore::ping`] waits.
const PING: Duration = Duration::from_secs(2);

/// Why a store that is open for reading takes no change.
const READ_ONLY: &str = "the store is open for reading only";

/// Unreadable orders are logged once each, up to this many; the counter counts them all.
const REPORTED: usize = 1_000;

/// The store.
pub struct SqliteStore {
    /// None when it is open for reading only.
    committer: Option<Committer>,
    readers: SqlitePool,
    /// Writes keys of personal data; none when it is open for reading only.
    keys: Option<SqlitePool>,
    reported: Arc<Mutex<HashSet<OrderId>>>,
}

impl fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteStore").field("committer", &self.committer).finish_non_exhaustive()
    }
}

impl SqliteStore {
    /// Opens the file, creating it or bringing its schema up to date, and starts to write.
    pub async fn open(config: SqliteConfig) -> Result<Arc<Self>, OpenError> {
        let opened = open::open(&config).await?;
        for applied in &opened.applied {
            tracing::info!(version = applied.version, name = applied.description, "migration applied");
        }
        let readers = open::readers(&config).await?;
        let keys = Some(keys::writing(opened.writing.clone()));
        let writer = write::SqliteWriter::new(opened.writer, opened.writing, readers.clone(), opened.lock);
        let limits = Limits {
            batch_max: config.batch_max,
            queue_max: config.queue_max,
            // There is one lane.
            lane_jobs: 1,
            // A transaction costs little besides its sync, and meanwhile others gather anyway.
            gather: Duration::ZERO,
        };
        let committer = Committer::start(vec![Box::new(writer)], limits);
        Ok(Arc::new(Self { committer: Some(committer), readers, keys, reported: Arc::default() }))
    }

    /// Opens a file that is there, for reading only: beside the process that has it, without its lock, and without
    /// bringing the schema up to date. Whoever writes goes on writing.
    ///
    /// # Errors
    /// When there is no such file, or its schema is not exactly the one this program knows.
    pub async fn open_reader(config: &SqliteConfig) -> Result<Arc<Self>, OpenError> {
        let readers = open::open_reader(config).await?;
        Ok(Arc::new(Self { committer: None, readers, keys: None, reported: Arc::default() }))
    }

    /// Runs a read as a task of its own: a caller that goes away takes no connection with it.
    async fn read<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, StoreError>> + Send + 'static,
    ) -> Result<T, StoreError> {
        let ended = tokio::spawn(work).await;
        ended.unwrap_or_else(|_| Err(StoreError::Unavailable(String::from("the read was cut short"))))
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
impl OrderStore for SqliteStore {
    async fn claim(&self, id: OrderId, owner: Owner) -> Result<Option<Stored>, ClaimError> {
        let Some(committer) = &self.committer else {
            return Err(StoreError::Unavailable(String::from(READ_ONLY)).into());
        };
        match committer.run(Job::Claim { id, owner }).await {
            // From here on nobody else can write it, so what a reader finds is the newest state.
            Ok(Done::Claimed) => Ok(self.load(id).await?),
            Ok(Done::NoSuchOrder | Done::Committed) => Ok(None),
            Err(CommitError::Conflict) => Err(ClaimError::Deposed),
            Err(error) => Err(StoreError::Unavailable(error.to_string()).into()),
        }
    }

    async fn append(&self, mut commit: Commit) -> Result<Option<EventHash>, CommitError> {
        if commit.guard.version.checked_add(1) != Some(commit.order.version) {
            return Err(CommitError::NotCommitted(String::from(
                "the change does not follow the version it names",
            )));
        }
        match &self.committer {
            Some(committer) => {
                let head = link(&mut commit)?;
                committer.run(Job::Commit(Box::new(commit))).await.map(|_| head)
            }
            None => Err(CommitError::NotCommitted(String::from(READ_ONLY))),
        }
    }

    async fn load(&self, id: OrderId) -> Result<Option<Stored>, StoreError> {
        let pool = self.readers.clone();
        let loaded = self.read(async move { read::load(&pool, id).await }).await;
        if let Err(StoreError::Corrupt { order, what }) = &loaded {
            report(&self.reported, *order, what);
        }
        loaded
    }

    async fn mark(&self, id: OrderId) -> Result<Option<Mark>, StoreError> {
        let pool = self.readers.clone();
        self.read(async move { read::mark(&pool, id).await }).await
    }

    async fn find_by_number(&self, number: &OrderNumber) -> Result<Option<OrderId>, StoreError> {
        let (pool, number) = (self.readers.clone(), number.clone());
        self.read(async move { read::find_by_number(&pool, &number).await }).await
    }

    async fn list(&self, query: &ListQuery) -> Result<Vec<Arc<Order>>, StoreError> {
        let (pool, query, reported) = (self.readers.clone(), query.clone(), self.reported.clone());
        self.read(
            async move { read::list(&pool, &query, |order, what| report(&reported, order, what)).await },
        )
        .await
    }

    async fn events(
        &self,
        id: OrderId,
        after_seq: i64,
        limit: u32,
    ) -> Result<Vec<RecordedEvent>, StoreError> {
        let pool = self.readers.clone();
        self.read(async move { read::events(&pool, id, after_seq, limit).await }).await
    }

    async fn unfinished(
        &self,
        due_before: Timestamp,
        after: Option<Unfinished>,
        limit: u32,
    ) -> Result<Vec<Unfinished>, StoreError> {
        let pool = self.readers.clone();
        self.read(async move { read::unfinished(&pool, due_before, after, limit).await }).await
    }

    async fn timers(
        &self,
        due_before: Timestamp,
        after: Option<Unfinished>,
        limit: u32,
    ) -> Result<Vec<Unfinished>, StoreError> {
        let pool = self.readers.clone();
        self.read(async move { read::timers(&pool, due_before, after, limit).await }).await
    }

    async fn count_of_user(&self, user: UserId, since: Timestamp, at_most: u32) -> Result<u32, StoreError> {
        let pool = self.readers.clone();
        self.read(async move { read::count_of_user(&pool, user, since, at_most).await }).await
    }

    async fn open_of_user(&self, user: UserId, at_most: u32) -> Result<Vec<OrderId>, StoreError> {
        let pool = self.readers.clone();
        self.read(async move { read::open_of_user(&pool, user, at_most).await }).await
    }

    fn oldest_wait(&self) -> Duration {
        self.committer.as_ref().map(Committer::oldest_wait).unwrap_or_default()
    }

    fn usage(&self) -> StoreUsage {
        let (waiting, waiting_limit, writing, lanes) =
            self.committer.as_ref().map(Committer::usage).unwrap_or_default();
        let (size, idle) = (usize::try_from(self.readers.size()).unwrap_or(0), self.readers.num_idle());
        let limit = usize::try_from(self.readers.options().get_max_connections()).unwrap_or(0);
        let used = size.saturating_sub(idle);
        let read = PoolUsage { name: "read", idle, used, limit, waiting: None };
        let idle = lanes.saturating_sub(writing);
        let write = PoolUsage { name: "write", idle, used: writing, limit: lanes, waiting: None };
        StoreUsage { waiting, waiting_limit, pools: vec![read, write] }
    }

    async fn backlog(&self, started_before: Timestamp, at_most: u32) -> Result<Backlog, StoreError> {
        let pool = self.readers.clone();
        self.read(async move { backlog::backlog(&pool, started_before, at_most).await }).await
    }

    async fn now(&self) -> Result<Option<Timestamp>, StoreError> {
        // The file is on this machine, and only this process has it.
        Ok(None)
    }

    fn reconnects(&self) -> watch::Receiver<u64> {
        // A file is never lost and found again, so there is nobody to tell.
        watch::channel(0).1
    }

    async fn versions(&self, ids: &[OrderId]) -> Result<Vec<(OrderId, i64)>, StoreError> {
        let (pool, ids) = (self.readers.clone(), ids.to_vec());
        self.read(async move { read::versions(&pool, &ids).await }).await
    }

    async fn quarantine(&self, _regressions: &[Regression], _at: Timestamp) -> Result<(), StoreError> {
        // What was synced to this one file cannot be missing from it later.
        Ok(())
    }

    async fn quarantined(&self, _id: OrderId) -> Result<Option<Quarantine>, StoreError> {
        Ok(None)
    }

    async fn release(&self, _id: OrderId) -> Result<(), StoreError> {
        Ok(())
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
        let pool = self.readers.clone();
        self.read(async move { read::stuck(&pool, started_before, after, limit).await }).await
    }

    async fn scan(&self, after: Option<OrderId>, limit: u32) -> Result<Vec<Scanned>, StoreError> {
        let pool = self.readers.clone();
        self.read(async move { scan::scan(&pool, after, limit).await }).await
    }

    async fn trails(
        &self,
        after: Option<OrderId>,
        since: Option<Timestamp>,
        limit: u32,
    ) -> Result<Vec<Trailed>, StoreError> {
        let pool = self.readers.clone();
        self.read(async move { scan::trails(&pool, after, since, limit).await }).await
    }

    async fn ping(&self) -> Result<(), StoreError> {
        if self.committer.as_ref().is_some_and(|committer| !committer.is_running()) {
            return Err(StoreError::Unavailable(String::from("the writer has stopped")));
        }
        let pool = self.readers.clone();
        let asked = self.read(async move {
            let one = query_scalar::<_, i64>("SELECT 1").fetch_one(&pool).await;
            one.map(drop).map_err(|error| read::unavailable(&error))
        });
        tokio::time::timeout(PING, asked)
            .await
            .unwrap_or_else(|_| Err(StoreError::Unavailable(String::from("no answer in time"))))
    }

    async fn close(&self) {
        if let Some(keys) = &self.keys {
            keys.close().await;
        }
        match &self.committer {
            Some(committer) => committer.close().await,
            None => self.readers.close().await,
        }
    }
}
