//! What is known of an order without reading all of it, and since when.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::store::Stored;
use crate::domain::Timestamp;
use crate::domain::chain::EventHash;
use crate::domain::ids::{OrderId, OrderNumber, UserId};
use crate::domain::order::Order;
use crate::domain::status::{OrderStatus, PaymentStatus};

/// Tells one state of an order from all others that it has, had or could have had.
///
/// Two states of equal marks are the same also where the store has lost one of them and another one took its version: the
/// hash is over all events, with their times.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mark {
    /// The order's version.
    pub version: i64,
    /// The hash of its last event; none = its events are from before there was a chain, and the mark proves nothing.
    pub head: Option<EventHash>,
    /// When it last changed.
    pub updated_at: Timestamp,
}

impl Mark {
    /// The mark of what is stored.
    pub fn of(stored: &Stored) -> Self {
        let order = &stored.order;
        Self { version: order.version, head: stored.head, updated_at: order.updated_at }
    }
}

/// Where an order stands.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Glance {
    /// Which order.
    pub id: OrderId,
    /// Whose it is.
    pub user_id: UserId,
    /// What people call it.
    pub order_number: OrderNumber,
    /// Where it is in its life.
    pub status: OrderStatus,
    /// What is known of its payment.
    pub payment_status: PaymentStatus,
    /// Its version.
    pub version: i64,
    /// When it last changed.
    pub updated_at: Timestamp,
}

impl Glance {
    /// What a glance at the order shows.
    pub fn of(order: &Order) -> Self {
        Self {
            id: order.id,
            user_id: order.user_id,
            order_number: order.order_number.clone(),
            status: order.status,
            payment_status: order.payment_status,
            version: order.version,
            updated_at: order.updated_at,
        }
    }
}

/// Something as it was a while ago.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Seen<T> {
    /// What was seen.
    pub what: T,
    /// So long ago it was surely the newest, at most; none = nobody knows: a replica has said it.
    pub age: Option<Duration>,
}

impl<T> Seen<T> {
    /// What is the newest now.
    pub fn now(what: T) -> Self {
        Self { what, age: Some(Duration::ZERO) }
    }

    /// Something else of the same age.
    pub fn map<U>(self, make: impl FnOnce(T) -> U) -> Seen<U> {
        Seen { what: make(self.what), age: self.age }
    }
}
