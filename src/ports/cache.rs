//! Orders kept near by. Disposable: losing it makes reads slower, never wrong.

use std::sync::Arc;

use async_trait::async_trait;

use crate::domain::ids::OrderId;
use crate::domain::order::Order;

/// A cache of committed orders. An entry is replaced only by a newer version.
#[async_trait]
pub trait OrderCache: Send + Sync + std::fmt::Debug {
    /// The order, if it is here.
    async fn get(&self, id: OrderId) -> Option<Arc<Order>>;

    /// Keeps a committed order, unless a newer version is known.
    async fn put(&self, order: Arc<Order>);

    /// Forgets the order, and refuses versions below `at_least` from now on.
    async fn forget(&self, id: OrderId, at_least: i64);
}
