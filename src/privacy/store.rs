//! A store that encrypts what it is given and decrypts what it is asked for.

use std::collections::HashSet;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use async_trait::async_trait;
use futures::poll;
use tokio::sync::{Mutex, watch};
use tokio_util::task::TaskTracker;

use super::fields::{self, Opening};
use super::keyring::{Keyring, NoKey};
use crate::domain::Timestamp;
use crate::domain::chain::EventHash;
use crate::domain::event::RecordedEvent;
use crate::domain::ids::{OrderId, OrderNumber, UserId};
use crate::domain::order::Order;
use crate::domain::sealed::PersonalData;
use crate::ports::seen::{Glance, Mark, Seen};
use crate::ports::store::{
    ClaimError, Commit, CommitError, ListQuery, OrderStore, Owner, Quarantine, Regression, Scanned,
    StoreError, Stored, Trailed, Unfinished,
};
use crate::ports::usage::{Backlog, StoreUsage};
use crate::ports::vault::KeyId;

/// Queues of changes that wait for a key: an order is always in the same one.
const QUEUES: usize = 64;

/// The store behind it, with keys.
#[derive(Debug)]
pub struct Protected {
    inner: Arc<dyn OrderStore>,
    ring: Arc<Keyring>,
    queues: Vec<Arc<Mutex<()>>>,
    /// Changes that wait for a key.
    waiting: TaskTracker,
}

impl Protected {
    /// Encrypts on the way into `inner`.
    pub fn new(inner: Arc<dyn OrderStore>, ring: Arc<Keyring>) -> Self {
        Self {
            inner,
            ring,
            queues: (0..QUEUES).map(|_| Arc::default()).collect(),
            waiting: TaskTracker::new(),
        }
    }

    /// The queue of an order.
    fn queue(&self, id: OrderId) -> Arc<Mutex<()>> {
        let place = id.low_bits().checked_rem(QUEUES as u64).and_then(|place| usize::try_from(place).ok());
        place.and_then(|place| self.queues.get(place)).cloned().unwrap_or_default()
    }

    /// Encrypts what needs no waiting. False when a key has to be fetched first.
    fn seal_at_once(&self, commit: &mut Commit) -> Result<bool, CommitError> {
        if !fields::needs(commit).any() {
            return Ok(true);
        }
        match self.ring.at_hand(commit.order.user_id) {
            Some(key) => fields::seal(commit, &key).map(|()| true).map_err(not_committed),
            None => Ok(false),
        }
    }

    /// Decrypts an order with its saga.
    async fn open(&self, mut stored: Stored) -> Result<Stored, StoreError> {
        let mut ids = HashSet::new();
        fields::keys_of_order(&stored.order, stored.saga.as_ref(), &mut ids);
        if needs_nothing(&ids, &stored.order) {
            return Ok(stored);
        }
        let keys = self.ring.by_ids(&ids).await?;
        let mut opening = Opening::by(&keys);
        opening.order(&mut stored.order);
        if let Some(saga) = &mut stored.saga {
            opening.saga(saga, stored.order.user_id);
        }
        tell(stored.order.id, &opening);
        Ok(stored)
    }
}

/// By whose key a new order was encrypted, if it was.
struct Sealed(Option<UserId>);

impl Sealed {
    fn of(commit: &Commit) -> Self {
        Self(commit.guard.key.map(|_| commit.order.user_id))
    }

    /// The store refuses a new order whose key was destroyed through another node. Whoever tries again gets another key.
    fn note<T>(&self, ring: &Keyring, committed: Result<T, CommitError>) -> Result<T, CommitError> {
        if let (Some(user), Err(CommitError::NotCommitted(_))) = (self.0, &committed) {
            ring.forget(user);
        }
        committed
    }
}

fn not_committed(error: impl ToString) -> CommitError {
    CommitError::NotCommitted(error.to_string())
}

fn no_key(error: impl ToString) -> CommitError {
    metrics::counter!("order_personal_data_refused_total", "reason" => "no_key").increment(1);
    not_committed(error)
}

/// Encrypts what of the commit is personal data, by a key that may have to be fetched or made.
async fn seal(inner: &dyn OrderStore, ring: &Keyring, commit: &mut Commit) -> Result<(), CommitError> {
    if !fields::needs(commit).any() {
        return Ok(());
    }
    let is_new = commit.guard.version == 0;
    match ring.of_user(commit.order.user_id, is_new).await {
        Ok(key) => fields::seal(commit, &key).map_err(not_committed),
        Err(error @ NoKey::Locked(_)) => do_without(inner, commit, &error).await,
        Err(NoKey::None) if !is_new => seal_unowned(inner, ring, commit).await,
        Err(error) => Err(no_key(error)),
    }
}

/// What is done while there is no right KEK: nothing is stored in plain that is not stored so already. What was noted with
/// a change can be done without, the order's own texts cannot.
async fn do_without(inner: &dyn OrderStore, commit: &mut Commit, error: &NoKey) -> Result<(), CommitError> {
    let needs = fields::needs(commit);
    if needs.order {
        // Notes in memory may have been decrypted while there was a KEK; only the store knows how they are stored.
        let stored = if needs.only_notes { inner.load(commit.order.id).await.map_err(no_key)? } else { None };
        if stored.is_none_or(|stored| stored.order.notes != commit.order.notes) {
            return Err(no_key(error));
        }
    }
    fields::drop_notes(commit);
    Ok(())
}

/// An order whose user has no key: erased, or stored before there were keys.
async fn seal_unowned(
    inner: &dyn OrderStore,
    ring: &Keyring,
    commit: &mut Commit,
) -> Result<(), CommitError> {
    let user = commit.order.user_id;
    if ring.store().was_erased(user).await.map_err(not_committed)? {
        fields::drop_notes(commit);
        fields::drop_order(commit);
        return Ok(());
    }
    match ring.of_user(user, true).await {
        Ok(key) => fields::seal(commit, &key).map_err(not_committed),
        Err(error @ NoKey::Locked(_)) => do_without(inner, commit, &error).await,
        Err(error) => Err(no_key(error)),
    }
}

/// Whether no text of the order is encrypted; one without a known form names no key.
fn needs_nothing(ids: &HashSet<KeyId>, order: &Order) -> bool {
    ids.is_empty() && order.personal_data() != PersonalData::Unavailable
}

fn tell(order: OrderId, opening: &Opening<'_>) {
    if let Some(place) = &opening.tampered {
        metrics::counter!("order_personal_data_refused_total", "reason" => "tampered").increment(1);
        let (table, column) = (place.table, place.column);
        tracing::error!(
            %order, table, column, row = place.row,
            "an encrypted text was changed, or stands where it does not belong; it is not shown"
        );
    }
}

#[async_trait]
impl OrderStore for Protected {
    async fn claim(&self, id: OrderId, owner: Owner) -> Result<Option<Stored>, ClaimError> {
        match self.inner.claim(id, owner).await? {
            Some(stored) => Ok(Some(self.open(stored).await?)),
            None => Ok(None),
        }
    }

    async fn append(&self, mut commit: Commit) -> Result<Option<EventHash>, CommitError> {
        let queue = self.queue(commit.order.id);
        if let Ok(turn) = Arc::clone(&queue).try_lock_owned()
            && self.seal_at_once(&mut commit)?
        {
            drop(turn);
            let sealed = Sealed::of(&commit);
            return sealed.note(&self.ring, self.inner.append(commit).await);
        }
        // A key is waited for, here or by a change ahead of this one. It is done in a task of its own, since whoever asks
        // may go away, and its place in the queue is taken now.
        let mut turn = Box::pin(queue.lock_owned());
        let taken = poll!(turn.as_mut());
        let (inner, ring) = (Arc::clone(&self.inner), Arc::clone(&self.ring));
        let work = async move {
            let turn = match taken {
                Poll::Ready(turn) => turn,
                Poll::Pending => turn.await,
            };
            seal(&*inner, &ring, &mut commit).await?;
            let sealed = Sealed::of(&commit);
            // With the first look the store has it in a queue of its own.
            let mut committing = Box::pin(inner.append(commit));
            let committed = poll!(committing.as_mut());
            drop(turn);
            let committed = match committed {
                Poll::Ready(committed) => committed,
                Poll::Pending => committing.await,
            };
            sealed.note(&ring, committed)
        };
        let ended = self.waiting.spawn(work).await;
        ended.unwrap_or_else(|_| Err(CommitError::Unknown(String::from("the commit was cut short"))))
    }

    async fn load(&self, id: OrderId) -> Result<Option<Stored>, StoreError> {
        match self.inner.load(id).await? {
            Some(stored) => self.open(stored).await.map(Some),
            None => Ok(None),
        }
    }

    async fn load_stale(&self, id: OrderId) -> Result<Option<Seen<Stored>>, StoreError> {
        match self.inner.load_stale(id).await? {
            Some(Seen { what, age }) => Ok(Some(Seen { what: self.open(what).await?, age })),
            None => Ok(None),
        }
    }

    async fn glance(&self, id: OrderId) -> Result<Option<Seen<Glance>>, StoreError> {
        self.inner.glance(id).await
    }

    async fn mark(&self, id: OrderId) -> Result<Option<Mark>, StoreError> {
        self.inner.mark(id).await
    }

    async fn marks(&self, query: &ListQuery) -> Result<Option<Vec<(OrderId, Mark)>>, StoreError> {
        self.inner.marks(query).await
    }

    fn has_replica(&self) -> bool {
        self.inner.has_replica()
    }

    async fn find_by_number(&self, number: &OrderNumber) -> Result<Option<OrderId>, StoreError> {
        self.inner.find_by_number(number).await
    }

    async fn list(&self, query: &ListQuery) -> Result<Vec<Arc<Order>>, StoreError> {
        let mut page = self.inner.list(query).await?;
        // The keys of a whole page by one statement.
        let mut ids = HashSet::new();
        for order in &page {
            fields::keys_of_order(order, None, &mut ids);
        }
        let keys = self.ring.by_ids(&ids).await?;
        for order in &mut page {
            let mut opening = Opening::by(&keys);
            opening.order(order);
            tell(order.id, &opening);
        }
        Ok(page)
    }

    async fn events(
        &self,
        id: OrderId,
        after_seq: i64,
        limit: u32,
    ) -> Result<Vec<RecordedEvent>, StoreError> {
        let mut events = self.inner.events(id, after_seq, limit).await?;
        let mut ids = HashSet::new();
        fields::keys_of_events(&events, &mut ids);
        if ids.is_empty() {
            return Ok(events);
        }
        let keys = self.ring.by_ids(&ids).await?;
        let mut opening = Opening::by(&keys);
        opening.events(id, &mut events);
        tell(id, &opening);
        Ok(events)
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
        started_before: Timestamp,
        after: Option<OrderId>,
        limit: u32,
    ) -> Result<Vec<OrderId>, StoreError> {
        self.inner.stuck(started_before, after, limit).await
    }

    async fn scan(&self, after: Option<OrderId>, limit: u32) -> Result<Vec<Scanned>, StoreError> {
        let mut page = self.inner.scan(after, limit).await?;
        let mut ids = HashSet::new();
        for evidence in page.iter().filter_map(|scanned| scanned.found.as_ref().ok()) {
            fields::keys_of_order(&evidence.stored.order, evidence.stored.saga.as_ref(), &mut ids);
            fields::keys_of_events(&evidence.events, &mut ids);
        }
        let keys = self.ring.by_ids(&ids).await?;
        for evidence in page.iter_mut().filter_map(|scanned| scanned.found.as_mut().ok()) {
            let mut opening = Opening::by(&keys);
            opening.events(evidence.stored.order.id, &mut evidence.events);
            if let Some(saga) = &mut evidence.stored.saga {
                opening.saga(saga, evidence.stored.order.user_id);
            }
            opening.order(&mut evidence.stored.order);
            tell(evidence.stored.order.id, &opening);
        }
        Ok(page)
    }

    async fn trails(
        &self,
        after: Option<OrderId>,
        since: Option<Timestamp>,
        limit: u32,
    ) -> Result<Vec<Trailed>, StoreError> {
        // The chain is over what is stored.
        self.inner.trails(after, since, limit).await
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.inner.ping().await
    }

    async fn close(&self) {
        self.waiting.close();
        self.waiting.wait().await;
        self.inner.close().await;
    }
}
