//! Looking after the keys: destroying those of a user, wrapping all of them anew, and finding what is not encrypted.

use std::collections::HashSet;
use std::sync::Arc;

use async_trait::async_trait;
use uuid::Uuid;

use super::fields::{self, Opening, plain_texts};
use super::keyring::{Keyring, NoKey, context};
use crate::domain::ids::{OrderId, UserId};
use crate::ports::store::{OrderStore, Scanned, StoreError};
use crate::ports::vault::{Attempt, Custodian, Erasure, KeyId, PlainPage, Rewrap, Rotated, WrapError};

/// Looks after the keys that a store's texts are encrypted with.
#[derive(Debug)]
pub struct Keeper {
    /// What is stored, as it is stored.
    store: Arc<dyn OrderStore>,
    ring: Arc<Keyring>,
}

impl Keeper {
    /// `store` is the one behind [`super::Protected`].
    pub fn new(store: Arc<dyn OrderStore>, ring: Arc<Keyring>) -> Self {
        Self { store, ring }
    }
}

fn locked(error: &NoKey) -> StoreError {
    StoreError::Unavailable(error.to_string())
}

#[async_trait]
impl Custodian for Keeper {
    async fn destroy(&self, erasure: Erasure) -> Result<Vec<KeyId>, StoreError> {
        let user = erasure.user;
        let destroyed = self.ring.store().destroy(erasure).await;
        self.ring.forget(user);
        destroyed
    }

    fn forget(&self, user: UserId) {
        self.ring.forget(user);
    }

    async fn attempt(&self, order: OrderId) -> Result<Option<Attempt>, StoreError> {
        // A page of one behind the id before it.
        let before = order.0.as_u128().checked_sub(1).map(|before| OrderId(Uuid::from_u128(before)));
        let page = self.store.scan(before, 1).await?;
        let Some(Scanned { found, .. }) = page.into_iter().find(|scanned| scanned.id == order) else {
            return Ok(None);
        };
        let mut evidence = found.map_err(|what| StoreError::Corrupt { order, what })?;
        let mut ids = HashSet::new();
        fields::keys_of_order(&evidence.stored.order, evidence.stored.saga.as_ref(), &mut ids);
        fields::keys_of_events(&evidence.events, &mut ids);
        let keys = self.ring.fetch(ids.into_iter().collect()).await?;
        let mut opening = Opening::by(&keys);
        opening.events(order, &mut evidence.events);
        let plain_history = opening.plain;
        if let Some(saga) = &mut evidence.stored.saga {
            opening.saga(saga, evidence.stored.order.user_id);
        }
        opening.order(&mut evidence.stored.order);
        Ok(Some(Attempt {
            sealed: opening.sealed,
            opened: opening.opened,
            plain: opening.plain,
            plain_history,
        }))
    }

    async fn take_out(&self, order: OrderId) -> Result<(), StoreError> {
        self.store.take_out(order).await
    }

    async fn rotate(&self, after: Option<KeyId>, limit: u32) -> Result<Rotated, StoreError> {
        self.ring.prove().await.map_err(|error| locked(&error))?;
        let Some(wrapper) = self.ring.wrapper() else {
            return Ok(Rotated { rewrapped: 0, failed: 0, last: None });
        };
        let kek_id = wrapper.current().to_owned();
        let page = self.ring.store().keys_to_rewrap(kek_id, after, limit).await?;
        let last = page.last().map(|row| row.id);
        let (mut changes, mut failed) = (Vec::with_capacity(page.len()), 0u64);
        for row in &page {
            let Some(old) = &row.wrapped else { continue };
            let context = context(row);
            let anew = match wrapper.unwrap(old, &context).await {
                Ok(key) => wrapper.wrap(&key, &context).await,
                Err(error) => Err(error),
            };
            match anew {
                Ok(new) => changes.push(Rewrap { id: row.id, old: old.clone(), new }),
                Err(error @ WrapError::Unreachable(_)) => {
                    return Err(StoreError::Unavailable(error.to_string()));
                }
                Err(error) => {
                    failed = failed.saturating_add(1);
                    tracing::warn!(key = %row.id, %error, "a data key could not be wrapped anew");
                }
            }
        }
        let rewrapped = self.ring.store().rewrap(changes).await?;
        Ok(Rotated { rewrapped, failed, last })
    }

    async fn plain_orders(&self, after: Option<OrderId>, limit: u32) -> Result<PlainPage, StoreError> {
        let page = self.store.scan(after, limit).await?;
        let last = page.last().map(|scanned| scanned.id);
        let looked_at = u64::try_from(page.len()).unwrap_or(u64::MAX);
        let is_plain = |scanned: &Scanned| {
            scanned.found.as_ref().is_ok_and(|evidence| plain_texts(&evidence.stored.order) > 0)
        };
        let orders = page.iter().filter(|scanned| is_plain(scanned)).map(|scanned| scanned.id).collect();
        Ok(PlainPage { orders, last, looked_at })
    }
}
