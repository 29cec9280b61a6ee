//! Orders kept near by. Disposable: losing it makes reads slower, never wrong.

use std::sync::Arc;

use async_trait::async_trait;

use crate::domain::ids::OrderId;
use crate::domain::order::Order;

/// A cache of committed orders. An entry is replaced only by a newer version.
#[async_trait]
pub trait OrderCache: Send + Sync + std::fmt::Debug {
    /// The order, if it is here and was kept at this epoch of its slot's ownership: what was kept at another one may have
    /// been changed by others since.
    async fn get(&self, id: OrderId, epoch: i64) -> Option<Arc<Order>>;

    /// Keeps a committed order of an owner at this epoch, unless a newer version is known.
    async fn put(&self, order: Arc<Order>, epoch: i64);

    /// Forgets the order, and refuses versions below `at_least` from now on.
    async fn forget(&self, id: OrderId, at_least: i64);
}
