//! Noticing that the store has lost what was acknowledged.
//!
//! A standby that did not have the last changes, promoted; a backup, restored: the store is consistent then, but older
//! than what callers were told. An order of which this node knows more than the store is quarantined, durably and
//! counted, before anybody acts on the older state.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::shared::Shared;
use crate::domain::ids::OrderId;
use crate::ports::store::{Regression, StoreError};

/// How many of the last acknowledged versions are remembered, about 3 MB.
const REMEMBERED: usize = 100_000;
/// Orders asked for at once.
const PAGE: usize = 1_000;
/// Pause before the store is asked again.
const PAUSE: Duration = Duration::from_millis(500);

/// The versions that this node acknowledged last.
#[derive(Debug, Default)]
pub(super) struct Acknowledged(Mutex<Last>);

#[derive(Debug, Default)]
struct Last {
    /// In the order in which they were acknowledged.
    order: VecDeque<(OrderId, i64)>,
    /// The highest of each order.
    highest: HashMap<OrderId, i64>,
}

impl Acknowledged {
    pub(super) fn note(&self, id: OrderId, version: i64) {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if last.order.len() >= REMEMBERED
            && let Some((oldest, version)) = last.order.pop_front()
            && last.highest.get(&oldest) == Some(&version)
        {
            last.highest.remove(&oldest);
        }
        last.order.push_back((id, version));
        let highest = last.highest.entry(id).or_insert(version);
        *highest = (*highest).max(version);
    }

    /// The highest version of an order; 0 when none is remembered.
    pub(super) fn highest(&self, id: OrderId) -> i64 {
        let last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        last.highest.get(&id).copied().unwrap_or(0)
    }

    fn newest(&self) -> HashMap<OrderId, i64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).highest.clone()
    }

    fn forget(&self, id: OrderId) {
        // What is left of it in the queue goes by itself.
        self.0.lock().unwrap_or_else(PoisonError::into_inner).highest.remove(&id);
    }
}

/// Compares what this node knows with what is stored, each time the store has found its database again.
pub(super) async fn watch(shared: &Arc<Shared>) {
    let mut reconnects = shared.store.reconnects();
    while reconnects.changed().await.is_ok() {
        loop {
            reconnects.mark_unchanged();
            match audit(shared).await {
                Ok(()) => break,
                Err(error) => {
                    tracing::warn!(%error, "it could not be checked yet whether the store has lost orders");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }
}

async fn audit(shared: &Arc<Shared>) -> Result<(), StoreError> {
    let mut known = shared.acknowledged.newest();
    shared.registry.each(|id, entry| {
        if let Some(order) = entry.published() {
            let version = known.entry(id).or_insert(order.version);
            *version = (*version).max(order.version);
        }
    });
    let known: Vec<(OrderId, i64)> = known.into_iter().collect();
    for page in known.chunks(PAGE) {
        let ids: Vec<OrderId> = page.iter().map(|(id, _)| *id).collect();
        let stored: HashMap<OrderId, i64> = shared.store.versions(&ids).await?.into_iter().collect();
        let lost: Vec<Regression> = page
            .iter()
            .map(|(id, known)| Regression {
                id: *id,
                known: *known,
                stored: stored.get(id).copied().unwrap_or(0),
            })
            .filter(|one| one.stored < one.known)
            .collect();
        if !lost.is_empty() {
            quarantine(shared, &lost).await?;
        }
    }
    tracing::info!(orders = known.len(), "checked that the store has what was acknowledged");
    Ok(())
}

/// Sets orders aside: durably, in memory, and out of whatever would still show the lost state.
pub(super) async fn quarantine(shared: &Arc<Shared>, lost: &[Regression]) -> Result<(), StoreError> {
    shared.store.quarantine(lost, shared.clock.now()).await?;
    let count = u64::try_from(lost.len()).unwrap_or(u64::MAX);
    metrics::counter!("order_store_regressions_total").increment(count);
    for one in lost {
        tracing::error!(
            order_id = %one.id,
            acknowledged = one.known,
            stored = one.stored,
            "the store has lost acknowledged changes of an order; it is quarantined"
        );
        shared.cache.forget(one.id, i64::MAX).await;
        shared.failed(one.id, true);
        // It is written down: once an operator has released it, what is stored counts.
        shared.acknowledged.forget(one.id);
        shared.forget_left(one.id);
        if let Some(entry) = shared.registry.get(one.id) {
            shared.leave(one.id, &entry);
            entry.actor().stop(None);
        }
    }
    Ok(())
}
