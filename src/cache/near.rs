//! A shelf in this process: what a node of a cluster has read of orders that others own.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use moka::ops::compute::Op;
use moka::sync::Cache;

use super::shelf::{Details, Found, Kept, Shelf};
use crate::domain::ids::OrderId;
use crate::ports::seen::Glance;

/// A bounded map of copies; the least used leave first.
#[derive(Debug)]
pub struct NearShelf {
    copies: Cache<OrderId, Arc<Kept>>,
}

impl NearShelf {
    /// Keeps at most `max_orders`, each for at most `keep_for` after it was put here.
    pub fn new(max_orders: u64, keep_for: Duration) -> Self {
        Self { copies: Cache::builder().max_capacity(max_orders).time_to_live(keep_for).build() }
    }

    fn look(&self, id: OrderId) -> Found<Details> {
        match self.copies.get(&id) {
            Some(copy) => match &copy.order {
                Some(order) => {
                    Found::Here(Details { mark: copy.mark, at: copy.at, order: Arc::clone(order) })
                }
                None => Found::Nothing,
            },
            None => Found::Nothing,
        }
    }
}

/// What is here after `new` was put to what is known.
fn newer(known: &Kept, new: Kept) -> Option<Kept> {
    if new.mark == known.mark {
        let order = new.order.or_else(|| known.order.clone());
        return Some(Kept { at: new.at.max(known.at), order, ..new });
    }
    let is_newer = (new.mark.version, new.at) > (known.mark.version, known.at);
    is_newer.then_some(new)
}

#[async_trait]
impl Shelf for NearShelf {
    async fn details(&self, ids: &[OrderId]) -> Vec<Found<Details>> {
        ids.iter().map(|id| self.look(*id)).collect()
    }

    async fn glance(&self, id: OrderId) -> Found<(Glance, i64)> {
        match self.copies.get(&id) {
            Some(copy) => Found::Here((copy.glance.clone(), copy.at)),
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
        self.copies.entry(copy.glance.id).and_compute_with(|known| match known {
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
