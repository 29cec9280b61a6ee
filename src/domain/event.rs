//! What happened to an order, in the past tense: the audit trail, the watch stream and the outbox in one.
//!
//! Events hold no names, addresses or secrets; those stay in the order's own rows. The only free texts are the notes and
//! reasons that callers give, which they must keep free of them.

use std::sync::Arc;

use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Timestamp;
use super::access::Role;
use super::amend::LineChange;
use super::ids::CallKey;
use super::item::{Shortage, StockLine};
use super::pricing::Totals;
use super::refund::RefundedItem;
use super::repair::{Outcome, RepairKind};
use super::saga::{Direction, Failure, SagaKind, StepName};
use super::status::{CancelReason, OrderStatus};

/// One fact. `serde` writes it with a `type` tag, which is also [`OrderEvent::kind`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum OrderEvent {
    /// The order was stored as PENDING.
    OrderCreated {
        /// Its number.
        order_number: String,
        /// ISO 4217 code.
        currency: String,
        /// Its amounts.
        totals: Totals,
        /// How many lines it has.
        lines: u32,
    },
    /// The status changed.
    StatusChanged {
        /// Before.
        from: OrderStatus,
        /// After.
        to: OrderStatus,
        /// What the caller noted.
        #[serde(skip_serializing_if = "String::is_empty", default)]
        notes: String,
        /// Why, when the order is cancelled.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        reason: Option<CancelReason>,
    },
    /// Forward moves are stopped; an earlier hold ends.
    OrderHeld {
        /// Why.
        reason: String,
        /// Who.
        by: String,
        /// Until when; none = until released.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        until: Option<Timestamp>,
    },
    /// The hold is over.
    OrderReleased {
        /// What the caller noted.
        #[serde(skip_serializing_if = "String::is_empty", default)]
        notes: String,
    },
    /// A saga began.
    SagaStarted {
        /// Its number.
        saga: u32,
        /// Its kind.
        kind: SagaKind,
    },
    /// A saga undoes what it did: from now on, or once the call that is under way has answered.
    SagaTurned {
        /// Its number.
        saga: u32,
        /// Why.
        reason: CancelReason,
    },
    /// A saga has nothing left to do.
    SagaSettled {
        /// Its number.
        saga: u32,
        /// Why it failed, if it did.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        failure: Option<Failure>,
    },
    /// A step will be tried again.
    StepDelayed {
        /// The saga's number.
        saga: u32,
        /// The step.
        step: StepName,
        /// Doing or undoing it.
        direction: Direction,
        /// How often it was tried.
        tries: u32,
        /// What went wrong; never with personal data.
        error: String,
        /// When it is tried next.
        next_at: Timestamp,
    },
    /// A step was tried for so long that a person should look.
    AttentionNeeded {
        /// The saga's number.
        saga: u32,
        /// The step.
        step: StepName,
        /// What went wrong.
        reason: String,
    },
    /// Other items are to replace the order's, once stock and money are there.
    AmendmentBegun {
        /// The saga's number.
        saga: u32,
        /// What changes.
        changes: Vec<LineChange>,
        /// The amounts afterwards.
        totals: Totals,
    },
    /// The order has other items.
    ItemsChanged {
        /// What changed.
        changes: Vec<LineChange>,
        /// The amounts before.
        before: Totals,
        /// The amounts now.
        totals: Totals,
    },
    /// An operator's repair was taken; what it led to follows.
    Repaired {
        /// What was done.
        repair: RepairKind,
        /// The number of the saga that ran, if one did.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        saga: Option<u32>,
        /// The step it was at.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        step: Option<StepName>,
        /// Doing or undoing it.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        direction: Option<Direction>,
        /// The key of the call it is about.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        key: Option<CallKey>,
        /// What became of a payment.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        outcome: Option<Outcome>,
        /// Why, or the evidence.
        reason: String,
        /// Who, as the caller says; besides the principal.
        #[serde(skip_serializing_if = "String::is_empty", default)]
        by: String,
    },
    /// We are about to reserve stock.
    StockRequested {
        /// The call's key.
        key: CallKey,
        /// What it is about, where that is more than what is held already; none = the order's first reservation.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        lines: Option<Vec<StockLine>>,
    },
    /// The reserve call surely did not reach inventory.
    StockUnsent {
        /// The call's key.
        key: CallKey,
    },
    /// Inventory holds stock for us.
    StockReserved {
        /// Inventory's id.
        reservation_id: String,
        /// The key of the reserve call, where it is not the order's first reservation.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        of: Option<CallKey>,
    },
    /// Inventory goes on holding stock for us: its time to live begins anew.
    StockRenewed {
        /// Inventory's id.
        reservation_id: String,
        /// The key of the reserve call, where it is not the order's first reservation.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        of: Option<CallKey>,
    },
    /// Inventory holds it no more: its time was over. What follows asks for the stock anew, or gives up.
    StockLapsed {
        /// Inventory's id, where it was known.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        reservation_id: Option<String>,
        /// The key of the reserve call, where it is not the order's first reservation.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        of: Option<CallKey>,
    },
    /// Inventory refused.
    StockRefused {
        /// What is short.
        shortages: Vec<Shortage>,
        /// The key of the reserve call, where it is not the order's first reservation.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        of: Option<CallKey>,
    },
    /// We are about to commit the reservation.
    StockCommitRequested {
        /// The call's key.
        key: CallKey,
        /// The key of the reserve call, where it is not the order's first reservation.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        of: Option<CallKey>,
    },
    /// The reservation is committed.
    StockCommitted {
        /// Inventory's id.
        reservation_id: String,
        /// The key of the reserve call, where it is not the order's first reservation.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        of: Option<CallKey>,
    },
    /// Inventory says that the stock we are unwinding is committed: it has to be restocked.
    StockFoundCommitted {
        /// Inventory's id.
        reservation_id: String,
        /// The key of the reserve call, where it is not the order's first reservation.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        of: Option<CallKey>,
    },
    /// The stock went back, or was never held.
    StockReturned {
        /// The call's key.
        key: CallKey,
        /// The key of the reserve call, where it is not the order's first reservation.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        of: Option<CallKey>,
        /// What went back, where that is a part of it.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        lines: Option<Vec<StockLine>>,
    },
    /// We are about to charge.
    ChargeRequested {
        /// The call's key.
        key: CallKey,
        /// How much.
        amount: Decimal,
    },
    /// The charge surely did not reach the payment service.
    ChargeUnsent {
        /// The call's key.
        key: CallKey,
    },
    /// The charge may have happened.
    ChargeUnknown {
        /// The call's key.
        key: CallKey,
    },
    /// The money is ours.
    Charged {
        /// The call's key.
        key: CallKey,
        /// The payment service's reference.
        transaction_id: String,
        /// How much, where no request for it was recorded before.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        amount: Option<Decimal>,
        /// Allow-listed facts of the gateway, as JSON.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        gateway_response: Option<String>,
    },
    /// The charge did not and will not happen.
    ChargeFailed {
        /// The call's key.
        key: CallKey,
        /// The decline code.
        code: String,
    },
    /// Somebody's wish for money back is carried out by this saga, while the order lives on.
    RefundGranted {
        /// The saga's number.
        saga: u32,
        /// How much.
        amount: Decimal,
        /// What for, where that was said.
        #[serde(skip_serializing_if = "Vec::is_empty", default)]
        items: Vec<RefundedItem>,
        /// What the caller said.
        #[serde(skip_serializing_if = "String::is_empty", default)]
        reason: String,
    },
    /// We are about to refund.
    RefundRequested {
        /// The call's key.
        key: CallKey,
        /// The charge that is refunded.
        transaction_id: String,
        /// How much.
        amount: Decimal,
    },
    /// The money went back.
    Refunded {
        /// The call's key.
        key: CallKey,
        /// The payment service's reference of the refund.
        refund_id: String,
    },
    /// The refund may have happened; it is asked for again by the same key.
    RefundUnknown {
        /// The call's key.
        key: CallKey,
    },
    /// The payment service refused the refund.
    RefundFailed {
        /// The call's key.
        key: CallKey,
        /// Why.
        code: String,
    },
    /// We are about to make a label.
    LabelRequested {
        /// The shipment.
        shipment_id: Uuid,
        /// The call's key.
        key: CallKey,
    },
    /// A label exists.
    LabelCreated {
        /// The shipment.
        shipment_id: Uuid,
        /// Who carries it.
        carrier: String,
        /// The carrier's number.
        tracking_number: String,
        /// Where to print it.
        label_url: String,
    },
    /// The label is void, or never was.
    LabelVoided {
        /// The shipment.
        shipment_id: Uuid,
    },
    /// A caller told carrier and tracking number.
    TrackingSet {
        /// The shipment.
        shipment_id: Uuid,
        /// Who carries it.
        carrier: String,
        /// The carrier's number.
        tracking_number: String,
    },
}

impl OrderEvent {
    /// The name of the fact, as stored in the `type` column.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::OrderCreated { .. } => "order_created",
            Self::StatusChanged { .. } => "status_changed",
            Self::OrderHeld { .. } => "order_held",
            Self::OrderReleased { .. } => "order_released",
            Self::SagaStarted { .. } => "saga_started",
            Self::SagaTurned { .. } => "saga_turned",
            Self::SagaSettled { .. } => "saga_settled",
            Self::StepDelayed { .. } => "step_delayed",
            Self::AttentionNeeded { .. } => "attention_needed",
            Self::AmendmentBegun { .. } => "amendment_begun",
            Self::ItemsChanged { .. } => "items_changed",
            Self::Repaired { .. } => "repaired",
            Self::StockRequested { .. } => "stock_requested",
            Self::StockUnsent { .. } => "stock_unsent",
            Self::StockReserved { .. } => "stock_reserved",
            Self::StockRenewed { .. } => "stock_renewed",
            Self::StockLapsed { .. } => "stock_lapsed",
            Self::StockRefused { .. } => "stock_refused",
            Self::StockCommitRequested { .. } => "stock_commit_requested",
            Self::StockCommitted { .. } => "stock_committed",
            Self::StockFoundCommitted { .. } => "stock_found_committed",
            Self::StockReturned { .. } => "stock_returned",
            Self::ChargeRequested { .. } => "charge_requested",
            Self::ChargeUnsent { .. } => "charge_unsent",
            Self::ChargeUnknown { .. } => "charge_unknown",
            Self::Charged { .. } => "charged",
            Self::ChargeFailed { .. } => "charge_failed",
            Self::RefundGranted { .. } => "refund_granted",
            Self::RefundRequested { .. } => "refund_requested",
            Self::Refunded { .. } => "refunded",
            Self::RefundUnknown { .. } => "refund_unknown",
            Self::RefundFailed { .. } => "refund_failed",
            Self::LabelRequested { .. } => "label_requested",
            Self::LabelCreated { .. } => "label_created",
            Self::LabelVoided { .. } => "label_voided",
            Self::TrackingSet { .. } => "tracking_set",
        }
    }
}

/// An event with its place in the order's history.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RecordedEvent {
    /// 1, 2, 3 … without a gap, per order.
    pub seq: i64,
    /// The order's version after the commit that holds this event.
    pub version: i64,
    /// When. Never before the event ahead of it.
    pub at: Timestamp,
    /// Who caused it, at most 200 characters.
    pub principal: String,
    /// As what they did it; none for the service itself, and in events from before this was recorded.
    pub role: Option<Role>,
    /// Why, as whoever acts for somebody else says; at most 200 characters.
    pub reason: Option<Arc<str>>,
    /// The request that caused it, if any.
    pub request_id: Option<String>,
    /// What.
    pub event: OrderEvent,
}
