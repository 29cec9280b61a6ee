//! A window on the shared store: it shows one world its own orders only, and loses answers of commits by chance.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use order_service::domain::Timestamp;
use order_service::domain::chain::EventHash;
use order_service::domain::event::RecordedEvent;
use order_service::domain::ids::{OrderId, OrderNumber, UserId};
use order_service::domain::order::Order;
use order_service::ports::store::{
    ClaimError, Commit, CommitError, ListQuery, OrderStore, Owner, Quarantine, Regression, Scanned,
    StoreError, Stored, Trailed, Unfinished,
};
use tokio::sync::watch;

use crate::harness::Chance;

/// What one world sees of the store.
#[derive(Debug)]
pub struct Window {
    inner: Arc<dyn OrderStore>,
    own: Mutex<Vec<OrderId>>,
    chance: Mutex<Chance>,
    /// Commits of 100 that fail, in one way or the other.
    percent: AtomicU32,
    writing: Arc<AtomicUsize>,
    lose_next: AtomicBool,
    /// The process life whose writes count; one that died writes nothing.
    alive: AtomicI64,
}

impl Window {
    /// A window on `inner` through which `percent` of 100 commits fail.
    pub fn new(inner: Arc<dyn OrderStore>, chance: Chance, percent: u32) -> Self {
        Self {
            inner,
            own: Mutex::default(),
            chance: Mutex::new(chance),
            percent: AtomicU32::new(percent),
            writing: Arc::default(),
            lose_next: AtomicBool::new(false),
            alive: AtomicI64::new(0),
        }
    }

    /// The next commit is stored and its answer lost.
    pub fn lose_next(&self) {
        self.lose_next.store(true, Ordering::Release);
    }

    /// From now on commits succeed.
    pub fn calm(&self) {
        self.percent.store(0, Ordering::Relaxed);
    }

    /// From now on only this process life writes.
    pub fn only(&self, owner: Owner) {
        self.alive.store(owner.incarnation, Ordering::Release);
    }

    fn is_dead(&self, owner: Owner) -> bool {
        owner.incarnation != self.alive.load(Ordering::Acquire)
    }

    /// Whether a commit is on its way.
    pub fn is_writing(&self) -> bool {
        self.writing.load(Ordering::Acquire) > 0
    }
}

#[async_trait]
impl OrderStore for Window {
    async fn claim(&self, id: OrderId, owner: Owner) -> Result<Option<Stored>, ClaimError> {
        if self.is_dead(owner) {
            return Err(ClaimError::Deposed);
        }
        self.inner.claim(id, owner).await
    }

    async fn append(&self, commit: Commit) -> Result<Option<EventHash>, CommitError> {
        if self.is_dead(commit.guard.owner) {
            return Err(CommitError::NotCommitted(String::from("the process is dead")));
        }
        if commit.guard.version == 0 {
            let mut own = self.own.lock().unwrap();
            if !own.contains(&commit.order.id) {
                own.push(commit.order.id);
            }
        }
        let (fails, before) = {
            let mut chance = self.chance.lock().unwrap();
            (chance.percent(self.percent.load(Ordering::Relaxed)), chance.percent(50))
        };
        let lost = self.lose_next.swap(false, Ordering::AcqRel);
        if fails && before && !lost {
            return Err(CommitError::NotCommitted(String::from("chance would have it")));
        }
        // On its own: whoever asked for it may be dead before it is stored.
        self.writing.fetch_add(1, Ordering::AcqRel);
        let (inner, writing) = (Arc::clone(&self.inner), Arc::clone(&self.writing));
        let written = tokio::spawn(async move {
            let done = inner.append(commit).await;
            writing.fetch_sub(1, Ordering::AcqRel);
            done
        });
        let done = written.await.unwrap();
        match done {
            Ok(_) if fails || lost => Err(CommitError::Unknown(String::from("the answer is lost"))),
            done => done,
        }
    }

    async fn load(&self, id: OrderId) -> Result<Option<Stored>, StoreError> {
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
        self.inner.events(id, after_seq, limit).await
    }

    async fn unfinished(
        &self,
        due_before: Timestamp,
        after: Option<Unfinished>,
        _limit: u32,
    ) -> Result<Vec<Unfinished>, StoreError> {
        let own = self.own.lock().unwrap().clone();
        let mut found = Vec::new();
        for id in own {
            if let Some(saga) = self.inner.load(id).await?.and_then(|stored| stored.saga) {
                let due_at = saga.next_at.unwrap_or(saga.started_at);
                found.push(Unfinished { order_id: id, due_at });
            }
        }
        found.retain(|one| one.due_at < due_before && after.is_none());
        Ok(found)
    }

    async fn timers(
        &self,
        due_before: Timestamp,
        after: Option<Unfinished>,
        _limit: u32,
    ) -> Result<Vec<Unfinished>, StoreError> {
        let own = self.own.lock().unwrap().clone();
        let mut found = Vec::new();
        for id in own {
            if let Some(stored) = self.inner.load(id).await?
                && let Some(due_at) = stored.order.timer()
            {
                found.push(Unfinished { order_id: id, due_at });
            }
        }
        found.retain(|one| one.due_at < due_before && after.is_none());
        Ok(found)
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

    fn reconnects(&self) -> watch::Receiver<u64> {
        self.inner.reconnects()
    }

    async fn versions(&self, ids: &[OrderId]) -> Result<Vec<(OrderId, i64)>, StoreError> {
        self.inner.versions(ids).await
    }

    async fn quarantine(&self, regressions: &[Regression], at: Timestamp) -> Result<(), StoreError> {
        self.inner.quarantine(regressions, at).await
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

    /// Other worlds go on with it.
    async fn close(&self) {}
}
