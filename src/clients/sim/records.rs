//! What the simulator remembers, as it can be read back.

use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::faults::Method;
use crate::domain::Timestamp;
use crate::domain::ids::{CallKey, OrderId};
use crate::domain::item::ProductRef;
use crate::domain::money::Currency;
use crate::ports::shipping::Label;

/// A number of units of something.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Units {
    /// What.
    pub product: ProductRef,
    /// How many.
    pub quantity: u64,
}

/// How a reservation stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReservationState {
    /// Its units are off sale until it expires.
    Held,
    /// Its units are sold.
    Committed,
    /// Given back.
    Released,
    /// Given back by time.
    Expired,
    /// It never was: a release came before the reserve.
    Tombstone,
}

/// A reservation, or the tombstone of one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reservation {
    /// Of the reserve.
    pub key: CallKey,
    /// As the caller knows it.
    pub id: String,
    /// What it holds, one entry a product; empty for a tombstone.
    pub lines: Vec<Units>,
    /// What restocks have brought back of it.
    pub restocked: Vec<Units>,
    /// How it stands.
    pub state: ReservationState,
    /// When it was made.
    pub created_at: Timestamp,
    /// When its state was reached.
    pub changed_at: Timestamp,
    /// When it runs out while held.
    pub expires_at: Timestamp,
    /// Of the commit, once committed.
    pub commit_key: Option<CallKey>,
    /// Of the release, once released or for a tombstone.
    pub release_key: Option<CallKey>,
}

/// Units brought back on sale.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Restock {
    /// Of the restock.
    pub key: CallKey,
    /// The reservation.
    pub reservation_id: String,
    /// What was brought back.
    pub lines: Vec<Units>,
    /// When.
    pub at: Timestamp,
}

/// How a charge stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ChargeState {
    /// Arrived, delayed, not executed yet.
    Pending,
    /// Money was taken.
    Succeeded,
    /// Money was not taken.
    Declined(String),
}

/// A charge.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Charge {
    /// Of the charge.
    pub key: CallKey,
    /// As refunds name it.
    pub transaction_id: String,
    /// Money to take or taken.
    pub amount: Decimal,
    /// Its currency.
    pub currency: Currency,
    /// Means of payment.
    pub method: String,
    /// How it stands.
    pub state: ChargeState,
    /// Sum of the refunds.
    pub refunded: Decimal,
    /// When its state was reached.
    pub at: Timestamp,
    /// Delayed calls with this key that are still to be executed.
    pub(super) in_flight: u32,
}

/// The tombstone of a charge that was closed before it arrived.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClosedCharge {
    /// The key that no charge can be made with any more.
    pub key: CallKey,
    /// When it was closed.
    pub at: Timestamp,
}

/// A refund.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refund {
    /// Of the refund.
    pub key: CallKey,
    /// Its own id.
    pub refund_id: String,
    /// The charge.
    pub transaction_id: String,
    /// Money given back.
    pub amount: Decimal,
    /// Its currency.
    pub currency: Currency,
    /// When.
    pub at: Timestamp,
}

/// How a label stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LabelState {
    /// A parcel can be sent with it.
    Created,
    /// It was voided.
    Voided,
    /// It never was: a void came first.
    Tombstone,
}

/// A label, or the tombstone of one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LabelRecord {
    /// Of the creation.
    pub key: CallKey,
    /// How it stands.
    pub state: LabelState,
    /// The label; `None` for a tombstone.
    pub label: Option<Label>,
    /// Shipping method.
    pub method: String,
    /// What is in the parcel.
    pub lines: Vec<Units>,
    /// When its state was reached.
    pub at: Timestamp,
}

/// How often a key was received.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeyCalls {
    /// The key.
    pub key: CallKey,
    /// What for.
    pub method: Method,
    /// Every arrival, also those that a fault failed; a duplicate counts twice.
    pub received: u32,
}

/// Everything that was done for one order, in the order in which it was first asked for.
///
/// Tombstones whose key names no order stand under the nil UUID.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OrderLedger {
    /// The order.
    pub order: OrderId,
    /// Reservations and their tombstones.
    pub reservations: Vec<Reservation>,
    /// Units brought back.
    pub restocks: Vec<Restock>,
    /// Charges.
    pub charges: Vec<Charge>,
    /// Tombstones of charges.
    pub closed_charges: Vec<ClosedCharge>,
    /// Refunds.
    pub refunds: Vec<Refund>,
    /// Labels and their tombstones.
    pub labels: Vec<LabelRecord>,
    /// Keys received.
    pub keys: Vec<KeyCalls>,
}

impl OrderLedger {
    /// Of an order for which nothing was done.
    pub const fn empty(order: OrderId) -> Self {
        Self {
            order,
            reservations: Vec::new(),
            restocks: Vec::new(),
            charges: Vec::new(),
            closed_charges: Vec::new(),
            refunds: Vec::new(),
            labels: Vec::new(),
            keys: Vec::new(),
        }
    }

    /// How many records it holds.
    pub fn len(&self) -> usize {
        [
            self.reservations.len(),
            self.restocks.len(),
            self.charges.len(),
            self.closed_charges.len(),
            self.refunds.len(),
            self.labels.len(),
            self.keys.len(),
        ]
        .into_iter()
        .fold(0, usize::saturating_add)
    }

    /// Whether nothing was done.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Where the units of a product are: `available + reserved + committed = initial`, always.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StockTotals {
    /// What.
    pub product: ProductRef,
    /// At start, moved by setting the stock.
    pub initial: u64,
    /// On sale.
    pub available: u64,
    /// Held by reservations.
    pub reserved: u64,
    /// Sold and not brought back.
    pub committed: u64,
}

/// Part of the ledger: a consistent snapshot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LedgerPage {
    /// Whole orders.
    pub orders: Vec<OrderLedger>,
    /// All products, sorted.
    pub stock: Vec<StockTotals>,
    /// Where the next page begins; `None` on the last.
    pub next: Option<usize>,
}

/// A name derived from a key: the same for every repeat, different for different purposes.
pub(super) fn derived(purpose: &str, key: &CallKey) -> Uuid {
    use sha2::{Digest, Sha256};
    let mut hash = Sha256::new();
    hash.update(purpose.as_bytes());
    hash.update([0]);
    hash.update(key.as_str().as_bytes());
    let mut first = [0u8; 16];
    for (to, from) in first.iter_mut().zip(hash.finalize()) {
        *to = from;
    }
    uuid::Builder::from_custom_bytes(first).into_uuid()
}
