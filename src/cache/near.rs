//! A shelf in this process: what a node of a cluster has read of orders that others own.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use moka::Expiry;
use moka::ops::compute::Op;
use moka::sync::Cache;

use super::shelf::{Details, Found, Kept, Shelf};
use crate::domain::ids::OrderId;
use crate::ports::seen::Glance;

/// A bounded map of copies; the least used leave first.
#[derive(Debug)]
pub struct NearShelf {
    copies: Cache<OrderId, Arc<Copied>>,
    keep_for: Duration,
}

/// A copy, and until when it is kept.
#[derive(Debug)]
struct Copied {
    kept: Kept,
    until: Instant,
}

/// What is put to a copy does not prolong its life.
struct Until;

impl Expiry<OrderId, Arc<Copied>> for Until {
    fn expire_after_create(&self, _: &OrderId, copied: &Arc<Copied>, now: Instant) -> Option<Duration> {
        Some(copied.until.saturating_duration_since(now))
    }

    fn expire_after_update(
        &self,
        _: &OrderId,
        copied: &Arc<Copied>,
        now: Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        Some(copied.until.saturating_duration_since(now))
    }
}

impl NearShelf {
    /// Keeps at most `max_orders`, each state for at most `keep_for` after it was put here first, however often it is confirmed.
    pub fn new(max_orders: u64, keep_for: Duration) -> Self {
        Self { copies: Cache::builder().max_capacity(max_orders).expire_after(Until).build(), keep_for }
    }

    fn look(&self, id: OrderId) -> Found<Details> {
        match self.copies.get(&id) {
            Some(copy) => match &copy.kept.order {
                Some(order) => {
                    Found::Here(Details { mark: copy.kept.mark, at: copy.kept.at, order: Arc::clone(order) })
                }
                None => Found::Nothing,
            },
            None => Found::Nothing,
        }
    }
}

/// What is here after `new` was put to what is known.
fn newer(known: &Copied, new: Copied) -> Option<Copied> {
    if new.kept.mark == known.kept.mark {
        let order = new.kept.order.or_else(|| known.kept.order.clone());
        let kept = Kept { at: new.kept.at.max(known.kept.at), order, ..new.kept };
        return Some(Copied { kept, until: known.until });
    }
    let of = |copied: &Copied| (copied.kept.mark.version, copied.kept.mark.updated_at, copied.kept.at);
    (of(&new) > of(known)).then_some(new)
}

#[async_trait]
impl Shelf for NearShelf {
    async fn details(&self, ids: &[OrderId]) -> Vec<Found<Details>> {
        ids.iter().map(|id| self.look(*id)).collect()
    }

    async fn glance(&self, id: OrderId) -> Found<(Glance, i64)> {
        match self.copies.get(&id) {
            Some(copy) => Found::Here((copy.kept.glance.clone(), copy.kept.at)),
            None => Found::Nothing,
        }
    }

    fn is_there(&self) -> bool {
        true
    }

    fn is_whole(&self) -> bool {
        true
    }

    fn is_shared(&self) -> bool {
        false
    }

    fn put(&self, copy: Kept, _replaces: bool) {
        let now = Instant::now();
        let (id, until) = (copy.glance.id, now.checked_add(self.keep_for).unwrap_or(now));
        let copy = Copied { kept: copy, until };
        self.copies.entry(id).and_compute_with(|known| match known {
            Some(known) => match newer(known.value(), copy) {
                Some(copy) => Op::Put(Arc::new(copy)),
                None => Op::Nop,
            },
            None => Op::Put(Arc::new(copy)),
        });
    }

    fn forget(&self, id: OrderId) {
        self.copies.invalidate(&id);
    }
}
