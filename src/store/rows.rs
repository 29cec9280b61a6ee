//! From rows to orders, whatever database they come from. Whatever does not fit is named by table and column, never by value: values are personal data.

use std::collections::BTreeMap;
use std::sync::Arc;

use rust_decimal::Decimal;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use uuid::Uuid;

use super::fields::{FIRST_SAGA, StockChanges};
use crate::domain::Timestamp;
use crate::domain::access::Role;
use crate::domain::address::{Address, AddressKind, Country};
use crate::domain::chain::EventHash;
use crate::domain::event::RecordedEvent;
use crate::domain::ids::{CallKey, OrderId, OrderNumber, UserId};
use crate::domain::item::{OrderItem, ProductRef};
use crate::domain::money::Currency;
use crate::domain::order::{LabelState, Order, RequestRecord, Reservation, Shipment, StockState};
use crate::domain::payment::{EntryKind, EntryState, LedgerEntry, PaymentToken, taken};
use crate::domain::pricing::Totals;
use crate::domain::refund::Grant;
use crate::domain::saga::{Direction, Failure, SagaKind, SagaProgress, StepName};
use crate::domain::status::{CancelReason, OrderStatus, PaymentStatus};
use crate::ports::store::Stored;

/// What is wrong with a row: table and column.
pub(super) type Bad = String;
pub(super) type Read<T> = Result<T, Bad>;

/// One row of a database, read by column name. An error names the column and never its value.
pub(super) trait Source {
    fn text(&self, name: &str) -> Read<String>;
    fn maybe_text(&self, name: &str) -> Read<Option<String>>;
    /// A JSON value as text.
    fn json(&self, name: &str) -> Read<String>;
    fn maybe_json(&self, name: &str) -> Read<Option<String>>;
    fn int(&self, name: &str) -> Read<i64>;
    fn id(&self, name: &str) -> Read<Uuid>;
    fn bytes(&self, name: &str) -> Read<Vec<u8>>;
    fn maybe_bytes(&self, name: &str) -> Read<Option<Vec<u8>>>;
    fn amount(&self, name: &str) -> Read<Decimal>;
    fn time(&self, name: &str) -> Read<Timestamp>;
    fn maybe_time(&self, name: &str) -> Read<Option<Timestamp>>;
}

/// The order in a row that has [`COLUMNS`].
pub(super) fn stored(row: &impl Source) -> Read<Stored> {
    let id = OrderId(row.id("id")?);
    let (failures, saga) = sagas(row, id)?;
    let currency: Currency = named(row, "currency", Currency::from_code)?;
    let request_hash = fixed(row.bytes("request_hash")?).ok_or("orders.request_hash")?;
    let stock = maybe(row.maybe_json("stock_changes")?, |changes| from_json::<StockChanges>(&changes));
    let StockChanges { lines, additions } = stock.ok_or("orders.stock_changes")?.unwrap_or_default();
    let amendment = maybe(row.maybe_json("amendment")?, |amendment| from_json(&amendment));
    let grants = maybe(row.maybe_json("refunds_granted")?, |grants| from_json::<Vec<Grant>>(&grants));
    let mut order = Order {
        id,
        user_id: UserId(row.id("user_id")?),
        order_number: OrderNumber::from_store(row.text("order_number")?),
        status: named(row, "status", OrderStatus::parse)?,
        currency,
        totals: Totals {
            subtotal: fitting(row.amount("subtotal")?, currency),
            discount: fitting(row.amount("discount_amount")?, currency),
            tax: fitting(row.amount("tax_amount")?, currency),
            shipping: fitting(row.amount("shipping_amount")?, currency),
            total: fitting(row.amount("total_amount")?, currency),
        },
        payment_method: row.text("payment_method")?,
        payment_status: named(row, "payment_status", PaymentStatus::parse)?,
        shipping_method: row.text("shipping_method")?,
        notes: row.text("notes")?,
        coupon_code: row.maybe_text("coupon_code")?,
        metadata: Arc::new(from_json(&row.json("metadata")?).ok_or("orders.metadata")?),
        reservation: Reservation {
            state: named(row, "reservation_state", StockState::parse)?,
            id: row.maybe_text("inventory_reservation_id")?,
            key: row.maybe_text("reservation_key")?.map(CallKey::from_text),
            renewed_at: row.maybe_time("reservation_renewed_at")?,
            lines,
        },
        additions: Arc::new(additions),
        amendment: amendment.ok_or("orders.amendment")?.map(Arc::new),
        items: Arc::new(items(row, currency)?),
        addresses: Arc::new(addresses(row)?),
        shipments: Arc::new(shipments(row)?),
        payments: Arc::new(payments(row, currency)?),
        grants: Arc::new(grants.ok_or("orders.refunds_granted")?.unwrap_or_default()),
        hold: maybe(row.maybe_json("hold")?, |hold| from_json(&hold)).ok_or("orders.hold")?,
        cancel_reason: maybe_named(row, "cancel_reason", CancelReason::parse)?,
        request_hash,
        requests: Arc::new(requests(row, request_hash)?),
        failures: Arc::new(failures),
        saga_no: number(row.int("saga_no")?).ok_or("orders.saga_no")?,
        version: row.int("version")?,
        event_seq: row.int("event_seq")?,
        created_at: row.time("created_at")?,
        updated_at: row.time("updated_at")?,
        completed_at: row.maybe_time("completed_at")?,
        cancelled_at: row.maybe_time("cancelled_at")?,
        attention: None,
    };
    order.attention = order.calls_for_a_person(saga.as_ref());
    Ok(Stored { order: Arc::new(order), saga, head: head(row)? })
}

/// The hash of the order's last event.
pub(super) fn head(row: &impl Source) -> Read<Option<EventHash>> {
    let hash = row.maybe_bytes("event_hash")?.map(|bytes| bytes.try_into().map(EventHash));
    hash.transpose().map_err(|_| String::from("orders.event_hash"))
}

/// The event in a row of `order_events`.
pub(super) fn event(row: &impl Source) -> Read<RecordedEvent> {
    Ok(RecordedEvent {
        seq: row.int("seq")?,
        version: row.int("version")?,
        at: row.time("at")?,
        principal: row.text("principal")?,
        role: row.maybe_text("role")?.and_then(|role| Role::parse(&role)),
        reason: row.maybe_text("reason")?.map(Arc::from),
        request_id: row.maybe_text("request_id")?,
        event: from_json(&row.json("payload")?).ok_or("order_events.payload")?,
    })
}

#[derive(Deserialize)]
struct ItemRow {
    position: usize,
    id: String,
    product_id: String,
    variant_id: Option<String>,
    sku: String,
    name: String,
    tax_class: String,
    quantity: i64,
    unit_price: String,
    subtotal: String,
    discount_amount: String,
    tax_amount: String,
    created_at: i64,
    updated_at: i64,
}

fn items(row: &impl Source, currency: Currency) -> Read<Vec<OrderItem>> {
    let mut rows: Vec<ItemRow> = children(row, "items")?;
    rows.sort_by_key(|row| row.position);
    complete("order_items", rows.iter().map(|row| row.position))?;
    if rows.is_empty() {
        return Err(String::from("order_items: there are none"));
    }
    let read = rows.into_iter().map(|row| {
        Ok(OrderItem {
            id: uuid(&row.id).ok_or("order_items.id")?,
            product: ProductRef {
                product_id: uuid(&row.product_id).ok_or("order_items.product_id")?,
                variant_id: maybe(row.variant_id.filter(|id| !id.is_empty()), |id| uuid(&id))
                    .ok_or("order_items.variant_id")?,
            },
            sku: row.sku,
            name: row.name,
            tax_class: row.tax_class,
            quantity: number(row.quantity).ok_or("order_items.quantity")?,
            unit_price: money(&row.unit_price, currency).ok_or("order_items.unit_price")?,
            subtotal: money(&row.subtotal, currency).ok_or("order_items.subtotal")?,
            discount_amount: money(&row.discount_amount, currency).ok_or("order_items.discount_amount")?,
            tax_amount: money(&row.tax_amount, currency).ok_or("order_items.tax_amount")?,
            created_at: at(row.created_at).ok_or("order_items.created_at")?,
            updated_at: at(row.updated_at).ok_or("order_items.updated_at")?,
        })
    });
    read.collect()
}

#[derive(Deserialize)]
struct AddressRow {
    address_type: String,
    first_name: String,
    last_name: String,
    address_line1: String,
    address_line2: Option<String>,
    city: String,
    state: String,
    postal_code: String,
    country: String,
    phone: Option<String>,
    email: Option<String>,
}

fn addresses(row: &impl Source) -> Read<Vec<Address>> {
    let rows: Vec<AddressRow> = children(row, "addresses")?;
    let read = rows.into_iter().map(|row| {
        Ok(Address {
            kind: AddressKind::parse(&row.address_type).ok_or("order_addresses.address_type")?,
            first_name: row.first_name,
            last_name: row.last_name,
            address_line1: row.address_line1,
            address_line2: row.address_line2,
            city: row.city,
            state: row.state,
            postal_code: row.postal_code,
            country: Country::parse(&row.country).ok_or("order_addresses.country")?,
            phone: row.phone,
            email: row.email,
        })
    });
    let mut addresses: Vec<Address> = read.collect::<Read<_>>()?;
    addresses.sort_by_key(|address| address.kind);
    match addresses.as_slice() {
        [first, second] if first.kind == AddressKind::Shipping && second.kind == AddressKind::Billing => {
            Ok(addresses)
        }
        _ => Err(String::from("order_addresses: not one of each type")),
    }
}

#[derive(Deserialize)]
struct ShipmentRow {
    position: usize,
    id: String,
    call_key: Option<String>,
    state: String,
    carrier: String,
    tracking_number: String,
    label_url: String,
    created_at: i64,
    updated_at: i64,
}

fn shipments(row: &impl Source) -> Read<Vec<Shipment>> {
    let mut rows: Vec<ShipmentRow> = children(row, "shipments")?;
    rows.sort_by_key(|row| row.position);
    complete("shipments", rows.iter().map(|row| row.position))?;
    let read = rows.into_iter().map(|row| {
        Ok(Shipment {
            id: uuid(&row.id).ok_or("shipments.id")?,
            key: row.call_key.map(CallKey::from_text),
            state: LabelState::parse(&row.state).ok_or("shipments.state")?,
            carrier: row.carrier,
            tracking_number: row.tracking_number,
            label_url: row.label_url,
            created_at: at(row.created_at).ok_or("shipments.created_at")?,
            updated_at: at(row.updated_at).ok_or("shipments.updated_at")?,
        })
    });
    read.collect()
}

#[derive(Deserialize)]
struct EntryRow {
    entry_no: usize,
    id: String,
    kind: String,
    status: String,
    call_key: String,
    transaction_id: String,
    parent_transaction_id: Option<String>,
    payment_method: String,
    amount: String,
    code: Option<String>,
    gateway_response: Option<String>,
    created_at: i64,
}

fn payments(row: &impl Source, currency: Currency) -> Read<Vec<LedgerEntry>> {
    let mut rows: Vec<EntryRow> = children(row, "payments")?;
    rows.sort_by_key(|row| row.entry_no);
    complete("order_payment_transactions", rows.iter().map(|row| row.entry_no))?;
    let read = rows.into_iter().map(|row| {
        Ok(LedgerEntry {
            id: uuid(&row.id).ok_or("order_payment_transactions.id")?,
            kind: EntryKind::parse(&row.kind).ok_or("order_payment_transactions.kind")?,
            state: EntryState::parse(&row.status).ok_or("order_payment_transactions.status")?,
            key: CallKey::from_text(row.call_key),
            transaction_id: row.transaction_id,
            parent: row.parent_transaction_id,
            method: row.payment_method,
            amount: money(&row.amount, currency).ok_or("order_payment_transactions.amount")?,
            code: row.code,
            gateway_response: row.gateway_response,
            created_at: at(row.created_at).ok_or("order_payment_transactions.created_at")?,
        })
    });
    let mut entries: Vec<LedgerEntry> = read.collect::<Read<_>>()?;
    // Refunds from before there could be several charges do not name the one they are of.
    let charge = taken(&entries).first().map(|charge| charge.entry.transaction_id.clone());
    for entry in entries.iter_mut().filter(|entry| entry.kind == EntryKind::Refund) {
        entry.parent = entry.parent.take().or_else(|| charge.clone());
    }
    Ok(entries)
}

#[derive(Deserialize)]
struct RequestRow {
    version: i64,
    request_id: String,
    hash: String,
    saga_no: Option<i64>,
}

fn requests(row: &impl Source, hash: [u8; 16]) -> Read<Vec<RequestRecord>> {
    let mut rows: Vec<RequestRow> = children(row, "requests")?;
    rows.sort_by_key(|row| row.version);
    let creating = row.maybe_text("request_id")?;
    let creating =
        creating.map(|request_id| Ok(RequestRecord { request_id, hash, saga_no: Some(FIRST_SAGA) }));
    let read = rows.into_iter().map(|row| {
        Ok(RequestRecord {
            // 16 bytes in hex are what a UUID without dashes is.
            hash: uuid(&row.hash).ok_or("order_requests.hash")?.into_bytes(),
            saga_no: maybe(row.saga_no, number).ok_or("order_requests.saga_no")?,
            request_id: row.request_id,
        })
    });
    creating.into_iter().chain(read).collect()
}

#[derive(Deserialize)]
struct SagaRow {
    saga_no: i64,
    kind: String,
    direction: String,
    step: Option<String>,
    tries: i64,
    resend: i64,
    turn: Option<String>,
    next_at: Option<i64>,
    started_at: i64,
    sent_at: Option<i64>,
    attention: Option<String>,
    last_error: Option<String>,
    failure: Option<String>,
    settled: i64,
    notes: String,
    principal: String,
    role: Option<String>,
    reason: Option<String>,
    request_id: String,
    trace_parent: Option<String>,
    payment_token: Option<String>,
    ahead: i64,
}

/// The failures of settled sagas, and the saga that is not settled.
fn sagas(row: &impl Source, order_id: OrderId) -> Read<(BTreeMap<u32, Failure>, Option<SagaProgress>)> {
    let rows: Vec<SagaRow> = children(row, "sagas")?;
    let (mut failures, mut unsettled) = (BTreeMap::new(), None);
    for row in rows {
        let saga = saga(row, order_id)?;
        if !saga.settled {
            if unsettled.replace(saga).is_some() {
                return Err(String::from("sagas: more than one is not settled"));
            }
        } else if let Some(failure) = saga.failure {
            failures.insert(saga.no, failure);
        }
    }
    Ok((failures, unsettled))
}

fn saga(row: SagaRow, order_id: OrderId) -> Read<SagaProgress> {
    Ok(SagaProgress {
        order_id,
        no: number(row.saga_no).ok_or("sagas.saga_no")?,
        kind: SagaKind::parse(&row.kind).ok_or("sagas.kind")?,
        direction: Direction::parse(&row.direction).ok_or("sagas.direction")?,
        step: maybe(row.step, |step| StepName::parse(&step)).ok_or("sagas.step")?,
        tries: number(row.tries).ok_or("sagas.tries")?,
        resend: row.resend != 0,
        turn: maybe(row.turn, |turn| from_json(&turn)).ok_or("sagas.turn")?,
        ahead: row.ahead != 0,
        next_at: maybe(row.next_at, at).ok_or("sagas.next_at")?,
        started_at: at(row.started_at).ok_or("sagas.started_at")?,
        sent_at: maybe(row.sent_at, at).ok_or("sagas.sent_at")?,
        attention: row.attention,
        last_error: row.last_error,
        failure: maybe(row.failure, |failure| from_json(&failure)).ok_or("sagas.failure")?,
        settled: row.settled != 0,
        notes: row.notes,
        principal: row.principal,
        role: row.role.and_then(|role| Role::parse(&role)),
        reason: row.reason.map(Arc::from),
        request_id: row.request_id,
        trace_parent: row.trace_parent,
        token: row.payment_token.map(PaymentToken::new),
    })
}

/// A column whose text `parse` understands.
fn named<T>(row: &impl Source, name: &str, parse: fn(&str) -> Option<T>) -> Read<T> {
    parse(&row.text(name)?).ok_or_else(|| format!("orders.{name}"))
}

fn maybe_named<T>(row: &impl Source, name: &str, parse: fn(&str) -> Option<T>) -> Read<Option<T>> {
    maybe(row.maybe_text(name)?, |text| parse(&text)).ok_or_else(|| format!("orders.{name}"))
}

pub(super) fn children<T: DeserializeOwned>(row: &impl Source, name: &str) -> Read<Vec<T>> {
    serde_json::from_str(&row.text(name)?).map_err(|_| format!("rows of {name}"))
}

/// Rows are numbered from 0 without a gap; a gap is a lost row.
fn complete(table: &str, places: impl Iterator<Item = usize>) -> Read<()> {
    if places.zip(0usize..).all(|(place, expected)| place == expected) {
        Ok(())
    } else {
        Err(format!("{table}: a row is missing"))
    }
}

/// None if there is a value that `parse` does not understand; no value is fine.
#[expect(clippy::option_option, reason = "the outer one is the error, turned into one by ok_or")]
fn maybe<V, T>(value: Option<V>, parse: impl FnOnce(V) -> Option<T>) -> Option<Option<T>> {
    match value {
        None => Some(None),
        Some(value) => parse(value).map(Some),
    }
}

pub(super) fn at(micros: i64) -> Option<Timestamp> {
    Timestamp::from_timestamp_micros(micros)
}

pub(super) fn decimal(text: &str) -> Option<Decimal> {
    Decimal::from_str_exact(text).ok()
}

fn money(text: &str, currency: Currency) -> Option<Decimal> {
    decimal(text).map(|amount| fitting(amount, currency))
}

/// Without the zeros that a column of fixed scale adds: `10.5000` euro is `10.50`.
fn fitting(amount: Decimal, currency: Currency) -> Decimal {
    let digits = currency.digits();
    if amount.scale() <= digits {
        return amount;
    }
    let mut shortest = amount.normalize();
    if shortest.scale() < digits {
        shortest.rescale(digits);
    }
    shortest
}

fn uuid(hex: &str) -> Option<Uuid> {
    Uuid::try_parse(hex).ok()
}

fn number(value: i64) -> Option<u32> {
    u32::try_from(value).ok()
}

fn fixed(bytes: Vec<u8>) -> Option<[u8; 16]> {
    bytes.try_into().ok()
}

pub(super) fn from_json<T: DeserializeOwned>(text: &str) -> Option<T> {
    serde_json::from_str(text).ok()
}
