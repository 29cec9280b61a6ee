//! Orders in this process's memory (`cache.url: memory:`).

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use moka::ops::compute::Op;
use moka::sync::Cache;

use crate::domain::ids::OrderId;
use crate::domain::order::Order;
use crate::ports::cache::OrderCache;

/// How long an entry lives at most: the bound on any staleness that a lost update could cause.
const TIME_TO_LIVE: Duration = Duration::from_secs(60);

#[derive(Clone, Debug)]
enum Entry {
    /// With the epoch at which it was kept.
    Order(Arc<Order>, i64),
    /// Forgotten; older versions than this are refused.
    Floor(i64),
}

impl Entry {
    fn version(&self) -> i64 {
        match self {
            Self::Order(order, _) => order.version,
            Self::Floor(version) => *version,
        }
    }
}

/// A bounded map of orders; the least used leave first.
#[derive(Debug)]
pub struct MemoryCache {
    entries: Cache<OrderId, Entry>,
}

impl MemoryCache {
    /// Keeps at most `max_orders`.
    pub fn new(max_orders: u64) -> Self {
        Self { entries: Cache::builder().max_capacity(max_orders).time_to_live(TIME_TO_LIVE).build() }
    }

    fn raise(&self, id: OrderId, new: Entry) {
        self.entries.entry(id).and_compute_with(|known| match known {
            Some(known) if known.value().version() > new.version() => Op::Nop,
            _ => Op::Put(new),
        });
    }
}

#[async_trait]
impl OrderCache for MemoryCache {
    async fn get(&self, id: OrderId, epoch: i64) -> Option<Arc<Order>> {
        match self.entries.get(&id) {
            Some(Entry::Order(order, kept)) if kept == epoch => Some(order),
            Some(Entry::Order(..) | Entry::Floor(_)) | None => None,
        }
    }

    async fn put(&self, order: Arc<Order>, epoch: i64) {
        self.raise(order.id, Entry::Order(order, epoch));
    }

    async fn forget(&self, id: OrderId, at_least: i64) {
        self.raise(id, Entry::Floor(at_least));
    }
}
