//! A store that keeps copies of what it was asked for on a shelf.
//!
//! Why nobody is told less than without it: a read that wants the newest state asks the store for the order's mark, after
//! the copy was taken from the shelf, and believes a copy of that very mark only. So whatever the shelf holds, and whoever
//! filled it, the answer is what the store had while it was asked; to compare marks costs the store a small part of what it
//! costs to read the order. A read that may be late is shown a copy unasked, with its age: the time since the state was
//! surely the newest, by the store's clock. What is older than `max_stale` is not shown so. Neither depends on anything that
//! was put on the shelf being there, or having been taken away in time.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::shelf::{Details, Found, Kept, Shelf};
use super::time::StoreTime;
use crate::domain::Timestamp;
use crate::domain::chain::EventHash;
use crate::domain::event::RecordedEvent;
use crate::domain::ids::{OrderId, OrderNumber, UserId};
use crate::domain::order::Order;
use crate::ports::clock::Clock;
use crate::ports::seen::{Glance, Mark, Seen};
use crate::ports::store::{
    ClaimError, Commit, CommitError, ListQuery, OrderStore, Owner, Quarantine, Regression, Scanned,
    StoreError, Stored, Trailed, Unfinished,
};
use crate::ports::usage::{Backlog, StoreUsage};

/// A copy that was the newest at a time as long ago as this part of `max_stale` is noted to be so still.
const NOTED: u32 = 4;

/// Of a page, at most one order in so many is read by itself; with more that are not on the shelf, the page is read.
const ALONE: usize = 4;

/// The store behind it, with a shelf.
#[derive(Debug)]
pub struct CachedStore {
    inner: Arc<dyn OrderStore>,
    shelf: Arc<dyn Shelf>,
    time: Arc<StoreTime>,
    max_stale: Duration,
    _ends: DropGuard,
}

/// What became of a look on the shelf.
fn count(kind: &'static str, outcome: &'static str) {
    metrics::counter!("order_cache_reads_total", "tier" => "shared", "kind" => kind, "outcome" => outcome)
        .increment(1);
    if outcome == "error" {
        metrics::counter!("order_cache_bypassed_total").increment(1);
    }
}

/// Takes an order off the shelf unless it is told that nothing has to be: whoever writes may go away in the middle.
struct InDoubt<'a>(Option<(&'a dyn Shelf, OrderId)>);

impl Drop for InDoubt<'_> {
    fn drop(&mut self) {
        if let Some((shelf, id)) = self.0.take() {
            shelf.forget(id);
        }
    }
}

impl CachedStore {
    /// Stands before `inner`. Shows copies unasked that are at most `max_stale` old; none when that is zero.
    pub fn new(
        inner: Arc<dyn OrderStore>,
        shelf: Arc<dyn Shelf>,
        machine: Arc<dyn Clock>,
        max_stale: Duration,
    ) -> Self {
        let time = Arc::new(StoreTime::new(machine));
        let ends = CancellationToken::new();
        let (keeping, store) = (Arc::clone(&time), Arc::clone(&inner));
        let keep = async move { keeping.keep(&*store).await };
        tokio::spawn(ends.clone().run_until_cancelled_owned(keep));
        Self { inner, shelf, time, max_stale, _ends: ends.drop_guard() }
    }

    /// Puts what is stored on the shelf; it was the newest at `at`, or later.
    fn keep(&self, stored: &Stored, at: i64) {
        self.put(stored, at, false);
    }

    fn put(&self, stored: &Stored, at: i64, replaces: bool) {
        let mark = Mark::of(stored);
        // A saga under way changes soon, and holds the token that pays. Without a hash the mark proves nothing.
        let is_kept = stored.saga.is_none() && mark.head.is_some();
        let order = is_kept.then(|| Arc::clone(&stored.order));
        self.shelf.put(Kept { mark, at, glance: Glance::of(&stored.order), order }, replaces);
    }

    /// Reads the whole order.
    async fn read(&self, id: OrderId) -> Result<Option<Stored>, StoreError> {
        let at = self.time.earliest();
        let stored = self.inner.load(id).await?;
        if let Some(stored) = &stored {
            self.keep(stored, at);
        }
        Ok(stored)
    }

    async fn look(&self, id: OrderId) -> Found<Details> {
        self.shelf.details(&[id]).await.pop().unwrap_or(Found::Unasked)
    }

    /// The newest state, by the help of what was found on the shelf before.
    async fn load_by(&self, id: OrderId, found: Found<Details>) -> Result<Option<Stored>, StoreError> {
        match found {
            Found::Here(details) => {
                // Asked after the copy was taken: what the store says now is newer than that.
                let at = self.time.earliest();
                if self.inner.mark(id).await? == Some(details.mark) {
                    count("order", "hit");
                    self.confirm(&details, at);
                    return Ok(Some(Stored { order: details.order, saga: None, head: details.mark.head }));
                }
                count("order", "stale");
            }
            Found::Nothing => count("order", "miss"),
            Found::Unasked => count("order", "error"),
        }
        self.read(id).await
    }

    /// Notes that a copy is the newest state still, unless that was done a moment ago.
    fn confirm(&self, details: &Details, at: i64) {
        let often = self.max_stale.checked_div(NOTED).unwrap_or_default();
        if !self.max_stale.is_zero() && self.time.age(details.at).is_none_or(|age| age > often) {
            let glance = Glance::of(&details.order);
            self.shelf.put(Kept { mark: details.mark, at, glance, order: None }, false);
        }
    }

    /// How old something is, if it may still be shown.
    fn showable(&self, at: i64) -> Option<Duration> {
        self.time.age(at).filter(|age| !self.max_stale.is_zero() && *age <= self.max_stale)
    }

    /// A page out of copies; none when too few of them are on the shelf.
    async fn page_of_copies(&self, query: &ListQuery) -> Result<Option<Vec<Arc<Order>>>, StoreError> {
        if !self.shelf.is_there() {
            count("list", "error");
            return Ok(None);
        }
        let Some(marks) = self.inner.marks(query).await? else { return Ok(None) };
        let ids: Vec<OrderId> = marks.iter().map(|(id, _)| *id).collect();
        let copies = self.shelf.details(&ids).await;
        if copies.iter().any(|copy| matches!(copy, Found::Unasked)) {
            count("list", "error");
            return Ok(None);
        }
        let mut alone = marks.len().checked_div(ALONE).unwrap_or_default();
        let mut page = Vec::with_capacity(marks.len());
        for ((id, mark), copy) in marks.into_iter().zip(copies) {
            match copy {
                Found::Here(details) if details.mark == mark => page.push(details.order),
                _ if alone == 0 => {
                    count("list", "miss");
                    return Ok(None);
                }
                _ => {
                    alone = alone.saturating_sub(1);
                    // One that has changed since may not belong on this page any more.
                    match self.read(id).await? {
                        Some(stored) if Mark::of(&stored) == mark => page.push(stored.order),
                        _ => {
                            count("list", "stale");
                            return Ok(None);
                        }
                    }
                }
            }
        }
        count("list", "hit");
        Ok(Some(page))
    }
}

#[async_trait]
impl OrderStore for CachedStore {
    async fn claim(&self, id: OrderId, owner: Owner) -> Result<Option<Stored>, ClaimError> {
        let at = self.time.earliest();
        let stored = self.inner.claim(id, owner).await?;
        if let Some(stored) = &stored {
            self.keep(stored, at);
        }
        Ok(stored)
    }

    async fn append(&self, commit: Commit) -> Result<Option<EventHash>, CommitError> {
        let (at, glance) = (self.time.earliest(), Glance::of(&commit.order));
        let mut in_doubt = InDoubt(Some((&*self.shelf, glance.id)));
        let appended = self.inner.append(commit).await;
        match &appended {
            Ok(head) => {
                in_doubt.0 = None;
                let mark = Mark { version: glance.version, head: *head, updated_at: glance.updated_at };
                // What a commit holds of an order is not all of what is stored of it.
                self.shelf.put(Kept { mark, at, glance, order: None }, true);
            }
            Err(CommitError::Unknown(_)) => {}
            Err(_) => in_doubt.0 = None,
        }
        appended
    }

    async fn load(&self, id: OrderId) -> Result<Option<Stored>, StoreError> {
        let found = self.look(id).await;
        self.load_by(id, found).await
    }

    async fn load_stale(&self, id: OrderId) -> Result<Option<Seen<Stored>>, StoreError> {
        // Before the copy is taken: whether what is there by then is whole says nothing of it.
        let is_whole = self.shelf.is_whole();
        let found = self.look(id).await;
        if let Found::Here(Details { mark, at, order }) = &found
            && is_whole
            && let Some(age) = self.showable(*at)
        {
            count("order", "hit");
            let what = Stored { order: Arc::clone(order), saga: None, head: mark.head };
            return Ok(Some(Seen { what, age: Some(age) }));
        }
        // A replica is there for reads that may be late; what it says is not put on the shelf, since nobody knows its age.
        if self.inner.has_replica() {
            count("order", "miss");
            return self.inner.load_stale(id).await;
        }
        Ok(self.load_by(id, found).await?.map(Seen::now))
    }

    async fn glance(&self, id: OrderId) -> Result<Option<Seen<Glance>>, StoreError> {
        // Whoever looks at a status again and again waits for it to change: where nobody would tell the shelf of that, a
        // look at the order's mark does.
        if !self.shelf.is_shared() {
            return Ok(self.load(id).await?.map(|stored| Seen::now(Glance::of(&stored.order))));
        }
        if self.shelf.is_whole() {
            match self.shelf.glance(id).await {
                Found::Here((what, at)) => {
                    if let Some(age) = self.showable(at) {
                        count("status", "hit");
                        return Ok(Some(Seen { what, age: Some(age) }));
                    }
                    count("status", "stale");
                }
                Found::Nothing => count("status", "miss"),
                Found::Unasked => count("status", "error"),
            }
        } else {
            count("status", "error");
        }
        Ok(self.load(id).await?.map(|stored| Seen::now(Glance::of(&stored.order))))
    }

    async fn mark(&self, id: OrderId) -> Result<Option<Mark>, StoreError> {
        self.inner.mark(id).await
    }

    async fn marks(&self, query: &ListQuery) -> Result<Option<Vec<(OrderId, Mark)>>, StoreError> {
        self.inner.marks(query).await
    }

    async fn page(&self, query: &ListQuery) -> Result<Option<Vec<Stored>>, StoreError> {
        self.inner.page(query).await
    }

    fn has_replica(&self) -> bool {
        self.inner.has_replica()
    }

    async fn find_by_number(&self, number: &OrderNumber) -> Result<Option<OrderId>, StoreError> {
        self.inner.find_by_number(number).await
    }

    async fn list(&self, query: &ListQuery) -> Result<Vec<Arc<Order>>, StoreError> {
        // The marks are of one moment, and so is a page that consists of nothing else.
        if let Some(page) = self.page_of_copies(query).await? {
            return Ok(page);
        }
        // How late a replica is, is not known.
        let at = if self.inner.has_replica() { 0 } else { self.time.earliest() };
        let Some(page) = self.inner.page(query).await? else { return self.inner.list(query).await };
        page.iter().for_each(|stored| self.keep(stored, at));
        Ok(page.into_iter().map(|stored| stored.order).collect())
    }

    async fn events(
        &self,
        id: OrderId,
        after_seq: i64,
        limit: u32,
    ) -> Result<Vec<RecordedEvent>, StoreError> {
        self.inner.events(id, after_seq, limit).await
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

    fn oldest_wait(&self) -> Duration {
        self.inner.oldest_wait()
    }

    fn usage(&self) -> StoreUsage {
        self.inner.usage()
    }

    async fn backlog(&self, started_before: Timestamp, at_most: u32) -> Result<Backlog, StoreError> {
        self.inner.backlog(started_before, at_most).await
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
        self.inner.quarantine(regressions, at).await?;
        for lost in regressions {
            self.shelf.forget(lost.id);
        }
        Ok(())
    }

    async fn quarantined(&self, id: OrderId) -> Result<Option<Quarantine>, StoreError> {
        self.inner.quarantined(id).await
    }

    async fn release(&self, id: OrderId) -> Result<(), StoreError> {
        self.inner.release(id).await
    }

    async fn take_out(&self, id: OrderId) -> Result<(), StoreError> {
        let mut in_doubt = InDoubt(Some((&*self.shelf, id)));
        self.inner.take_out(id).await?;
        let at = self.time.earliest();
        if let Ok(Some(stored)) = self.inner.load(id).await {
            in_doubt.0 = None;
            // Not only forgotten: somebody may have read the order before that and put it here behind it.
            self.put(&stored, at, true);
        }
        Ok(())
    }

    async fn stuck(
        &self,
        started_before: Timestamp,
        after: Option<OrderId>,
        limit: u32,
    ) -> Result<Vec<OrderId>, StoreError> {
        self.inner.stuck(started_before, after, limit).await
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
