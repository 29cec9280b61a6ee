//! Which columns the tables have, and what a row of each is made of. All stores have the same.

use serde::{Deserialize, Serialize};

use crate::domain::access::Role;
use crate::domain::address::Address;
use crate::domain::event::RecordedEvent;
use crate::domain::ids::OrderId;
use crate::domain::item::{OrderItem, StockLine};
use crate::domain::order::{Order, RequestRecord, Reservation, Shipment};
use crate::domain::payment::LedgerEntry;
use crate::domain::saga::SagaProgress;
use crate::domain::status::OrderStatus;
use crate::ports::store::{Commit, Link};

use super::bind::{Bind, Bound};

/// The number of the saga that creates an order.
pub(super) const FIRST_SAGA: u32 = 1;

/// Written once, when the order is created.
pub(super) const FIXED: [&str; 11] = [
    "id",
    "slot",
    "user_id",
    "order_number",
    "currency",
    "payment_method",
    "shipping_method",
    "metadata",
    "request_hash",
    "request_id",
    "created_at",
];

/// Written with every change.
pub(super) const MUTABLE: [&str; 25] = [
    "version",
    "status",
    "total_amount",
    "subtotal",
    "tax_amount",
    "shipping_amount",
    "discount_amount",
    "payment_status",
    "notes",
    "coupon_code",
    "hold",
    "refunds_granted",
    "cancel_reason",
    "inventory_reservation_id",
    "reservation_state",
    "reservation_key",
    "reservation_renewed_at",
    "stock_changes",
    "amendment",
    "saga_no",
    "event_seq",
    "event_hash",
    "updated_at",
    "completed_at",
    "cancelled_at",
];

/// Who may write; set with the creation and with a claim.
pub(super) const OWNER: [&str; 2] = ["owner_epoch", "owner_incarnation"];

/// The columns of an update's condition, ahead of the new values.
pub(super) const CONDITION: [&str; 4] = ["id", "version", "owner_epoch", "owner_incarnation"];

/// Columns of each table in the order in which the functions below give their values; the first `key` ones are its key.
pub(super) struct Table {
    pub(super) name: &'static str,
    pub(super) columns: &'static [&'static str],
    pub(super) key: usize,
}

impl Table {
    /// Makes an `INSERT` of a row that is there already an update of it.
    pub(super) fn or_update(&self) -> String {
        let (key, rest) = self.columns.split_at_checked(self.key).unwrap_or_default();
        let set: Vec<String> = rest.iter().map(|column| format!("{column} = excluded.{column}")).collect();
        format!("ON CONFLICT ({}) DO UPDATE SET {}", key.join(", "), set.join(", "))
    }
}

macro_rules! table {
    ($constant:ident, $name:literal, $key:literal, $($column:ident)+) => {
        pub(super) const $constant: Table =
            Table { name: $name, columns: &[$(stringify!($column)),+], key: $key };
    };
}

table!(ITEMS, "order_items", 2, order_id id position product_id variant_id sku name tax_class quantity unit_price
    subtotal discount_amount tax_amount created_at updated_at);
table!(ADDRESSES, "order_addresses", 2, order_id id address_type first_name last_name address_line1 address_line2 city
    state postal_code country phone email created_at updated_at);
table!(HISTORY, "order_status_history", 2, order_id id seq status notes created_by created_at);
table!(LEDGER, "order_payment_transactions", 2, order_id id entry_no kind status call_key transaction_id
    parent_transaction_id payment_method amount currency code gateway_response created_at updated_at);
table!(SHIPMENTS, "shipments", 2, order_id id position call_key state carrier tracking_number label_url created_at
    updated_at);
table!(REQUESTS, "order_requests", 2, order_id request_id hash saga_no version);
table!(EVENTS, "order_events", 2, order_id seq version type payload principal role reason request_id at
    hash);
table!(SAGAS, "sagas", 2, order_id saga_no kind direction step tries resend turn next_at due_at started_at sent_at
    attention last_error failure settled notes principal role reason request_id trace_parent payment_token ahead);

table!(TIMERS, "order_timers", 1, order_id due_at);
/// What edits left of the order's reservations, in one column: null for an order that was never edited.
#[derive(Serialize, Deserialize, Default)]
pub(super) struct StockChanges {
    /// What the first reservation is about, where that is not all lines.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(super) lines: Option<Vec<StockLine>>,
    /// The other reservations.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub(super) additions: Vec<Reservation>,
}

impl StockChanges {
    fn of(order: &Order) -> Option<Self> {
        let (lines, additions) = (order.reservation.lines.clone(), order.additions.to_vec());
        (lines.is_some() || !additions.is_empty()).then_some(Self { lines, additions })
    }
}

/// A row that belongs to an order, with its place among its like.
pub(super) type Numbered<'a, T> = (&'a Order, usize, &'a T);

/// A status that an event brought.
#[derive(Clone, Copy)]
pub(super) struct Entered<'a> {
    pub(super) order: OrderId,
    pub(super) event: &'a RecordedEvent,
    pub(super) status: OrderStatus,
    pub(super) notes: &'a str,
}

/// The id of the request that creates an order. Its hash is the order's and its answer the end of the first saga, so it
/// stands in the order's own row and needs none in `order_requests`.
pub(super) fn creating_request(commit: &Commit) -> Option<&str> {
    let is_own = |request: &&RequestRecord| {
        commit.guard.version == 0
            && request.hash == commit.order.request_hash
            && request.saga_no == Some(FIRST_SAGA)
    };
    commit.request.as_ref().filter(is_own).map(|request| request.request_id.as_str())
}

pub(super) fn bind_new(args: &mut impl Bind, commit: &Commit) -> Bound {
    let order = &commit.order;
    args.id(order.id.0)?;
    args.int(order.id.slot())?;
    args.id(order.user_id.0)?;
    args.text(order.order_number.as_str())?;
    args.text(order.currency.code())?;
    args.text(&order.payment_method)?;
    args.text(&order.shipping_method)?;
    args.json(order.metadata.as_ref())?;
    args.bytes(&order.request_hash)?;
    args.maybe_text(creating_request(commit))?;
    args.time(order.created_at)?;
    args.int(commit.guard.owner.epoch)?;
    args.int(commit.guard.owner.incarnation)?;
    bind_mutable(args, commit)
}

pub(super) fn bind_change(args: &mut impl Bind, commit: &Commit) -> Bound {
    args.id(commit.order.id.0)?;
    args.int(commit.guard.version)?;
    args.int(commit.guard.owner.epoch)?;
    args.int(commit.guard.owner.incarnation)?;
    bind_mutable(args, commit)
}

fn bind_mutable(args: &mut impl Bind, commit: &Commit) -> Bound {
    let order = &commit.order;
    args.int(order.version)?;
    args.text(order.status.as_str())?;
    args.amount(order.totals.total)?;
    args.amount(order.totals.subtotal)?;
    args.amount(order.totals.tax)?;
    args.amount(order.totals.shipping)?;
    args.amount(order.totals.discount)?;
    args.text(order.payment_status.as_str())?;
    args.text(&order.notes)?;
    args.maybe_text(order.coupon_code.as_deref())?;
    args.maybe_json(order.hold.as_ref())?;
    args.maybe_json(Some(order.grants.as_ref()).filter(|grants| !grants.is_empty()))?;
    args.maybe_text(order.cancel_reason.map(|reason| reason.as_str()))?;
    args.maybe_text(order.reservation.id.as_deref())?;
    args.text(order.reservation.state.as_str())?;
    args.maybe_text(order.reservation.key.as_ref().map(|key| key.as_str()))?;
    args.maybe_time(order.reservation.renewed_at)?;
    args.maybe_json(StockChanges::of(order).as_ref())?;
    args.maybe_json(order.amendment.as_deref())?;
    args.int(order.saga_no)?;
    args.int(order.event_seq)?;
    args.maybe_bytes(commit.chain.head().as_ref().map(|hash| hash.0.as_slice()))?;
    args.time(order.updated_at)?;
    args.maybe_time(order.completed_at)?;
    args.maybe_time(order.cancelled_at)
}

pub(super) fn bind_item(args: &mut impl Bind, (order, place, item): &Numbered<'_, OrderItem>) -> Bound {
    args.id(order.id.0)?;
    args.id(item.id)?;
    args.int(*place)?;
    args.id(item.product.product_id)?;
    args.maybe_id(item.product.variant_id)?;
    args.text(&item.sku)?;
    args.text(&item.name)?;
    args.text(&item.tax_class)?;
    args.int(item.quantity)?;
    args.amount(item.unit_price)?;
    args.amount(item.subtotal)?;
    args.amount(item.discount_amount)?;
    args.amount(item.tax_amount)?;
    args.time(item.created_at)?;
    args.time(item.updated_at)
}

pub(super) fn bind_address(args: &mut impl Bind, (order, _, address): &Numbered<'_, Address>) -> Bound {
    let kind = address.kind.as_str();
    args.id(order.id.0)?;
    args.id(order.id.part(kind, 0))?;
    args.text(kind)?;
    args.text(&address.first_name)?;
    args.text(&address.last_name)?;
    args.text(&address.address_line1)?;
    args.maybe_text(address.address_line2.as_deref())?;
    args.text(&address.city)?;
    args.text(&address.state)?;
    args.text(&address.postal_code)?;
    args.text(address.country.code())?;
    args.maybe_text(address.phone.as_deref())?;
    args.maybe_text(address.email.as_deref())?;
    args.time(order.created_at)?;
    args.time(order.updated_at)
}

pub(super) fn bind_shipment(
    args: &mut impl Bind,
    (order, place, shipment): &Numbered<'_, Shipment>,
) -> Bound {
    args.id(order.id.0)?;
    args.id(shipment.id)?;
    args.int(*place)?;
    args.maybe_text(shipment.key.as_ref().map(|key| key.as_str()))?;
    args.text(shipment.state.as_str())?;
    args.text(&shipment.carrier)?;
    args.text(&shipment.tracking_number)?;
    args.text(&shipment.label_url)?;
    args.time(shipment.created_at)?;
    args.time(shipment.updated_at)
}

pub(super) fn bind_entry(args: &mut impl Bind, (order, place, entry): &Numbered<'_, LedgerEntry>) -> Bound {
    args.id(order.id.0)?;
    args.id(entry.id)?;
    args.int(*place)?;
    args.text(entry.kind.as_str())?;
    args.text(entry.state.as_str())?;
    args.text(entry.key.as_str())?;
    args.text(&entry.transaction_id)?;
    args.maybe_text(entry.parent.as_deref())?;
    args.text(&entry.method)?;
    args.amount(entry.amount)?;
    args.text(order.currency.code())?;
    args.maybe_text(entry.code.as_deref())?;
    args.maybe_text(entry.gateway_response.as_deref())?;
    args.time(entry.created_at)?;
    args.time(entry.created_at)
}

pub(super) fn bind_request(args: &mut impl Bind, (order, request): &(&Order, &RequestRecord)) -> Bound {
    args.id(order.id.0)?;
    args.text(&request.request_id)?;
    args.bytes(&request.hash)?;
    args.maybe_int(request.saga_no.map(i64::from))?;
    args.int(order.version)
}

/// An event that a commit brings, with its link once it has one.
#[derive(Clone, Copy)]
pub(super) struct Happened<'a> {
    pub(super) order: OrderId,
    pub(super) event: &'a RecordedEvent,
    pub(super) link: Option<&'a Link>,
}

pub(super) fn bind_event(args: &mut impl Bind, Happened { order, event, link }: &Happened<'_>) -> Bound {
    args.id(order.0)?;
    args.int(event.seq)?;
    args.int(event.version)?;
    args.text(event.event.kind())?;
    match link {
        Some(link) => args.json_text(&link.payload)?,
        None => args.json(&event.event)?,
    }
    args.text(&event.principal)?;
    args.maybe_text(event.role.map(Role::name))?;
    args.maybe_text(event.reason.as_deref())?;
    args.maybe_text(event.request_id.as_deref())?;
    args.time(event.at)?;
    args.maybe_bytes(link.map(|link| link.hash.0.as_slice()))
}

pub(super) fn bind_history(args: &mut impl Bind, entered: &Entered<'_>) -> Bound {
    let Entered { order, event, status, notes } = entered;
    args.id(order.0)?;
    args.id(order.part("history", event.seq.unsigned_abs()))?;
    args.int(event.seq)?;
    args.text(status.as_str())?;
    args.text(notes)?;
    args.text(&event.principal)?;
    args.time(event.at)
}

pub(super) fn bind_timer(args: &mut impl Bind, order: &&Order) -> Bound {
    args.id(order.id.0)?;
    args.maybe_time(order.timer())
}

pub(super) fn bind_saga(args: &mut impl Bind, saga: &SagaProgress) -> Bound {
    args.id(saga.order_id.0)?;
    args.int(saga.no)?;
    args.text(saga.kind.as_str())?;
    args.text(saga.direction.as_str())?;
    args.maybe_text(saga.step.map(|step| step.as_str()))?;
    args.int(saga.tries)?;
    args.flag(saga.resend)?;
    args.maybe_json(saga.turn.as_ref())?;
    args.maybe_time(saga.next_at)?;
    // A saga that waits for nothing is overdue since it began, so it is found first.
    args.time(saga.next_at.unwrap_or(saga.started_at))?;
    args.time(saga.started_at)?;
    args.maybe_time(saga.sent_at)?;
    args.maybe_text(saga.attention.as_deref())?;
    args.maybe_text(saga.last_error.as_deref())?;
    args.maybe_json(saga.failure.as_ref())?;
    args.flag(saga.settled)?;
    args.text(&saga.notes)?;
    args.text(&saga.principal)?;
    args.maybe_text(saga.role.map(Role::name))?;
    args.maybe_text(saga.reason.as_deref())?;
    args.text(&saga.request_id)?;
    args.maybe_text(saga.trace_parent.as_deref())?;
    args.maybe_text(saga.token.as_ref().map(|token| token.expose()))?;
    args.flag(saga.ahead)
}
