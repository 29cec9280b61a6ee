//! Stock: whether there is enough, and holding it for an order.

use std::fmt::Debug;
use std::time::Duration;

use async_trait::async_trait;

use super::call::{CallContext, CallError};
use crate::domain::ids::{CallKey, OrderId};
use crate::domain::item::{Shortage, StockLine};

/// Reasons of refusals by inventory.
pub mod reason {
    /// Stock does not suffice; the refusal carries the shortages and nothing is held.
    pub const OUT_OF_STOCK: &str = "OUT_OF_STOCK";
    /// No reservation has this id.
    pub const RESERVATION_NOT_FOUND: &str = "RESERVATION_NOT_FOUND";
    /// The reservation outlived its time; its stock is back on sale.
    pub const RESERVATION_EXPIRED: &str = "RESERVATION_EXPIRED";
    /// The reservation, or its key before it arrived, was released.
    pub const RESERVATION_RELEASED: &str = "RESERVATION_RELEASED";
    /// Restock of a reservation that was never committed.
    pub const RESERVATION_NOT_COMMITTED: &str = "RESERVATION_NOT_COMMITTED";
    /// Restock of more than the reservation still has out.
    pub const RESTOCK_EXCEEDS_COMMITTED: &str = "RESTOCK_EXCEEDS_COMMITTED";
}

/// What a release is aimed at.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ReleaseTarget {
    /// A reservation whose id is known.
    Reservation(String),
    /// Whatever the `reserve` with this key made or will make, when its answer never came.
    ReserveKey(CallKey),
}

/// What a release found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ReleaseOutcome {
    /// It was held; the stock is back on sale.
    Released,
    /// Nothing was held (never arrived, already released, or expired). With [`ReleaseTarget::ReserveKey`] a
    /// tombstone stays behind, so that a late `reserve` with that key is refused as `RESERVATION_RELEASED`.
    NothingHeld,
    /// It was committed before; nothing was changed. Bring the units back with [`Inventory::restock`].
    Committed {
        /// The reservation.
        reservation_id: String,
    },
}

/// The inventory service. Every call with a key may be repeated with it and then answers the same.
#[async_trait]
pub trait Inventory: Send + Sync + Debug {
    /// The lines that stock does not suffice for at this moment; empty means enough. Advice only: nothing is held.
    ///
    /// # Errors
    /// [`CallError`]; a product that inventory does not know counts as a shortage with none available.
    async fn check_availability(
        &self,
        ctx: &CallContext,
        lines: &[StockLine],
    ) -> Result<Vec<Shortage>, CallError>;

    /// Holds all lines or none of them for `ttl`; answers the reservation's id. A repeat renews what is held: from then on
    /// it is held for `ttl` at least. It changes nothing else, and nothing about what is committed.
    ///
    /// # Errors
    /// Refused `OUT_OF_STOCK` with shortages; `RESERVATION_RELEASED` when the key was released before this
    /// arrived; `RESERVATION_EXPIRED` when a reservation by this key has run out.
    async fn reserve(
        &self,
        ctx: &CallContext,
        key: &CallKey,
        order: OrderId,
        lines: &[StockLine],
        ttl: Duration,
    ) -> Result<String, CallError>;

    /// Makes a held reservation final: it no longer expires, its units have left the stock.
    ///
    /// # Errors
    /// Refused `RESERVATION_NOT_FOUND`, `RESERVATION_EXPIRED` or `RESERVATION_RELEASED`.
    async fn commit(&self, ctx: &CallContext, key: &CallKey, reservation_id: &str) -> Result<(), CallError>;

    /// Gives held stock back; succeeds when there is nothing to give back.
    ///
    /// # Errors
    /// [`CallError`]; never refused for the state of the reservation.
    async fn release(
        &self,
        ctx: &CallContext,
        key: &CallKey,
        target: &ReleaseTarget,
    ) -> Result<ReleaseOutcome, CallError>;

    /// Brings units of a committed reservation back on sale; once per key however often it is called.
    ///
    /// # Errors
    /// Refused `RESERVATION_NOT_FOUND`, `RESERVATION_NOT_COMMITTED` or `RESTOCK_EXCEEDS_COMMITTED`.
    async fn restock(
        &self,
        ctx: &CallContext,
        key: &CallKey,
        reservation_id: &str,
        lines: &[StockLine],
    ) -> Result<(), CallError>;
}
