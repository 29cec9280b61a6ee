//! The order aggregate. Only [`super::evolve`] makes a new one out of an old one.

use std::collections::BTreeMap;
use std::sync::Arc;

use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Timestamp;
use super::address::Address;
use super::amend::Amendment;
use super::ids::{CallKey, OrderId, OrderNumber, UserId};
use super::item::{OrderItem, StockLine};
use super::money::{Currency, format_amount};
use super::payment::{LedgerEntry, refused_refund};
use super::pricing::Totals;
use super::refund::Grant;
use super::saga::{Failure, SagaProgress};
use super::status::{CancelReason, OrderStatus, PaymentStatus, names};

names! {
    /// What is known about the stock held for an order.
    StockState {
        /// Nothing is held.
        None = "NONE",
        /// Asked for; it may be held.
        Requested = "REQUESTED",
        /// Held.
        Held = "HELD",
        /// We asked to commit what is held; it may be committed.
        Committing = "COMMITTING",
        /// Taken out of stock for good.
        Committed = "COMMITTED",
        /// Given back.
        Returned = "RETURNED",
    }
}

names! {
    /// What is known about a shipping label.
    LabelState {
        /// Asked for; it may exist.
        Requested = "REQUESTED",
        /// Exists.
        Created = "CREATED",
        /// Voided, or never made.
        Voided = "VOIDED",
    }
}

/// The stock held for an order.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Reservation {
    /// What is known.
    pub state: StockState,
    /// Inventory's id, once known.
    pub id: Option<String>,
    /// The key of the reserve call, to release by when the id never came.
    pub key: Option<CallKey>,
    /// What it is about, as far as it did not go back; none = all lines of the order.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub lines: Option<Vec<StockLine>>,
    /// When inventory last said that it holds it: its time to live counts from about then.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub renewed_at: Option<Timestamp>,
}

impl Reservation {
    /// Nothing asked for.
    pub fn none() -> Self {
        Self { state: StockState::None, id: None, key: None, lines: None, renewed_at: None }
    }

    /// Whether inventory has, or may have, units set aside by it.
    pub fn is_live(&self) -> bool {
        !matches!(self.state, StockState::None | StockState::Returned)
    }
}

/// One parcel.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Shipment {
    /// Derived from the order id and the shipment's number.
    pub id: Uuid,
    /// The key of the call that made the label; none when the carrier was told by hand.
    pub key: Option<CallKey>,
    /// What is known about the label.
    pub state: LabelState,
    /// At most 100 characters.
    pub carrier: String,
    /// At most 100 characters; empty while unknown.
    pub tracking_number: String,
    /// At most 500 characters.
    pub label_url: String,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
}

/// A stop on forward moves. It ends at `until` by itself; that it is over is recorded by a timer soon after.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Hold {
    /// Why.
    pub reason: String,
    /// Who.
    pub by: String,
    /// Until when; none = until released.
    pub until: Option<Timestamp>,
    /// Since when.
    pub since: Timestamp,
}

impl Hold {
    /// Whether it still stops anything at `now`.
    pub fn is_on(&self, now: Timestamp) -> bool {
        self.until.is_none_or(|until| until > now)
    }
}

impl Order {
    /// When somebody has to look at it although no saga may be under way: at the end of its hold.
    pub fn timer(&self) -> Option<Timestamp> {
        self.hold.as_ref().and_then(|hold| hold.until)
    }

    /// Whether a hold stops its forward moves at `now`.
    pub fn is_held(&self, now: Timestamp) -> bool {
        self.hold.as_ref().is_some_and(|hold| hold.is_on(now))
    }
}

/// A request id that changed this order, with the hash of what it asked.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RequestRecord {
    /// The caller's id, at most 64 characters.
    pub request_id: String,
    /// Hash of method and content.
    pub hash: [u8; 16],
    /// The saga it started, whose end is its answer.
    pub saga_no: Option<u32>,
}

/// An order as of one committed version. Cheap to clone: what seldom changes is shared.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Order {
    /// Its id.
    pub id: OrderId,
    /// Whose it is.
    pub user_id: UserId,
    /// What people call it.
    pub order_number: OrderNumber,
    /// Where it is in its life.
    pub status: OrderStatus,
    /// All amounts are in this.
    pub currency: Currency,
    /// Sums over the lines, and shipping.
    pub totals: Totals,
    /// At most 50 characters.
    pub payment_method: String,
    /// Derived from `payments`.
    pub payment_status: PaymentStatus,
    /// At most 50 characters.
    pub shipping_method: String,
    /// At most 2,000 characters.
    pub notes: String,
    /// The coupon claimed.
    pub coupon_code: Option<String>,
    /// At most 32 entries.
    pub metadata: Arc<BTreeMap<String, String>>,
    /// The stock held for the items it was created with.
    pub reservation: Reservation,
    /// The stock held for what came later; what is over is dropped when its saga ends.
    pub additions: Arc<Vec<Reservation>>,
    /// The items it is about to have.
    pub amendment: Option<Arc<Amendment>>,
    /// 1..=200 lines.
    pub items: Arc<Vec<OrderItem>>,
    /// Shipping, then billing.
    pub addresses: Arc<Vec<Address>>,
    /// Parcels.
    pub shipments: Arc<Vec<Shipment>>,
    /// The ledger, append-only.
    pub payments: Arc<Vec<LedgerEntry>>,
    /// Refunds that were wished for and granted, whatever became of them.
    pub grants: Arc<Vec<Grant>>,
    /// A stop on forward moves.
    pub hold: Option<Hold>,
    /// Why it is, or will be, cancelled.
    pub cancel_reason: Option<CancelReason>,
    /// Hash of the request that created it.
    pub request_hash: [u8; 16],
    /// Request ids of later changes.
    pub requests: Arc<Vec<RequestRecord>>,
    /// Sagas that failed, by number, and why: the answer to a repeated request.
    pub failures: Arc<BTreeMap<u32, Failure>>,
    /// Number of the last saga; the first is 1.
    pub saga_no: u32,
    /// +1 with every commit; the first is 1.
    pub version: i64,
    /// Sequence of the last event; the first is 1.
    pub event_seq: i64,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
    /// When it was delivered.
    pub completed_at: Option<Timestamp>,
    /// When it became `CANCELLED`.
    pub cancelled_at: Option<Timestamp>,
    /// Why a person should look at it, as [`Order::calls_for_a_person`] says.
    pub attention: Option<String>,
}

impl Order {
    /// What inventory has to hold for this order.
    pub fn stock_lines(&self) -> Vec<StockLine> {
        self.items.iter().map(|item| StockLine { product: item.product, quantity: item.quantity }).collect()
    }

    /// The law of money: lines and columns agree, to the last digit.
    pub fn adds_up(&self) -> bool {
        let sum = |of: fn(&OrderItem) -> Decimal| {
            self.items.iter().try_fold(Decimal::ZERO, |sum, item| sum.checked_add(of(item)))
        };
        let totals = &self.totals;
        let lines = self.items.iter().all(|item| {
            item.unit_price.checked_mul(Decimal::from(item.quantity)) == Some(item.subtotal)
                && item.discount_amount >= Decimal::ZERO
                && item.discount_amount <= item.subtotal
        });
        let total = totals
            .subtotal
            .checked_sub(totals.discount)
            .and_then(|sum| sum.checked_add(totals.tax))
            .and_then(|sum| sum.checked_add(totals.shipping));
        lines
            && sum(|item| item.subtotal) == Some(totals.subtotal)
            && sum(|item| item.discount_amount) == Some(totals.discount)
            && sum(|item| item.tax_amount) == Some(totals.tax)
            && total == Some(totals.total)
            && totals.total >= Decimal::ZERO
    }

    /// Why a person should look at it: what its running saga says of itself, or that a refund was refused for good.
    pub fn calls_for_a_person(&self, saga: Option<&SagaProgress>) -> Option<String> {
        let running = saga.filter(|saga| !saga.settled);
        if let Some(attention) = running.and_then(|saga| saga.attention.clone()) {
            return Some(attention);
        }
        if self.payment_status != PaymentStatus::RefundFailed {
            return None;
        }
        let refused = refused_refund(&self.payments)?;
        let (amount, currency) = (format_amount(refused.amount, self.currency), self.currency.code());
        let code = refused.code.as_deref().unwrap_or("no reason");
        Some(format!("payment refused to give {amount} {currency} back: {code}"))
    }

    /// The address of `kind`; both always exist.
    pub fn address(&self, kind: super::address::AddressKind) -> Option<&Address> {
        self.addresses.iter().find(|address| address.kind == kind)
    }
}
