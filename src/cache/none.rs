//! No cache at all (`cache.url: none:`).

use std::sync::Arc;

use async_trait::async_trait;

use crate::domain::ids::OrderId;
use crate::domain::order::Order;
use crate::ports::cache::OrderCache;

/// Keeps nothing.
#[derive(Debug)]
pub struct NoCache;

#[async_trait]
impl OrderCache for NoCache {
    async fn get(&self, _id: OrderId, _epoch: i64) -> Option<Arc<Order>> {
        None
    }

    async fn put(&self, _order: Arc<Order>, _epoch: i64) {}

    async fn forget(&self, _id: OrderId, _at_least: i64) {}
}
