//! Where copies of what is stored are kept. Disposable; it may lose, delay and forget whatever it is given.

use std::sync::Arc;

use async_trait::async_trait;

use crate::domain::ids::OrderId;
use crate::domain::order::Order;
use crate::ports::seen::{Glance, Mark};

/// What is put on a shelf.
#[derive(Clone, Debug)]
pub struct Kept {
    /// Of which state it is.
    pub mark: Mark,
    /// When this was surely the order's newest state, in microseconds since 1970 by the store's clock; 0 = nobody knows.
    pub at: i64,
    /// Where the order stands.
    pub glance: Glance,
    /// The order as it is stored; none = whoever puts this has no exact copy, or the order must not be kept.
    pub order: Option<Arc<Order>>,
}

/// An order that was found.
#[derive(Clone, Debug)]
pub struct Details {
    /// Of which state.
    pub mark: Mark,
    /// As [`Kept::at`].
    pub at: i64,
    /// The order as it is stored.
    pub order: Arc<Order>,
}

/// What comes of looking.
#[derive(Clone, Debug)]
pub enum Found<T> {
    /// It is there.
    Here(T),
    /// It is not there.
    Nothing,
    /// The shelf could not be asked, or not in time.
    Unasked,
}

/// A shelf. A copy is replaced only by one of a newer version, or by one of the same version that was
/// changed later, or is later.
#[async_trait]
pub trait Shelf: Send + Sync + std::fmt::Debug {
    /// Copies of these orders, in this order. Each is what somebody put there with its mark, or it is not here.
    async fn details(&self, ids: &[OrderId]) -> Vec<Found<Details>>;

    /// Where an order stood at the time that comes with it.
    async fn glance(&self, id: OrderId) -> Found<(Glance, i64)>;

    /// Whether it can be asked at the moment, as far as is known.
    fn is_there(&self) -> bool;

    /// Whether all that was put here by this node lately is, or may be, here: if not, what is found may be older than it
    /// need be.
    fn is_whole(&self) -> bool;

    /// Whether other nodes put what they change on this shelf, too: if not, nothing replaces what is here in time.
    fn is_shared(&self) -> bool;

    /// Puts a copy here, soon. `replaces` says that it is of a change: where it cannot be put, what is here is older than
    /// what is stored, and nobody should find it any more.
    fn put(&self, copy: Kept, replaces: bool);

    /// Takes an order away, soon; as important as a change.
    fn forget(&self, id: OrderId);
}
