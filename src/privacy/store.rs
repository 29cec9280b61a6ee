//! A store that encrypts what it is given and decrypts what it is asked for.

use std::collections::HashSet;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::watch;

use super::fields::{self, Opening};
use super::keyring::{Keyring, NoKey};
use crate::domain::Timestamp;
use crate::domain::event::RecordedEvent;
use crate::domain::ids::{OrderId, OrderNumber, UserId};
use crate::domain::order::Order;
use crate::domain::sealed::PersonalData;
use crate::ports::store::{
    ClaimError, Commit, CommitError, ListQuery, OrderStore, Owner, Quarantine, Regression, Scanned,
    StoreError, Stored, Unfinished,
};
use crate::ports::vault::KeyId;

/// The store behind it, with keys.
#[derive(Debug)]
pub struct Protected {
    inner: Arc<dyn OrderStore>,
    ring: Arc<Keyring>,
}

impl Protected {
    /// Encrypts on the way into `inner`.
    pub fn new(inner: Arc<dyn OrderStore>, ring: Arc<Keyring>) -> Self {
        Self { inner, ring }
    }

    /// Encrypts what of the commit is personal data.
    async fn seal(&self, commit: &mut Commit) -> Result<(), CommitError> {
        let needs = fields::needs(commit);
        if !needs.any() {
            return Ok(());
        }
        let is_new = commit.guard.version == 0;
        let not_committed = |why: String| CommitError::NotCommitted(why);
        match self.ring.of_user(commit.order.user_id, is_new).await {
            Ok(key) => fields::seal(commit, &key).map_err(|error| not_committed(error.to_string())),
            // Nothing is stored in plain: not the order, but what was noted with a change can be done without.
            Err(NoKey::Locked(_)) if !needs.order => {
                fields::drop_notes(commit);
                Ok(())
            }
            Err(NoKey::None) if !is_new => self.seal_unowned(commit).await,
            Err(error) => {
                metrics::counter!("order_personal_data_refused_total", "reason" => "no_key").increment(1);
                Err(not_committed(error.to_string()))
            }
        }
    }

    /// An order whose user has no key: erased, or stored before there were keys.
    async fn seal_unowned(&self, commit: &mut Commit) -> Result<(), CommitError> {
        let user = commit.order.user_id;
        let erased = self.ring.store().was_erased(user).await;
        if erased.map_err(|error| CommitError::NotCommitted(error.to_string()))? {
            fields::drop_notes(commit);
            fields::drop_order(commit);
            return Ok(());
        }
        let key = match self.ring.of_user(user, true).await {
            Ok(key) => key,
            Err(NoKey::Locked(_)) if !fields::needs(commit).order => {
                fields::drop_notes(commit);
                return Ok(());
            }
            Err(error) => return Err(CommitError::NotCommitted(error.to_string())),
        };
        fields::seal(commit, &key).map_err(|error| CommitError::NotCommitted(error.to_string()))
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

    async fn commit(&self, mut commit: Commit) -> Result<(), CommitError> {
        self.seal(&mut commit).await?;
        self.inner.commit(commit).await
    }

    async fn load(&self, id: OrderId) -> Result<Option<Stored>, StoreError> {
        match self.inner.load(id).await? {
            Some(stored) => self.open(stored).await.map(Some),
            None => Ok(None),
        }
    }

    async fn load_stale(&self, id: OrderId) -> Result<Option<Stored>, StoreError> {
        match self.inner.load_stale(id).await? {
            Some(stored) => self.open(stored).await.map(Some),
            None => Ok(None),
        }
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

    async fn stuck(
        &self,
        started_before: Timestamp,
        after: Option<OrderId>,
        limit: u32,
    ) -> Result<Vec<OrderId>, StoreError> {
        self.inner.stuck(started_before, after, limit).await
    }

    /// As it is stored: whoever checks what is stored needs no key.
    async fn scan(&self, after: Option<OrderId>, limit: u32) -> Result<Vec<Scanned>, StoreError> {
        self.inner.scan(after, limit).await
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.inner.ping().await
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}
